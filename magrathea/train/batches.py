"""The batches of an update: segments with holes, an augmented context, and prompts."""

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
from magrathea.model.transformer import MaskedTransformer
from magrathea.settings import Range, Share, check
from magrathea.train.cache import RETURN_STEPS, Segments, TokenCache

FILLED_POSITIONS = 600  # of an update
OWN_DREAM_PROB = 0.25
SHORT_CONTEXT_PROB = 0.5
UNREWARDED_PROB = 0.1  # probability that a segment's context has no rewards and endings


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """The segments of an update, and how their context is augmented.

    Attributes:
        num_segments: segments of an update, over all processes, of each of its worlds; if not given, so many that about
            600 positions of the transformer are filled, of all worlds together.
        num_steps: T, steps of a segment; if not given, one more than its context, or 12 where the model attends to the
            window.
        num_context: of them, steps at the beginning that are only shown; if not given, as many as are shown to the step
            that is filled, or 1 where the model attends to the window.
        num_prompted: further segments, whose actions are predicted given a goal or a return; if not given, 1 where the
            model attends to the window, or else none.
        num_alone: further steps, shown without any past, with holes as of `masks.whole_parts`, so that a text is
            written to a picture or a picture to a text where an episode begins; the use `whole_parts` of `uses` is the
            same with a past. If not given, a quarter as many as the segments have steps with holes where texts are
            observed beside something else, or else none.
        corrupt_prob: probability that a segment's context is corrupted, so that a dream can recover from its mistakes.
        max_corrupt_rate: highest fraction of a corrupted context's observation tokens that are replaced.
        self_forcing_prob: probability that some steps of a segment's context are sampled by the model itself.
        self_forcing_rounds: number of such samples, each conditioned on the one before.
        own_dream_prob: probability that the last steps of an update's context are a dream of the model's own, one step
            after the other; if not given, 0.25 where the model has slots with values, or else 0.
        own_dream_from: fraction of the training from which that happens.
        own_dream_steps: most steps of such a dream.
        short_context_prob: probability that a segment's context is its last step alone, repeated, as an episode begins;
            if not given, 0.5 where observations have neither pictures nor texts, or else 0: what moves in pictures only
            the steps before show.
        slot_resample_prob: probability that a segment's context gets another segment's tokens in the slots that consist
            of one token and that the memory predicts.
        memory_dropout: probability that a segment gets no readout of the memory.
        num_earlier: steps before a segment that a recurrent memory is trained through.
        uses: weights of the uses of a world among the holes, where they differ from `masks.MIXTURE`, or where the model
            has slots with values from `masks.DREAM_MIXTURE`.
    """

    num_segments: Annotated[int, Range(0, 10**6)] | None = None
    num_steps: Annotated[int, Range(2, 10**6)] | None = None
    num_context: Annotated[int, Range(1, 10**6)] | None = None
    num_prompted: Annotated[int, Range(0, 10**6)] | None = None
    num_alone: Annotated[int, Range(0, 10**6)] | None = None
    corrupt_prob: Share = 0.5
    max_corrupt_rate: Share = 0.08
    self_forcing_prob: Share = 0.0
    self_forcing_rounds: Annotated[int, Range(1, 1000)] = 1
    own_dream_prob: Share | None = None
    own_dream_from: Share = 0.6
    own_dream_steps: Annotated[int, Range(1, 100)] = 3
    short_context_prob: Share | None = None
    slot_resample_prob: Share = 0.2
    memory_dropout: Share = 0.1
    num_earlier: Annotated[int, Range(0, 10**6)] = 36
    uses: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self)
        masks.weights_of(self.uses)  # refuses what is no use
        if self.num_segments == self.num_prompted == 0:
            raise MagratheaError("num_segments and num_prompted are both 0; give 1 or more of one of them.")
        if self.num_context and self.num_steps and self.num_context >= self.num_steps:
            raise MagratheaError(f"num_context is {self.num_context}; give less than num_steps, {self.num_steps}.")

    def fit_to(self, model: MaskedTransformer, num_worlds: int = 1) -> SizedBatch:
        """With the numbers that were not given, of one of the worlds whose segments share an update."""
        num_recent = model.config.num_recent
        context = self.num_context or max(1, num_recent)
        steps = self.num_steps or (context + 1 if num_recent else 12)
        if context >= steps:
            raise MagratheaError(f"num_steps is {steps}; give more than the {context} steps of context.")
        sizes = {"num_segments": self.num_segments, "num_steps": steps, "num_context": context}
        if self.own_dream_prob is None:
            sizes["own_dream_prob"] = OWN_DREAM_PROB if model.layout.values_slots else 0.0
        if self.short_context_prob is None:
            sizes["short_context_prob"] = SHORT_CONTEXT_PROB if model.layout.is_one_row and num_recent else 0.0
        if model.layout.values_slots:
            sizes["uses"] = masks.DREAM_MIXTURE | dict(self.uses)
        if self.num_prompted is None:
            sizes["num_prompted"] = 0 if num_recent else 1
        if self.num_segments is None:
            share = round(FILLED_POSITIONS / (num_worlds * model.layout.num_positions * (steps - context)))
            sizes["num_segments"] = max(-(-4 // num_worlds), min(128, share))
        if self.num_alone is None:
            num_filled = sizes["num_segments"] * (steps - context)
            sizes["num_alone"] = num_filled // 4 if model.layout.texts_beside_others else 0
        if model.recurrence is None:
            sizes["num_earlier"] = 0
        return SizedBatch(**vars(self) | sizes)


@dataclass(frozen=True, kw_only=True)
class SizedBatch(BatchConfig):
    """A batch all of whose sizes are known."""

    num_segments: int = 16
    num_steps: int = 12
    num_context: int = 1
    num_prompted: int = 1
    num_alone: int = 0
    own_dream_prob: float = 0.0
    short_context_prob: float = 0.0


@dataclass(frozen=True)
class Batch:
    """Segments of B episodes, with holes in every step from `first` on.

    Attributes:
        past_tokens: (B, T, N) the context that the model is shown.
        tokens: (B, T - first, N) the recorded steps, which are the targets at the holes.
        hole_mask: (B, T - first, N).
        first: number of steps at the beginning that are only context.
        prompt: (B, N) a step with absent tokens, or None.
        readout: (B, T - first, ...) of the memory.
        earlier: (B, E, N) the steps before the segment, for a recurrent memory.
        sample_seeds: (B, T - first) seeds of the steps whose context the model samples itself; 0 for all others.
        dream_seeds: (B, K) seeds of the last K steps before `first`, which the model dreams itself.
    """

    past_tokens: Tensor
    tokens: Tensor
    hole_mask: Tensor
    first: int
    prompt: Tensor | None = None
    readout: MemoryReadout = MemoryReadout()  # noqa: RUF009 (it never changes)
    earlier: Tensor | None = None
    sample_seeds: Tensor | None = None
    dream_seeds: Tensor | None = None

    def shard(self, rank: int, num_processes: int, device: torch.device) -> Batch:
        """The segments of one of several processes, on its device."""
        own = slice(rank, None, num_processes)
        parts = {name: x[own].to(device) for name, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, readout=self.readout.map(lambda part: part[own].to(device)), **parts)


def draw_batch(cache: TokenCache, config: SizedBatch, generator: Generator) -> Batch:
    """Random segments; every step but the first has the holes of one use of the world."""
    layout = cache.layout
    first = config.num_context
    shape = (config.num_segments, config.num_steps - first)
    hole_mask = masks.mixture(layout, shape, generator, masks.weights_of(config.uses))
    knows_actions = ~hole_mask[..., layout.role_span("action")].flatten(1).any(-1)
    by_effect = knows_actions if layout.values_slots else None
    segments = cache.segments(config.num_segments, config.num_steps, config.num_earlier, generator, by_effect, first)
    context = corrupt_context(shorten_context(segments.tokens, config, generator), layout, config, generator)
    readout, earlier = read_memory(segments, hole_mask, first, layout, config, generator)
    context = resample_slots(context, cache, config, generator)
    seeds = draw_sample_seeds(hole_mask, layout, config, generator)
    return Batch(context, segments.tokens[:, first:], hole_mask, first, None, readout, earlier, seeds)


def draw_dream_batch(cache: TokenCache, config: SizedBatch, generator: Generator) -> Batch:
    """Segments whose last step is predicted from a context that ends in a dream of the model's own."""
    layout, num = cache.layout, config.num_segments
    num_dreamt = int(torch.randint(1, config.own_dream_steps + 1, (), generator=generator))
    first = config.num_context + num_dreamt
    by_effect = torch.ones(num, dtype=torch.bool)
    segments = cache.segments(num, first + 1, config.num_earlier, generator, by_effect, config.num_context)
    hole_mask = masks.forward_dynamics(layout).expand(num, 1, -1)
    readout, earlier = read_memory(segments, hole_mask, first, layout, config, generator)
    seeds = torch.randint(1, 2**62, (num, num_dreamt), generator=generator)
    targets = segments.tokens[:, first:]
    return Batch(segments.tokens, targets, hole_mask, first, None, readout, earlier, dream_seeds=seeds)


def draw_alone_batch(cache: TokenCache, config: SizedBatch, generator: Generator) -> Batch:
    """Single steps without a past, an action, a reward and an ending, of whose observations whole parts are unknown."""
    layout, num = cache.layout, config.num_alone
    tokens = cache.segments(num, 2, 0, generator).tokens[:, :1]
    tokens = torch.where(layout.mask_of("observation"), tokens, layout.absent_tokens)
    return Batch(tokens, tokens, masks.whole_parts_in_progress(layout, (num, 1), generator), first=0)


def draw_prompted_batch(cache: TokenCache, config: SizedBatch, generator: Generator) -> Batch:
    """Segments whose actions are predicted given a prompt: a goal, which is the observation of a later step within
    RETURN_STEPS / 2 of the segment's end, or the return from the first step on. Actions after a goal was reached are no
    targets."""
    layout, num = cache.layout, config.num_prompted
    segments, goals, goal_index = cache.segments_with_goals(
        num, config.num_steps, config.num_earlier, RETURN_STEPS // 2, generator
    )
    has_return = torch.rand(num, 1, generator=generator) < 0.5
    prompt = goals.clone()
    prompt[:, layout.role_span("reward")] = segments.returns[:, :1]
    hidden = torch.where(has_return, masks.return_prompt(layout), masks.goal_prompt(layout))
    prompt = torch.where(hidden, layout.absent_tokens, prompt)
    is_target = has_return | (torch.arange(1, config.num_steps) <= goal_index[:, None])
    hole_mask = is_target[..., None] & masks.behaviour_cloning(layout)
    context = corrupt_context(segments.tokens, layout, config, generator)
    readout, earlier = read_memory(segments, hole_mask, 1, layout, config, generator)
    return Batch(context, segments.tokens[:, 1:], hole_mask, 1, prompt, readout, earlier)


def read_memory(
    segments: Segments, hole_mask: Tensor, first: int, layout: Layout, config: SizedBatch, generator: Generator
) -> tuple[MemoryReadout, Tensor]:
    """The memory's readout (B, T - first, ...) for steps with holes (B, T - first, N), with the action where it is
    known, and the earlier steps (B, E, N). Both are absent in some segments, so that the world can be run without its
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


def draw_sample_seeds(hole_mask: Tensor, layout: Layout, config: SizedBatch, generator: Generator) -> Tensor | None:
    """Seeds (B, T) of the steps of the context that the model samples itself (0 for all others), for steps with holes
    (B, T, N): in some segments a random fraction of the steps whose action is known."""
    if not config.self_forcing_prob:
        return None
    batch_size, num_steps = hole_mask.shape[:2]
    chosen = torch.rand(batch_size, 1, generator=generator) < config.self_forcing_prob
    fraction = torch.rand(batch_size, 1, generator=generator) * chosen
    is_sampled = torch.rand(batch_size, num_steps, generator=generator) < fraction
    seeds = torch.randint(1, 2**62, (batch_size, num_steps), generator=generator)
    knows_action = ~hole_mask[..., layout.role_span("action")].any(-1)
    return seeds * (is_sampled & knows_action)


def resample_slots(context: Tensor, cache: TokenCache, config: SizedBatch, generator: Generator) -> Tensor:
    """The context (B, T, N) with the first step of another segment, in some segments, in the slots that consist of one
    token and that the memory predicts.

    So the model learns to trust the memory there: a slot that changes rarely would otherwise be copied from the
    context, and stay wrong once a dream has got it wrong.
    """
    layout = cache.layout
    if not cache.predicted:
        return context
    resampled = torch.rand(len(context), 1, 1, generator=generator) < config.slot_resample_prob
    others = context[torch.randperm(len(context), generator=generator), 0][:, None]
    result = context.clone()
    for slot in layout.slots:
        if slot.name in cache.predicted and slot.num_tokens == 1:
            span = layout.span(slot.name)
            result[..., span] = torch.where(resampled, others[..., span], context[..., span])
    return result


def shorten_context(tokens: Tensor, config: SizedBatch, generator: Generator) -> Tensor:
    """Segments (B, T, N) with the last step of the context in place of those before it, in some segments.

    Where recorded actions are held, what moved before tells nearly as much as the action, and a model that reads it
    there does not obey. Nothing moved in such a context.
    """
    if config.num_context == 1:
        return tokens
    is_short = torch.rand(len(tokens), 1, 1, generator=generator) < config.short_context_prob
    last, result = config.num_context - 1, tokens.clone()
    result[:, :last] = torch.where(is_short, tokens[:, last : config.num_context], tokens[:, :last])
    return result


def corrupt_context(tokens: Tensor, layout: Layout, config: SizedBatch, generator: Generator) -> Tensor:
    """The context (B, T, N) with two corruptions, each of some segments: a fraction of the observation tokens is
    replaced by those at the same index in other steps of the batch; and rewards and endings are absent, as they are in
    recordings without them."""
    batch_size, result = len(tokens), tokens.clone()
    corrupted = torch.rand(batch_size, 1, 1, generator=generator) < config.corrupt_prob
    rate = torch.rand(batch_size, 1, 1, generator=generator) * config.max_corrupt_rate * corrupted
    is_observed = (masks.forward_dynamics(layout) & ~masks.judge(layout)).nonzero().squeeze(-1)
    seen = tokens[..., is_observed]
    flat = seen.flatten(0, 1)
    others = flat[torch.randperm(len(flat), generator=generator)].view_as(seen)
    result[..., is_observed] = torch.where(torch.rand(seen.shape, generator=generator) < rate, others, seen)
    unrewarded = torch.rand(batch_size, generator=generator) < UNREWARDED_PROB
    for slot in layout.of_role("reward", "terminated"):
        result[unrewarded, :, layout.span(slot.name)] = slot.absent
    return result
