"""The map of one world, and the pose of the viewpoint on it.

The pose is dead reckoning: motions are added up. A motion that is misread, as in the dark, would put all that is seen
later in the wrong location. So after a motion that is ambiguous, observations go to a new *layer*, and a posterior is
kept over the offsets at which it may lie on the layers below (a histogram filter: Thrun, Burgard & Fox 2005,
"Probabilistic Robotics", chapter 8). Each location that comes into view is compared with the lower layers at each of
the offsets. When one offset leads clearly, the pose is corrected by it and the two layers are merged.

A *location* is a cell of the map; its key is one integer, so that an offset is an integer that is added to keys.
"""

from __future__ import annotations

from heapq import nlargest
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.memory.base import checked
from magrathea.memory.spatial_map.odometry import EVIDENCE_WEIGHT, Odometry, Pose, rotate

AMBIGUITY_MARGIN = 4.0  # nats: a motion that leads another by less is ambiguous
MERGE_MARGIN = 6.0  # nats by which an offset must lead the others
PRUNE_MARGIN = 12.0  # nats behind the most likely offsets at which others are dropped
MAX_OFFSETS = 64
MAX_LAYERS = 4
NEW_LAYER_STEPS = 10  # steps without an ambiguous motion after which the next one starts a new layer
_FAR = 1 << 20  # a location's key is (row + _FAR) * 2 * _FAR + column + _FAR
_MAX_KEY = 1 << 45  # that a stored key or offset may be

Offsets = tuple[int, ...]
"""For each layer, what is added to a key on the last layer to find the location there; 0 for the last layer."""


class MapSpec:
    """What the maps of all worlds of a kind have in common.

    Args:
        odometry: of the picture, of C cells and V tokens.
        transient: the tokens that do not overwrite what a location showed before.
        absent: the token of a location that was never seen.
        max_locations: that a layer keeps, those that were in view last; all, if not given.
    """

    def __init__(
        self, odometry: Odometry, transient: Bool[np.ndarray, " V"], absent: int, max_locations: int | None = None
    ) -> None:
        self.odometry, self.absent, self.max_locations = odometry, absent, max_locations
        self.region_cells = np.flatnonzero(odometry.region)
        rows, columns = (index.reshape(-1)[self.region_cells] for index in np.indices(odometry.grid))
        self._keys_at_origin = _key(_FAR, _FAR) + _key(*rotate(np.arange(4)[:, None], rows, columns))
        self.transient = set(np.flatnonzero(transient).tolist())
        self.evidence = EVIDENCE_WEIGHT * odometry.match_log_ratio  # (V, V) of a location's old and new token
        self.evidence[absent] = 0

    def keys(self, pose: Pose) -> list[int]:
        """The keys of the locations that the region's cells show."""
        return (self._keys_at_origin[pose[0]] + _key(pose[1], pose[2])).tolist()


class SpatialMap:
    """The token that each location of one world showed last, and the pose of the viewpoint.

    Attributes:
        layers: key of a location -> token, from the oldest layer to the one that is written; one where the pose is
            certain.
        offset_posterior: the unnormalized log probability of the layers' offsets.
        pose: on the last layer.
        last_picture: (C,) the newest picture.
    """

    def __init__(self, spec: MapSpec) -> None:
        self.spec = spec
        self.layers: list[dict[int, int]] = [{}]
        self.offset_posterior: dict[Offsets, float] = {(0,): 0.0}
        self.pose: Pose = (0, 0, 0)
        self.last_picture: np.ndarray | None = None
        self._steps_since_ambiguous = 0

    @property
    def is_uncertain(self) -> bool:
        """Whether the pose may be wrong."""
        return len(self.layers) > 1

    def predict(self, motion: int) -> Int[np.ndarray, " C"]:
        """The picture after a motion if no location has changed, absent where the location was never seen."""
        spec = self.spec
        picture = np.full(len(spec.odometry.region), spec.absent)
        picture[spec.region_cells] = self._lookup(
            spec.keys(spec.odometry.apply(self.pose, motion)), self._best_offsets()
        )
        return picture

    def update(self, picture: Int[np.ndarray, " C"], scores: Float[np.ndarray, " M"] | None) -> None:
        """Take in the picture after a motion.

        Args:
            picture: tokens.
            scores: the unnormalized log probabilities of the motions; None for the first picture.
        """
        self._steps_since_ambiguous += 1
        if scores is not None:
            motion = int(scores.argmax())
            likely = np.flatnonzero(scores > scores[motion] - AMBIGUITY_MARGIN)
            if len(likely) > 1:
                self._branch(motion, likely, scores)
            self.pose = self.spec.odometry.apply(self.pose, motion)
        self.last_picture = picture
        shown = list(zip(self.spec.keys(self.pose), picture[self.spec.region_cells].tolist(), strict=True))
        if self.is_uncertain:
            self._compare_layers(shown)
        self._write(shown)
        if self.is_uncertain:
            self._prune_and_merge()

    def _lookup(self, keys: list[int], offsets: Offsets) -> list[int]:
        """The newest token of each location, on as many layers as there are offsets; a transient one only where no
        layer has another."""
        transient, absent = self.spec.transient, self.spec.absent
        *lower, (layer, offset) = zip(self.layers, offsets, strict=False)
        found = [layer.get(key + offset, absent) for key in keys]
        for layer, offset in reversed(lower):
            for index, token in enumerate(found):
                if token == absent or token in transient:
                    older = layer.get(keys[index] + offset, absent)
                    if token == absent or (older != absent and older not in transient):
                        found[index] = older
        return found

    def _write(self, shown: list[tuple[int, int]]) -> None:
        """Set the tokens of locations; transient ones only where nothing is known of the location."""
        layer, transient = self.layers[-1], self.spec.transient
        layer.update([seen for seen in shown if seen[1] not in transient])
        passing = [seen for seen in shown if seen[1] in transient]
        if passing:
            known = self._lookup([key for key, _ in passing], self._best_offsets())
            layer.update(seen for seen, token in zip(passing, known, strict=True) if token == self.spec.absent)
        if self.spec.max_locations is not None:
            layer.update([(key, layer.pop(key)) for key, _ in shown if key in layer])  # to the end: in view last
            self._evict(layer)

    def _evict(self, layer: dict[int, int]) -> None:
        """Drop the locations of a layer that were out of view for longest, where it has too many."""
        if self.spec.max_locations is not None:
            for key in list(islice(layer, max(0, len(layer) - self.spec.max_locations))):
                del layer[key]

    # -- uncertain poses ----------------------------------------------------------------------------------------------
    def _best_offsets(self) -> Offsets:
        return max(self.offset_posterior, key=self.offset_posterior.__getitem__)

    def _branch(self, motion: int, likely: Int[np.ndarray, " _"], scores: Float[np.ndarray, " M"]) -> None:
        """Spread the posterior over the likely motions, of which one is taken for the true one."""
        if not self.is_uncertain or self._steps_since_ambiguous > NEW_LAYER_STEPS:
            if len(self.layers) == MAX_LAYERS:
                self._merge_layer(0)
            self.layers.append({})
            self.offset_posterior = {(*offsets, 0): score for offsets, score in self.offset_posterior.items()}
        self._steps_since_ambiguous = 0
        moves = self.spec.odometry.rotated_motions[self.pose[0]]
        turn, rows, columns = moves[motion]
        spread: dict[Offsets, float] = {}
        for other in likely.tolist():
            if moves[other][0] != turn:
                continue
            shift = _key(moves[other][1] - rows, moves[other][2] - columns)
            for offsets, score in self.offset_posterior.items():
                shifted = (*(offset + shift for offset in offsets[:-1]), 0)
                score += float(scores[other] - scores[motion])
                spread[shifted] = float(np.logaddexp(spread.get(shifted, -np.inf), score))
        self.offset_posterior = spread

    def _compare_layers(self, shown: list[tuple[int, int]]) -> None:
        """Add the evidence of each location that comes into view, once, to the offsets' scores: whether the lower
        layers show the same there."""
        transient, layer = self.spec.transient, self.layers[-1]
        new = [
            (key, token)
            for key, token in shown
            if token not in transient and (key not in layer or layer[key] in transient)
        ]
        if not new:
            return
        keys, tokens = map(list, zip(*new, strict=True))
        for offsets in self.offset_posterior:
            self.offset_posterior[offsets] += float(self.spec.evidence[self._lookup(keys, offsets[:-1]), tokens].sum())

    def _prune_and_merge(self) -> None:
        """Drop unlikely offsets; merge layers whose offset to the one below is certain."""
        likeliest = nlargest(MAX_OFFSETS, self.offset_posterior.items(), key=lambda item: item[1])
        best = likeliest[0][1]
        self.offset_posterior = {offsets: score - best for offsets, score in likeliest if score > best - PRUNE_MARGIN}
        for lower in reversed(range(len(self.layers) - 1)):
            shift = _shift(self._best_offsets(), lower)
            others = [score for offsets, score in self.offset_posterior.items() if _shift(offsets, lower) != shift]
            if max(others, default=-np.inf) < -MERGE_MARGIN:
                self._merge_layer(lower)

    def _merge_layer(self, lower: int) -> None:
        """Merge a layer and the next one at their most likely offset."""
        shift = _shift(self._best_offsets(), lower)
        layer, transient = self.layers[lower], self.spec.transient
        for key, token in self.layers.pop(lower + 1).items():
            before = layer.pop(key + shift, None)
            layer[key + shift] = token if before is None or token not in transient else before
        self._evict(layer)
        kept = {
            offsets[: lower + 1] + offsets[lower + 2 :]: score
            for offsets, score in self.offset_posterior.items()
            if _shift(offsets, lower) == shift
        }
        end = next(iter(kept))[-1]  # other than 0 where the last layer is gone
        self.offset_posterior = {tuple(offset - end for offset in offsets): score for offsets, score in kept.items()}
        rows = (end + _FAR) // (2 * _FAR)
        self.pose = (self.pose[0], self.pose[1] + rows, self.pose[2] + end - _key(rows, 0))

    # -- saving -------------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Tensor]:
        """All that the map knows, under the names that session files have."""
        oldest, *drafts = self.layers
        posterior = self.offset_posterior
        return {
            "keys": torch.tensor(list(oldest), dtype=torch.int64),
            "tokens": torch.tensor(list(oldest.values()), dtype=torch.int32),
            "draft_keys": torch.tensor([key for draft in drafts for key in draft], dtype=torch.int64),
            "draft_tokens": torch.tensor([token for draft in drafts for token in draft.values()], dtype=torch.int32),
            "draft_sizes": torch.tensor([len(draft) for draft in drafts], dtype=torch.int64),
            "offsets": torch.tensor([offsets[:-1] for offsets in posterior], dtype=torch.int64),
            "chances": torch.tensor(list(posterior.values()), dtype=torch.float64),
            "pose": torch.tensor(self.pose),
            "quiet": torch.tensor(self._steps_since_ambiguous),
            "last": torch.tensor(() if self.last_picture is None else self.last_picture, dtype=torch.int32),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Set the state of an empty map. Older states may lack layers but the first ("draft_…", "offsets", "chances",
        "quiet"), or have only one more of them and no "draft_sizes"."""
        values = self._checked(state)
        drafts = iter(zip(values.get("draft_keys", ()), values.get("draft_tokens", ()), strict=True))
        sizes = values.get("draft_sizes", [len(values["draft_keys"])] if values.get("draft_keys") else [])
        if len(sizes) >= MAX_LAYERS or sum(sizes) != len(values.get("draft_keys", ())):
            raise MagratheaError("A map in a file has layers that contradict each other; take a copy that is whole.")
        oldest = dict(zip(values["keys"], values["tokens"], strict=True))
        self.layers = [oldest, *(dict(islice(drafts, size)) for size in sizes)]
        if sizes:
            if "draft_sizes" not in state and "offsets" in state:  # one number for each, as there is one layer more
                state = state | {"offsets": state["offsets"].reshape(-1, 1)}
            checked(state, "offsets", "i", (len(values.get("chances", ())), len(sizes)), -_MAX_KEY, _MAX_KEY)
            offsets = state["offsets"].tolist()
            self.offset_posterior = {(*each, 0): score for each, score in zip(offsets, values["chances"], strict=True)}
        self._steps_since_ambiguous = int(state["quiet"]) if "quiet" in state else 0
        quarters, row, column = values["pose"]
        self.pose = (quarters, row, column)
        self.last_picture = np.array(values["last"], np.int64) if values["last"] else None

    def _checked(self, state: dict[str, Tensor]) -> dict[str, list]:
        """What a state holds, but for its offsets; raises MagratheaError where that cannot be a map of this world."""
        absent, num_cells = self.spec.absent, len(self.spec.odometry.region)
        keys = checked(state, "keys", "i", (None,), -_MAX_KEY, _MAX_KEY)
        pose_limits = np.array([0, -_FAR // 2, -_FAR // 2]), np.array([3, _FAR // 2, _FAR // 2])
        arrays = {
            "keys": keys,
            "tokens": checked(state, "tokens", "i", (len(keys),), 0, absent),
            "pose": checked(state, "pose", "i", (3,), *pose_limits),
            "last": checked(state, "last", "i", (num_cells if len(state["last"]) else 0,), 0, absent),
        }
        if "draft_keys" in state:
            drafts = checked(state, "draft_keys", "i", (None,), -_MAX_KEY, _MAX_KEY)
            arrays["draft_keys"] = drafts
            arrays["draft_tokens"] = checked(state, "draft_tokens", "i", drafts.shape, 0, absent)
        if "draft_sizes" in state:
            arrays["draft_sizes"] = checked(state, "draft_sizes", "i", (None,), 0, len(arrays.get("draft_keys", ())))
        if "quiet" in state:
            checked(state, "quiet", "i", (), 0, 2**40)
        if "chances" in state:
            arrays["chances"] = checked(state, "chances", "f", (None,), -1e9, 1e9)
            if not 1 <= len(arrays["chances"]) <= MAX_OFFSETS:
                raise MagratheaError("A map in a file lies at no or at too many offsets; take a copy that is whole.")
        return {name: array.tolist() for name, array in arrays.items()}


def _shift(offsets: Offsets, lower: int) -> int:
    """What is added to a key of the layer above a layer to find the location on that one."""
    return offsets[lower] - offsets[lower + 1]


def _key(rows: Any, columns: Any) -> Any:
    """The difference of the keys of two locations that are so many rows and columns apart."""
    return rows * (2 * _FAR) + columns
