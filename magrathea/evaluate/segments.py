"""Teacher forcing: recorded steps are predicted, each given the recorded steps before it, in segments of episodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from magrathea import masks
from magrathea.evaluate.recordings import Budget, EncodedEpisode, batch_sizes
from magrathea.memory import MemoryReadout
from magrathea.model.transformer import NO_READOUT
from magrathea.world import World

CHUNK = 16  # steps to predict in a segment
EARLIER = 256  # steps before a segment that a recurrent memory reads


def predict_steps(world: World, episodes: Sequence[EncodedEpisode], budget: Budget) -> list[np.ndarray]:
    """Predict the steps of episodes, given their actions: the likeliest token of every hole, all at once.

    Segments are taken in an order drawn at random until the budget is spent. Returns for each episode steps (T + 1, N),
    which are -1 where they were not predicted, as the first never is.
    """
    layout, model = world.layout, world.model
    hole_mask = masks.forward_dynamics(layout)
    predicted = [np.full_like(episode.tokens, -1) for episode in episodes]
    for batch in segment_batches(episodes, world.config.model.window):
        readout = batch.readout.select_known_action(hole_mask, layout)
        logits = teacher_forced_logits(world, batch.tokens, hole_mask, batch.first, readout, batch.earlier)
        steps = batch.tokens.to(world.device)
        guesses, before = steps[:, batch.first :].clone(), steps[:, batch.first - 1 : -1]
        for slot in layout.of_role("observation", "reward", "terminated"):
            if slot in layout.token_slots:
                guesses[..., layout.span(slot.name)] = logits[slot.name].argmax(-1)
        found = model.with_values(guesses, before).cpu().numpy()
        for index, episode in enumerate(batch.episodes):
            valid = batch.valid[index]
            predicted[episode][batch.steps[index, valid]] = found[index, valid]
        if budget.spent():
            break
    return predicted


@torch.inference_mode()
def teacher_forced_logits(
    world: World,
    tokens: Int[Tensor, "B T N"],
    hole_mask: Bool[Tensor, ...],
    first: int = 1,
    readout: MemoryReadout = NO_READOUT,
    earlier: Int[Tensor, "B S N"] | None = None,
) -> dict[str, Tensor]:
    """What a world's model predicts for each step from `first` on, given the recorded steps before it.

    Args:
        tokens: recorded steps; the window before a step may be shorter at the beginning.
        hole_mask: (B, T - first, N), or anything that broadcasts to it; True = hole.
        first: steps before it are only seen, not filled.
        readout: (B, T - first, ...) of a memory.
        earlier: the S recorded steps before, for a recurrent memory; absent tokens where there are none.

    Returns:
        for each slot's name (B, T - first, its tokens, its vocabulary) float32.
    """
    tokens, device = tokens.to(world.device), world.device
    readout = readout.map(lambda part: part.to(device))
    kv_cache = world.model.segment_cache(
        tokens, first, readout=readout, earlier=None if earlier is None else earlier.to(device)
    )
    steps = tokens[:, first:]
    time = torch.arange(first, tokens.shape[1], device=device).expand(steps.shape[:2])
    logits = world.model.predict(steps, hole_mask.to(device).expand(steps.shape), time, kv_cache)
    return {name: slot_logits.float() for name, slot_logits in logits.items()}


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
    readout: MemoryReadout
    earlier: Tensor


def segment_batches(
    episodes: Sequence[EncodedEpisode], window: int, chunk: int = CHUNK, seed: int = 0
) -> Iterator[SegmentBatch]:
    """Cut episodes into segments that predict every step but the first once; in an order drawn by the seed, so that
    the first batches are a fair sample."""
    plans = []
    for index, episode in enumerate(episodes):
        for begin in range(1, len(episode.tokens), chunk):
            plans.append((min(begin, window), index, begin))  # near the start, there are fewer steps before
    order = np.random.default_rng(seed).permutation(len(plans))
    waiting: dict[int, list[tuple[int, int]]] = {}
    sizes = batch_sizes()
    size = next(sizes)
    for index in order:
        first, *segment = plans[index]
        group = waiting.setdefault(first, [])
        group.append(tuple(segment))
        if len(group) >= size:
            yield _gather(episodes, first, waiting.pop(first), chunk)
            size = next(sizes)
    for first, group in waiting.items():
        yield _gather(episodes, first, group, chunk)


def _gather(episodes: Sequence[EncodedEpisode], first: int, group: list[tuple[int, int]], chunk: int) -> SegmentBatch:
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
