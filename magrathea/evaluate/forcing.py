"""Teacher forcing: recordings cut into segments, in which every step is predicted given the real steps before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from magrathea import masks
from magrathea.evaluate.recordings import Lived, Recording
from magrathea.memory import MemoryReadout
from magrathea.sampler import FillResult, FillSettings, fill
from magrathea.world import World

CHUNK = 16  # steps that are predicted of a segment
EARLIER = 36  # steps before a segment that a recurrent memory is told, as many as in training


@dataclass
class SegmentBatch:
    """Segments of recordings that are predicted together.

    Attributes:
        tokens: (B, first + C, N) int64.
        first: index of the first step to predict; those before are its past.
        episodes: (B,) indices of the recordings.
        steps: (B, C) index in its recording of every predicted step.
        valid: (B, C) False where a step only fills up the batch.
        recalled: what the memory recalls at the predicted steps, (B, C, 2, ...), without and with the action.
        earlier: (B, EARLIER, N) the steps before the segments, absent where there are none.
    """

    tokens: Tensor
    first: int
    episodes: np.ndarray
    steps: np.ndarray
    valid: np.ndarray
    recalled: MemoryReadout = MemoryReadout()  # noqa: RUF009 (it never changes)
    earlier: Tensor | None = None

    def predict(self, world: World, hole_mask: Tensor, prompt: Tensor | None = None) -> dict[str, Tensor]:
        """For each slot the logits (B, C, its tokens, its vocabulary) at the predicted steps, with what the memory
        recalls; hole_mask broadcasts to (B, C, N)."""
        recalled = self.recalled.select_known_action(hole_mask, world.layout)
        return world.predict_segment(self.tokens, hole_mask, self.first, prompt, recalled, self.earlier)

    def of(self, rows: slice) -> SegmentBatch:
        """Some of the segments."""
        earlier = None if self.earlier is None else self.earlier[rows]
        recalled = self.recalled.map(lambda part: part[rows])
        parts = (self.episodes[rows], self.steps[rows], self.valid[rows])
        return SegmentBatch(self.tokens[rows], self.first, *parts, recalled, earlier)

    @property
    def targets(self) -> Tensor:
        """(B, C, N) the true tokens of the predicted steps."""
        return self.tokens[:, self.first :]

    @property
    def previous(self) -> Tensor:
        """(B, C, N) the tokens a step before."""
        return self.tokens[:, self.first - 1 : -1]


def segment_batches(
    recordings: Sequence[Recording], window: int, batch_size: int = 16, chunk: int = CHUNK, seed: int = 0
) -> Iterator[SegmentBatch]:
    """Cut recordings into segments that predict every step but the first, once; in an order drawn by the
    seed, so that a part of them is a fair sample."""
    plans = []
    for episode, recording in enumerate(recordings):
        begin = 1
        while begin < len(recording.tokens):
            plans.append((min(begin, window), episode, begin))  # near the start, there are few steps before
            begin += chunk
    order = np.random.default_rng(seed).permutation(len(plans))
    waiting: dict[int, list[tuple[int, int]]] = {}
    for index in order:
        first, episode, begin = plans[index]
        group = waiting.setdefault(first, [])
        group.append((episode, begin))
        if len(group) == batch_size:
            yield gather_segments(recordings, first, waiting.pop(first), chunk)
    for first, group in waiting.items():
        yield gather_segments(recordings, first, group, chunk)


def gather_segments(recordings: Sequence[Lived], first: int, group: list[tuple[int, int]], chunk: int) -> SegmentBatch:
    """Segments of recordings, each from (index of the recording, first step to predict) on, with `first` steps before
    that; a recording's last step repeats beyond its end."""
    steps = np.stack([np.arange(begin - first, begin + chunk) for _, begin in group])
    lengths = np.array([len(recordings[episode].tokens) for episode, _ in group])
    valid = steps < lengths[:, None]
    inside = np.minimum(steps, lengths[:, None] - 1)
    parts = [(recordings[episode], rows) for (episode, _), rows in zip(group, inside, strict=True)]
    return SegmentBatch(
        torch.from_numpy(np.stack([recording.tokens[rows] for recording, rows in parts])),
        first,
        np.array([episode for episode, _ in group]),
        steps[:, first:],
        valid[:, first:],
        MemoryReadout.stack([recording.recall(rows[first:]) for recording, rows in parts]),
        torch.from_numpy(np.stack([recording.before(rows[0], EARLIER) for recording, rows in parts])),
    )


@torch.inference_mode()
def fill_batch(world: World, batch: SegmentBatch, settings: FillSettings, generators: list[Generator]) -> FillResult:
    """Fill the one step of each segment of a batch: tokens (B, N), confidence (B, N), passes (B,)."""
    holes = masks.forward_dynamics(world.layout).expand(len(batch.episodes), -1)
    device = world.device
    recalled = batch.recalled.select_known_action(holes[:, None], world.layout).map(lambda part: part.to(device))
    earlier = None if batch.earlier is None else batch.earlier.to(device)
    whole = world.model.segment_cache(batch.tokens.to(device), batch.first, readout=recalled, earlier=earlier)
    time = torch.full((len(holes), 1), batch.first, device=device)

    def predict(now: Tensor, open_holes: Tensor, rows: Tensor | None) -> dict[str, Tensor]:
        past = whole if rows is None else whole.select(rows)
        logits = world.model.predict(now[:, None], open_holes[:, None], time[: len(now)], past)
        return {name: slot_logits.squeeze(1) for name, slot_logits in logits.items()}

    filled = fill(predict, batch.targets[:, 0].to(device), holes.to(device), world.layout, settings, generators)
    return FillResult(filled.tokens.cpu(), filled.confidence.cpu(), filled.num_passes.cpu())
