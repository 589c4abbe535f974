"""The map, and the pose on it where motions are ambiguous."""

from __future__ import annotations

import numpy as np
import pytest

from magrathea.memory.spatial_map.map import MAX_LAYERS, NEW_LAYER_STEPS, MapSpec, SpatialMap
from magrathea.memory.spatial_map.odometry import Odometry

GRID, NUM_KINDS, DARK = (5, 7), 6, 6
ABSENT = NUM_KINDS + 1
TABLE = np.array([[0, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1]])  # stay, and a step each way
CELLS = np.indices(GRID).reshape(2, -1)


@pytest.fixture
def map_spec() -> MapSpec:
    num_tokens, cells = ABSENT + 1, GRID[0] * GRID[1]
    match_log_ratio = np.where(np.eye(num_tokens, dtype=bool), 4.0, -4.0).astype(np.float32)
    match_log_ratio[[DARK, ABSENT]] = match_log_ratio[:, [DARK, ABSENT]] = 0
    odometry = Odometry(
        GRID,
        np.ones(cells, bool),
        TABLE,
        np.zeros((6, 5), np.float32),
        match_log_ratio,
        np.zeros((6, 1), np.int64),
        np.zeros((6, 1, num_tokens), np.float32),
    )
    return MapSpec(odometry, np.arange(num_tokens) == DARK, ABSENT)


class Walk:
    """A body that walks over random terrain, and the map of what it sees."""

    def __init__(self, map_spec: MapSpec, seed: int) -> None:
        self.terrain = np.random.default_rng(seed).integers(0, NUM_KINDS, (100, 100))
        self.at, self.map = np.array([50, 50]), SpatialMap(map_spec)
        self.map.update(self.view, None)

    @property
    def view(self) -> np.ndarray:
        rows, columns = self.at[:, None] + CELLS
        return self.terrain[rows, columns]

    def go(self, *motions: int, dark: bool = False, mistaken_for: int | None = None) -> None:
        """Go by motions whose scores are clear, or ambiguous and higher for the motion `mistaken_for`; in the dark the
        view shows nothing."""
        for motion in motions:
            self.at = self.at + TABLE[motion, 1:]
            scores = np.full(len(TABLE), -50.0)
            scores[motion] = 0.0
            if mistaken_for is not None:
                scores[mistaken_for] = 2.0
            self.map.update(np.full(self.view.shape, DARK) if dark else self.view, scores)

    @property
    def predicts_what_it_sees(self) -> bool:
        known = self.map.predict(0)
        return bool((known == self.view)[known != ABSENT].all() and (known != ABSENT).mean() > 0.5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("misread", [(1,), (0, 0), (4, 1, 4), (2, 2, 0, 2, 2)])
def test_a_misread_motion_in_the_dark_is_corrected_by_daylight(
    map_spec: MapSpec, seed: int, misread: tuple[int, ...]
) -> None:
    walk = Walk(map_spec, seed)
    walk.go(*[1] * 6, *[2] * 6)
    for motion in misread:
        walk.go(motion, dark=True, mistaken_for=0 if motion else 1)
    assert walk.map.is_uncertain
    dead_reckoned = np.array(walk.map.pose[1:])
    assert not np.array_equal(dead_reckoned, walk.at - 50), "the motions were misread"
    walk.go(*[1] * 6)
    assert not walk.map.is_uncertain and len(walk.map.offset_posterior) == 1
    assert np.array_equal(walk.map.pose[1:], walk.at - 50)
    walk.go(*[1] * 3)
    assert walk.predicts_what_it_sees


def test_a_right_pose_is_kept_when_the_ambiguity_is_resolved(map_spec: MapSpec) -> None:
    walk = Walk(map_spec, 1)
    walk.go(*[4] * 5)
    walk.go(3, dark=True)
    walk.map._branch(3, np.array([0, 3]), np.array([-1.0, -50, -50, 0, -50]))
    assert len(walk.map.offset_posterior) == 2
    walk.go(0)
    assert not walk.map.is_uncertain and np.array_equal(walk.map.pose[1:], walk.at - 50) and walk.predicts_what_it_sees


def test_a_dark_view_resolves_no_ambiguity(map_spec: MapSpec) -> None:
    walk = Walk(map_spec, 2)
    walk.go(*[4] * 5)
    walk.go(1, dark=True, mistaken_for=0)
    walk.go(*[3] * 5, dark=True)
    assert len(walk.map.offset_posterior) == 2


def test_unknown_terrain_is_written_while_the_pose_is_uncertain(map_spec: MapSpec) -> None:
    """Where nothing was seen before there is no evidence for an offset; the new layer predicts all the same."""
    walk = Walk(map_spec, 3)
    walk.go(*[1] * 3)
    walk.go(*[1] * 2, dark=True, mistaken_for=0)
    walk.go(*[1] * 20, dark=True)
    walk.go(*[1] * 8)
    assert walk.map.is_uncertain and walk.predicts_what_it_sees
    walk.go(*[0] * NEW_LAYER_STEPS)
    walk.go(1, dark=True, mistaken_for=0)
    assert len(walk.map.layers) == 3, "a later ambiguity has a layer of its own"
    walk.go(0)
    assert walk.predicts_what_it_sees


def test_layers_are_merged_on_the_way_back(map_spec: MapSpec) -> None:
    walk = Walk(map_spec, 4)
    walk.go(*[1] * 3)
    walk.go(*[1] * 2, dark=True, mistaken_for=0)
    walk.go(*[1] * 20, dark=True)
    walk.go(*[1] * 8, *[2] * 8)
    walk.go(*[2] * 22)
    assert not walk.map.is_uncertain and np.array_equal(walk.map.pose[1:], walk.at - 50)
    walk.go(*[1] * 26)
    assert walk.predicts_what_it_sees


def test_the_state_includes_layers_and_the_offset_posterior(map_spec: MapSpec) -> None:
    walk = Walk(map_spec, 5)
    walk.go(*[1] * 6)
    walk.go(2, 2, dark=True, mistaken_for=0)
    copy = SpatialMap(map_spec)
    copy.load_state_dict(walk.map.state_dict())
    assert copy.offset_posterior == walk.map.offset_posterior and list(copy.offset_posterior) == list(
        walk.map.offset_posterior
    )
    assert copy.layers == walk.map.layers and [*map(list, copy.layers)] == [*map(list, walk.map.layers)]
    scores = np.array([0.0, -50, -50, -50, -50])
    copy.update(walk.view, scores)
    walk.go(0)
    assert copy.pose == walk.map.pose and copy.layers == walk.map.layers and not copy.is_uncertain


def test_an_old_state_without_an_offset_posterior_is_loaded(map_spec: MapSpec) -> None:
    walk = Walk(map_spec, 6)
    walk.go(*[1] * 6)
    state = walk.map.state_dict()
    copy = SpatialMap(map_spec)
    copy.load_state_dict({name: state[name] for name in ("keys", "tokens", "pose", "last")})
    assert copy.pose == walk.map.pose and copy.layers == walk.map.layers and not copy.is_uncertain
    assert np.array_equal(copy.predict(1), walk.map.predict(1))


def test_an_old_state_of_two_layers_without_sizes_is_loaded(map_spec: MapSpec) -> None:
    walk = Walk(map_spec, 7)
    walk.go(*[1] * 6)
    walk.go(2, dark=True, mistaken_for=0)
    walk.go(*[1] * 12, dark=True)
    walk.go(1)
    state = walk.map.state_dict()
    del state["draft_sizes"]
    copy = SpatialMap(map_spec)
    copy.load_state_dict(state | {"offsets": state["offsets"][:, 0]})
    assert (
        walk.map.is_uncertain and copy.layers == walk.map.layers and copy.offset_posterior == walk.map.offset_posterior
    )


def go_on_uncertain(walk: Walk) -> None:
    """Twelve steps up to unknown terrain, the first of them misread."""
    walk.go(1, dark=True, mistaken_for=0)
    walk.go(*[1] * 7, dark=True)
    walk.go(*[1] * 4, *[0] * NEW_LAYER_STEPS)


@pytest.mark.parametrize("seed", range(5))
def test_several_layers_are_merged_one_by_one_on_the_way_back(map_spec: MapSpec, seed: int) -> None:
    walk = Walk(map_spec, 10 + seed)
    walk.go(*[1] * 4)
    go_on_uncertain(walk)
    go_on_uncertain(walk)
    assert len(walk.map.layers) == 3 and not np.array_equal(walk.map.pose[1:], walk.at - 50)
    walk.go(*[2] * 12)
    assert len(walk.map.layers) == 2 and walk.predicts_what_it_sees
    walk.go(*[2] * 12)
    assert not walk.map.is_uncertain and np.array_equal(walk.map.pose[1:], walk.at - 50)
    walk.go(*[1] * 24)
    assert walk.predicts_what_it_sees


def test_the_number_of_layers_is_bounded(map_spec: MapSpec) -> None:
    walk = Walk(map_spec, 20)
    walk.at[0] = 90
    for _ in range(MAX_LAYERS + 1):
        go_on_uncertain(walk)
        assert walk.predicts_what_it_sees
    assert len(walk.map.layers) == MAX_LAYERS


# -- a bounded number of locations -----------------------------------------------------------------------------------
def test_the_locations_that_were_out_of_view_for_longest_are_dropped(map_spec: MapSpec) -> None:
    small = MapSpec(map_spec.odometry, np.arange(len(map_spec.evidence)) == DARK, ABSENT, max_locations=120)
    walk = Walk(small, 0)
    walk.go(*[1] * 30)
    assert sum(map(len, walk.map.layers)) == 120
    walk.go(*[2] * 3)
    assert walk.predicts_what_it_sees  # what was in view last
    walk.go(*[2] * 27)
    kept = Walk(map_spec, 0)
    kept.go(*[1] * 30, *[2] * 30)
    assert len(kept.map.layers[0]) > len(walk.map.layers[0]) == 120


def test_a_bounded_map_continues_after_restoring_as_without(map_spec: MapSpec) -> None:
    small = MapSpec(map_spec.odometry, np.arange(len(map_spec.evidence)) == DARK, ABSENT, max_locations=120)
    walk = Walk(small, 1)
    walk.go(*[1] * 20, *[3] * 10, *[2] * 5)
    copy = SpatialMap(small)
    copy.load_state_dict(walk.map.state_dict())
    for each in (walk.map, copy):
        for motion in (2, 2, 4, 4):
            scores = np.full(len(TABLE), -50.0)
            scores[motion] = 0.0
            each.update(np.roll(walk.view, motion), scores)
    assert list(copy.layers[0].items()) == list(walk.map.layers[0].items())
