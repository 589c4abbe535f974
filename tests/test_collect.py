"""Recording: reproducible in any number of processes, and resumed without loss after a kill."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from minari import MinariDataset

from magrathea.data import Dataset, collect, make_env, make_env_from_metadata, policies
from magrathea.errors import MagratheaError
from magrathea.files import claim_folder

BOARD, SLOW, ODD = (f"data_environments:recorded/{name}-v0" for name in ("Board", "Slow", "Odd"))


def arrays(value: Any) -> list[np.ndarray]:
    """The arrays inside nested dicts and tuples."""
    if isinstance(value, dict):
        return [array for key in sorted(value) for array in arrays(value[key])]
    return [array for part in value for array in arrays(part)] if isinstance(value, tuple) else [np.asarray(value)]


def content(dataset: Dataset) -> list[list[np.ndarray]]:
    episodes = [dataset.episode(index) for index in range(len(dataset))]
    return [
        arrays((e.observation, e.action, e.reward, e.terminated, e.truncated, dict(e.infos), np.array(e.seed)))
        for e in episodes
    ]


def assert_same(one: Dataset, other: Dataset) -> None:
    assert len(one) == len(other) and one.num_steps == other.num_steps
    for arrays_of_one, arrays_of_other in zip(content(one), content(other), strict=True):
        for array, expected in zip(arrays_of_one, arrays_of_other, strict=True):
            assert array.dtype == expected.dtype
            np.testing.assert_array_equal(array, expected)


def test_dataset_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    one = collect(BOARD, 120, tmp_path / "one", num_processes=1, max_episode_steps=12)
    two = collect(BOARD, 120, tmp_path / "two", num_processes=2, max_episode_steps=12)
    assert_same(one, two)
    assert 120 <= one.num_steps < 132
    assert [one.episode(index).seed for index in range(3)] == [0, 1, 2]
    assert one.metadata["key_map"]["ArrowUp"] == 1 and one.metadata["fps"] == 20


def test_killed_recording_resumes_without_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"""if __name__ == "__main__":
        from magrathea.data import collect
        collect({SLOW!r}, 400, {str(tmp_path / "killed")!r}, num_processes=2, max_episode_steps=10, seed=7)"""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path})
    work = tmp_path / "killed" / ".collecting"
    deadline = time.monotonic() + 60
    while len(list(work.glob("episode_*"))) < 12 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, "the recording ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # its workers exit when their parent is gone
    with pytest.raises(MagratheaError, match="other settings"):
        collect(SLOW, 400, tmp_path / "killed", num_processes=1, max_episode_steps=11, seed=7)
    recorded = {int(each.stem.split("_")[1]) for each in work.glob("episode_*") if "partial" not in each.name}
    assert len(recorded) >= 12
    played: list[int] = []
    module = importlib.import_module("magrathea.data.playing")
    play = module._Player.play

    def watched(self: Any, index: int, *rest: Any) -> Any:
        played.append(index)
        return play(self, index, *rest)

    monkeypatch.setattr(module._Player, "play", watched)
    resumed = collect(SLOW, 400, tmp_path / "killed", num_processes=1, max_episode_steps=10, seed=7)
    assert played and not recorded & set(played)
    monkeypatch.undo()
    whole = collect(SLOW, 400, tmp_path / "whole", num_processes=1, max_episode_steps=10, seed=7)
    assert_same(resumed, whole)
    assert not work.exists()


def test_minari_reads_a_recorded_dataset(tmp_path: Path) -> None:
    ours = collect(BOARD, 30, tmp_path / "board", num_processes=1, max_episode_steps=8, policy="random")
    theirs = MinariDataset(tmp_path / "board" / "data")
    assert theirs.total_episodes == len(ours) and theirs.total_steps == ours.num_steps
    for index, episode in enumerate(theirs.iterate_episodes()):
        np.testing.assert_array_equal(episode.observations, ours.episode(index).observation)
        assert episode.infos is not None and "place" in episode.infos


def test_built_in_and_imported_policies(tmp_path: Path) -> None:
    def actions(policy: str) -> np.ndarray:
        name = policy.replace(":", "-")
        data = collect(BOARD, 60, tmp_path / name, policy=policy, num_processes=1, max_episode_steps=20)
        return np.concatenate([data.episode(index).action for index in range(len(data))])

    down, random, sticky = (actions(name) for name in ("data_environments:always_down", "random", "sticky"))
    assert (down == 2).all() and len(set(random.tolist())) == 5
    assert (np.diff(sticky) == 0).mean() > (np.diff(random) == 0).mean() + 0.2


def test_several_policies_take_turns(tmp_path: Path) -> None:
    policy = "data_environments:always_down+random"
    data = collect(BOARD, 240, tmp_path / "both", policy=policy, num_processes=1, max_episode_steps=20)
    only_down = [bool((data.episode(index).action == 2).all()) for index in range(len(data))]
    assert 2 <= sum(only_down) <= len(data) - 2
    with pytest.raises(MagratheaError, match="Unknown policy 'wild'"):
        collect(BOARD, 20, tmp_path / "none", policy="random+wild", num_processes=1)


def test_explore_holds_an_action_until_it_changes_nothing() -> None:
    def share_held(observations: list[np.ndarray], seed: int = 0) -> float:
        act = policies.explore(gymnasium.make(BOARD), np.random.default_rng(seed))
        actions = [act(observation, {}) for observation in observations]
        return float((np.diff(actions) == 0).mean())

    moving, still = [np.array([step % 7]) for step in range(300)], [np.array([3])] * 300
    assert share_held(moving) > 0.7 and share_held(still) < 0.4
    num_long = sum(share_held(moving, seed) > 0.92 for seed in range(30))
    assert 7 < num_long < 23, "it holds for long in about half of the episodes"


@pytest.mark.parametrize("space", ["dict", "tuple"])
def test_composite_spaces_are_recorded(tmp_path: Path, space: str) -> None:
    data = collect(ODD, 10, tmp_path / space, num_processes=1, env_kwargs={"space": space})
    episode = data.episode(0)
    env: Any = gymnasium.make(ODD, space=space, disable_env_checker=True)
    first, _ = env.reset(seed=episode.seed)
    for array, expected in zip(
        arrays(episode.observation), arrays(dict(first) if space == "dict" else first), strict=True
    ):
        assert array.shape == (6, *expected.shape)
        np.testing.assert_array_equal(array[0], expected)
    assert episode.action.shape == (5, 2)


def test_what_an_environment_draws_is_recorded_in_place_of_what_it_observes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = collect("data_environments:recorded/Drawn-v0", 30, tmp_path / "drawn", num_processes=1, pixels=True)
    assert dataset.metadata["env_kwargs"] == {"pixels": True}
    for index in range(len(dataset)):
        frames = dataset.episode(index).observation
        assert frames.shape == (10, 24, 16, 3) and (frames == 10 * np.arange(10)[:, None, None, None]).all()
    with closing(make_env_from_metadata(dataset.metadata)) as env:
        assert env.observation_space == dataset.observation_space
    assert "--pixels" not in capsys.readouterr().err
    collect("data_environments:recorded/Drawn-v0", 30, tmp_path / "observed", num_processes=1)
    assert "--pixels records what the environment draws" in capsys.readouterr().err
    with pytest.raises(MagratheaError, match=r"draws no pictures .*leave out pixels"):
        make_env("data_environments:recorded/Drawn-v0", pixels=True, render_mode="ansi")


def test_split_is_by_episode(tmp_path: Path) -> None:
    data = collect(BOARD, 50, tmp_path / "board", num_processes=1, max_episode_steps=5)
    train, held_out = data.split(0.3, seed=1)
    assert sorted(train + held_out) == list(range(len(data))) and len(held_out) == round(0.3 * len(data))
    assert data.split(0.3, seed=1) == (train, held_out)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"env_id": "nowhere/Nothing-v0"}, "cannot be made"),
        ({"policy": "clever"}, "Unknown policy"),
        ({"policy": "data_environments:nothing"}, "cannot be imported"),
        ({"steps": 0}, "steps is 0; give a whole number from 1"),
        ({"env_kwargs": {"colour": 1}}, "colour"),
        ({"env_id": ODD, "env_kwargs": {"space": "number", "nan_at": 3}}, "NaN"),
        ({"env_id": ODD, "env_kwargs": {"space": "graph"}}, "Graph"),
        ({"env_id": ODD, "env_kwargs": {"space": "sequence"}}, "Sequence"),
    ],
)
def test_invalid_arguments_are_refused_in_one_line(tmp_path: Path, asked: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"env_id": BOARD, "steps": 20, "out": tmp_path / "out", "num_processes": 1} | asked
    with pytest.raises(MagratheaError, match=message) as raised:
        collect(**arguments)
    assert "\n" not in str(raised.value)


def test_folders_that_hold_something_else_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").write_text("dear")
    with pytest.raises(MagratheaError, match="is not a dataset"):
        collect(BOARD, 20, tmp_path / "letters", num_processes=1)
    collect(BOARD, 20, tmp_path / "board", num_processes=1, max_episode_steps=5)
    with pytest.raises(MagratheaError, match="other settings"):
        collect(BOARD, 20, tmp_path / "board", num_processes=1, max_episode_steps=5, seed=1)
    with pytest.raises(MagratheaError, match="No dataset"):
        Dataset.open(tmp_path / "nowhere")


def test_damaged_dataset_is_refused(tmp_path: Path) -> None:
    collect(BOARD, 20, tmp_path / "board", num_processes=1, max_episode_steps=5)
    shutil.copytree(tmp_path / "board", tmp_path / "other")
    file = tmp_path / "board" / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(MagratheaError, match="damaged"):
        Dataset.open(tmp_path / "board").episode(0)
    (tmp_path / "other" / "data" / "metadata.json").write_text("{")
    with pytest.raises(MagratheaError, match="damaged"):
        Dataset.open(tmp_path / "other")


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(MagratheaError, match="pip install ale-py"):
        collect("ALE/Breakout-v5", 20, tmp_path / "out", num_processes=1)


def test_one_process_at_a_time_records_into_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with claim_folder(out, "at"), pytest.raises(MagratheaError, match="Another process is recording into"):
        collect(BOARD, 20, out, num_processes=1)
    assert len(collect(BOARD, 20, out, num_processes=1))
    assert list(tmp_path.iterdir()) == [out]
