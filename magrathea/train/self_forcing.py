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
from magrathea.memory import MemoryReadout
from magrathea.model.transformer import MaskedTransformer
from magrathea.sampler import FillSettings, fill
from magrathea.train.batches import Batch

ONE_PASS = FillSettings(order="one_shot")


@torch.no_grad()
def sample_context(model: MaskedTransformer, batch: Batch, num_rounds: int = 1) -> Batch:
    """The batch, in whose context the steps with sample seeds are replaced by the model's own samples.

    Only observations are replaced; actions, rewards, endings and absent tokens stay.

    Args:
        model: samples each step in one pass, given its action and the context before it.
        num_rounds: in each further round the samples are conditioned on those of the round before.
    """
    if batch.sample_seeds is None or not batch.sample_seeds.any():
        return batch
    device, layout, first = batch.tokens.device, model.layout, batch.first
    indices = batch.sample_seeds.any(1).nonzero().squeeze(-1)
    is_observed = (~masks.goal_prompt(layout)).to(device)
    is_present = batch.tokens[indices] != layout.absent_tokens.to(device)
    replaced = (batch.sample_seeds[indices] > 0)[..., None] & is_observed & is_present
    past_tokens = batch.past_tokens.clone()
    for _ in range(num_rounds):
        context = past_tokens[indices]
        samples = model.with_values(_sample_steps(model, context, batch, indices), context[:, first - 1 : -1])
        past_tokens[indices, first:] = torch.where(replaced, samples, context[:, first:])
    return replace(batch, past_tokens=past_tokens)


@torch.no_grad()
def dream_context(model: MaskedTransformer, batch: Batch) -> Batch:
    """The batch, in whose context the last steps are dreamt by the model, one after the other, given their actions."""
    if batch.dream_seeds is None:
        return batch
    layout, past_tokens = model.layout, batch.past_tokens.clone()
    num_dreamt = batch.dream_seeds.shape[1]
    is_observed = (~masks.goal_prompt(layout)).to(past_tokens.device)
    for index, seeds in enumerate(batch.dream_seeds.unbind(1), start=batch.first - num_dreamt):
        real = past_tokens[:, index : index + 1]
        step = replace(
            batch,
            past_tokens=past_tokens[:, :index],
            tokens=real,
            first=index,
            readout=MemoryReadout(),
            sample_seeds=seeds[:, None],
        )
        dreamt = _sample_steps(model, past_tokens[:, : index + 1], step, torch.arange(len(real)))
        dreamt = model.with_values(dreamt, past_tokens[:, index - 1 : index])
        is_there = real != layout.absent_tokens.to(real.device)
        past_tokens[:, index : index + 1] = torch.where(is_observed & is_there, dreamt, real)
    return replace(batch, past_tokens=past_tokens)


def _sample_steps(model: MaskedTransformer, context: Tensor, batch: Batch, indices: Tensor) -> Tensor:
    """Samples (R, T - first, N) of every step of the segments with batch indices (R,), each given its action and the
    steps of the context (R, T, N) before it."""
    assert batch.sample_seeds is not None
    steps, readout = batch.tokens[indices], batch.readout.map(lambda part: part[indices])
    earlier = None if batch.earlier is None else batch.earlier[indices]
    time = torch.arange(context.shape[1], device=context.device).expand(context.shape[:2])
    kv_cache = model.segment_cache(context, batch.first, readout=readout, earlier=earlier)
    hole_mask = masks.forward_dynamics(model.layout).to(steps.device).expand_as(steps)

    def predict(tokens: Tensor, holes: Tensor, _: Tensor | None) -> dict[str, Tensor]:
        logits = model.predict(tokens.view_as(steps), holes.view_as(steps), time[:, batch.first :], kv_cache)
        return {name: slot_logits.flatten(0, 1) for name, slot_logits in logits.items()}

    rngs = [Generator().manual_seed(seed) for seed in batch.sample_seeds[indices].flatten().tolist()]
    filled = fill(predict, steps.flatten(0, 1), hole_mask.flatten(0, 1), model.layout, ONE_PASS, rngs)
    return filled.tokens.view_as(steps)
