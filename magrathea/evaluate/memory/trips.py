"""Leave and return: go out some steps, come back the same way, and see whether everything is still there.

A body walks on as long as it gets on, and turns aside where it does not. A step counts when the pictures show that the
body moved: a bump is no part of the way. Then it undoes its motions one by one, the last one first; a body that sees
only ahead turns about, walks back, and turns about again. If something stands in the way it tries again for a while.

What was last shown of a cell on the way out is what has to be shown of it on the way back. Asked for are only the cells
that were out of sight in between for longer than the attention window; at home, and on the whole way back.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from magrathea.evaluate.cells import number_places
from magrathea.evaluate.memory.tracking import STILL, Journey, Motion, Travel
from magrathea.evaluate.memory.views import TileView, opposite

ASIDE = 0.05  # chance to take another way though nothing is in the way
MOST_TRIES = 16  # to make a step of the way back
MOST_ACTIONS = 4  # for each step of the way out


class Wanderer:
    """Chooses actions of travel: goes on while it gets on, else takes another way but straight back; after a turn it
    goes ahead."""

    def __init__(self, travel: Travel, rng: np.random.Generator) -> None:
        self._travel, self._rng = travel, rng
        self._steps = [action for action, motion in travel.items() if motion[2] == 0]
        self._last: int | None = None

    def __call__(self, motion: Motion) -> int:
        """The next action, after the last one had this motion; any at first."""
        if self._last is None or motion[2]:
            self._last = self._draw(self._steps or list(self._travel))
        elif motion == STILL or self._rng.random() < ASIDE:
            now = self._travel[self._last]
            aside = [action for action, other in self._travel.items() if other not in (now, opposite(now))]
            self._last = self._draw(aside or list(self._travel))
        return self._last

    def _draw(self, actions: list[int]) -> int:
        return actions[int(self._rng.integers(len(actions)))]


def way_back(way: list[Motion], travel: Travel) -> list[tuple[int, Motion]] | None:
    """The actions that undo motions, with what each has to do; None where actions cannot."""
    action_of = {motion: action for action, motion in travel.items()}
    undone = [opposite(motion) for motion in reversed(way)]
    about: list[Motion] = []
    if not all(motion in action_of for motion in undone):
        undone = [opposite(motion) if motion[2] else motion for motion in reversed(way)]
        about = [(0, 0, 1)] * 2
    wanted = [*about, *undone, *about]
    return [(action_of[motion], motion) for motion in wanted] if all(motion in action_of for motion in wanted) else None


class Trip:
    """One body's way out and back.

    Attributes:
        turning_point: the moment at which it began to come back.
        end: the moment at which it was over.
        is_home: whether it came back.
    """

    def __init__(self, num_steps: int, travel: Travel, rng: np.random.Generator) -> None:
        self.num_steps, self._travel = num_steps, travel
        self._wander = Wanderer(travel, rng)
        self._way: list[Motion] = []
        self._back: list[tuple[int, Motion]] | None = None
        self._motion, self._moment, self._tries = STILL, 0, 0
        self.turning_point, self.end, self.is_home = 0, 0, False

    def action(self) -> int:
        """What to do now; anything when the trip is over."""
        if self._back is None:
            return self._wander(self._motion)
        return self._back[0][0] if self._back else next(iter(self._travel))

    def moved(self, motion: Motion) -> None:
        """Take in how the body moved."""
        self._motion, self._moment = motion, self._moment + 1
        if self.end:
            return
        if self._back is None:
            self._go_out(motion)
        elif motion == self._back[0][1]:
            self._back, self._tries = self._back[1:], 0
            if not self._back:
                self.end, self.is_home = self._moment, True
        else:
            self._tries += 1
            if motion != STILL or self._tries == MOST_TRIES:
                self.end = self._moment

    def _go_out(self, motion: Motion) -> None:
        if motion != STILL:
            self._way.append(motion)
        if len(self._way) == self.num_steps:
            self._back, self.turning_point = way_back(self._way, self._travel), self._moment
        if self._back is None and (self.turning_point or self._moment == MOST_ACTIONS * self.num_steps + MOST_TRIES):
            self._back, self.end = [], self._moment


def travel_and_return(journey: Journey, trips: list[Trip]) -> None:
    """Let each body of a journey make its trip."""
    while not all(trip.end for trip in trips):
        motions = journey.go(np.array([trip.action() for trip in trips]))
        for trip, motion in zip(trips, motions.tolist(), strict=True):
            trip.moved(tuple(motion))


class Returned(NamedTuple):
    """The tiles asked for on a way back, in their order: what is there and what was there, and which were seen at home;
    all (number of tiles,)."""

    now: np.ndarray
    then: np.ndarray
    at_home: np.ndarray


def compare_return(
    view: TileView, poses: np.ndarray, shown: np.ndarray, kinds: np.ndarray, turning_point: int, window: int
) -> Returned:
    """What a trip's pictures, poses (T + 1, 3), shown and kinds (T + 1, rows, columns), show again of what they showed
    up to the turning point."""
    places = number_places(view.places(poses))
    last, then = np.full(places.max() + 1, -1), np.full(places.max() + 1, -1)
    was_away = np.zeros(places.max() + 1, dtype=bool)
    asked: list[Returned] = []
    for moment, (here, seen) in enumerate(zip(places, shown, strict=True)):
        cells, now = here[seen], kinds[moment][seen]
        if moment <= turning_point:
            then[cells] = now
        else:
            was_away[cells] |= moment - last[cells] > window
            counted = was_away[cells] & (then[cells] >= 0)
            at_home = np.full(counted.sum(), moment == len(places) - 1)
            asked.append(Returned(now[counted], then[cells][counted], at_home))
        last[cells] = moment
    return Returned(*(np.concatenate(parts) for parts in zip(*asked, strict=True)))
