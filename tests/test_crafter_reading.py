"""Reading pictures of Crafter: everything that the game shows by day is told as the game knows it."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from magrathea.environments.crafter.env import ITEM_NAMES
from magrathea.environments.crafter.reading import picture_events, read

DAYLIGHT = 0.5


@pytest.fixture(scope="module")
def life() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The pictures and the privileged state of random play."""
    env = gymnasium.make("magrathea/Crafter-v0")
    rng, frames, infos = np.random.default_rng(3), [], []
    observation, info = env.reset(seed=1003)
    for _ in range(150):
        frames.append(observation)
        infos.append(info)
        observation, _, terminated, _, info = env.step(int(rng.integers(17)))
        if terminated:
            break
    return np.stack(frames), {name: np.stack([each[name] for each in infos]) for name in infos[0]}


def test_tiles_and_inventory_are_read_without_an_error(life: tuple[np.ndarray, dict[str, np.ndarray]]) -> None:
    frames, infos = life
    seen, clear = read(frames), (infos["daylight"] >= DAYLIGHT) & ~infos["sleeping"]
    assert clear.sum() > 50
    assert np.array_equal(seen.tiles[clear], infos["semantic"].reshape(len(frames), -1)[clear])
    assert np.array_equal(seen.inventory, infos["inventory"]) and seen.item_error.max() < 1


def test_events_are_those_of_the_state(life: tuple[np.ndarray, dict[str, np.ndarray]]) -> None:
    frames, infos = life
    events, change = picture_events(frames), np.diff(infos["inventory"].astype(int), axis=0)
    assert np.array_equal(events["damage"], change[:, ITEM_NAMES.index("health")] < 0) and events["damage"].sum() > 0
    assert np.array_equal(events["wood"], change[:, ITEM_NAMES.index("wood")] > 0)
    assert not events["unreadable inventory"].any()


def test_what_cannot_be_read_is_not_counted(life: tuple[np.ndarray, dict[str, np.ndarray]]) -> None:
    frames = life[0][:10].copy()
    frames[5:] = np.random.default_rng(0).integers(0, 256, frames[5:].shape)
    events = picture_events(frames)
    assert np.isnan(events["zombie in view"][4:]).all() and np.isnan(events["damage"][4:]).all()
    assert events["unreadable inventory"].tolist() == [0] * 4 + [1] * 5
    assert picture_events(np.zeros((3, 64, 64, 3), np.uint8)) == {}, "pictures of another size"
