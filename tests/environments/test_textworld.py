"""TextWorld: games by their seeds, what commands do, and that no command reaches the interpreter's own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from magrathea.cli import main as cli
from magrathea.data import collect, make_env, make_env_from_metadata
from magrathea.errors import MagratheaError
from magrathea.train import load_settings, train

pytest.importorskip("textworld")
from magrathea.environments.textworld.checks import (
    ANSWERS,
    CARRIED,
    EXITS,
    NAMES,
    ROOMS,
    WAYS,
    text_checks,
)

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


@pytest.fixture(scope="module")
def kitchens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two cooking games."""
    folder = tmp_path_factory.mktemp("kitchens")
    for seed in ("1", "2"):
        command = ["tw-make", "tw-cooking", "--recipe", "1", "--seed", seed, "--output", str(folder / f"{seed}.z8")]
        subprocess.run([*command, "--silent"], check=True, env=os.environ | {"TMPDIR": str(folder)})
    return folder


def test_games_of_files_are_played(kitchens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env: Any = make_env("magrathea/TextWorld-v0", games=str(kitchens))
    starts = [env.reset(seed=seed)[0] for seed in range(4)]
    assert starts[:2] == starts[2:] and starts[0] != starts[1]
    assert all("-= Kitchen =-" in start for start in starts)
    assert "cookbook" in env.step("look")[0] and "examine cookbook" in env.unwrapped.commands
    env.close()
    monkeypatch.chdir(kitchens.parent)
    data = collect(
        "magrathea/TextWorld-v0", 30, tmp_path / "data", policy="explorer", num_processes=1,
        env_kwargs={"games": kitchens.name},
    )  # fmt: skip
    make_env_from_metadata(data.metadata).close()


def test_recorded_texts_agree_with_the_game_and_wrong_ones_do_not(kitchens: Path, tmp_path: Path) -> None:
    options = {"games": str(kitchens)}
    data = collect("magrathea/TextWorld-v0", 240, tmp_path / "data", policy="explorer", max_episode_steps=80,
                   num_processes=1, env_kwargs=options)  # fmt: skip
    env, total = make_env("magrathea/TextWorld-v0", **options), dict.fromkeys(NAMES, 0.0)
    for index in range(len(data)):
        episode = data.episode(index)
        env.reset(seed=episode.seed)
        texts, commands = [str(text) for text in episode.observation], [str(command) for command in episode.action]
        for name, counts in text_checks(env, texts, commands).items():
            assert (counts[:, 0] == counts[:, 1]).all(), name
            total[name] += counts[:, 1].sum()
    assert min(total[name] for name in (CARRIED, ANSWERS, ROOMS)) > 3
    says = [
        ("take knife from table", "You take the knife from the table.", ANSWERS, 1),
        ("take knife from table", "You take the apple from the table.", ANSWERS, 0),
        ("inventory", "You are carrying: a cookbook and an apple.", CARRIED, 0.5),
        ("drop apple", "You drop the apple on the ground.", ANSWERS, 1),
        ("inventory", "You are carrying: a knife and a red apple.", CARRIED, 0.5),
        ("inventory", "You are carrying nothing.", CARRIED, 0.5),
        ("look", "-= Cave =-\nA cave. There is an exit to the north.", ROOMS, 0),
        ("look", "-= Kitchen =-\nThere is an exit to the north. You should try going west.", EXITS, 0),
    ]  # fmt: skip
    found = text_checks(env, ["-= Kitchen =-", *(text for _, text, _, _ in says)], [command for command, *_ in says])
    for step, (_, text, name, share) in enumerate(says):
        assert found[name][step, 1] and found[name][step, 0] / found[name][step, 1] == share, text


def test_rooms_that_one_walks_into_are_those_of_the_map() -> None:
    env: Any = make_env("magrathea/TextWorld-v0", **SMALL)
    for seed in range(5):
        first, _ = env.reset(seed=seed)
        for way in ("north", "south", "east", "west"):
            second = env.step(f"go {way}")[0]
            if second.startswith("-="):
                right, wrong = (text_checks(env, [first, text], [f"go {way}"])[WAYS][0] for text in (second, first))
                assert right.tolist() == [1, 1] and wrong.tolist() == [0, 1]
                return
    raise AssertionError("no way is open in five games")


def test_the_command_prints_what_dreams_agree_with(
    kitchens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(kitchens.parent)
    collect("magrathea/TextWorld-v0", 300, tmp_path / "data", policy="explorer", max_episode_steps=40,
            num_processes=1, env_kwargs={"games": kitchens.name})  # fmt: skip
    train(tmp_path / "data", tmp_path / "world", load_settings(size="debug", steps=4, num_starts=4))
    asked = [str(tmp_path / "world"), str(tmp_path / "data"), "--num-dreams", "4", "--minutes", "0.1"]
    assert cli.main(["eval", "text", *asked, "--out", str(tmp_path / "report")]) in (None, 0)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f"| {ANSWERS} |"))
    assert re.search(r"\| 100\.0% \(\d+\.\d% … 100\.0%\) of \d+ \|$", line), line
    (found,) = json.loads((tmp_path / "report" / "text.json").read_text())
    assert found["agreement"][ANSWERS]["reality"]["value"] == 1


def _cut(game: Path) -> None:
    game.write_bytes(game.read_bytes()[:-5000])


def _spoil(game: Path) -> None:
    story = bytearray(game.read_bytes())
    story[5000] ^= 1
    game.write_bytes(story)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (_cut, "damaged"),
        (_spoil, "damaged"),
        (lambda game: game.write_bytes(b""), "damaged"),
        (lambda game: game.with_suffix(".json").write_text("{"), "cannot be read"),
        (lambda game: game.with_suffix(".json").unlink(), "no file 'game.json' beside it"),
        (lambda game: game.unlink(), "There is no game"),
    ],
)
def test_games_that_cannot_be_played_are_named(damage: Any, error: str, kitchens: Path, tmp_path: Path) -> None:
    for ending in (".z8", ".json"):
        shutil.copy(kitchens / f"1{ending}", tmp_path / f"game{ending}")
    damage(tmp_path / "game.z8")
    with pytest.raises(MagratheaError, match=rf"game\.z8.*{error}|{error}.*game\.z8"):
        make_env("magrathea/TextWorld-v0", games=str(tmp_path / "game.z8")).reset(seed=0)


def test_a_folder_without_games_is_named(tmp_path: Path) -> None:
    with pytest.raises(MagratheaError, match="has no games"):
        make_env("magrathea/TextWorld-v0", games=str(tmp_path))


@pytest.mark.parametrize("options", [{"rooms": 0}, {"theme": "space"}, {"num_games": 0}])
def test_settings_that_make_no_game_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(MagratheaError):
        make_env("magrathea/TextWorld-v0", **options)
