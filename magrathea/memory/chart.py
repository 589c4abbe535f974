"""The map of one world, and where one stands in it.

Where one stands is reckoned: motion after motion is added up. In the dark a motion can be misread, and all that is seen
from then on would be put down in the wrong place. So from a step whose motion is in doubt, every offset that one may be
off by has a chance (a histogram filter: Thrun, Burgard & Fox 2005, "Probabilistic Robotics", chapter 8). While there is
doubt, what is seen goes on a draft, and each place that comes into view is compared with the map, at each of the
offsets. When one of them leads clearly, the pose is put right by it, and the draft becomes part of the map.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nlargest
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor

from magrathea.memory.motion import TRUST, Motions, Pose, turned

DOUBT = 4.0  # nats: a motion that leads another by less is in doubt
SURE = 6.0  # nats by which an offset must lead the others
UNLIKELY = 12.0  # nats behind the likeliest offset from which another is given up
MOST_OFFSETS = 64
QUIET = 60  # steps without doubt after which a new doubt is about what came since, and not about the draft
_FAR = 1 << 20  # a place's key is (row + _FAR) * 2 * _FAR + column + _FAR


class Ground:
    """What the charts of all worlds of a kind have in common.

    Args:
        motions: of the picture.
        passing: (V + 1,) bool, the tokens that do not overwrite what a place showed before.
        absent: the token of a place that was never seen.
    """

    def __init__(self, motions: Motions, passing: np.ndarray, absent: int) -> None:
        self.motions, self.absent = motions, absent
        self.region = np.flatnonzero(motions.region)
        rows, columns = (index.reshape(-1)[self.region] for index in np.indices(motions.grid))
        self._keys_at_origin = _key(_FAR, _FAR) + _key(*turned(np.arange(4)[:, None], rows, columns))
        self.passing = set(np.flatnonzero(passing).tolist())
        self.affinity = TRUST * motions.affinity
        self.affinity[absent] = 0  # what was never seen speaks for nothing

    def keys(self, pose: Pose) -> list[int]:
        """Of the places that the region's cells show."""
        return (self._keys_at_origin[pose[0]] + _key(pose[1], pose[2])).tolist()


class Chart:
    """What the places of one world showed last, and where one stands.

    Attributes:
        places: the tokens of places, by their keys.
        draft: the same, of what was seen since doubt began.
        doubts: the log chances of the offsets, as keys, by which one may be off the pose; empty without doubt.
        pose: as reckoned.
        last: (C,) the picture that was seen last.
    """

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.places: dict[int, int] = {}
        self.draft: dict[int, int] = {}
        self.doubts: dict[int, float] = {}
        self.pose: Pose = (0, 0, 0)
        self.last: np.ndarray | None = None
        self._quiet = 0  # steps since a motion was in doubt

    def look(self, motion: int) -> np.ndarray:
        """The picture (C,) that a motion would lead to, absent where the place was never seen."""
        ground = self.ground
        keys, absent = ground.keys(ground.motions.moved(self.pose, motion)), ground.absent
        picture = np.full(len(ground.motions.region), absent)
        if self.doubts:
            offset, places, draft = self._likeliest(), self.places, self.draft
            picture[ground.region] = [draft.get(key, places.get(key + offset, absent)) for key in keys]
        else:
            picture[ground.region] = list(map(self.places.get, keys, repeat(absent)))
        return picture

    def see(self, picture: np.ndarray, scores: np.ndarray | None) -> None:
        """Take in the picture (C,) that a motion has led to.

        Args:
            scores: (M,) the log chances of the motions; None for the first picture.
        """
        self._quiet += 1
        if scores is not None:
            motion = int(scores.argmax())
            likely = np.flatnonzero(scores > scores[motion] - DOUBT)
            if len(likely) > 1:
                self._doubt(motion, likely, scores)
            self.pose = self.ground.motions.moved(self.pose, motion)
        self.last = picture
        shown = list(zip(self.ground.keys(self.pose), picture[self.ground.region].tolist(), strict=True))
        if self.doubts:
            self._compare(shown)
        self._draw(shown)
        if self.doubts:
            self._weigh()

    def _draw(self, shown: Iterable[tuple[int, int]]) -> None:
        """Places show tokens now; those that only pass, where nothing is known of the place."""
        over, under, offset = (self.draft, self.places, self._likeliest()) if self.doubts else (self.places, {}, 0)
        for key, token in shown:
            if token not in self.ground.passing or not (key in over or key + offset in under):
                over[key] = token

    # -- doubt --------------------------------------------------------------------------------------------------------
    def _likeliest(self) -> int:
        return max(self.doubts, key=lambda offset: (self.doubts[offset], offset == 0))

    def _doubt(self, motion: int, likely: np.ndarray, scores: np.ndarray) -> None:
        """One of the likely motions is taken for the true one, which may be another of them."""
        if self.doubts and self._quiet > QUIET:
            self._settle()
        self._quiet = 0
        moves = self.ground.motions.moves[self.pose[0]]
        turn, rows, columns = moves[motion]
        spread: dict[int, float] = {}
        for other in likely.tolist():
            if moves[other][0] != turn:
                continue
            shift = _key(moves[other][1] - rows, moves[other][2] - columns)
            for offset, chance in (self.doubts or {0: 0.0}).items():
                chance += float(scores[other] - scores[motion])
                spread[offset + shift] = float(np.logaddexp(spread.get(offset + shift, -np.inf), chance))
        self.doubts = spread

    def _compare(self, shown: list[tuple[int, int]]) -> None:
        """Each place that comes into view speaks once, for the offsets at which the map has what it shows."""
        passing, absent = self.ground.passing, self.ground.absent
        new = [
            (key, token)
            for key, token in shown
            if token not in passing and (key not in self.draft or self.draft[key] in passing)
        ]
        if not new:
            return
        tokens = [token for _, token in new]
        for offset in self.doubts:
            known = [self.places.get(key + offset, absent) for key, _ in new]
            self.doubts[offset] += float(self.ground.affinity[known, tokens].sum())

    def _weigh(self) -> None:
        """Give up unlikely offsets; where one is clearly the likeliest, there is no doubt any more."""
        likeliest = nlargest(MOST_OFFSETS, self.doubts.items(), key=lambda item: item[1])
        best = likeliest[0][1]
        self.doubts = {offset: chance - best for offset, chance in likeliest if chance > best - UNLIKELY}
        if len(likeliest) == 1 or likeliest[1][1] < best - SURE:
            self._settle()

    def _settle(self) -> None:
        """Stand at the likeliest offset from the pose, and add the draft to the map."""
        offset, draft = self._likeliest(), self.draft
        self.draft, self.doubts = {}, {}
        rows = (offset + _FAR) // (2 * _FAR)
        self.pose = (self.pose[0], self.pose[1] + rows, self.pose[2] + offset - _key(rows, 0))
        self._draw((key + offset, token) for key, token in draft.items())

    # -- keeping ------------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Tensor]:
        """All that it knows."""
        return {
            "keys": torch.tensor(list(self.places), dtype=torch.int64),
            "tokens": torch.tensor(list(self.places.values()), dtype=torch.int32),
            "draft_keys": torch.tensor(list(self.draft), dtype=torch.int64),
            "draft_tokens": torch.tensor(list(self.draft.values()), dtype=torch.int32),
            "offsets": torch.tensor(list(self.doubts), dtype=torch.int64),
            "chances": torch.tensor(list(self.doubts.values()), dtype=torch.float64),
            "pose": torch.tensor(self.pose),
            "quiet": torch.tensor(self._quiet),
            "last": torch.tensor(() if self.last is None else self.last, dtype=torch.int32),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Into a chart that is empty. A state from before there were doubts has none."""
        values = {name: tensor.tolist() for name, tensor in state.items()}
        self.places = dict(zip(values["keys"], values["tokens"], strict=True))
        self.draft = dict(zip(values.get("draft_keys", ()), values.get("draft_tokens", ()), strict=True))
        self.doubts = dict(zip(values.get("offsets", ()), values.get("chances", ()), strict=True))
        self._quiet = int(state["quiet"]) if "quiet" in state else 0
        quarters, at_row, at_column = values["pose"]
        self.pose = (quarters, at_row, at_column)
        self.last = state["last"].numpy().astype(np.int64) if len(state["last"]) else None


def _key(rows: Any, columns: Any) -> Any:
    """What a place adds to a key that is this far away: keys add up as places do."""
    return rows * (2 * _FAR) + columns
