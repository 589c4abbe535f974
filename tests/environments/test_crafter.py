"""Crafter: pictures, privileged state, and ends of episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from magrathea.data import collect, make_env
from magrathea.pretrained import shipped_worlds
from magrathea.session import Session
from magrathea.world import World

crafter = pytest.importorskip("crafter")

from magrathea.environments.crafter.env import ACTION_NAMES, CrafterEnv  # noqa: E402
from magrathea.environments.crafter.status import picture_status  # noqa: E402


def test_crafter_recording_is_reproducible(tmp_path: Path) -> None:
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
    env: Any = make_env("magrathea/Crafter-v0")
    ours, _ = env.reset(seed=3)
    theirs = crafter.Env(size=(63, 63), seed=env.unwrapped._simulator._seed)
    np.testing.assert_array_equal(ours, theirs.reset())
    rng = np.random.default_rng(0)
    for _ in range(8):
        action = int(rng.integers(17))
        np.testing.assert_array_equal(env.step(action)[0], theirs.step(action)[0])


def test_immortal_crafter_episode_ends_by_its_length_only() -> None:
    env: Any = make_env("magrathea/Crafter-v0", mortal=False, length=3)
    env.reset(seed=3)
    ends = []
    for _ in range(3):
        env.unwrapped.player.health = 0
        ends.append(env.step(0)[2:4])
    assert ends == [(False, False), (False, False), (False, True)] and env.unwrapped.player.health == 9


def test_sleep_is_seen_in_the_picture() -> None:
    """By day and by night; the player sleeps and wakes within the episode."""
    env, rng, seen = CrafterEnv(mortal=False), np.random.default_rng(0), set()
    env.reset(seed=0)
    for step in range(600):
        sleeps = step % 300 > 200 or rng.random() < 0.1
        observation, _, _, _, info = env.step(ACTION_NAMES.index("sleep") if sleeps else int(rng.integers(17)))
        assert (picture_status(observation) != "") == bool(info["sleeping"])
        seen.add((bool(info["sleeping"]), bool(info["daylight"] < 0.5)))
    assert len(seen) == 4


@pytest.mark.skipif("crafter" not in shipped_worlds(), reason="no world 'crafter' is shipped")
def test_sleep_is_seen_in_a_dream() -> None:
    session = Session(World.from_pretrained("crafter"), seed=1, start=0)
    awake, asleep = ACTION_NAMES.index("noop"), ACTION_NAMES.index("sleep")
    for _ in range(45):  # until the player has lost some energy
        session.step([awake])
    assert picture_status(session.observation[0]) == ""
    for _ in range(3):
        session.step([asleep])
        assert picture_status(session.observation[0]).startswith("Asleep")
