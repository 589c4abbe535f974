"""The one sampler: fill the holes of a step in a few parallel passes.

Each pass predicts every hole, draws a token for each, and keeps those that the order of filling allows; the rest stay
holes for the next pass. Known tokens are never changed. The orders differ only in what a pass keeps:

* ``adaptive``: every token whose confidence reaches the threshold, and at least an even share of what is left.
* ``one_shot``: everything.
* ``maskgit``: the most confident, after a cosine schedule, with Gumbel noise (Chang et al. 2022).
* ``autoregressive``: the next token in the layout's order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Generator, Tensor

from magrathea.layout import Layout
from magrathea.settings import Range, Share, check

Order = Literal["adaptive", "one_shot", "maskgit", "autoregressive"]
ORDERS: tuple[Order, ...] = ("adaptive", "one_shot", "maskgit", "autoregressive")

# tokens (R, N), hole_mask (R, N), rows (R,) of the batch, or None for all
# -> logits for each slot (R, its tokens, its vocabulary)
Predict = Callable[[Tensor, Tensor, Tensor | None], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class FillSettings:
    """How holes are filled.

    Attributes:
        order: what each pass keeps.
        max_passes: most passes of ``adaptive``, and the number of passes of ``maskgit``.
        threshold: confidence, in 0…1, from which ``adaptive`` keeps a token at once.
        temperature: of the distribution that tokens are drawn from; 0 takes the likeliest.
        min_probability: tokens less likely than this share of the likeliest are never drawn.
    """

    order: Order = "adaptive"
    max_passes: Annotated[int, Range(1, 10_000)] = 2
    threshold: Share = 0.5
    temperature: Annotated[float, Range(0, 1000)] = 1.0
    min_probability: Share = 0.05

    def __post_init__(self) -> None:
        check(self)

    def to_config(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class FillResult:
    """Steps without holes: tokens (B, N); confidence (B, N), the probability of the likeliest token when it was
    filled, 1 where it was known; num_passes (B,)."""

    tokens: Tensor
    confidence: Tensor
    num_passes: Tensor


def fill(
    predict: Predict,
    tokens: Tensor,
    hole_mask: Tensor,
    layout: Layout,
    settings: FillSettings,
    generators: Sequence[Generator],
) -> FillResult:
    """Fill the holes of a batch of steps.

    Args:
        predict: the model, given the past.
        tokens: (B, N) steps; what stands in a hole does not matter.
        hole_mask: (B, N) True = hole.
        generators: one for each row, so that a world's dice do not depend on its neighbours.
    """
    tokens, holes = tokens.clone(), hole_mask.clone()
    confidence = torch.ones(tokens.shape, dtype=torch.float32, device=tokens.device)
    num_passes = torch.zeros(tokens.shape[0], dtype=torch.long, device=tokens.device)
    num_holes = holes.sum(-1)
    for index in range(max(1, int(num_holes.max()))):
        active = holes.any(-1)
        if not active.any():
            break
        rows = None if bool(active.all()) else active.nonzero().squeeze(-1)
        now, open_holes = (tokens, holes) if rows is None else (tokens[rows], holes[rows])
        dice = _dice(generators, rows, tokens.shape[1], tokens.device)
        drawn, sure = _draw(predict(now, open_holes, rows), now, open_holes, layout, settings, dice)
        total = num_holes if rows is None else num_holes[rows]
        keep = _keep(sure, open_holes, total, index, settings, dice)
        kept, left = torch.where(keep, drawn, now), open_holes & ~keep
        felt = torch.where(keep, sure, confidence if rows is None else confidence[rows])
        where = slice(None) if rows is None else rows
        tokens[where], holes[where], confidence[where] = kept, left, felt
        num_passes[where] += 1
    return FillResult(tokens, confidence, num_passes)


def _dice(generators: Sequence[Generator], rows: Tensor | None, num_tokens: int, device: torch.device) -> Tensor:
    """(2, R, N) uniform numbers: one to draw each token, one for the noise of its order."""
    chosen = generators if rows is None else [generators[row] for row in rows.tolist()]
    return torch.stack([torch.rand(2, num_tokens, generator=generator) for generator in chosen], dim=1).to(device)


def _draw(
    logits: dict[str, Tensor], tokens: Tensor, holes: Tensor, layout: Layout, settings: FillSettings, dice: Tensor
) -> tuple[Tensor, Tensor]:
    """A token for each hole, and the model's confidence there: (R, N) and (R, N)."""
    drawn, sure = tokens.clone(), torch.ones_like(dice[0])
    for slot in layout.slots:
        span = layout.span(slot.name)
        open_holes = holes[:, span]
        if not open_holes.any():
            continue
        chances = logits[slot.name].float().softmax(-1)
        best, likeliest = chances.max(-1)
        picks = _pick(chances, best, likeliest, open_holes, dice[0][:, span], settings)
        drawn[:, span] = torch.where(open_holes, picks, tokens[:, span])
        sure[:, span] = torch.where(open_holes, best, 1.0)
    return drawn, sure


def _pick(
    chances: Tensor, best: Tensor, likeliest: Tensor, holes: Tensor, dice: Tensor, settings: FillSettings
) -> Tensor:
    """Draw at the holes (R, N) from chances (R, N, V) by inverting their distribution function at dice (R, N) in
    0…1; the likeliest elsewhere."""
    if settings.temperature == 0:
        return likeliest
    unsure = holes & (best < 1 / (1 + settings.min_probability))  # elsewhere no other token may be drawn
    open_chances, most = chances[unsure], best[unsure].unsqueeze(-1)
    weights = torch.where(open_chances >= settings.min_probability * most, open_chances, 0)
    if settings.temperature != 1:
        weights = (weights / most) ** (1 / settings.temperature)
    sums = weights.cumsum(-1)
    total = sums[:, -1:].contiguous()
    picks = torch.searchsorted(sums, dice[unsure].unsqueeze(-1) * total, right=True)
    last = torch.searchsorted(sums, total)  # rounding must not draw a banned token
    return likeliest.masked_scatter(unsure, torch.minimum(picks, last))


def _keep(sure: Tensor, holes: Tensor, total: Tensor, index: int, settings: FillSettings, dice: Tensor) -> Tensor:
    """Which of the holes this pass closes: (R, N). Each pass closes at least one of each row that has holes."""
    if settings.order == "one_shot":
        return holes
    if settings.order == "autoregressive":
        return holes & (holes.cumsum(-1) == 1)
    left = holes.sum(-1)
    if settings.order == "maskgit":
        remaining = torch.floor(total * math.cos(math.pi / 2 * (index + 1) / settings.max_passes) + 1e-6)
        quota = (left - remaining).clamp(min=1)
        noise = -torch.log(-torch.log(dice[1].clamp(1e-9, 1 - 1e-7)))
        rank_by = sure.clamp(min=1e-9).log() + noise * (1 - (index + 1) / settings.max_passes)
        return holes & (_ranks(rank_by, holes) < quota[:, None])
    passes_left = settings.max_passes - index
    if passes_left <= 1:
        return holes
    quota = torch.ceil(left / passes_left)
    return holes & ((sure >= settings.threshold) | (_ranks(sure, holes) < quota[:, None]))


def _ranks(values: Tensor, holes: Tensor) -> Tensor:
    """(R, N) place of each hole among the holes of its row, 0 for the greatest value."""
    return values.masked_fill(~holes, -math.inf).argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
