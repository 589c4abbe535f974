"""Which environments a file may make: those that something installed offers, and those that the user has named."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from magrathea.data import make_env, make_env_from_metadata, name_environment
from magrathea.errors import MagratheaError

MODULE = 'from pathlib import Path\nPath(__file__).with_name("executed").touch()\n'


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once the module `trap` has been imported."""
    (tmp_path / "trap.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "executed"
    sys.modules.pop("trap", None)


MINIGRID = "magrathea/MiniGrid-v0"


@pytest.mark.parametrize(
    "metadata",
    [
        {"env_id": "trap:Anything-v0"},
        {"env_id": "trap:CartPole-v1"},
        {"env_id": "ALE/trap:Pong-v5"},
        {"env_id": "BabyAI-GoToObj-v0:trap"},
        {"env_id": MINIGRID, "env_kwargs": {"level": "trap:Level-v0"}},
        {"env_id": "CartPole-v1", "env_kwargs": {"render_mode": ["human", {"in": "trap:x"}]}},
        {"env_id": "VizdoomBasic-v1", "env_kwargs": {"level": "../../x.cfg"}},
        {"env_id": "GymV26Environment-v0", "env_kwargs": {"env_id": "trap:Level-v0"}},
        {"env_id": "CartPole-v1", "env_kwargs": ["trap:x"]},
        {"env_id": ["trap:x"]},
        {"env_id": 5},
        {"env_id": "Unheard/Of-v0"},
        {},
    ],
    ids=str,
)
def test_a_file_cannot_name_code(metadata: dict[str, Any], trap: Path) -> None:
    with pytest.raises(MagratheaError, match=r"\.$|--env-id \S+$"):
        make_env_from_metadata(metadata)
    assert not trap.exists() and "trap" not in sys.modules


def test_what_the_user_names_is_made(trap: Path) -> None:
    name_environment("trap:Nothing-v0")
    with pytest.raises(MagratheaError, match="cannot be made"):
        make_env_from_metadata({"env_id": "trap:Nothing-v0"})
    assert trap.exists()


@pytest.mark.parametrize("env_id", ["CartPole-v1", MINIGRID])
def test_what_is_installed_is_made(env_id: str) -> None:
    if env_id == MINIGRID:
        pytest.importorskip("minigrid")
    make_env_from_metadata({"env_id": env_id, "env_kwargs": {"render_mode": "rgb_array"}}).close()
    make_env(env_id).close()
