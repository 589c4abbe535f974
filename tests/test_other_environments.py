"""Other people's environments: what cannot be learnt is refused before anything is recorded, values outside of their
space before their episode is written, and what fails in an episode loses only that episode."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from magrathea.cli.main import main
from magrathea.data import Dataset, collect, make_env
from magrathea.data.make_env import environment_metadata
from magrathea.data.pictures import ConvertPictures
from magrathea.errors import MagratheaError
from magrathea.files import claim_folder
from magrathea.space_config import space_from_config, space_to_config
from magrathea.spaces import check_space
from magrathea.tokenizers import tokenizer_for
from magrathea.train import train
from magrathea.train.train import held_out_share

OTHER, OLD, NO_ENV = (f"data_environments:recorded/{name}-v0" for name in ("Other", "OldApi", "NoEnv"))
INT64, UINT64 = np.iinfo(np.int64), np.iinfo(np.uint64)


def record(out: Path, case: str = "", num_processes: int = 1, **options: Any) -> Dataset:
    names = ("value", "fails", "length")
    keywords = {"case": case} | {name: options.pop(name) for name in names if name in options}
    return collect(OTHER, 20, out / "data", num_processes=num_processes, env_kwargs=keywords, **options)


# -- spaces -----------------------------------------------------------------------------------------------------------
UNLEARNABLE: dict[str, tuple[gymnasium.Space, str]] = {
    "no numbers": (spaces.Box(0, 1, (0,), np.float32), "has no numbers"),
    "a part without numbers": (spaces.Dict(a=spaces.Box(0, 1, (0, 3), np.float32)), r"\['a'\].*has no numbers"),
    "empty dict": (spaces.Dict({}), "holds nothing"),
    "empty tuple": (spaces.Tuple([]), "holds nothing"),
    "nested empty dict": (spaces.Tuple([spaces.Dict({})]), "holds nothing"),
    "key with slash": (spaces.Dict({"a/b": spaces.Discrete(2)}), "'a/b'"),
    "key of dots": (spaces.Dict({"..": spaces.Discrete(2)}), "'..'"),
    "key with a line end": (spaces.Dict({"a\n": spaces.Discrete(2)}), "rename"),
    "many choices": (spaces.Discrete(10**10), "has 10000000000 choices"),
    "many choices of one": (spaces.MultiDiscrete([2, 10**7]), "has 10000000 choices"),
    "many bits": (spaces.MultiBinary(10**6), "has 1000000 numbers"),
    "many numbers": (spaces.Box(0, 1, (10_000,), np.float32), "make it smaller"),
    "five channels": (spaces.Box(0, 255, (64, 64, 5), np.uint8), "stack of frames, take off that wrapper"),
    "stacked frames": (spaces.Box(0, 255, (4, 64, 64, 3), np.uint8), "stack of frames, take off that wrapper"),
    "prime sides": (spaces.Box(0, 255, (61, 61, 3), np.uint8), "--env-kwargs"),
    "complex": (spaces.Box(0, 255, (0, 61, 3), np.uint8), "has no numbers"),
    "text without characters": (spaces.Text(3, charset=""), "has no characters"),
    "sequence in a dict": (spaces.Dict(a=spaces.Sequence(spaces.Discrete(2))), "no tokenizer"),
}


@pytest.mark.parametrize("kind", UNLEARNABLE)
def test_what_cannot_be_learnt_is_refused_in_a_line(kind: str) -> None:
    space, message = UNLEARNABLE[kind]
    with pytest.raises(MagratheaError, match=message) as raised:
        check_space(space, "observation")
    assert str(raised.value).startswith("observation") and "\n" not in str(raised.value)


LEARNABLE: dict[str, gymnasium.Space] = {
    "int64 without bounds": spaces.Box(-np.inf, np.inf, (2,), np.int64),
    "uint64 to its end": spaces.Box(0, UINT64.max, (2,), np.uint64),
    "bool": spaces.Box(0, 1, (3,), bool),
    "RGBA": spaces.Box(0, 255, (16, 16, 4), np.uint8),
    "a strip": spaces.Box(0, 255, (1, 200, 3), np.uint8),
    "many choices": spaces.Discrete(100_000),
    "far from zero": spaces.Discrete(3, start=2**62),
    "one choice": spaces.Discrete(1),
}


@pytest.mark.parametrize("kind", LEARNABLE)
def test_odd_spaces_go_through_files_and_tokens(kind: str) -> None:
    space = LEARNABLE[kind]
    check_space(space, "observation")
    assert space_from_config(json.loads(json.dumps(space_to_config(space)))) == space
    space.seed(0)
    values = np.stack([np.asarray(space.sample()) for _ in range(4)])
    if values.dtype.itemsize == 8 and isinstance(space, spaces.Box):
        values[0, 0], values[1, 0] = space.low[0], space.high[0]
    tokenizer = tokenizer_for(space).fit(values)
    decoded = tokenizer.decode(tokenizer.encode(values))
    assert decoded.dtype == values.dtype and all(
        space.contains(np.asarray(value)) or value in space for value in decoded
    )
    np.testing.assert_allclose(decoded.astype(np.float64), values.astype(np.float64), rtol=1e-12)


def test_bounds_that_an_earlier_version_wrote_as_floats() -> None:
    config = {"type": "Box", "shape": [2], "dtype": "int64", "low": float(INT64.min), "high": float(INT64.max)}
    assert space_from_config(config) == spaces.Box(INT64.min, INT64.max, (2,), np.int64)


@pytest.mark.parametrize(
    ("space", "value", "corner"),
    [
        (spaces.Box(0, 1, (16, 16, 3), np.float32), np.full((16, 16, 3), 0.5, np.float32), 128),
        (
            spaces.Box(0, 255, (3, 16, 16), np.uint8),
            np.arange(3, dtype=np.uint8)[:, None, None] + np.zeros((3, 16, 16), np.uint8),
            0,
        ),
        (spaces.Box(0, 255, (61, 61, 3), np.uint8), np.full((61, 61, 3), 9, np.uint8), 9),
    ],
)
def test_size_makes_pictures_of_any_form(space: spaces.Box, value: np.ndarray, corner: int) -> None:

    env: Any = gymnasium.Env()
    env.observation_space, env.action_space = space, spaces.Discrete(2)
    resized = ConvertPictures(env, (8, 8))
    check_space(resized.observation_space, "observation")
    picture = resized.observation(value)
    assert picture in resized.observation_space and picture.shape == (8, 8, 3) and picture[0, 0, 0] == corner


@pytest.mark.parametrize("size", [64, [64], [64, 0], [64, "64"], [64, 6.4], [True, 64], "64", [10**9, 64], {}])
def test_a_size_is_two_numbers_of_pixels(size: Any) -> None:
    with pytest.raises(MagratheaError, match=re.escape("give [height, width] in pixels")):
        make_env(OTHER, size=size, case="")


# -- values -----------------------------------------------------------------------------------------------------------
VALUES = {
    "unit floats for uint8": r"float64 \(0\.5 to 0\.5\).*multiply it by 255",
    "whole floats for uint8": "multiply it by 255",
    "300 in uint8": r"is 300 at index \(1,\), outside",
    "-200 in int8": r"is -200 at index \(1, 1\), outside",
    "2.7 in Discrete": "is 2.7, no whole number",
    "4 in Discrete": "is 4, outside",
    "3 in MultiDiscrete": r"is 3 at index \(1,\), outside",
    "2 in MultiBinary": r"is 2 at index \(1,\), outside",
    "2 in bool": r"is 2 at index \(1,\), outside",
    "1e300 in float32": r"is 1e\+300 at index \(1,\), NaN or infinite in float32",
    "2**70 in int64": "holds list",
    "an object": "holds object",
    "a ragged list": "is no array",
}


@pytest.mark.parametrize("case", VALUES)
def test_values_outside_of_their_space_are_refused_before_they_are_written(tmp_path: Path, case: str) -> None:
    with pytest.raises(MagratheaError, match=f"Episode 0 .*An observation of .*{VALUES[case]}") as raised:
        record(tmp_path, case)
    assert "correct" in str(raised.value) and "\n" not in str(raised.value)
    assert not list((tmp_path / "data" / ".collecting").glob("episode_*"))


def test_floats_outside_of_their_bounds_are_kept_and_noted_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = record(tmp_path, "9 in float")
    assert (data.episode(0).observation[:, 1] == 9).all()
    noted = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Note")]
    assert len(noted) == 1 and "is 9.0 at index (1,), outside" in noted[0]


@pytest.mark.parametrize("value", ["none", "nan", "infinite", "two", "text", "too large", "of 400 digits"])
def test_rewards_that_are_no_number_are_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(MagratheaError, match=r"Episode 0 .*A reward of .*wrapper") as raised:
        record(tmp_path, "reward", value=value)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(("value", "expected"), [("array of one", 0.5), ("bool", 1.0)])
def test_rewards_that_mean_a_number(tmp_path: Path, value: str, expected: float) -> None:
    assert (record(tmp_path, "reward", value=value).episode(0).reward == expected).all()


def test_odd_infos_are_left_out_and_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = record(tmp_path, "info")
    assert set(data.episode(0).infos) == {"kept"}
    noted = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Note: info[")]
    names = ("object", "mixed", "text", "a/b", "", 7, "none", ".", "late", "shape", "long", "big", "array")
    assert len(noted) == len(names) and all(any(f"info[{name!r}]" in line for line in noted) for name in names)


@pytest.mark.parametrize("value", ["none", "text", "two", "seven"])
def test_flags_that_are_no_truth_value_are_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(MagratheaError, match=r"Episode 0 .*terminated of .*give True or False"):
        record(tmp_path, "terminated", value=value)


@pytest.mark.parametrize("value", ["array of one", "one"])
def test_flags_that_mean_a_truth_value(tmp_path: Path, value: str) -> None:
    assert record(tmp_path, "terminated", value=value).episode(0).terminated.tolist() == [True]


def test_an_info_that_is_no_dict_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MagratheaError, match=r"Episode 0 .*info of .* is \[1\]; give a dict"):
        record(tmp_path, "info list")


# -- episodes ---------------------------------------------------------------------------------------------------------
def test_a_failing_episode_stops_and_the_whole_ones_stay(tmp_path: Path) -> None:
    message = (
        r"Episode 2 \(seed 2\).*ZeroDivisionError: the world fell apart; the 2 whole episodes stay.*--on-error skip"
    )
    with pytest.raises(MagratheaError, match=message):
        record(tmp_path, fails=[2])
    assert len(list((tmp_path / "data" / ".collecting").glob("episode_*"))) == 2
    data = record(tmp_path, fails=[2], on_error="skip")
    assert [data.episode(index).seed for index in range(len(data))] == [0, 1, 3, 4]
    assert data.metadata["failed_episodes"] == [2]
    assert len(record(tmp_path, fails=[2])) == 4  # finished


def test_failing_episodes_are_skipped_alike_in_any_number_of_processes(tmp_path: Path) -> None:
    data = record(tmp_path, fails=[0, 3], on_error="skip", num_processes=2)
    assert [data.episode(index).seed for index in range(len(data))] == [1, 2, 4, 5]
    assert data.metadata["failed_episodes"] == [0, 3]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_an_environment_that_ends_the_program_fails_in_its_episode(tmp_path: Path, num_processes: int) -> None:
    with pytest.raises(MagratheaError, match=r"Episode 1 .* failed: SystemExit: the world ended"):
        record(tmp_path, "exit", fails=[1], num_processes=num_processes)
    data = record(tmp_path, "exit", fails=[1], on_error="skip", num_processes=num_processes)
    assert [data.episode(index).seed for index in range(len(data))] == [0, 2, 3, 4]


def test_an_environment_that_cannot_be_closed_loses_nothing(tmp_path: Path) -> None:
    assert len(record(tmp_path, "close", fails=[1], on_error="skip")) == 4


@pytest.mark.parametrize("num_processes", [1, 2])
def test_long_episodes_are_cut_where_the_time_is_short(tmp_path: Path, num_processes: int) -> None:
    started = time.monotonic()
    slow = "data_environments:recorded/Endless-v0"
    data = collect(slow, 10**6, tmp_path / "data", num_processes=num_processes, max_seconds=2.0)
    assert len(data) >= 4 and time.monotonic() - started < 8
    episodes = [data.episode(index) for index in range(len(data))]
    assert all(len(episode) >= 32 and episode.truncated[-1] for episode in episodes)


def test_nothing_but_failures_ends(tmp_path: Path) -> None:
    with pytest.raises(MagratheaError, match="as did all of the last 10"):
        record(tmp_path, fails=list(range(100)), on_error="skip")


def test_an_environment_without_a_time_limit_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(record(tmp_path, "4 steps", length=10**9).episode(0)) == 1000
    assert "has no time limit; its episodes are cut after 1000 steps" in capsys.readouterr().err
    capsys.readouterr()
    (tmp_path / "given").mkdir()
    assert len(record(tmp_path / "given", length=10**9, max_episode_steps=7).episode(0)) == 7
    assert "time limit" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("env_id", "keywords"),
    [
        (OLD, {"takes_seed": False, "tells_info": False}),
        (OLD, {"takes_seed": True, "tells_info": False}),
        (OLD, {"takes_seed": True, "tells_info": True}),
        (NO_ENV, {}),
    ],
)
def test_the_old_api_of_gym_names_shimmy(tmp_path: Path, env_id: str, keywords: dict[str, Any]) -> None:
    with pytest.raises(MagratheaError, match="pip install 'shimmy"):
        collect(env_id, 20, tmp_path / "data", num_processes=1, env_kwargs=keywords)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_sigterm_closes_environments(tmp_path: Path, num_processes: int) -> None:
    code = f"""if __name__ == "__main__":
        from magrathea.data import collect
        collect("data_environments:recorded/Closing-v0", 10**6, {str(tmp_path / "data")!r},
                num_processes={num_processes}, env_kwargs={{"folder": {str(tmp_path)!r}}})"""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path})
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("open_*"))) < num_processes and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    process.terminate()
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert len(list(tmp_path.glob("closed_*"))) >= num_processes and not list(tmp_path.glob("open_*"))


# -- training ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("num_episodes", "wanted", "held_out"),
    [(3, 0.05, 2), (10, 0.05, 2), (20, 0.05, 2), (40, 0.05, 4), (80, 0.05, 8), (100, 0.05, 8), (400, 0.05, 20),
     (1000, 0.0, 0), (10, 0.5, 5)],
)  # fmt: skip
def test_at_least_8_episodes_or_a_tenth_are_held_out(num_episodes: int, wanted: float, held_out: int) -> None:
    assert round(held_out_share(num_episodes, wanted) * num_episodes) == held_out


# -- doors ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", ["collect", "make"])
@pytest.mark.parametrize("case", ["no numbers", "many choices", "empty", "slash", "stack"])
def test_spaces_are_checked_before_anything_is_recorded(
    command: str, case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keywords = json.dumps({"case": f"unlearnable: {case}"})
    assert main([command, OTHER, "--out", str(tmp_path / "out"), "--env-kwargs", keywords]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"magrathea: '{OTHER}', observation") and "\n" not in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("space", "words"), [
    (spaces.Discrete(10**10), "has 10000000000 choices"),
    (spaces.Box(0, 255, (3, 32, 32), np.uint8), "record the environment with 'magrathea collect'"),
    (spaces.Box(0, 1, (32, 32, 3), np.float32), "record the environment with 'magrathea collect'"),
])  # fmt: skip
def test_a_dataset_of_another_program_is_checked_before_training(
    space: gymnasium.Space, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = record(tmp_path)
    monkeypatch.setattr(Dataset, "observation_space", space)
    with pytest.raises(MagratheaError, match=re.escape(words)):
        train(data.folder, tmp_path / "world")
    assert not (tmp_path / "world").exists()


def test_a_world_of_a_space_that_cannot_be_learnt_is_not_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(Path(__file__).parent / "golden" / "board_world", tmp_path / "world")
    config = json.loads((tmp_path / "world" / "config.json").read_text())
    config["spaces"]["action"]["n"] = 10**10
    (tmp_path / "world" / "config.json").write_text(json.dumps(config))
    assert main(["play", str(tmp_path / "world")]) == 2
    error = capsys.readouterr().err.strip()
    assert "has 10000000000 choices" in error and "\n" not in error


@pytest.mark.parametrize(
    "keywords",
    [
        '{"size": 64}',
        '{"env_id": "CartPole-v1"}',
        '{"id": "CartPole-v1"}',
        '{"disable_env_checker": true}',
        '{"colour": 1}',
        '{"not a name": 1}',
        '{"": 1}',
        '{"case": NaN}',
        '{"case": {}}',
        "[" * 100_000,
    ],
)
def test_bad_keywords_give_one_line(keywords: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", OTHER, "--out", str(tmp_path / "out"), "--env-kwargs", keywords]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("magrathea: ") and "\n" not in error and len(error) < 1500


@pytest.mark.parametrize(
    "metadata",
    [
        {"render_fps": "fast"}, {"render_fps": np.inf}, {"render_fps": -1}, {"key_map": [1, 2]},
        {"key_map": {"a": "left"}}, {"action_names": 3},
    ],
)  # fmt: skip
def test_odd_metadata_give_one_line(metadata: dict[str, Any]) -> None:
    env = make_env(OTHER, case="")
    env.unwrapped.metadata = metadata
    with pytest.raises(MagratheaError, match="metadata of the environment"):
        environment_metadata(env)


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ({(ord("w"),): 2, (ord("w"), ord("d")): 3}, {"w": 2}),  # of combinations none is taken
        ({"a": np.array([-1.0, 0.0]), (): 0, "dw": 1}, {"a": [-1.0, 0.0]}),
    ],
)
def test_keys_are_those_of_the_environment(given: dict, keys: dict) -> None:
    env = make_env(OTHER, case="")
    env.unwrapped.metadata = {}
    env.unwrapped.get_keys_to_action = lambda: given  # type: ignore[attr-defined]
    assert environment_metadata(env)["key_map"] == keys


def test_a_description_is_the_first_paragraph_of_the_documentation() -> None:
    env = make_env(OTHER, case="")

    def described(documentation: str | None) -> str | None:
        env.unwrapped.__class__ = type("Documented", (type(env.unwrapped),), {"__doc__": documentation})
        return environment_metadata(env).get("description")

    assert described(
        "\n    ## Description\n\n    Cross the [lake](http://x.org),\n    and come back.\n\n    More."
    ) == ("Cross the lake, and come back.")
    assert described(None) is None and len(described("word " * 200) or "") <= 300
    env.unwrapped.metadata = {"description": "A game."}
    assert described("Something else.") == "A game."


def test_a_script_without_a_main_guard_records_in_one_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from magrathea.data import collect\n"
        f"print(len(collect({OTHER!r}, 20, {str(tmp_path / 'data')!r}, env_kwargs={{'case': ''}})))\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    command = [sys.executable, str(script)]
    result = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=120)
    assert result.stdout.splitlines()[-1] == "4" and not result.stderr


def test_one_process_at_a_time_trains_into_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, world = record(tmp_path), tmp_path / "world"
    with claim_folder(world, "at"), pytest.raises(MagratheaError, match="Another process is training into"):
        train(data.folder, world)
    golden = Path(__file__).parent / "golden" / "board_world"
    for command in ("eval", "eval memory", "eval drift"):
        with claim_folder(tmp_path / "report", "at"):
            arguments = [*command.split(), str(golden), str(data.folder), "--out", str(tmp_path / "report")]
            assert main(arguments) == 2
        assert "Another process is writing a report into" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
