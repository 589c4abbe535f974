"""What the plug-ins of environments tell evaluation: which cells a picture shows, and other random choices."""

from __future__ import annotations

import numpy as np
import pytest

from magrathea.data import make_env
from magrathea.environments.crafter import measures as crafter_measures
from magrathea.environments.minigrid import measures as minigrid_measures
from magrathea.evaluate.cells import TileView, last_seen
from magrathea.evaluate.environment_hooks import resample


def crafter_walk() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Three steps to the right over a map whose every place has a token of its own; a cow walks at the view's edge."""
    island = np.arange(400).reshape(20, 20)
    position = np.array([[8, 8], [9, 8], [10, 8], [10, 8]])
    tokens, semantic = np.full((4, 9, 9), 999), np.full((4, 7, 9), 2)
    for step, (column, row) in enumerate(position):
        tokens[step, :7] = island[row - 3 : row + 4, column - 4 : column + 5]
        semantic[step, 3, 4] = 13
    semantic[2, 0, 0] = semantic[3, 0, 1] = 14
    infos = {"position": position, "semantic": semantic, "daylight": np.array([1.0, 0.8, 0.49, 0.2])}
    return infos, tokens.reshape(4, 81)


def test_crafter_cells_follow_the_map() -> None:
    infos, tokens = crafter_walk()
    cells = crafter_measures.describe_cells(infos, np.zeros((4, 63, 63, 3), np.uint8), tokens, (9, 9), 4)
    assert cells is not None
    new = cells.groups["new"].reshape(3, 9, 9)
    assert new[0, :7, 8].all() and new[1, :7, 8].all() and new.sum() == 14
    still = cells.groups["visible and still"].reshape(3, 9, 9)
    moving = cells.groups["visible, in motion"].reshape(3, 9, 9)
    assert moving[0, 3, 4] and moving[1, 0, 0] and moving[2, 0, 0] and moving[2, 0, 1]
    assert still[2].sum() == 63 - 3 and not still[:, 7:].any()
    assert cells.groups["inventory"].reshape(3, 9, 9)[:, 7:].all() and cells.groups["inventory"].sum() == 3 * 18
    assert cells.conditions["daylight"].tolist() == [True, False, False]


def test_a_place_out_of_the_window_is_new_again() -> None:
    infos, tokens = crafter_walk()
    infos["position"] = np.array([[8, 8], [9, 8], [8, 8], [8, 8]])
    frames = np.zeros((4, 63, 63, 3), np.uint8)
    cells = [crafter_measures.describe_cells(infos, frames, tokens, (9, 9), window) for window in (2, 1)]
    long, short = (each.groups["new"].reshape(3, 9, 9) for each in cells if each is not None)
    assert not long[1].any() and short[1, :7, 0].all() and short[1].sum() == 7


def test_minigrid_cells_are_those_that_the_agent_saw() -> None:
    pytest.importorskip("minigrid")
    env, rng = make_env("magrathea/MiniGrid-v0"), np.random.default_rng(0)
    frames, cells, seen = [], [], []
    for step in range(60):
        observation, info = env.reset(seed=3) if step == 0 else env.step(int(rng.choice([0, 1, 2, 2, 2])))[::4]
        frames.append(observation)
        cells.append(info["cells"])
        seen.append(env.unwrapped.gen_obs_grid()[1].T)
    pictures = np.stack(frames)
    assert np.array_equal(minigrid_measures.shown_tiles(pictures, (7, 7)), np.stack(seen))
    tiles = pictures.reshape(60, 7, 9, 7, 9, 3).swapaxes(2, 3).reshape(-1, 9 * 9 * 3)
    tokens = np.unique(tiles, axis=0, return_inverse=True)[1].reshape(60, 49)
    last, cell = (each.reshape(60, 49) for each in last_seen(np.stack(cells), np.stack(seen), 6))
    known = (last >= 0) & np.stack(seen).reshape(60, 49) & (np.arange(49) != 45)  # but the agent's own
    assert (tokens[last, cell] == tokens)[known].mean() > 0.97
    sorted_cells = minigrid_measures.describe_cells({"cells": np.stack(cells)}, pictures, tokens, (7, 7), 6)
    assert sorted_cells is not None
    nothing_new = sorted_cells.step_conditions["nothing new"]
    assert 0.2 < nothing_new.mean() < 0.9
    assert not sorted_cells.groups["new"][nothing_new].any() and sorted_cells.groups["new"][~nothing_new].any(1).all()


def test_crafters_tiles_are_where_the_map_has_them() -> None:
    pytest.importorskip("crafter")
    env = make_env("magrathea/Crafter-v0")
    _, info = env.reset(seed=5)
    view = TileView((9, 9), (7, 9), (3, 4))
    for action in (1, 1, 3, 3, 3, 2, 4, 4):
        info = env.step(action)[4]
        locations = view.locations(np.array([*info["position"][::-1], 0]))
        materials, creatures = env.unwrapped.world._mat_map, env.unwrapped.world._obj_map
        for tile, (row, column) in zip(info["semantic"].ravel(), locations.reshape(-1, 2), strict=True):
            if min(row, column) >= 0 and max(row, column) < 64 and not creatures[column, row]:
                assert tile == materials[column, row]


def test_minigrids_tiles_are_where_the_environment_says() -> None:
    pytest.importorskip("minigrid")
    env, view = make_env("magrathea/MiniGrid-v0"), TileView((7, 7), (7, 7), (6, 3), turns=True)
    _, info = env.reset(seed=0)
    for action in (0, 2, 1, 1, 2, 0, 0, 0, 2):
        pose = np.array([*info["position"][::-1].tolist(), (int(info["direction"]) - 3) % 4])
        assert (view.locations(pose)[..., ::-1] == info["cells"]).all()
        info = env.step(action)[4]


@pytest.mark.slow
def test_resampling_changes_what_follows() -> None:
    pytest.importorskip("crafter")

    def pictures(seed: int | None) -> list[np.ndarray]:
        env = make_env("magrathea/Crafter-v0")
        env.reset(seed=3)
        if seed is not None:
            resample(env, "magrathea/Crafter-v0", seed)
        return [env.step(1)[0] for _ in range(30)]

    recorded, one, same, other = pictures(None), pictures(1), pictures(1), pictures(2)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, recorded) and not np.array_equal(one, other)
