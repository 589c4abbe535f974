"""Every folder of `magrathea/environments/` can be deleted: the package and the other environments work without it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

import magrathea

PACKAGE, TESTS = Path(magrathea.__file__).parent, Path(__file__).parents[1]
FOLDERS = sorted(path.parent.name for path in (PACKAGE / "environments").glob("*/__init__.py"))
TESTED_WITHOUT = dict.fromkeys(FOLDERS, "minigrid") | {"minigrid": "crafter"}

DEBUG_WORLD = """
import importlib.util
from pathlib import Path

import gymnasium

import magrathea
from magrathea.data import collect
from magrathea.train import load_settings, train


def test_copy_has_one_environment_less():
    assert Path(magrathea.__file__).parents[1] == Path.cwd()
    assert importlib.util.find_spec("magrathea.environments.DELETED") is None


def test_debug_world_is_recorded_trained_and_dreamed():
    gymnasium.register("deletion/Board-v0", entry_point="board:Board")
    collect("deletion/Board-v0", 120, "board", policy="random", num_processes=1, max_episode_steps=12)
    tokenizer = '[tokenizer]\\nimage = "patch"\\npatch = [4, 4]\\n'
    settings = f'size = "debug"\\nsteps = 3\\n{tokenizer}[batch]\\nnum_steps = 4\\n'
    Path("recipe.toml").write_text(settings)
    train("board", "world", load_settings("recipe.toml"))
    env = gymnasium.make("magrathea/Dream-v0", world="world")
    assert env.observation_space.contains(env.reset(seed=0)[0])
    for action in range(3):
        assert env.observation_space.contains(env.step(action)[0])
"""


@pytest.mark.slow  # 40 seconds
@pytest.mark.parametrize("folder", FOLDERS)
def test_package_works_without_the_folder_of_an_environment(folder: str, tmp_path: Path) -> None:
    """A `debug` world is recorded, trained and dreamed, and another environment draws its pictures, without it."""
    shutil.copytree(PACKAGE, tmp_path / "magrathea", ignore=shutil.ignore_patterns("__pycache__", "worlds"))
    shutil.rmtree(tmp_path / "magrathea" / "environments" / folder)
    _write_metadata(tmp_path, without=folder)
    other = TESTED_WITHOUT[folder]
    pytest.importorskip(other)
    (tmp_path / "test_debug_world.py").write_text(DEBUG_WORLD.replace("DELETED", folder))
    files = ["test_debug_world.py", f"{TESTS}/environments/test_{other}.py"]
    options = ["-q", "-c", f"{TESTS.parent}/pyproject.toml", "-p", "no:cacheprovider", "-k", "draws or debug_world"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(TESTS)])},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0 and "3 passed" in result.stdout, result.stdout[-3000:] + result.stderr[-3000:]


def _write_metadata(folder: Path, without: str) -> None:
    """The package's own metadata for the copy, without the entry points of one environment."""
    info = folder / f"magrathea-{magrathea.__version__}.dist-info"
    info.mkdir()
    installed = distribution("magrathea")
    lines = (installed.read_text("entry_points.txt") or "").splitlines()
    kept = [line for line in lines if f"magrathea.environments.{without}" not in line]
    assert len(kept) < len(lines), f"pyproject.toml names no entry point of environments/{without}"
    (info / "entry_points.txt").write_text("\n".join(kept) + "\n")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: magrathea\nVersion: {magrathea.__version__}\n")
