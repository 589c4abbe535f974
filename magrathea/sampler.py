"""The one sampler: fill the holes of a step in a few parallel passes.

Each pass predicts every hole, draws a token for each, and keeps those that the order of filling allows; the rest stay
holes for the next pass. Known tokens are never changed. The orders differ only in what a pass keeps:

* ``adaptive``: every token whose confidence reaches the threshold, and at least an even share of what is left.
* ``uncertain_first``: every token whose confidence reaches the threshold, and of the others those that are the least
  certain of their neighbourhood in the grid; the last of its passes everything. What happens there then decides what
  the neighbours are: a creature that left a cell is in one of those around it.
* ``one_shot``: everything.
* ``maskgit``: the most confident, after a cosine schedule, with Gumbel noise (Chang et al. 2022).
* ``left_to_right``: the next tokens in the layout's order, an even share of what is left.
* ``autoregressive``: the next token in the layout's order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from magrathea.draws import draw, draw_balanced
from magrathea.layout import END, Layout, Role, Slot
from magrathea.settings import Range, Share, check
from magrathea.support import Support

Order = Literal["adaptive", "uncertain_first", "one_shot", "maskgit", "left_to_right", "autoregressive"]
ORDERS: tuple[Order, ...] = get_args(Order)
REACH = 2  # of a neighbourhood of ``uncertain_first``, in cells on each side

# tokens (I, N), hole_mask (I, N), indices (I,) of the batch, or None for all
# -> logits for each slot (I, its tokens, its vocabulary)
Predict = Callable[[Tensor, Tensor, Tensor | None], dict[str, Tensor]]


_SMOOTHING = torch.exp(-((torch.arange(-6, 7) / 2) ** 2) / 2)  # of the noise of neighbours, in tokens: sigma is 2
_SMOOTHING /= _SMOOTHING.norm()  # the variance stays 1


Purpose = Literal["step", "action", "start", "episode"]

EVENTS: tuple[Role, ...] = ("reward", "terminated")


@dataclass(frozen=True, kw_only=True)
class FillSettings:
    """How holes are filled.

    Attributes:
        order: what each pass keeps.
        max_passes: most passes of ``adaptive`` and ``uncertain_first``, and the number of passes of ``maskgit`` and
            ``left_to_right``.
        threshold: confidence, in 0…1, from which these two keep a token at once.
        temperature: of the distribution that tokens are drawn from; 0 takes the likeliest.
        min_probability: tokens less likely than this share of the likeliest are never drawn. Where a slot has a token
            for nothing, such as silence, it is drawn whether that is so, and what there is otherwise is the likeliest
            of its other tokens: a sound is one of many codes, each much rarer than silence.
        values_min_probability: the same for tokens that have values, those of observed pictures and numbers, many of
            which make one thing; as `min_probability`, if None.
        event_min_probability: the same for rewards and endings, which are rare and concern no other token; as
            `min_probability`, if None.
        event_threshold: if given, rewards and endings whose confidence is lower are filled after all else, given it,
            and the endings before the rewards: which of two places is reached decides what it brings.
        shared_noise: if given, the random numbers of a picture's tokens are alike, in the whole picture (this share of
            their variance) and among neighbours (the rest): each token has the same distribution as before, but they
            decide together, say whether it gets dark.
        balance_reach: if given, the tokens of a picture are drawn so that within so many cells there are as many of
            each as their probabilities say: what leaves a cell arrives in one beside it. For pictures of tiles; where
            tokens are motions, neighbours do the same thing, and should not make up for each other.
    """

    order: Order = "adaptive"
    max_passes: Annotated[int, Range(1, 10_000)] = 2
    threshold: Share = 0.5
    temperature: Annotated[float, Range(0, 1000)] = 1.0
    min_probability: Share = 0.05
    event_min_probability: Share | None = None
    event_threshold: Share | None = None
    shared_noise: Share | None = None
    values_min_probability: Share | None = None
    balance_reach: Annotated[int, Range(1, 16)] | None = None

    def __post_init__(self) -> None:
        check(self)

    def min_probability_of(self, slot: Slot, layout: Layout) -> float:
        """The floor that holds for a slot."""
        own = None
        if slot.role in EVENTS:
            own = self.event_min_probability
        elif slot.name in layout.values_slots:
            own = self.values_min_probability
        return self.min_probability if own is None else own

    def to_config(self) -> dict[str, Any]:
        """All fields, but those that earlier versions do not have only where they are given: a world's fingerprint must
        not change."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class FillResult:
    """Steps without holes.

    Attributes:
        tokens: (B, N) int64.
        confidence: (B, N) the probability of the likeliest token when a hole was filled; 1 where it was known.
        num_passes: (B,) passes of the model.
        reward_probabilities: (B, V) of which the reward was drawn; None where no reward was a hole.
    """

    tokens: Tensor
    confidence: Tensor
    num_passes: Tensor
    reward_probabilities: Tensor | None = None


def fill(
    predict: Predict,
    tokens: Int[Tensor, "B N"],
    hole_mask: Bool[Tensor, "B N"],
    layout: Layout,
    settings: FillSettings,
    generators: Sequence[Generator],
    support: Support | None = None,
) -> FillResult:
    """Fill the holes of a batch of steps.

    Args:
        predict: the model, given the past.
        tokens: steps; what stands in a hole does not matter.
        hole_mask: True = hole.
        layout: of the N tokens.
        settings: order of filling, temperature and the like.
        generators: (B,) so that the random numbers of one step do not depend on the others of the batch.
        support: the tokens that may be drawn; all, if not given.
    """
    tokens, holes = tokens.clone(), hole_mask.clone()
    confidence = torch.ones(tokens.shape, dtype=torch.float32, device=tokens.device)
    num_passes = torch.zeros(tokens.shape[0], dtype=torch.long, device=tokens.device)
    num_holes = holes.sum(-1)
    rewards = {
        slot.name: torch.zeros(len(tokens), slot.vocab_size, device=tokens.device)
        for slot in layout.of_role("reward")
        if holes[:, layout.span(slot.name)].all()
    }
    for index in range(max(1, int(num_holes.max()))):
        active = holes.any(-1)
        if not active.any():
            break
        chosen = None if bool(active.all()) else active.nonzero().squeeze(-1)
        here = slice(None) if chosen is None else chosen
        now, open_holes = tokens[here], holes[here]
        own = generators if chosen is None else [generators[each] for each in chosen.tolist()]
        uniforms = torch.stack([_uniforms(generator, layout, settings) for generator in own], dim=1).to(tokens.device)
        logits = predict(now, open_holes, chosen)
        drawn, certainty = _draw(logits, now, open_holes, layout, settings, uniforms[0], support or {})
        for name in rewards.keys() & logits.keys():
            is_open, given = open_holes[:, layout.span(name)], logits[name][:, 0].float().softmax(-1)
            rewards[name][here] = torch.where(is_open, given, rewards[name][here])
        ready, sure = _without_events(certainty, open_holes, layout, settings)
        keep = sure | _select(certainty, ready, num_holes[here], index, layout, settings, uniforms[1])
        tokens[here], holes[here] = _without_ends(torch.where(keep, drawn, now), open_holes & ~keep, layout)
        confidence[here] = torch.where(keep, certainty, confidence[here])
        num_passes[here] += 1
    return FillResult(tokens, confidence, num_passes, next(iter(rewards.values()), None))


def _uniforms(generator: Generator, layout: Layout, settings: FillSettings) -> Float[Tensor, "2 N"]:
    """Uniform numbers in 0…1 for a step: one to draw each token, one for the noise of its order."""
    uniforms = torch.rand(2, layout.num_tokens, generator=generator)
    if settings.shared_noise is not None:
        for slot in layout.token_slots:
            if _is_picture(slot):
                uniforms[0, layout.span(slot.name)] = _alike(slot.grid, settings.shared_noise, generator)
    return uniforms


def _is_picture(slot: Slot) -> bool:
    return slot.role == "observation" and slot.is_grid and not slot.is_sequence


def _alike(grid: tuple[int, int], share: float, generator: Generator) -> Float[Tensor, " C"]:
    """Uniform numbers in 0…1 for the tokens of a grid whose normal scores have this share of their variance in common,
    and the rest with their neighbours (a Gaussian copula)."""
    reach = len(_SMOOTHING) - 1
    common = torch.randn((), generator=generator)
    noise = torch.randn(1, 1, grid[0] + reach, grid[1] + reach, generator=generator)
    smooth = F.conv2d(F.conv2d(noise, _SMOOTHING[:, None].expand(1, 1, -1, 1)), _SMOOTHING.expand(1, 1, 1, -1))
    return torch.special.ndtr(share**0.5 * common + (1 - share) ** 0.5 * smooth).flatten()


def _supported(
    logits: Float[Tensor, "I C V"],
    slot: Slot,
    tokens: Int[Tensor, "I N"],
    holes: Bool[Tensor, "I N"],
    layout: Layout,
    support: Support,
) -> Float[Tensor, "I C V"]:
    """Logits in which a slot's tokens have no probability where they may not be drawn: those of an observation given
    whether the step ends, if that is known, and an ending given the observation that is known or drawn."""
    if slot.name in support:
        allowed, ending = support[slot.name], layout.role_span("terminated").start
        ends, is_open = tokens[:, ending] == 1, holes[:, ending]
        may_have = allowed[ends.long()] | (allowed.any(0) & is_open[:, None, None])
        return logits.masked_fill(~may_have, -math.inf)
    if slot.role == "terminated" and support:
        told = _told_endings(tokens, layout, support)
        return logits.masked_fill((told.flip(1) & ~told)[:, None], -math.inf)
    return logits


def _told_endings(tokens: Int[Tensor, "I N"], layout: Layout, support: Support) -> Bool[Tensor, "I 2"]:
    """Whether there are places that tell that a step does not end, and places that tell that it does."""
    told = torch.zeros(2, len(tokens), dtype=torch.bool, device=tokens.device)
    for name, allowed in support.items():
        telling = F.pad(allowed & ~allowed.flip(0), (0, 1))  # absent tokens tell nothing
        places = torch.arange(allowed.shape[1], device=tokens.device)
        told |= telling[:, places, tokens[:, layout.span(name)]].any(-1)
    return told.T


def _draw(
    logits: dict[str, Tensor],
    tokens: Int[Tensor, "I N"],
    holes: Bool[Tensor, "I N"],
    layout: Layout,
    settings: FillSettings,
    uniforms: Float[Tensor, "I N"],
    support: Support,
) -> tuple[Int[Tensor, "I N"], Float[Tensor, "I N"]]:
    """A token for each hole, and the probability of the likeliest one there."""
    drawn, certainty = tokens.clone(), torch.ones_like(uniforms)
    for slot in layout.token_slots:
        span = layout.span(slot.name)
        open_holes = holes[:, span]
        if not open_holes.any():
            continue
        allowed = _supported(logits[slot.name], slot, drawn, holes, layout, support)
        probabilities, floor = allowed.float().softmax(-1), settings.min_probability_of(slot, layout)
        if slot.nothing is not None:
            probabilities = _something_or_nothing(probabilities, slot.nothing)
        highest, likeliest = probabilities.max(-1)
        numbers = uniforms[:, span]
        if settings.balance_reach is None or settings.temperature == 0 or not _is_picture(slot):
            picks = _pick(probabilities, highest, likeliest, open_holes, numbers, settings.temperature, floor)
        else:
            weights = _weights(probabilities, highest[..., None], settings.temperature, floor)
            picks = draw_balanced(weights, open_holes, numbers, slot.grid, settings.balance_reach)
        drawn[:, span] = torch.where(open_holes, picks, tokens[:, span])
        certainty[:, span] = torch.where(open_holes, highest, 1.0)
    return drawn, certainty


def _something_or_nothing(probabilities: Float[Tensor, "I C V"], nothing: int) -> Float[Tensor, "I C V"]:
    """The probability of nothing, and that of all else together at the likeliest of it; 0 elsewhere."""
    none = probabilities[..., nothing, None]
    others = probabilities.index_fill(-1, torch.tensor(nothing, device=none.device), -1)
    both = torch.zeros_like(probabilities).scatter(-1, others.argmax(-1, keepdim=True), (1 - none).clamp_min(0))
    return both.index_copy(-1, torch.tensor([nothing], device=none.device), none)


def _pick(
    probabilities: Float[Tensor, "I C V"],
    highest: Float[Tensor, "I C"],
    likeliest: Int[Tensor, "I C"],
    holes: Bool[Tensor, "I C"],
    uniforms: Float[Tensor, "I C"],
    temperature: float,
    floor: float,
) -> Int[Tensor, "I C"]:
    """Draw at the holes, from what is at least `floor` times as likely as the likeliest; the likeliest elsewhere."""
    if temperature == 0:
        return likeliest
    uncertain = holes & (highest < 1 / (1 + floor))  # elsewhere no other token may be drawn
    open_probabilities, most = probabilities[uncertain], highest[uncertain].unsqueeze(-1)
    weights = _weights(open_probabilities, most, temperature, floor)
    return likeliest.masked_scatter(uncertain, draw(weights, uniforms[uncertain]))


def _weights(
    probabilities: Float[Tensor, "*n V"], highest: Float[Tensor, "*n 1"], temperature: float, floor: float
) -> Float[Tensor, "*n V"]:
    """What tokens are drawn in proportion to: 0 where they are less than `floor` times as likely as the likeliest."""
    weights = torch.where(probabilities >= floor * highest, probabilities, 0)
    return weights if temperature == 1 else (weights / highest) ** (1 / temperature)


def _without_events(
    certainty: Float[Tensor, "I N"], holes: Bool[Tensor, "I N"], layout: Layout, settings: FillSettings
) -> tuple[Bool[Tensor, "I N"], Bool[Tensor, "I N"]]:
    """The holes among which the order chooses, and the rewards and endings that are certain. Those that are not wait:
    endings for all else, and rewards for the endings too, as a reward of the goal does not come without the end."""
    if settings.event_threshold is None:
        return holes, torch.zeros_like(holes)
    events, endings = (mask.to(holes.device) for mask in (layout.mask_of(*EVENTS), layout.mask_of("terminated")))
    certain = holes & events & (certainty >= settings.event_threshold)
    ready = holes
    for earlier in (holes & endings & ~certain, holes & ~events):
        ready = torch.where(earlier.any(-1, keepdim=True), earlier, ready)
    return ready, certain


def _without_ends(
    tokens: Int[Tensor, "I N"], holes: Bool[Tensor, "I N"], layout: Layout
) -> tuple[Int[Tensor, "I N"], Bool[Tensor, "I N"]]:
    """Tokens and holes in which what follows the end of a text is filled: with END, as nothing else does."""
    for slot in layout.token_slots:
        if slot.is_sequence:
            span = layout.span(slot.name)
            ended = ((tokens[:, span] == END) & ~holes[:, span]).cumsum(-1) > 0
            tokens[:, span] = tokens[:, span].masked_fill(ended & holes[:, span], END)
            holes[:, span] &= ~ended
    return tokens, holes


def _select(
    certainty: Float[Tensor, "I N"],
    holes: Bool[Tensor, "I N"],
    total: Int[Tensor, " I"],
    index: int,
    layout: Layout,
    settings: FillSettings,
    uniforms: Float[Tensor, "I N"],
) -> Bool[Tensor, "I N"]:
    """Which of the holes this pass fills for good; at least one of each step that has holes."""
    if settings.order == "one_shot":
        return holes
    if settings.order == "autoregressive":
        return holes & (holes.cumsum(-1) == 1)
    left = holes.sum(-1)
    if settings.order == "maskgit":
        remaining = torch.floor(total * math.cos(math.pi / 2 * (index + 1) / settings.max_passes) + 1e-6)
        quota = (left - remaining).clamp(min=1)
        noise = -torch.log(-torch.log(uniforms.clamp(1e-9, 1 - 1e-7)))
        score = certainty.clamp(min=1e-9).log() + noise * (1 - (index + 1) / settings.max_passes)
        return holes & (_ranks(score, holes) < quota[:, None])
    passes_left = settings.max_passes - index
    if passes_left <= 1:
        return holes
    if settings.order == "uncertain_first":
        return holes & ((certainty >= settings.threshold) | _least_certain(certainty, holes, layout))
    quota = torch.ceil(left / passes_left)
    if settings.order == "left_to_right":
        return holes & (holes.cumsum(-1) <= quota[:, None])
    if bool(((holes & (certainty >= settings.threshold)).sum(-1) >= quota).all()):
        return holes & (certainty >= settings.threshold)
    return holes & ((certainty >= settings.threshold) | (_ranks(certainty, holes) < quota[:, None]))


def _least_certain(certainty: Float[Tensor, "I N"], holes: Bool[Tensor, "I N"], layout: Layout) -> Bool[Tensor, "I N"]:
    """The holes that are the least certain of their neighbourhood."""
    doubt = (1 - certainty).masked_fill(~holes, -1.0)
    result = torch.zeros_like(holes)
    for slot in layout.token_slots:
        span = layout.span(slot.name)
        own = doubt[:, span].unflatten(1, slot.grid)
        most = F.max_pool2d(own[:, None], 2 * REACH + 1, stride=1, padding=REACH)[:, 0]
        result[:, span] = (own >= most).flatten(1)
    return result & holes


def _ranks(values: Float[Tensor, "I N"], holes: Bool[Tensor, "I N"]) -> Int[Tensor, "I N"]:
    """The rank of each hole among the holes of its step, 0 for the greatest value."""
    return values.masked_fill(~holes, -math.inf).argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)


# -- random numbers ---------------------------------------------------------------------------------------------------
def derive_seed(seed: int, purpose: Purpose, number: int = 0) -> int:
    """A seed for one purpose, in 0…2^63 - 1, as a function of a seed and a number, the same on every machine: so random
    number generators have no state to keep."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
