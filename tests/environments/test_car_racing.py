"""CarRacing: seeds repeat it, its pictures show the road, and its driver stays on it longer than random actions."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from magrathea.data import make_env
from magrathea.data.policies import policy_named, random

pytest.importorskip("Box2D")
ID = "magrathea/CarRacing-v0"


@pytest.fixture(scope="module")
def env() -> gymnasium.Env:
    env = make_env(ID)
    yield env
    env.close()


def play(env: gymnasium.Env, maker, seed: int, num_steps: int) -> tuple[np.ndarray, float]:
    observation, info = env.reset(seed=seed)
    policy, frames, total = maker(env, np.random.default_rng(seed)), [observation], 0.0
    for _ in range(num_steps):
        observation, reward, terminated, _, info = env.step(policy(observation, info))
        frames.append(observation)
        total += float(reward)
        if terminated:
            break
    return np.stack(frames), total


def test_a_seed_repeats_its_frames(env: gymnasium.Env) -> None:
    first, again = (play(env, policy_named("explorer", ID), 3, 12)[0] for _ in range(2))
    assert np.array_equal(first, again) and first.shape == (13, 64, 64, 3) and first.dtype == np.uint8
    assert (first[1:] != first[:-1]).any(axis=(1, 2, 3)).all(), "every step is drawn"
    grey = (np.ptp(first[0].astype(int), axis=-1) < 12).mean()
    assert 0.1 < grey < 0.6, "the road, and no instruments"


@pytest.mark.slow
def test_the_explorer_drives(env: gymnasium.Env) -> None:
    drives, drifts = (
        np.mean([play(env, maker, seed, 120)[1] for seed in range(3)])
        for maker in (policy_named("explorer", ID), random)
    )
    assert drives > 40 and drives > drifts + 20
