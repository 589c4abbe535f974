"""What the model is shown in an update: segments with holes, a slightly spoiled past, and prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from torch import Generator, Tensor

from magrathea import masks
from magrathea.errors import MagratheaError
from magrathea.layout import Layout
from magrathea.memory import MemoryReadout
from magrathea.settings import Range, Share, check
from magrathea.train.cache import RETURN_STEPS, Segments, TokenCache


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """The segments of an update, and how their context is augmented.

    Attributes:
        num_segments: segments of an update, over all processes.
        num_steps: T, steps of a segment.
        num_prompted: further segments, whose actions are predicted given a goal or a return.
        corrupt_prob: probability that a segment's context is corrupted, so that a dream can recover from its mistakes.
        max_corrupt_rate: highest fraction of a corrupted context's observation tokens that are replaced.
        self_forcing_prob: probability that some steps of a segment's context are sampled by the model itself.
        self_forcing_rounds: number of such samples, each conditioned on the one before.
        slot_resample_prob: probability that a segment's context gets another segment's tokens in the slots that consist
            of one token and that the memory predicts.
        memory_dropout: probability that a segment gets no readout of the memory.
        num_earlier: steps before a segment that a recurrent memory is trained through.
        uses: weights of the uses of a world among the holes, where they differ from `masks.MIXTURE`.
    """

    num_segments: Annotated[int, Range(0, 10**6)] = 16
    num_steps: Annotated[int, Range(2, 10**6)] = 12
    num_prompted: Annotated[int, Range(0, 10**6)] = 1
    corrupt_prob: Share = 0.5
    max_corrupt_rate: Share = 0.08
    self_forcing_prob: Share = 0.0
    self_forcing_rounds: Annotated[int, Range(1, 1000)] = 1
    slot_resample_prob: Share = 0.2
    memory_dropout: Share = 0.1
    num_earlier: Annotated[int, Range(0, 10**6)] = 36
    uses: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self)
        masks.weights_of(self.uses)  # refuses what is no use
        if not self.num_segments and not self.num_prompted:
            raise MagratheaError("num_segments and num_prompted are both 0; give 1 or more of one of them.")


@dataclass(frozen=True)
class Batch:
    """past_tokens (B, T, N) as shown, tokens (B, T - first, N) as they were, hole_mask (B, T - first, N), prompt
    (B, N), readout (B, T - first, ...), earlier (B, E, N) the steps before, dreamt (B, T - first): the seed of the
    dice of a step that the model is to dream itself before it stands in the past, 0 of one that stays as it was."""

    past_tokens: Tensor
    tokens: Tensor
    hole_mask: Tensor
    first: int
    prompt: Tensor | None = None
    readout: MemoryReadout = MemoryReadout()  # noqa: RUF009 (it never changes)
    earlier: Tensor | None = None
    dreamt: Tensor | None = None

    def part(self, rank: int, num_parts: int, device: torch.device) -> Batch:
        """The rows of one of several processes, on its device."""
        rows = slice(rank, None, num_parts)
        parts = {name: x[rows].to(device) for name, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, readout=self.readout.map(lambda part: part[rows].to(device)), **parts)


def draw_batch(cache: TokenCache, config: BatchConfig, generator: Generator) -> Batch:
    """Random segments, every step but the first with holes of one use of the world."""
    segments = cache.segments(config.num_segments, config.num_steps, config.num_earlier, generator)
    shape = (config.num_segments, config.num_steps - 1)
    holes = masks.mixture(cache.layout, shape, generator, masks.weights_of(config.uses))
    past = corrupt_context(segments.tokens, cache.layout, config, generator)
    readout, earlier = read_memory(segments, holes, 1, cache.layout, config, generator)
    past = resample_slots(past, cache, config, generator)
    dreamt = choose_dreamt(holes, cache.layout, config, generator)
    return Batch(past, segments.tokens[:, 1:], holes, first=1, readout=readout, earlier=earlier, dreamt=dreamt)


def draw_prompted_batch(cache: TokenCache, config: BatchConfig, generator: Generator) -> Batch:
    """Segments whose actions are to be found, given what is seen 1…RETURN_STEPS / 2 steps after one of them, or the
    return to be had from the first on. What comes after a goal was seen does not lead there, and is not learned."""
    layout, num = cache.layout, config.num_prompted
    segments, goals, when = cache.toward(num, config.num_steps, config.num_earlier, RETURN_STEPS // 2, generator)
    wants_return = torch.rand(num, 1, generator=generator) < 0.5
    prompt = goals.clone()
    prompt[:, layout.role_span("reward")] = segments.returns[:, :1]
    hidden = torch.where(wants_return, masks.return_prompt(layout), masks.goal_prompt(layout))
    prompt = torch.where(hidden, layout.absent_tokens, prompt)
    leads = wants_return | (torch.arange(1, config.num_steps) <= when[:, None])
    holes = leads[..., None] & masks.behaviour_cloning(layout)
    past = corrupt_context(segments.tokens, layout, config, generator)
    readout, earlier = read_memory(segments, holes, 1, layout, config, generator)
    return Batch(past, segments.tokens[:, 1:], holes, 1, prompt, readout, earlier)


def read_memory(
    segments: Segments, hole_mask: Tensor, first: int, layout: Layout, config: BatchConfig, generator: Generator
) -> tuple[MemoryReadout, Tensor]:
    """The memory's readout (B, T - first, ...) for steps with holes (B, T - first, N), with the action where it is
    known, and the earlier steps (B, S, N). Both are dropped in some segments, so that the world can be run without its
    memory."""
    readout = segments.readout.map(lambda part: part[:, first:]).select_known_action(hole_mask, layout)
    dropped = torch.rand(len(hole_mask), 1, 1, generator=generator) < config.memory_dropout
    absent = layout.absent_tokens
    predicted = {
        name: torch.where(dropped, absent[layout.span(name)], tokens)
        for name, tokens in readout.predicted_tokens.items()
    }
    steps = None if readout.steps is None else torch.where(dropped[..., None], absent, readout.steps)
    features = None if readout.features is None else readout.features.masked_fill(dropped, 0)
    return MemoryReadout(predicted, steps, features=features), torch.where(dropped, absent, segments.earlier)


def _knows_action(holes: Tensor, layout: Layout) -> Tensor:
    """(B, T) for holes (B, T, N)"""
    return ~holes[..., layout.role_span("action")].any(-1)


def choose_dreamt(holes: Tensor, layout: Layout, config: BatchConfig, generator: Generator) -> Tensor | None:
    """Which steps of the past the model is to dream, by the seeds of their dice (B, T), for steps with holes (B, T, N):
    in some segments any share of those whose action is known, for the memory tells where it leads."""
    if not config.self_forcing_prob:
        return None
    batch_size, num_steps = holes.shape[:2]
    chosen = torch.rand(batch_size, 1, generator=generator) < config.self_forcing_prob
    share = torch.rand(batch_size, 1, generator=generator) * chosen
    dreamt = torch.rand(batch_size, num_steps, generator=generator) < share
    seeds = torch.randint(1, 2**62, (batch_size, num_steps), generator=generator)
    return seeds * (dreamt & _knows_action(holes, layout))


def resample_slots(past: Tensor, cache: TokenCache, config: BatchConfig, generator: Generator) -> Tensor:
    """The past (B, T, N) in which single tokens that the memory predicts are, in some segments, those of another
    segment's step. So the model learns to trust the memory there: a slot that changes rarely would otherwise be copied
    from the past, and stay wrong once a dream has got it wrong."""
    layout = cache.layout
    resampled = torch.rand(len(past), 1, 1, generator=generator) < config.slot_resample_prob
    others = past[torch.randperm(len(past), generator=generator), 0][:, None]
    result = past.clone()
    for slot in layout.slots:
        if slot.name in cache.predicted and slot.num_tokens == 1:
            span = layout.span(slot.name)
            result[..., span] = torch.where(resampled, others[..., span], past[..., span])
    return result


def corrupt_context(tokens: Tensor, layout: Layout, config: BatchConfig, generator: Generator) -> Tensor:
    """Replace some observation tokens (B, T, N) by what stands at the same place in another step of the batch, and
    leave out the rewards and endings of some segments, as recordings without them do."""
    batch_size, _, num_tokens = tokens.shape
    spoiled = torch.rand(batch_size, 1, 1, generator=generator) < config.corrupt_prob
    rate = torch.rand(batch_size, 1, 1, generator=generator) * config.max_corrupt_rate * spoiled
    flat = tokens.reshape(-1, num_tokens)
    others = flat[torch.randperm(len(flat), generator=generator)].reshape_as(tokens)
    seen = masks.forward_dynamics(layout) & ~masks.judge(layout)
    replace = seen & (torch.rand(tokens.shape, generator=generator) < rate)
    result = torch.where(replace, others, tokens)
    silent = torch.rand(batch_size, generator=generator) < 0.1
    for slot in layout.of_role("reward", "terminated"):
        result[silent, :, layout.span(slot.name)] = slot.absent
    return result
