"""ViZDoom: pictures, pose and furniture of the rooms, the package's own levels, and the games' processes."""

from __future__ import annotations

import contextlib
import ctypes
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from magrathea.data import collect, make_env
from magrathea.errors import MagratheaError
from magrathea.sounds import Sound

pytest.importorskip("vizdoom")


def test_vizdoom_recording_is_reproducible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments: dict[str, Any] = {"num_processes": 1, "max_episode_steps": 30, "env_kwargs": {"size": [60, 80]}}
        data = collect("VizdoomBasic-v1", 60, "out", **arguments)
        again = collect("VizdoomBasic-v1", 60, "again", **arguments)
    episode = data.episode(0)
    assert set(episode.observation) == {"screen", "gamevariables"}
    assert episode.observation["screen"].shape[1:] == (60, 80, 3) and episode.observation["screen"].std() > 5
    np.testing.assert_array_equal(episode.observation["screen"], again.episode(0).observation["screen"])
    names, keys = data.metadata["action_names"], data.metadata["key_map"]
    assert sorted(names) == ["attack", "move_left", "move_right", "noop"]
    assert keys["ArrowLeft"] == names.index("move_left") and keys[" "] == names.index("attack")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "out"], (
        "the game wrote into the working folder"
    )


def test_vizdoom_info_has_the_pose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments: dict[str, Any] = {"policy": "explorer", "num_processes": 1}
    data = collect("magrathea/ViZDoom-v0", 300, "out", max_episode_steps=150, **arguments)
    again = collect("magrathea/ViZDoom-v0", 100, "again", max_episode_steps=100, **arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "out"], (
        "the game wrote into the working folder"
    )
    episode = data.episode(0)
    assert episode.observation.shape == (151, 64, 64, 3) and episode.observation.std() > 5
    np.testing.assert_array_equal(episode.observation[:101], again.episode(0).observation)
    pose = episode.infos["pose"]
    assert pose.shape == (151, 3) and np.ptp(pose[:, 0]) + np.ptp(pose[:, 1]) > 200, "the explorer hardly moved"
    turns = {"noop": 0, "forward": 0, "turn left": 15, "turn right": -15, "forward left": 15, "forward right": -15}
    expected = np.array([turns[name] for name in data.metadata["action_names"]])[episode.action]
    assert np.abs((np.diff(pose[:, 2]) - expected + 180) % 360 - 180).max() < 0.1
    assert np.abs((pose[:, 2] + 7.5) % 15 - 7.5).max() < 2, "headings are not multiples of 15 degrees"
    assert data.metadata["fps"] == 8.75 and data.metadata["key_map"]["ArrowUp"] == 1


def test_vizdoom_furniture_depends_on_the_seed() -> None:
    env: Any = make_env("magrathea/ViZDoom-v0")
    bare: Any = make_env("magrathea/ViZDoom-v0", furnished=False)
    with contextlib.closing(env), contextlib.closing(bare):
        first, again, other = (_look_around(env, seed) for seed in (3, 3, 4))
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()
        assert (_look_around(bare, 3) != first).any()


def _look_around(env: Any, seed: int) -> np.ndarray:
    """Pictures of all headings from the middle of the same room."""
    env.reset(seed=seed)
    env.unwrapped._stand(464, 48, 0)
    return np.stack([env.step(2)[0] for _ in range(24)])


def test_vizdoom_processes_end_with_the_recording(tmp_path: Path) -> None:

    def games() -> set[str]:
        paths = Path("/proc").glob("[0-9]*/comm")
        return {path.parent.name for path in paths if path.exists() and path.read_text().strip() == "vizdoom"}

    if not Path("/proc/self/comm").exists():
        pytest.skip("processes are looked up in /proc")
    before = games()
    collect(
        "VizdoomBasic-v1", 60, tmp_path / "out", num_processes=2, max_episode_steps=30, env_kwargs={"size": [60, 80]}
    )
    deadline = time.monotonic() + 5
    while games() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not games() - before


def test_a_level_with_sound_is_heard_or_says_what_is_missing() -> None:
    try:
        ctypes.CDLL("libopenal.so.1")
    except OSError:
        with pytest.raises(MagratheaError, match="apt install libopenal1"):
            make_env("VizdoomBasicAudio-v1", frame_skip=4, size=[60, 80])
        return
    with contextlib.closing(make_env("VizdoomBasicAudio-v1", frame_skip=4, size=[60, 80])) as env:
        space: Any = env.observation_space
        assert isinstance(space["audio"], Sound) and space["audio"].sample_rate == 44100
        env.reset(seed=0)
        shots = [env.step(1)[0]["audio"] for _ in range(8)]
        assert shots[0].shape == (5040, 2) and np.abs(np.stack(shots).astype(int)).max() > 10_000
