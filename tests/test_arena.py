"""The arena: two tiny environments, recorded, trained and measured by one command, which resumes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from magrathea.bench.arena import DEFAULT_LIST, ArenaEnvironment, ArenaSettings, read_environments, run_arena
from magrathea.bench.sprite_game import SpriteGame
from magrathea.cli import main as cli
from magrathea.errors import MagratheaError

SPRITES = "magrathea.bench.sprite_game:magrathea/SpriteGame-v0"
LIST = """
[[environment]]
id = "CartPole-v1"
[[environment]]
id = "Missing-v0"
needs = ["no_such_module"]
[[environment]]
id = "NoSuchEnvironment-v0"
"""


@pytest.mark.slow
def test_arena_makes_a_table_and_skips_what_is_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--minutes", "0.03", "--steps", "900", "--size", "debug", "--report-minutes", "0.1"]
    asked = ["bench", "arena", SPRITES, "CartPole-v1", "--out", str(tmp_path), *quick, "--num-processes", "1"]
    assert cli.main(asked) == 0
    table = json.loads((tmp_path / "arena.json").read_text())["environments"]
    assert [row["name"] for row in table] == ["magrathea-spritegame-v0", "cartpole-v1"]
    assert all("error" not in row and row["verdict"] and row["headlines"] for row in table)
    page = (tmp_path / "arena.html").read_text()
    (strip,) = [part.split('"')[0] for part in page.split('src="')[1:]]
    assert (tmp_path / strip).stat().st_size > 1000
    written = (tmp_path / "cartpole-v1" / "arena.json").stat().st_mtime_ns
    assert cli.main(asked) == 0
    assert (tmp_path / "cartpole-v1" / "arena.json").stat().st_mtime_ns == written
    assert json.loads((tmp_path / "arena.json").read_text())["environments"] == table
    assert cli.main([*asked, "--seed", "5"]) == 2 and "other settings" in capsys.readouterr().err


def test_environments_that_cannot_be_had_are_rows_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "list.toml").write_text(LIST)
    _, *others = read_environments(tmp_path / "list.toml")
    missing, unknown = run_arena(others, tmp_path / "out", ArenaSettings(minutes=0.01, steps=10))
    assert "no_such_module" in missing["error"] and "NoSuchEnvironment" in unknown["error"]
    assert "no_such_module" in (tmp_path / "out" / "arena.html").read_text()


def test_lists_with_mistakes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "list.toml").write_text('[[environment]]\nname = "nameless"\n')
    with pytest.raises(MagratheaError, match="no list of environments"):
        read_environments(tmp_path / "list.toml")
    twice = [ArenaEnvironment(id="CartPole-v1")] * 2
    with pytest.raises(MagratheaError, match="different names"):
        run_arena(twice, tmp_path, ArenaSettings())
    assert len({each.folder for each in read_environments(DEFAULT_LIST)}) == len(read_environments(DEFAULT_LIST))


def test_the_sprite_game_repeats_itself_by_seed() -> None:
    env, frames = SpriteGame(), []
    for _ in range(2):
        frames.append([env.reset(seed=3)[0], *(env.step(np.array([step % 5, 1]))[0] for step in range(100))])
    assert np.array_equal(*frames) and len({frame.tobytes() for frame in frames[0]}) > 90
    rewards = [env.step(np.array([0, 1]))[1] for _ in range(99)]
    assert set(rewards) <= {0.0, 1.0} and env.step(np.array([0, 0]))[3]
