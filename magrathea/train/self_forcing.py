"""Self-forcing: train on a context that the model has sampled itself, as it has to predict from in a long dream.

Scheduled sampling (Bengio et al. 2015, arXiv 1506.03099) for all steps of a segment at once: some steps of the context
are replaced by the model's own samples; the targets stay the recorded steps. With several rounds, samples are
conditioned on samples, as in Self Forcing (Huang et al. 2025, arXiv 2506.08009).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from magrathea import masks
from magrathea.model.transformer import MaskedTransformer
from magrathea.sampler import FillSettings, fill
from magrathea.train.batches import Batch

ONE_PASS = FillSettings(order="one_shot")


@torch.no_grad()
def dream_context(model: MaskedTransformer, batch: Batch, num_rounds: int = 1) -> Batch:
    """The batch, with its `dreamt` steps of the past replaced by the model's fills; each round is one pass.

    Known tokens stay: actions, rewards, endings, and what is absent.
    """
    if batch.dreamt is None or not batch.dreamt.any():
        return batch
    device, layout, first = batch.tokens.device, model.layout, batch.first
    rows = batch.dreamt.any(1).nonzero().squeeze(-1)
    seen = (masks.forward_dynamics(layout) & ~masks.judge(layout)).to(device)
    there = batch.tokens[rows] != layout.absent_tokens.to(device)
    own = (batch.dreamt[rows] > 0)[..., None] & seen & there
    past_tokens = batch.past_tokens.clone()
    for _ in range(num_rounds):
        shown = past_tokens[rows]
        past_tokens[rows, first:] = torch.where(own, _imagine(model, shown, batch, rows), shown[:, first:])
    return replace(batch, past_tokens=past_tokens)


def _imagine(model: MaskedTransformer, shown: Tensor, batch: Batch, rows: Tensor) -> Tensor:
    """Every step (R, T - first, N) of some rows, each given its action and the steps before it of `shown` (R, T, N)."""
    assert batch.dreamt is not None
    steps, readout = batch.tokens[rows], batch.readout.map(lambda part: part[rows])
    earlier = None if batch.earlier is None else batch.earlier[rows]
    time = torch.arange(shown.shape[1], device=shown.device).expand(shown.shape[:2])
    kv_cache = model.segment_cache(shown, batch.first, readout=readout, earlier=earlier)
    holes = masks.forward_dynamics(model.layout).to(steps.device).expand_as(steps)

    def predict(now: Tensor, open_holes: Tensor, chosen: Tensor | None) -> dict[str, Tensor]:
        logits = model.predict(now.view_as(steps), open_holes.view_as(steps), time[:, batch.first :], kv_cache)
        return {name: slot_logits.flatten(0, 1) for name, slot_logits in logits.items()}

    dice = [Generator().manual_seed(seed) for seed in batch.dreamt[rows].flatten().tolist()]
    filled = fill(predict, steps.flatten(0, 1), holes.flatten(0, 1), model.layout, ONE_PASS, dice)
    return filled.tokens.view_as(steps)
