"""Recording and measuring in several environments at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from magrathea.data import Dataset, collect
from magrathea.errors import MagratheaError

BOARD = "data_environments:recorded/Board-v0"
NUM_STEPS = 130


def by_place(num_envs: int) -> Callable[[Any, np.ndarray], Any]:
    """A policy whose actions depend on the observation alone."""
    return lambda observations, is_first: np.array([crc32(each.tobytes()) % 5 for each in observations])


def recorded(out: Path, acting: Any = by_place) -> Dataset:
    return collect(BOARD, NUM_STEPS, out, num_processes=1, max_episode_steps=9, seed=5, acting=acting)


def test_each_episode_is_that_of_its_seed_and_the_steps_are_as_many_as_asked(tmp_path: Path) -> None:
    together = recorded(tmp_path / "together")
    policy = "test_lockstep:alone"
    alone = collect(BOARD, 3 * NUM_STEPS, tmp_path / "alone", policy=policy, max_episode_steps=9, seed=5)
    assert together.num_steps == NUM_STEPS
    num_whole = 0
    for index in range(len(together)):
        episode, other = together.episode(index), alone.episode(index)
        assert episode.seed == other.seed == 5 + index
        assert (episode.action == other.action[: len(episode)]).all()
        assert (episode.observation == other.observation[: len(episode) + 1]).all()
        assert (episode.terminated | episode.truncated)[-1]
        num_whole += len(episode) == len(other)
    assert num_whole > len(together) // 2


def alone(env: Any, rng: Any) -> Any:
    act = by_place(1)
    return lambda observation, info: act(observation[None], np.array([False]))[0]


def test_the_policy_is_told_which_environments_begin_an_episode(tmp_path: Path) -> None:
    num_told, num_at_once = 0, 0

    def acting(num_envs: int) -> Any:
        def act(observations: Any, is_first: np.ndarray) -> Any:
            nonlocal num_told, num_at_once
            num_told, num_at_once = num_told + int(is_first.sum()), len(observations)
            return by_place(num_envs)(observations, is_first)

        return act

    dataset = recorded(tmp_path / "data", acting)
    assert num_told == len(dataset) and num_at_once == NUM_STEPS // 9


def test_an_interrupted_recording_goes_on(tmp_path: Path) -> None:
    num_calls = 0

    def interrupted(num_envs: int) -> Any:
        def act(observations: Any, is_first: np.ndarray) -> Any:
            nonlocal num_calls
            num_calls += 1
            if num_calls == 10:
                raise KeyboardInterrupt
            return by_place(num_envs)(observations, is_first)

        return act

    with pytest.raises(KeyboardInterrupt):
        recorded(tmp_path / "data", interrupted)
    kept = len(list((tmp_path / "data" / ".collecting").glob("episode_*")))
    assert recorded(tmp_path / "data").num_steps == NUM_STEPS and kept > 0


def test_what_fails_is_said(tmp_path: Path) -> None:
    def failing(num_envs: int) -> Any:
        raise ValueError("no such policy")

    with pytest.raises(MagratheaError, match="failed: ValueError: no such policy"):
        recorded(tmp_path / "data", failing)
    with pytest.raises(MagratheaError, match="give 1 for a recording of exactly"):
        collect(BOARD, 9, tmp_path / "two", num_processes=2, acting=by_place)
