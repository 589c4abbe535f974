"""Teacher forcing: recordings cut into segments, in which every step is predicted given the real steps before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from magrathea import masks
from magrathea.evaluate.recordings import Recording
from magrathea.fill import Filled, FillSettings, fill
from magrathea.past import SegmentPast
from magrathea.world import World

CHUNK = 16  # steps that are predicted of a segment


@dataclass
class SegmentBatch:
    """Segments of recordings that are predicted together.

    Attributes:
        tokens: (B, first + C, N) int64.
        first: index of the first step to predict; those before are its past.
        episodes: (B,) indices of the recordings.
        steps: (B, C) index in its recording of every predicted step.
        valid: (B, C) False where a step only fills up the batch.
        recalled: (B, C, 2, cells) what the memory recalls at the predicted steps, or None; see Recording.
    """

    tokens: Tensor
    first: int
    episodes: np.ndarray
    steps: np.ndarray
    valid: np.ndarray
    recalled: Tensor | None = None

    def predict(self, world: World, hole_mask: Tensor, prompt: Tensor | None = None) -> dict[str, Tensor]:
        """For each slot the logits (B, C, its tokens, its vocabulary) at the predicted steps, with what the memory
        recalls; hole_mask broadcasts to (B, C, N)."""
        return world.predict_segment(self.tokens, hole_mask, self.first, prompt, self.recalled_under(world, hole_mask))

    def recalled_under(self, world: World, hole_mask: Tensor) -> Tensor | None:
        """(B, C, cells) what is recalled where the action is known or, as hole_mask says, a hole."""
        if self.recalled is None:
            return None
        asks_action = hole_mask[..., world.layout.span(world.layout.of_role("action")[0].name)].any(-1)
        return torch.where(asks_action[..., None], self.recalled[:, :, 0], self.recalled[:, :, 1])

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
            yield _gather(recordings, first, waiting.pop(first), chunk)
    for first, group in waiting.items():
        yield _gather(recordings, first, group, chunk)


def _gather(recordings: Sequence[Recording], first: int, group: list[tuple[int, int]], chunk: int) -> SegmentBatch:
    steps = np.stack([np.arange(begin - first, begin + chunk) for _, begin in group])
    lengths = np.array([len(recordings[episode].tokens) for episode, _ in group])
    valid = steps < lengths[:, None]
    inside = np.minimum(steps, lengths[:, None] - 1)
    parts = [(recordings[episode], rows) for (episode, _), rows in zip(group, inside, strict=True)]
    tokens = np.stack([recording.tokens[rows] for recording, rows in parts])
    recalled = [recording.recalled[rows[first:]] for recording, rows in parts if recording.recalled is not None]
    return SegmentBatch(
        torch.from_numpy(tokens),
        first,
        np.array([episode for episode, _ in group]),
        steps[:, first:],
        valid[:, first:],
        torch.from_numpy(np.stack(recalled)) if recalled else None,
    )


@torch.inference_mode()
def fill_batch(world: World, batch: SegmentBatch, settings: FillSettings, generators: list[Generator]) -> Filled:
    """Fill the one step of each segment of a batch: tokens (B, N), confidence (B, N), passes (B,)."""
    holes = masks.forward_dynamics(world.layout).expand(len(batch.episodes), -1)
    past_tokens, device = batch.tokens[:, : batch.first].to(world.device), world.device
    time = torch.arange(batch.first + 1, device=device).expand(len(past_tokens), -1)
    encodings, keys, values = world.model.remember(past_tokens, time[:, :-1])
    recalled = batch.recalled_under(world, holes[:, None])
    recalled = None if recalled is None else recalled.to(device)

    def predict(now: Tensor, open_holes: Tensor, rows: Tensor | None) -> dict[str, Tensor]:
        chosen = slice(None) if rows is None else rows
        window, known = world.config.model.window, None if recalled is None else recalled[chosen]
        past = SegmentPast(encodings[chosen], keys[:, chosen], values[:, chosen], window, batch.first, recalled=known)
        logits = world.model.predict(now[:, None], open_holes[:, None], time[chosen, -1:], past)
        return {name: slot_logits.squeeze(1) for name, slot_logits in logits.items()}

    filled = fill(predict, batch.targets[:, 0].to(device), holes.to(device), world.layout, settings, generators)
    return Filled(filled.tokens.cpu(), filled.confidence.cpu(), filled.num_passes.cpu())
