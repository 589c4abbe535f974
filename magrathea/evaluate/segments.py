"""Teacher forcing: episodes are cut into segments in which every step is predicted given the true steps before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from magrathea.evaluate.recordings import EncodedEpisode
from magrathea.memory import MemoryReadout
from magrathea.world import World

CHUNK = 16  # steps to predict in a segment
EARLIER = 36  # steps before a segment that a recurrent memory reads, as many as in training


@dataclass
class SegmentBatch:
    """Segments of episodes that are predicted together.

    Attributes:
        tokens: (B, first + C, N) int64.
        first: index of the first step to predict; those before are its context.
        episodes: (B,) indices of the episodes.
        steps: (B, C) index in its episode of every predicted step.
        valid: (B, C) False where a step is padding.
        readout: the memory's readout at the predicted steps, (B, C, 2, ...), without and with the action.
        earlier: (B, EARLIER, N) the steps before the segments, absent where there are none.
    """

    tokens: Tensor
    first: int
    episodes: np.ndarray
    steps: np.ndarray
    valid: np.ndarray
    readout: MemoryReadout = MemoryReadout()  # noqa: RUF009 (it never changes)
    earlier: Tensor | None = None

    def predict(self, world: World, hole_mask: Tensor, prompt: Tensor | None = None) -> dict[str, Tensor]:
        """Logits (B, C, tokens, vocabulary) of each slot at the predicted steps; hole_mask broadcasts to (B, C, N)."""
        readout = self.readout.select_known_action(hole_mask, world.layout)
        return world.predict_segment(self.tokens, hole_mask, self.first, prompt, readout, self.earlier)

    @property
    def targets(self) -> Tensor:
        """(B, C, N) the true tokens of the predicted steps."""
        return self.tokens[:, self.first :]

    @property
    def previous(self) -> Tensor:
        """(B, C, N) the tokens a step before."""
        return self.tokens[:, self.first - 1 : -1]


def segment_batches(
    episodes: Sequence[EncodedEpisode], window: int, batch_size: int = 16, chunk: int = CHUNK, seed: int = 0
) -> Iterator[SegmentBatch]:
    """Cut episodes into segments that predict every step but the first once; in an order drawn by the seed, so that
    the first batches are a fair sample."""
    plans = []
    for index, episode in enumerate(episodes):
        for begin in range(1, len(episode.tokens), chunk):
            plans.append((min(begin, window), index, begin))  # near the start, there are fewer steps before
    order = np.random.default_rng(seed).permutation(len(plans))
    waiting: dict[int, list[tuple[int, int]]] = {}
    for index in order:
        first, *segment = plans[index]
        group = waiting.setdefault(first, [])
        group.append(tuple(segment))
        if len(group) == batch_size:
            yield gather_segments(episodes, first, waiting.pop(first), chunk)
    for first, group in waiting.items():
        yield gather_segments(episodes, first, group, chunk)


def gather_segments(
    episodes: Sequence[EncodedEpisode], first: int, group: list[tuple[int, int]], chunk: int
) -> SegmentBatch:
    """Segments of episodes, each of (index of the episode, first step to predict), with `first` steps before that; an
    episode's last step repeats beyond its end."""
    steps = np.stack([np.arange(begin - first, begin + chunk) for _, begin in group])
    lengths = np.array([len(episodes[index].tokens) for index, _ in group])
    inside = np.minimum(steps, lengths[:, None] - 1)
    parts = [(episodes[index], chosen) for (index, _), chosen in zip(group, inside, strict=True)]
    return SegmentBatch(
        torch.from_numpy(np.stack([episode.tokens[chosen] for episode, chosen in parts]).astype(np.int64)),
        first,
        np.array([index for index, _ in group]),
        steps[:, first:],
        (steps < lengths[:, None])[:, first:],
        MemoryReadout.stack([episode.readout_at(chosen[first:]) for episode, chosen in parts]),
        torch.from_numpy(np.stack([episode.before(chosen[0], EARLIER) for episode, chosen in parts])),
    )
