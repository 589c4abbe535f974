"""ViZDoom's rooms as picture, depth, labels, sound and position, which are of one moment and say the same."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
import pytest

from magrathea.data import make_env
from magrathea.errors import MagratheaError
from magrathea.sounds import Sound

pytest.importorskip("vizdoom")
from magrathea.environments.vizdoom import env as rooms
from magrathea.environments.vizdoom import parts
from magrathea.environments.vizdoom.levels import OPENAL

SILENT_PARTS = ("depth", "labels", "picture", "position")


def can_sound() -> bool:
    try:
        ctypes.CDLL(OPENAL)
    except OSError:
        return False
    return True


def play(named: tuple[str, ...], actions: list[str], seed: int = 3) -> list[tuple[Any, dict[str, Any]]]:
    """What the rooms show at the beginning and after each action."""
    env = rooms.ViZDoomEnv(resolution=(36, 48), parts=named)
    seen = [env.reset(seed=seed)]
    for action in actions:
        observation, _, _, _, info = env.step(rooms.ACTION_NAMES.index(action))
        assert env.observation_space.contains(observation)
        seen.append((observation, info))
    env.close()
    return seen


def test_parts_are_of_one_moment_and_repeat_themselves() -> None:
    actions = ["turn left"] * 12 + ["forward"] * 6
    seen, again, alone = play(SILENT_PARTS, actions), play(SILENT_PARTS, actions), play((), actions)
    levels: set[int] = set()
    for (observation, info), (other, _), (picture, _) in zip(seen, again, alone, strict=True):
        assert all(np.array_equal(observation[part], other[part]) for part in SILENT_PARTS)
        assert np.array_equal(observation["picture"], picture)
        x, y, sine, cosine = observation["position"]
        angle = math.radians(info["pose"][2])
        assert (x, y) == pytest.approx(tuple(info["pose"][:2]))
        assert (sine, cosine) == pytest.approx((math.sin(angle), math.cos(angle)), abs=1e-4)
        levels |= set(np.unique(observation["labels"]).tolist())
    assert levels <= {0, *parts.LEVELS.values()} and len(levels) > 1
    depth = np.array([observation["depth"].mean() for observation, _ in seen])
    assert depth.std() > 1  # it turns from walls nearby to open doors


def test_unknown_parts_are_refused() -> None:
    with pytest.raises(MagratheaError, match=r"not observed by 'smell'; name some of: depth, labels"):
        rooms.ViZDoomEnv(parts=["smell"])


@pytest.mark.skipif(can_sound(), reason="the library that makes sound is installed")
def test_sound_without_its_library_is_refused() -> None:
    with pytest.raises(MagratheaError, match='leave "sound" out of the parts'):
        rooms.ViZDoomEnv(parts=["sound"])


@pytest.mark.skipif(not can_sound(), reason="the library that makes sound is not installed")
def test_what_sounds_is_heard_the_louder_the_nearer_it_is_and_at_its_side() -> None:
    env = rooms.ViZDoomEnv(parts=["sound", "position"])
    env.reset(seed=0)
    place = np.array(rooms.ROOMS["H"]) + rooms.CORNER  # of the fire, at the end of a corridor
    heard = {}
    for name, distance, angle in (("near", 60, 0), ("far", 700, 0), ("turned", 60, 180)):
        env._stand(place[0] - 54, place[1] - distance, angle)
        for _ in range(4):
            observation, *_ = env.step(0)
        heard[name] = observation["sound"].astype(float).std(0)  # left and right
    env.close()
    assert heard["near"].sum() > heard["far"].sum() > 0
    assert heard["near"][0] > 1.5 * heard["near"][1] and heard["turned"][1] > 1.5 * heard["turned"][0]


@pytest.mark.skipif(not can_sound(), reason="the library that makes sound is not installed")
def test_the_sound_is_declared() -> None:
    env = make_env("magrathea/ViZDoom-v0", parts=["sound", "picture"])
    sound = env.observation_space["sound"]  # type: ignore[index]
    env.close()
    assert isinstance(sound, Sound) and sound.sample_rate == 11_025 and sound.shape == (1260, 2)
