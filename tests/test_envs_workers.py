"""A vector environment whose rows are split among processes: the same dreams, and no process is left behind."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from lights import lights_world, play_lights

from magrathea.envs import DREAM_ID, DreamVectorEnv
from magrathea.errors import MagratheaError
from magrathea.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return lights_world(num_updates=30)


@pytest.fixture(scope="module")
def env(world: World) -> Iterator[DreamVectorEnv]:
    """Five dreams, two in one worker and three in the other."""
    made = gymnasium.make_vec(DREAM_ID, num_envs=5, world=world, workers=2, max_episode_steps=4)
    assert isinstance(made, DreamVectorEnv)
    yield made
    made.close()


def _processes(env: DreamVectorEnv) -> list[int]:
    return [process.pid for process in env._dreams._processes]  # type: ignore[union-attr]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _alike(split: tuple, parts: list[tuple]) -> None:
    """What split rows brought, (observation, ..., infos), is what the parts brought, one after the other."""
    for ours, theirs in zip(split[:-1], zip(*(part[:-1] for part in parts), strict=True), strict=True):
        together = np.concatenate(theirs)
        assert np.array_equal(ours, together) and ours.dtype == together.dtype
    for key in ("num_passes", "uncertainty", "_num_passes"):
        assert np.array_equal(split[-1][key], np.concatenate([part[-1][key] for part in parts]))


def test_nothing_is_seen_before_the_first_reset(world: World, env: DreamVectorEnv) -> None:
    """(The first test here: the environment is new.)"""
    with pytest.raises(MagratheaError, match="call reset first"):
        env.step(np.zeros(5, np.int64))


@pytest.mark.parametrize(
    ("seed", "options"),
    [(7, None), ([5, 1, 4, 4, 0], None), (3, {"start": [0, 1, 2, 3, 4]}), (3, {"start": 6}), (3, "recorded")],
)
def test_split_rows_dream_what_their_parts_dream(
    world: World, env: DreamVectorEnv, seed: int | list[int], options: dict | str | None
) -> None:
    if options == "recorded":
        observation, action, _, _ = play_lights(3)
        options = {"observation": observation, "action": action}
    shares = (slice(0, 2), slice(2, 5))
    seeds = seed if isinstance(seed, list) else [seed + row for row in range(5)]
    parts, brought = [DreamVectorEnv(world, num, max_episode_steps=4) for num in (2, 3)], []
    for part, share in zip(parts, shares, strict=True):
        given = dict(options or {})
        if isinstance(given.get("start"), list):
            given["start"] = given["start"][share]
        brought.append(part.reset(seed=seeds[share], options=given))
    _alike(env.reset(seed=seed, options=options), brought)
    random = np.random.default_rng(0)
    for _ in range(10):  # episodes end after four steps, and begin anew
        actions = random.integers(2, size=5)
        _alike(env.step(actions), [part.step(actions[share]) for part, share in zip(parts, shares, strict=True)])


def test_a_mask_resets_some_dreams_and_leaves_the_others(env: DreamVectorEnv) -> None:
    env.reset(seed=0)
    before = env.step(np.ones(5, np.int64))[0]
    mask = np.array([False, True, False, False, False])
    after, _ = env.reset(seed=9, options={"reset_mask": mask, "start": 2})
    assert np.array_equal(after[~mask], before[~mask])
    assert np.array_equal(after[1], env.reset(seed=9, options={"start": 2})[0][1])


def test_observations_that_were_given_do_not_change(env: DreamVectorEnv) -> None:
    env.reset(seed=0)
    first = env.step(np.zeros(5, np.int64))[0]
    kept = first.copy()
    second = env.step(np.ones(5, np.int64))[0]
    assert np.array_equal(first, kept) and not np.array_equal(first, second)


def test_a_mistake_is_told_and_changes_nothing(env: DreamVectorEnv) -> None:
    env.reset(seed=0)
    with pytest.raises(MagratheaError, match="Got 2 starts for 5 dreams"):
        env.reset(options={"start": [0, 1]})
    with pytest.raises(MagratheaError, match="64 bits"):
        env._dreams.reset(np.ones(5, bool), [2**70] * 5)  # only a worker sees that
    with pytest.raises(MagratheaError, match="workers=1"):
        _ = env.session
    assert env.step(np.zeros(5, np.int64))[0] in env.observation_space


@pytest.mark.parametrize("workers", [0, 6])
def test_every_worker_needs_a_dream(world: World, workers: int) -> None:
    with pytest.raises(MagratheaError, match="give 1 to 5"):
        DreamVectorEnv(world, 5, workers=workers)


def test_a_worker_that_was_killed_is_told_of_and_none_is_left(env: DreamVectorEnv) -> None:
    """(The last test of this environment.) Ctrl-C, which the terminal sends to all, ends none."""
    env.reset(seed=0)
    pids = _processes(env)
    for pid in pids:
        os.kill(pid, signal.SIGINT)
    env.step(np.zeros(5, np.int64))
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(MagratheaError, match=r"Worker 1 of 2 ended by itself \(exit code -9\)"):
        env.step(np.zeros(5, np.int64))
    assert not any(_is_alive(pid) for pid in pids)
    with pytest.raises(MagratheaError, match="make the environment anew"):
        env.step(np.zeros(5, np.int64))


def test_who_forgets_to_close_leaves_no_process(world: World) -> None:
    env = DreamVectorEnv(world, 2, workers=2, autoreset_mode="SameStep", max_episode_steps=1)
    env.reset(seed=0)
    infos = env.step(np.ones(2, np.int64))[-1]
    assert infos["_final_obs"].all() and all(seen in env.single_observation_space for seen in infos["final_obs"])
    pids = _processes(env)
    assert all(_is_alive(pid) for pid in pids)
    del env
    gc.collect()
    assert not any(_is_alive(pid) for pid in pids)
