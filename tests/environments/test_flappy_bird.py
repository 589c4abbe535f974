"""Flappy Bird: seeds repeat it, it moves by whole pixels, and its explorer passes pipes."""

from __future__ import annotations

from contextlib import closing

import gymnasium
import numpy as np
import pytest

from magrathea.data import make_env
from magrathea.data.policies import policy_named

pytest.importorskip("flappy_bird_gymnasium")
ID = "magrathea/FlappyBird-v0"


@pytest.fixture(scope="module")
def env() -> gymnasium.Env:
    with closing(make_env(ID)) as env:
        yield env


def play(env: gymnasium.Env, seed: int, num_steps: int) -> tuple[np.ndarray, list[float], dict]:
    observation, info = env.reset(seed=seed)
    policy, frames, rewards = policy_named("explorer", ID)(env, np.random.default_rng(seed)), [observation], []
    for _ in range(num_steps):
        observation, reward, terminated, _, info = env.step(policy(observation, info))
        frames.append(observation)
        rewards.append(float(reward))
        if terminated:
            break
    return np.stack(frames), rewards, info


def test_a_seed_repeats_its_frames_after_other_games(env: gymnasium.Env) -> None:
    (first, *_), _, (again, *_) = (play(env, seed, 20) for seed in (3, 4, 3))
    assert np.array_equal(first, again) and first.shape[1:] == (104, 72, 3) and first.dtype == np.uint8


def test_pipes_move_by_whole_pixels(env: gymnasium.Env) -> None:
    frames, *_ = play(env, 5, 24)
    sky = frames[:, 2].astype(int)  # a row that no bird of these reaches
    assert np.array_equal(sky[20, :-2], sky[19, 2:])


def test_the_explorer_passes_pipes_and_collides(env: gymnasium.Env) -> None:
    played = [play(env, seed, 300) for seed in range(6)]
    assert sum(info["score"] for *_, info in played) > 6
    assert any(rewards[-1] == -1 for _, rewards, _ in played) and max(len(rewards) for _, rewards, _ in played) > 60
