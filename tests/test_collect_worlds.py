"""Environments of other packages: Crafter, MiniGrid, ALE and ViZDoom, each skipped where it is not installed."""

from __future__ import annotations

import contextlib
import time
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from magrathea.data import collect, make_env
from magrathea.errors import MagratheaError


def test_crafter(tmp_path: Path) -> None:
    pytest.importorskip("crafter")
    kwargs = {"steps": 20, "num_processes": 1, "max_episode_steps": 20}
    data, again = (collect("magrathea/Crafter-v0", out=tmp_path / name, **kwargs) for name in ("one", "two"))
    episode, same = data.episode(0), again.episode(0)
    np.testing.assert_array_equal(episode.observation, same.observation)
    np.testing.assert_array_equal(episode.action, same.action)
    assert episode.observation.shape == (21, 63, 63, 3) and episode.truncated[-1] and not episode.terminated.any()
    shapes = {"position": (21, 2), "facing": (21, 2), "semantic": (21, 7, 9), "inventory": (21, 16), "daylight": (21,)}
    assert {key: episode.infos[key].shape for key in shapes} == shapes
    assert data.metadata["action_names"][5] == "do" and data.metadata["key_map"][" "] == 5


def test_crafter_draws_what_the_package_draws() -> None:
    crafter = pytest.importorskip("crafter")
    env: Any = make_env("magrathea/Crafter-v0")
    ours, _ = env.reset(seed=3)
    theirs = crafter.Env(size=(63, 63), seed=env.unwrapped._simulator._seed)
    np.testing.assert_array_equal(ours, theirs.reset())
    rng = np.random.default_rng(0)
    for _ in range(8):
        action = int(rng.integers(17))
        np.testing.assert_array_equal(env.step(action)[0], theirs.step(action)[0])


def test_a_crafter_body_may_live_as_long_as_one_likes() -> None:
    pytest.importorskip("crafter")
    env: Any = make_env("magrathea/Crafter-v0", mortal=False, length=3)
    env.reset(seed=3)
    ends = []
    for _ in range(3):
        env.unwrapped.player.health = 0
        ends.append(env.step(0)[2:4])
    assert ends == [(False, False), (False, False), (False, True)] and env.unwrapped.player.health == 9


def test_minigrid_draws_what_the_package_draws() -> None:
    wrappers = pytest.importorskip("minigrid.wrappers")
    for level in ("BabyAI-KeyCorridorS4R3-v0", "MiniGrid-LavaCrossingS9N2-v0"):
        ours = make_env("magrathea/MiniGrid-v0", level=level)
        plain = gymnasium.make(level, disable_env_checker=True)
        theirs = wrappers.ImgObsWrapper(wrappers.RGBImgPartialObsWrapper(plain, tile_size=9))
        assert ours.observation_space == theirs.observation_space
        np.testing.assert_array_equal(ours.reset(seed=1)[0], theirs.reset(seed=1)[0])
        rng = np.random.default_rng(0)
        for _ in range(40):
            action = int(rng.integers(7))
            (picture, _, terminated, truncated, _), (expected, *_) = ours.step(action), theirs.step(action)
            np.testing.assert_array_equal(picture, expected)
            if terminated or truncated:
                break


def test_minigrid_says_which_cells_are_in_view() -> None:
    minigrid = pytest.importorskip("minigrid")
    env: Any = make_env("magrathea/MiniGrid-v0")
    _, info = env.reset(seed=5)
    rng, num_seen = np.random.default_rng(1), 0
    for _ in range(60):
        codes = env.unwrapped.gen_obs()["image"]
        for row, column in np.ndindex(7, 7):
            x, y = info["cells"][row, column].tolist()
            at_agent = (row, column) == (6, 3)
            assert not at_agent or (x, y) == tuple(info["position"])
            if at_agent or codes[column, row, 0] == minigrid.core.constants.OBJECT_TO_IDX["unseen"]:
                continue
            thing = env.unwrapped.grid.get(x, y)
            assert (thing.encode() if thing is not None else (1, 0, 0)) == tuple(codes[column, row])
            num_seen += 1
        *_, info = env.step(int(rng.choice([0, 1, 2, 2, 3, 5])))
    assert num_seen > 500


def test_minigrid_explorer_does_everything(tmp_path: Path) -> None:
    pytest.importorskip("minigrid")
    policy = "explorer"
    data = collect("magrathea/MiniGrid-v0", 1500, tmp_path / "out", policy=policy, num_processes=1)
    episodes = [data.episode(index) for index in range(len(data))]
    assert set(np.concatenate([episode.action for episode in episodes]).tolist()) == set(range(7))
    assert sum(bool(episode.terminated[-1] and episode.reward[-1] > 0) for episode in episodes) >= len(episodes) / 2


def test_bare_minigrid_has_text_and_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("minigrid")
    with pytest.raises(MagratheaError, match="magrathea/MiniGrid-v0"):
        collect("MiniGrid-Empty-5x5-v0", 20, tmp_path / "out", num_processes=1)


def test_breakout(tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    data = collect(
        "ALE/Breakout-v5", 60, tmp_path / "out", num_processes=1, max_episode_steps=60, env_kwargs={"size": [84, 84]}
    )
    episode = data.episode(0)
    assert episode.observation.shape == (61, 84, 84, 3) and episode.observation.std() > 5
    assert data.metadata["action_names"] == ["noop", "fire", "right", "left"]
    assert data.metadata["key_map"] | {"ArrowRight": 2, "ArrowLeft": 3, " ": 1} == data.metadata["key_map"]
    assert data.metadata["fps"] == 15


def test_vizdoom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vizdoom")
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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "out"], "the game wrote into our folder"


def test_vizdoom_tells_its_pose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vizdoom")
    monkeypatch.chdir(tmp_path)
    arguments: dict[str, Any] = {"policy": "explorer", "num_processes": 1}
    data = collect("magrathea/ViZDoom-v0", 300, "out", max_episode_steps=150, **arguments)
    again = collect("magrathea/ViZDoom-v0", 100, "again", max_episode_steps=100, **arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "out"], "the game wrote into our folder"
    episode = data.episode(0)
    assert episode.observation.shape == (151, 64, 64, 3) and episode.observation.std() > 5
    np.testing.assert_array_equal(episode.observation[:101], again.episode(0).observation)
    pose = episode.infos["pose"]
    assert pose.shape == (151, 3) and np.ptp(pose[:, 0]) + np.ptp(pose[:, 1]) > 200, "the explorer travels"
    turns = {"noop": 0, "forward": 0, "turn left": 15, "turn right": -15, "forward left": 15, "forward right": -15}
    expected = np.array([turns[name] for name in data.metadata["action_names"]])[episode.action]
    assert np.abs((np.diff(pose[:, 2]) - expected + 180) % 360 - 180).max() < 0.1
    assert np.abs((pose[:, 2] + 7.5) % 15 - 7.5).max() < 2, "headings come again"
    assert data.metadata["fps"] == 8.75 and data.metadata["key_map"]["ArrowUp"] == 1


def test_vizdoom_is_furnished_anew() -> None:
    pytest.importorskip("vizdoom")
    env: Any = make_env("magrathea/ViZDoom-v0")
    bare: Any = make_env("magrathea/ViZDoom-v0", furnished=False)
    with contextlib.closing(env), contextlib.closing(bare):
        first, again, other = (_look_around(env, seed) for seed in (3, 3, 4))
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()
        assert (_look_around(bare, 3) != first).any()


def _look_around(env: Any, seed: int) -> np.ndarray:
    """All headings from the middle of the same room."""
    env.reset(seed=seed)
    env.unwrapped._stand(464, 48, 0)
    return np.stack([env.step(2)[0] for _ in range(24)])


def test_vizdoom_games_end_with_the_recording(tmp_path: Path) -> None:
    pytest.importorskip("vizdoom")

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
