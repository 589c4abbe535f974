"""Self-forcing: the model learns from a past that it has dreamt itself, as it will have to in a long dream.

Scheduled sampling (Bengio et al. 2015, arXiv 1506.03099) for all steps of a segment at once: some steps of the past are
replaced by the model's own fills, and what is to be learned stays the truth. With more rounds the fills stand on fills,
as in Self Forcing (Huang et al. 2025, arXiv 2506.08009).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from magrathea import masks
from magrathea.fill import FillSettings, fill
from magrathea.model import MaskedTransformer
from magrathea.past import SegmentPast
from magrathea.train.batches import Batch
from magrathea.world import absent_step

ONE_PASS = FillSettings(order="one_shot")


@torch.no_grad()
def dream_past(model: MaskedTransformer, batch: Batch, num_rounds: int = 1) -> Batch:
    """The batch with those steps of its past that it wants dreamt replaced by the model's fills, in one pass each round.

    Known tokens stay: actions, rewards, endings, and what is absent.
    """
    if batch.dreamt is None:
        return batch
    rows = batch.dreamt.any(1).nonzero().squeeze(-1)
    if not len(rows):
        return batch
    seen = masks.forward_dynamics(model.layout) & ~masks.judge(model.layout)
    shown, true = batch.past_tokens[rows], batch.tokens[rows]
    there = true != absent_step(model.layout).to(true.device)
    own = batch.dreamt[rows, :, None] & seen.to(true.device) & there
    seeds = batch.seeds[rows].tolist()
    for round_ in range(num_rounds):
        dreamt = _fill_segments(model, shown, batch, rows, [seed + round_ for seed in seeds])
        shown = torch.cat([shown[:, : batch.first], torch.where(own, dreamt, shown[:, batch.first :])], dim=1)
    past_tokens = batch.past_tokens.clone()
    past_tokens[rows] = shown
    return replace(batch, past_tokens=past_tokens)


def _fill_segments(model: MaskedTransformer, shown: Tensor, batch: Batch, rows: Tensor, seeds: list[int]) -> Tensor:
    """Every step (R, T - first, N) of some rows as the model imagines it, given the steps before it as `shown`."""
    steps = batch.tokens[rows]
    time = torch.arange(shown.shape[1], device=shown.device).expand(shown.shape[:2])
    recalled = None if batch.recalled is None else batch.recalled[rows]
    past = SegmentPast(
        *model.remember(shown, time), model.config.window, batch.first, recalled=recalled
    )
    holes = masks.forward_dynamics(model.layout).to(steps.device).expand_as(steps)

    def predict(now: Tensor, open_holes: Tensor, chosen: Tensor | None) -> dict[str, Tensor]:
        logits = model.predict(now.view_as(steps), open_holes.view_as(steps), time[:, batch.first :], past)
        return {name: slot_logits.flatten(0, 1) for name, slot_logits in logits.items()}

    num_steps = steps.shape[1]
    dice = [Generator().manual_seed(seed + 1000 * step) for seed in seeds for step in range(num_steps)]
    return fill(predict, steps.flatten(0, 1), holes.flatten(0, 1), model.layout, ONE_PASS, dice).tokens.view_as(steps)
