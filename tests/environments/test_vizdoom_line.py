"""ViZDoom's hall: seeds repeat it, turning moves the view by whole pixels, and lives end where the health is gone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest

from magrathea.data import make_env
from magrathea.data.policies import policy_named
from magrathea.errors import MagratheaError
from magrathea.pretrained import shipped_worlds

pytest.importorskip("vizdoom")
from magrathea.environments.vizdoom.line import ACTION_NAMES, BAR_COLOURS, VIEW
from magrathea.environments.vizdoom.panorama import Panorama

ID = "magrathea/ViZDoomLine-v0"
NOOP, LEFT, RIGHT = (ACTION_NAMES.index(name) for name in ("noop", "turn left", "turn right"))


@pytest.fixture(scope="module")
def env() -> Iterator[gymnasium.Env]:
    with contextlib.closing(make_env(ID)) as env:
        yield env


def play(env: gymnasium.Env, seed: int, num_steps: int) -> tuple[np.ndarray, list[float], bool]:
    """Pictures and rewards of a game that the explorer plays, and whether it ended."""
    observation, info = env.reset(seed=seed)
    policy, frames, rewards, ended = (
        policy_named("explorer", ID)(env, np.random.default_rng(seed)),
        [observation],
        [],
        False,
    )
    while len(rewards) < num_steps and not ended:
        observation, reward, ended, _, info = env.step(policy(observation, info))
        frames.append(observation)
        rewards.append(float(reward))
    return np.stack(frames), rewards, ended


def health(frame: np.ndarray) -> int:
    """The pixels of the bar that show health."""
    return int((frame[-1] == BAR_COLOURS[0]).all(-1).sum())


def test_a_panorama_has_the_same_angle_for_every_pixel() -> None:
    focus = 400 / np.tan(np.radians(45))
    angles = np.degrees(np.arctan((np.arange(800) + 0.5 - 400) / focus))
    drawn = np.broadcast_to(np.round(angles + 90).astype(np.uint8)[:, None], (600, 800, 3))
    picture = Panorama((56, 72), 72, (600, 800))(drawn).astype(int)
    assert (np.abs(picture[:, :, 0] - 90 - (np.arange(72) - 35.5)) <= 1).all()


def test_a_panorama_stays_within_the_picture() -> None:
    with pytest.raises(MagratheaError, match="reaches beyond the game's picture; give fewer degrees or less height"):
        Panorama((56, 72), 120, (600, 800))


def test_a_seed_repeats_its_frames_after_other_games(env: gymnasium.Env) -> None:
    (first, *_), _, (again, *_) = (play(env, seed, 20) for seed in (3, 4, 3))
    assert np.array_equal(first, again) and first.shape[1:] == (64, 72, 3) and first.dtype == np.uint8


def moved(before: np.ndarray, now: np.ndarray) -> int:
    """By how many pixels to the right the walls of a picture fit those of the one before best."""
    before, now = (frame[..., : VIEW[0] - 16, :, :].astype(int) for frame in (before, now))

    def difference(pixels: int) -> float:
        new, old = (now, before) if pixels > 0 else (before, now)
        return float(np.abs(new[..., abs(pixels) :, :] - old[..., : VIEW[1] - abs(pixels), :]).mean())

    return min(range(-16, 17), key=difference)


@pytest.mark.parametrize(("action", "shift"), [(LEFT, 8), (RIGHT, -8)])
def test_turning_moves_the_view_by_whole_pixels(env: gymnasium.Env, action: int, shift: int) -> None:
    env.reset(seed=1)
    frames = [env.step(action)[0] for _ in range(12)]
    assert [moved(*pair) for pair in pairwise(frames)] == [shift] * 11


@pytest.mark.skipif("vizdoom-line" not in shipped_worlds(), reason="no world 'vizdoom-line' is shipped")
@pytest.mark.parametrize(("action", "shift"), [(NOOP, 0), (LEFT, 8), (RIGHT, -8)])
def test_the_shipped_world_turns_as_the_game_does(action: int, shift: int) -> None:
    dreams = gymnasium.make_vec("magrathea/Dream-v0", num_envs=8, world="vizdoom-line")
    before, _ = dreams.reset(seed=0)
    now, *_ = dreams.step(np.full(8, action))
    assert moved(before, now) == shift


def test_who_does_nothing_loses_health_and_the_game(env: gymnasium.Env) -> None:
    frame, _ = env.reset(seed=2)
    seen, reward, ended = [health(frame)], 0.0, False
    while not ended and len(seen) < 600:
        frame, reward, ended, *_ = env.step(NOOP)
        seen.append(health(frame))
    assert seen[0] == VIEW[1] and seen[-1] == 0 and len(set(seen)) > 3
    assert (np.diff(seen) <= 0).all(), "health came back"
    assert ended and reward == -1


def test_the_explorer_shoots_monsters(env: gymnasium.Env) -> None:
    played: list[Any] = [play(env, seed, 150) for seed in range(4)]
    assert sum(reward > 0 for _, rewards, _ in played for reward in rewards) > 8
    assert len({len(rewards) for _, rewards, _ in played}) > 1, "no game ended"
