"""TextWorld: games by their seeds, what commands do, and that no command reaches the interpreter's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from magrathea.data import collect, make_env
from magrathea.errors import MagratheaError

pytest.importorskip("textworld")
pytestmark = pytest.mark.slow  # games are generated
SMALL = {"rooms": 2, "objects": 3, "quest_length": 1}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def test_a_seed_is_a_game_which_repeats_itself() -> None:
    env: Any = make_env("magrathea/TextWorld-v0", **SMALL)
    said = []
    for seed in (3, 3, 4):
        text, _ = env.reset(seed=seed)
        assert text in env.observation_space and text.startswith("-=")
        said.append([text, *(env.step(command)[0] for command in ("look", "inventory", "go north", "fly away"))])
        assert all(each in env.observation_space for each in said[-1])
    assert said[0] == said[1] != said[2]
    assert said[0][0] == said[0][1] and said[0][2].startswith("You are carrying")
    env.close()


def test_the_commands_that_do_something_win_the_game() -> None:
    env: Any = make_env("magrathea/TextWorld-v0", **SMALL)
    env.reset(seed=1)
    rng, total = np.random.default_rng(0), 0.0
    for _ in range(200):
        commands = env.unwrapped.commands
        assert commands and all(command in env.action_space for command in commands)
        _, reward, terminated, _, _ = env.step(commands[int(rng.integers(len(commands)))])
        total += reward
        if terminated:
            break
    assert terminated and total >= 1
    env.close()


@pytest.mark.parametrize(
    "command",
    ["\\q", "\\help\n\\w", "> look <", " ", "look\n\nlook", '"' * 60, "look. quit", "save", "look then q", "tw-print"],
)
def test_odd_commands_are_answered_by_the_game(command: str) -> None:
    env: Any = make_env("magrathea/TextWorld-v0", **SMALL)
    env.reset(seed=1)
    text, _, terminated, _, _ = env.step(command)
    assert text in env.observation_space and not terminated
    assert env.step("look")[0].startswith("-=")
    env.close()


def test_the_explorer_records_games(tmp_path: Path) -> None:
    data = collect(
        "magrathea/TextWorld-v0", 60, tmp_path / "data", policy="explorer", num_processes=1, env_kwargs=SMALL
    )
    episode = data.episode(0)
    assert len(set(episode.action)) > 3 and episode.observation[0].startswith("-=")


@pytest.mark.parametrize("options", [{"rooms": 0}, {"theme": "space"}, {"num_games": 0}])
def test_settings_that_make_no_game_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(MagratheaError):
        make_env("magrathea/TextWorld-v0", **options)
