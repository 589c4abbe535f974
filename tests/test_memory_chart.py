"""Where one stands on the map when motions are in doubt."""

from __future__ import annotations

import numpy as np
import pytest

from magrathea.memory.spatial_map.map import MOST_LAYERS, QUIET, MapSpec, SpatialMap
from magrathea.memory.spatial_map.odometry import Odometry

GRID, NUM_THINGS, DARK = (5, 7), 6, 6
ABSENT = NUM_THINGS + 1
TABLE = np.array([[0, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1]])  # stay, and a step each way
SIGHT = np.indices(GRID).reshape(2, -1)


@pytest.fixture
def ground() -> MapSpec:
    num_tokens, cells = ABSENT + 1, GRID[0] * GRID[1]
    affinity = np.where(np.eye(num_tokens, dtype=bool), 4.0, -4.0).astype(np.float32)
    affinity[[DARK, ABSENT]] = affinity[:, [DARK, ABSENT]] = 0
    motions = Odometry(
        GRID,
        np.ones(cells, bool),
        TABLE,
        np.zeros((6, 5), np.float32),
        affinity,
        np.zeros((6, 1), np.int64),
        np.zeros((6, 1, num_tokens), np.float32),
    )
    return MapSpec(motions, np.arange(num_tokens) == DARK, ABSENT)


class Walk:
    """A body on a map of things drawn by lot, and the chart that it keeps."""

    def __init__(self, ground: MapSpec, seed: int) -> None:
        self.map = np.random.default_rng(seed).integers(0, NUM_THINGS, (100, 100))
        self.at, self.chart = np.array([50, 50]), SpatialMap(ground)
        self.chart.see(self.sight, None)

    @property
    def sight(self) -> np.ndarray:
        rows, columns = self.at[:, None] + SIGHT
        return self.map[rows, columns]

    def go(self, *motions: int, dark: bool = False, taken_for: int | None = None) -> None:
        """Motions that are known for what they are; in the dark, they may be taken for another one."""
        for motion in motions:
            self.at = self.at + TABLE[motion, 1:]
            scores = np.full(len(TABLE), -50.0)
            scores[motion] = 0.0
            if taken_for is not None:
                scores[taken_for] = 2.0
            self.chart.see(np.full(self.sight.shape, DARK) if dark else self.sight, scores)

    @property
    def knows_its_place(self) -> bool:
        known = self.chart.look(0)
        return bool((known == self.sight)[known != ABSENT].all() and (known != ABSENT).mean() > 0.5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mistakes", [(1,), (0, 0), (4, 1, 4), (2, 2, 0, 2, 2)])
def test_who_lost_the_way_in_the_dark_finds_it_by_daylight(
    ground: MapSpec, seed: int, mistakes: tuple[int, ...]
) -> None:
    walk = Walk(ground, seed)
    walk.go(*[1] * 6, *[2] * 6)
    for motion in mistakes:
        walk.go(motion, dark=True, taken_for=0 if motion else 1)
    assert walk.chart.in_doubt
    reckoned = np.array(walk.chart.pose[1:])
    assert not np.array_equal(reckoned, walk.at - 50), "it was misled"
    walk.go(*[1] * 6)
    assert not walk.chart.in_doubt and len(walk.chart.doubts) == 1
    assert np.array_equal(walk.chart.pose[1:], walk.at - 50)
    walk.go(*[1] * 3)
    assert walk.knows_its_place


def test_who_was_right_stays_where_it_is(ground: MapSpec) -> None:
    walk = Walk(ground, 1)
    walk.go(*[4] * 5)
    walk.go(3, dark=True)
    walk.chart._doubt(3, np.array([0, 3]), np.array([-1.0, -50, -50, 0, -50]))
    assert len(walk.chart.doubts) == 2
    walk.go(0)
    assert not walk.chart.in_doubt and np.array_equal(walk.chart.pose[1:], walk.at - 50) and walk.knows_its_place


def test_the_dark_alone_decides_nothing(ground: MapSpec) -> None:
    walk = Walk(ground, 2)
    walk.go(*[4] * 5)
    walk.go(1, dark=True, taken_for=0)
    walk.go(*[3] * 5, dark=True)
    assert len(walk.chart.doubts) == 2


def test_unknown_land_is_drawn_while_in_doubt(ground: MapSpec) -> None:
    """Where nothing was seen before, nothing tells the offset; what is seen there is known all the same."""
    walk = Walk(ground, 3)
    walk.go(*[1] * 3)
    walk.go(*[1] * 2, dark=True, taken_for=0)
    walk.go(*[1] * 20, dark=True)
    walk.go(*[1] * 8)
    assert walk.chart.in_doubt and walk.knows_its_place
    walk.go(*[0] * QUIET)
    walk.go(1, dark=True, taken_for=0)
    assert len(walk.chart.layers) == 3, "a later doubt is another one"
    walk.go(0)
    assert walk.knows_its_place


def test_the_way_home_puts_the_draft_on_the_map(ground: MapSpec) -> None:
    walk = Walk(ground, 4)
    walk.go(*[1] * 3)
    walk.go(*[1] * 2, dark=True, taken_for=0)
    walk.go(*[1] * 20, dark=True)
    walk.go(*[1] * 8, *[2] * 8)
    walk.go(*[2] * 22)
    assert not walk.chart.in_doubt and np.array_equal(walk.chart.pose[1:], walk.at - 50)
    walk.go(*[1] * 26)
    assert walk.knows_its_place


def test_doubt_is_part_of_the_state(ground: MapSpec) -> None:
    walk = Walk(ground, 5)
    walk.go(*[1] * 6)
    walk.go(2, 2, dark=True, taken_for=0)
    copy = SpatialMap(ground)
    copy.load_state_dict(walk.chart.state_dict())
    assert copy.doubts == walk.chart.doubts and list(copy.doubts) == list(walk.chart.doubts)
    assert copy.layers == walk.chart.layers and [*map(list, copy.layers)] == [*map(list, walk.chart.layers)]
    scores = np.array([0.0, -50, -50, -50, -50])
    copy.see(walk.sight, scores)
    walk.go(0)
    assert copy.pose == walk.chart.pose and copy.layers == walk.chart.layers and not copy.in_doubt


def test_a_state_from_before_there_were_doubts_is_taken_in(ground: MapSpec) -> None:
    walk = Walk(ground, 6)
    walk.go(*[1] * 6)
    state = walk.chart.state_dict()
    copy = SpatialMap(ground)
    copy.load_state_dict({name: state[name] for name in ("keys", "tokens", "pose", "last")})
    assert copy.pose == walk.chart.pose and copy.layers == walk.chart.layers and not copy.in_doubt
    assert np.array_equal(copy.look(1), walk.chart.look(1))


def test_a_draft_from_before_there_were_layers_is_taken_in(ground: MapSpec) -> None:
    walk = Walk(ground, 7)
    walk.go(*[1] * 6)
    walk.go(2, dark=True, taken_for=0)
    walk.go(*[1] * 12, dark=True)
    walk.go(1)
    state = walk.chart.state_dict()
    del state["draft_sizes"]
    copy = SpatialMap(ground)
    copy.load_state_dict(state | {"offsets": state["offsets"][:, 0]})
    assert walk.chart.in_doubt and copy.layers == walk.chart.layers and copy.doubts == walk.chart.doubts


def go_on_in_doubt(walk: Walk) -> None:
    """To unknown land, twelve steps up."""
    walk.go(1, dark=True, taken_for=0)
    walk.go(*[1] * 7, dark=True)
    walk.go(*[1] * 4, *[0] * QUIET)


@pytest.mark.parametrize("seed", range(5))
def test_doubts_upon_doubts_are_resolved_one_by_one_on_the_way_home(ground: MapSpec, seed: int) -> None:
    walk = Walk(ground, 10 + seed)
    walk.go(*[1] * 4)
    go_on_in_doubt(walk)
    go_on_in_doubt(walk)
    assert len(walk.chart.layers) == 3 and not np.array_equal(walk.chart.pose[1:], walk.at - 50)
    walk.go(*[2] * 12)
    assert len(walk.chart.layers) == 2 and walk.knows_its_place
    walk.go(*[2] * 12)
    assert not walk.chart.in_doubt and np.array_equal(walk.chart.pose[1:], walk.at - 50)
    walk.go(*[1] * 24)
    assert walk.knows_its_place


def test_there_are_only_so_many_doubts(ground: MapSpec) -> None:
    walk = Walk(ground, 20)
    walk.at[0] = 90
    for _ in range(MOST_LAYERS + 1):
        go_on_in_doubt(walk)
        assert walk.knows_its_place
    assert len(walk.chart.layers) == MOST_LAYERS


# -- a map of so many places -------------------------------------------------------------------------------------------
def test_the_places_that_were_out_of_view_for_longest_are_given_up(ground: MapSpec) -> None:
    small = MapSpec(ground.motions, np.arange(len(ground.affinity)) == DARK, ABSENT, most_places=120)
    walk = Walk(small, 0)
    walk.go(*[1] * 30)
    assert sum(map(len, walk.chart.layers)) == 120
    walk.go(*[2] * 3)
    assert walk.knows_its_place  # what was seen just now
    walk.go(*[2] * 27)
    kept = Walk(ground, 0)
    kept.go(*[1] * 30, *[2] * 30)
    assert len(kept.chart.layers[0]) > len(walk.chart.layers[0]) == 120


def test_a_map_of_so_many_places_goes_on_as_if_it_had_not_been_restored(ground: MapSpec) -> None:
    small = MapSpec(ground.motions, np.arange(len(ground.affinity)) == DARK, ABSENT, most_places=120)
    walk = Walk(small, 1)
    walk.go(*[1] * 20, *[3] * 10, *[2] * 5)
    copy = SpatialMap(small)
    copy.load_state_dict(walk.chart.state_dict())
    for chart in (walk.chart, copy):
        for motion in (2, 2, 4, 4):
            scores = np.full(len(TABLE), -50.0)
            scores[motion] = 0.0
            chart.see(np.roll(walk.sight, motion), scores)
    assert list(copy.layers[0].items()) == list(walk.chart.layers[0].items())
