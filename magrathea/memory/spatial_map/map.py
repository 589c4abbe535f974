"""The map of one world, and where one stands in it.

Where one stands is reckoned: motion after motion is added up. In the dark a motion can be misread, and all that is seen
from then on would be put down in the wrong place. So from a step whose motion is in doubt, what is seen goes on a layer
of its own, and every offset at which it may lie on the layers beneath has a chance (a histogram filter: Thrun, Burgard
& Fox 2005, "Probabilistic Robotics", chapter 8). Each place that comes into view is compared with those layers, at each
of the offsets. When one of them leads clearly, the pose is put right by it, and the two layers become one.
"""

from __future__ import annotations

from heapq import nlargest
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from magrathea.memory.spatial_map.odometry import TRUST, Odometry, Pose, turned

DOUBT = 4.0  # nats: a motion that leads another by less is in doubt
SURE = 6.0  # nats by which an offset must lead the others
UNLIKELY = 12.0  # nats behind the likeliest offsets from which others are given up
MOST_OFFSETS = 64
MOST_LAYERS = 4
QUIET = 10  # steps without doubt after which a new doubt begins a new layer
_FAR = 1 << 20  # a place's key is (row + _FAR) * 2 * _FAR + column + _FAR

Offsets = tuple[int, ...]


class MapSpec:
    """What the charts of all worlds of a kind have in common.

    Args:
        motions: of the picture.
        passing: (V + 1,) bool, the tokens that do not overwrite what a place showed before.
        absent: the token of a place that was never seen.
        most_places: that a layer keeps, those that were in view last; as many as there are, if not given.
    """

    def __init__(self, motions: Odometry, passing: np.ndarray, absent: int, most_places: int | None = None) -> None:
        self.motions, self.absent, self.most_places = motions, absent, most_places
        self.region = np.flatnonzero(motions.region)
        rows, columns = (index.reshape(-1)[self.region] for index in np.indices(motions.grid))
        self._keys_at_origin = _key(_FAR, _FAR) + _key(*turned(np.arange(4)[:, None], rows, columns))
        self.passing = set(np.flatnonzero(passing).tolist())
        self.affinity = TRUST * motions.affinity
        self.affinity[absent] = 0  # what was never seen speaks for nothing

    def keys(self, pose: Pose) -> list[int]:
        """Of the places that the region's cells show."""
        return (self._keys_at_origin[pose[0]] + _key(pose[1], pose[2])).tolist()


class SpatialMap:
    """What the places of one world showed last, and where one stands.

    Attributes:
        layers: the tokens of places, by their keys, from the oldest to the one that is drawn on; one without doubt.
        doubts: the log chances of offsets, one for each layer, that are added to a key to find its place there; that of
            the last layer is 0.
        pose: on the last layer.
        last: (C,) the picture that was seen last.
    """

    def __init__(self, ground: MapSpec) -> None:
        self.ground = ground
        self.layers: list[dict[int, int]] = [{}]
        self.doubts: dict[Offsets, float] = {(0,): 0.0}
        self.pose: Pose = (0, 0, 0)
        self.last: np.ndarray | None = None
        self._quiet = 0  # steps since a motion was in doubt

    @property
    def in_doubt(self) -> bool:
        """Whether the pose may be off."""
        return len(self.layers) > 1

    def look(self, motion: int) -> np.ndarray:
        """The picture (C,) that a motion would lead to, absent where the place was never seen."""
        ground = self.ground
        picture = np.full(len(ground.motions.region), ground.absent)
        picture[ground.region] = self._find(ground.keys(ground.motions.moved(self.pose, motion)), self._likeliest())
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
        if self.in_doubt:
            self._compare(shown)
        self._draw(shown)
        if self.in_doubt:
            self._weigh()

    def _find(self, keys: list[int], offsets: Offsets) -> list[int]:
        """What places showed last, on as many layers as there are offsets; what only passes, if that is all."""
        passing, absent = self.ground.passing, self.ground.absent
        *beneath, (places, offset) = zip(self.layers, offsets, strict=False)
        found = [places.get(key + offset, absent) for key in keys]
        for places, offset in reversed(beneath):
            for index, token in enumerate(found):
                if token == absent or token in passing:
                    under = places.get(keys[index] + offset, absent)
                    if token == absent or (under != absent and under not in passing):
                        found[index] = under
        return found

    def _draw(self, shown: list[tuple[int, int]]) -> None:
        """Places show tokens now; those that only pass, where nothing is known of the place."""
        places, passing = self.layers[-1], self.ground.passing
        places.update([seen for seen in shown if seen[1] not in passing])
        vague = [seen for seen in shown if seen[1] in passing]
        if vague:
            known = self._find([key for key, _ in vague], self._likeliest())
            places.update(seen for seen, token in zip(vague, known, strict=True) if token == self.ground.absent)
        if self.ground.most_places is not None:
            places.update([(key, places.pop(key)) for key, _ in shown if key in places])  # to the end: in view last
            self._forget(places)

    def _forget(self, places: dict[int, int]) -> None:
        """Give up the places of a layer that have been out of view for longest, where it has too many."""
        if self.ground.most_places is not None:
            for key in list(islice(places, max(0, len(places) - self.ground.most_places))):
                del places[key]

    # -- doubt --------------------------------------------------------------------------------------------------------
    def _likeliest(self) -> Offsets:
        return max(self.doubts, key=self.doubts.__getitem__)

    def _doubt(self, motion: int, likely: np.ndarray, scores: np.ndarray) -> None:
        """One of the likely motions is taken for the true one, which may be another of them."""
        if not self.in_doubt or self._quiet > QUIET:
            if len(self.layers) == MOST_LAYERS:
                self._merge(0)
            self.layers.append({})
            self.doubts = {(*offsets, 0): chance for offsets, chance in self.doubts.items()}
        self._quiet = 0
        moves = self.ground.motions.moves[self.pose[0]]
        turn, rows, columns = moves[motion]
        spread: dict[Offsets, float] = {}
        for other in likely.tolist():
            if moves[other][0] != turn:
                continue
            shift = _key(moves[other][1] - rows, moves[other][2] - columns)
            for offsets, chance in self.doubts.items():
                shifted = (*(offset + shift for offset in offsets[:-1]), 0)
                chance += float(scores[other] - scores[motion])
                spread[shifted] = float(np.logaddexp(spread.get(shifted, -np.inf), chance))
        self.doubts = spread

    def _compare(self, shown: list[tuple[int, int]]) -> None:
        """Each place that comes into view speaks once, for the offsets at which the layers beneath show the same."""
        passing, places = self.ground.passing, self.layers[-1]
        new = [
            (key, token)
            for key, token in shown
            if token not in passing and (key not in places or places[key] in passing)
        ]
        if not new:
            return
        keys, tokens = map(list, zip(*new, strict=True))
        for offsets in self.doubts:
            self.doubts[offsets] += float(self.ground.affinity[self._find(keys, offsets[:-1]), tokens].sum())

    def _weigh(self) -> None:
        """Give up what is unlikely; layers that clearly lie one way on those beneath them become one with them."""
        likeliest = nlargest(MOST_OFFSETS, self.doubts.items(), key=lambda item: item[1])
        best = likeliest[0][1]
        self.doubts = {offsets: chance - best for offsets, chance in likeliest if chance > best - UNLIKELY}
        for lower in reversed(range(len(self.layers) - 1)):
            shift = _between(self._likeliest(), lower)
            others = [chance for offsets, chance in self.doubts.items() if _between(offsets, lower) != shift]
            if max(others, default=-np.inf) < -SURE:
                self._merge(lower)

    def _merge(self, lower: int) -> None:
        """A layer and the next one become one, as it is likeliest."""
        shift = _between(self._likeliest(), lower)
        places, passing = self.layers[lower], self.ground.passing
        for key, token in self.layers.pop(lower + 1).items():
            before = places.pop(key + shift, None)
            places[key + shift] = token if before is None or token not in passing else before
        self._forget(places)
        kept = {
            offsets[: lower + 1] + offsets[lower + 2 :]: chance
            for offsets, chance in self.doubts.items()
            if _between(offsets, lower) == shift
        }
        end = next(iter(kept))[-1]  # other than 0 where the last layer is gone
        self.doubts = {tuple(offset - end for offset in offsets): chance for offsets, chance in kept.items()}
        rows = (end + _FAR) // (2 * _FAR)
        self.pose = (self.pose[0], self.pose[1] + rows, self.pose[2] + end - _key(rows, 0))

    # -- keeping ------------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Tensor]:
        """All that it knows."""
        oldest, *drafts = self.layers
        return {
            "keys": torch.tensor(list(oldest), dtype=torch.int64),
            "tokens": torch.tensor(list(oldest.values()), dtype=torch.int32),
            "draft_keys": torch.tensor([key for draft in drafts for key in draft], dtype=torch.int64),
            "draft_tokens": torch.tensor([token for draft in drafts for token in draft.values()], dtype=torch.int32),
            "draft_sizes": torch.tensor([len(draft) for draft in drafts], dtype=torch.int64),
            "offsets": torch.tensor([offsets[:-1] for offsets in self.doubts], dtype=torch.int64),
            "chances": torch.tensor(list(self.doubts.values()), dtype=torch.float64),
            "pose": torch.tensor(self.pose),
            "quiet": torch.tensor(self._quiet),
            "last": torch.tensor(() if self.last is None else self.last, dtype=torch.int32),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Into a chart that is empty. A state from before there were doubts has none, and one from before there were
        layers has one draft."""
        values = {name: tensor.tolist() for name, tensor in state.items()}
        drafts = iter(zip(values.get("draft_keys", ()), values.get("draft_tokens", ()), strict=True))
        sizes = values.get("draft_sizes", [len(values["draft_keys"])] if values.get("draft_keys") else [])
        oldest = dict(zip(values["keys"], values["tokens"], strict=True))
        self.layers = [oldest, *(dict(islice(drafts, size)) for size in sizes)]
        if sizes:
            offsets = state["offsets"].reshape(-1, len(sizes)).tolist()
            self.doubts = {(*each, 0): chance for each, chance in zip(offsets, values["chances"], strict=True)}
        self._quiet = int(state["quiet"]) if "quiet" in state else 0
        quarters, at_row, at_column = values["pose"]
        self.pose = (quarters, at_row, at_column)
        self.last = state["last"].numpy().astype(np.int64) if len(state["last"]) else None


def _between(offsets: Offsets, lower: int) -> int:
    """What is added to a key of the layer above one to find its place on that one."""
    return offsets[lower] - offsets[lower + 1]


def _key(rows: Any, columns: Any) -> Any:
    """What a place adds to a key that is this far away: keys add up as places do."""
    return rows * (2 * _FAR) + columns
