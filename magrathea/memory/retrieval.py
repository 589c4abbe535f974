"""What came after and before a past step that looked like now; nobody has to know where one stands.

The key of a step says which tokens its picture shows in which coarse region of it, rare ones louder, projected at
random to a few whole numbers. Whole numbers, so that a key's products are exact, and a world that was restored finds
the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from magrathea.layout import Layout
from magrathea.memory.episodic_buffer import EpisodicBuffer, EpisodicSpec

KEY_WIDTH = 32
REGIONS = 3  # rows and columns of them
LOUDEST = 8  # a token's weight is -log2 of its share, up to this
NEARLY_SAME = 0.95  # cosine of two keys from which the newer step replaces the older


@dataclass(frozen=True)
class RetrievalSpec(EpisodicSpec):
    """Knows how rare tokens are.

    Attributes:
        layout: of the steps.
        codes: (regions, V + 1, KEY_WIDTH) int8, what a token adds to a key.
    """

    layout: Layout
    codes: np.ndarray

    @classmethod
    def fit(cls, layout: Layout, episodes: Iterable[Tensor]) -> RetrievalSpec:
        slot = layout.picture
        counts = np.zeros(slot.vocab_size + 1, np.int64)
        for tokens in episodes:
            counts += np.bincount(tokens[:, layout.span(slot.name)].flatten().numpy(), minlength=len(counts))
        loudness = np.clip(np.round(-np.log2((counts + 1) / (counts.sum() + 1))), 1, LOUDEST).astype(np.int8)
        signs = np.random.default_rng(0).choice(np.array([-1, 1], np.int8), (REGIONS**2, len(counts), KEY_WIDTH))
        return cls(layout, signs * loudness[:, None])

    @classmethod
    def from_tensors(cls, layout: Layout, tensors: dict[str, Tensor]) -> RetrievalSpec:
        return cls(layout, tensors["codes"].numpy())

    def tensors(self) -> dict[str, Tensor]:
        return {"codes": torch.from_numpy(self.codes)}

    def trail(self, window: int) -> ContentBuffer:
        return ContentBuffer(self, window)


class ContentBuffer(EpisodicBuffer):
    """Finds steps by how those beside them look."""

    def __init__(self, kind: RetrievalSpec, window: int) -> None:
        slot = kind.layout.picture
        super().__init__(kind.layout, window, kind.size, (KEY_WIDTH, np.min_scalar_type(-LOUDEST * slot.num_tokens)))
        self._codes, self._span = kind.codes, kind.layout.span(slot.name)
        rows, columns = (np.arange(size) * REGIONS // size for size in slot.grid)
        self._regions = (rows[:, None] * REGIONS + columns).reshape(-1)
        self._keys, self._scales = np.zeros((0, KEY_WIDTH), np.float32), np.zeros(0)

    def key_of(self, step: np.ndarray) -> np.ndarray:
        return self._codes[self._regions, step[self._span]].sum(axis=0, dtype=np.int32)

    def query(self, action: int | None) -> np.ndarray:
        return self.newest["key"][-1]

    def nearest(self, query: np.ndarray) -> list[int]:
        """What came after the step that looked most like the query, and before it: unlike itself, they show what is not
        seen already."""
        like = int(self._cosines(query).argmax())
        beside = dict.fromkeys(self.entries[side][like].item() for side in ("after", "before"))
        return [entry for entry in beside if entry >= 0] or [like]

    def same(self, key: np.ndarray) -> int | None:
        if not self.num_entries:
            return None
        cosines = self._cosines(key)
        best = int(cosines.argmax())
        return best if cosines[best] >= NEARLY_SAME / _scale(key) else None

    def indexed(self, entry: int, key: np.ndarray) -> None:
        room = len(self.entries["number"])
        if len(self._keys) < room:
            keys, scales = np.zeros((room, KEY_WIDTH), np.float32), np.zeros(room)
            keys[: len(self._keys)], scales[: len(self._keys)] = self._keys, self._scales
            self._keys, self._scales = keys, scales
        self._keys[entry], self._scales[entry] = key, _scale(key)

    def _cosines(self, key: np.ndarray) -> np.ndarray:
        """(num_entries,) with the keys of all entries, times the length of this one."""
        products = self._keys[: self.num_entries] @ key.astype(np.float32)  # of whole numbers under 2^24: exact
        return products * self._scales[: self.num_entries]


def _scale(key: np.ndarray) -> float:
    """One over the length of a key."""
    return float(max(1, np.square(key, dtype=np.int64).sum())) ** -0.5
