"""MiniGrid: pictures, privileged state and the explorer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from magrathea.data import collect, make_env

minigrid = pytest.importorskip("minigrid")
wrappers = pytest.importorskip("minigrid.wrappers")


def test_minigrid_draws_what_the_package_draws() -> None:
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


def test_minigrid_info_has_the_cells_in_view() -> None:
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


def test_minigrid_explorer_takes_every_action_and_reaches_goals(tmp_path: Path) -> None:
    data = collect("magrathea/MiniGrid-v0", 1500, tmp_path / "out", policy="explorer", num_processes=1)
    episodes = [data.episode(index) for index in range(len(data))]
    assert set(np.concatenate([episode.action for episode in episodes]).tolist()) == set(range(7))
    assert sum(bool(episode.terminated[-1] and episode.reward[-1] > 0) for episode in episodes) >= len(episodes) / 2


def test_a_level_by_its_own_id_keeps_its_mission(tmp_path: Path) -> None:
    data = collect("BabyAI-GoToRedBall-v0", 100, tmp_path / "out", num_processes=1, policy="explorer")
    level, picture = make_env("BabyAI-GoToRedBall-v0"), make_env("magrathea/MiniGrid-v0", level="BabyAI-GoToRedBall-v0")
    episode = data.episode(0)
    seen, info = level.reset(seed=episode.seed)
    assert seen in level.observation_space and seen["mission"] == "go to the red ball"
    assert set(episode.observation["mission"]) == {"go to the red ball"}
    np.testing.assert_array_equal(seen["image"], picture.reset(seed=episode.seed)[0])
    np.testing.assert_array_equal(seen["image"], episode.observation["image"][0])
    assert "cells" in info and level.unwrapped.metadata["key_map"]["ArrowUp"] == 2


def test_missions_differ_by_the_seed() -> None:
    level = make_env("BabyAI-GoToLocal-v0")
    assert len({level.reset(seed=seed)[0]["mission"] for seed in range(20)}) > 5
