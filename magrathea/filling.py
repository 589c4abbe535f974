"""Filling the holes of steps, whatever they are: the one operation that every use of a world is.

B episodes, T steps, N tokens of a step, W steps of the model's window.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Generator, Tensor

from magrathea.interfaces import MemorySpec
from magrathea.model.kv_cache import SegmentKVCache
from magrathea.model.transformer import MaskedTransformer
from magrathea.sampler import FillResult, FillSettings, derive_seed, fill
from magrathea.support import Support


@torch.inference_mode()
def fill_steps(
    model: MaskedTransformer,
    memory_spec: MemorySpec,
    tokens: Int[Tensor, "B T N"],
    holes: Bool[Tensor, "B T N"],
    prompt: Int[Tensor, "P N"] | None,
    first: FillSettings,
    later: FillSettings,
    seed: int,
    support: Support,
) -> FillResult:
    """Fill the steps of episodes in their order, each given those before it; known tokens are never changed.

    Args:
        tokens: from the episodes' beginnings on; what stands in a hole does not matter.
        holes: True = hole.
        prompt: steps to act toward, one for all episodes or one for each.
        first, later: how the first step is filled, and all others.
        seed: of all that is drawn; episode b draws the same whatever the others are.
        support: the tokens that may be drawn.

    Returns:
        tokens (B, T, N), confidence (B, T, N) and num_passes (B, T).
    """
    device, layout, window = model.device, model.layout, model.config.window
    tokens, holes = tokens.to(device).clone(), holes.to(device)
    (batch_size, num_steps), memory = tokens.shape[:2], memory_spec.new(len(tokens), model)
    prompt = None if prompt is None else prompt.to(device).expand(batch_size, -1)
    confidence = torch.ones(tokens.shape, device=device)
    num_passes = torch.zeros(batch_size, num_steps, dtype=torch.long, device=device)
    indices, generators = range(batch_size), [Generator() for _ in range(batch_size)]
    for step in range(num_steps):
        time = torch.full((batch_size, 1), step, device=device)
        if holes[:, step].any():
            readout = memory.read(tokens[:, step].cpu(), holes[:, step].cpu(), indices)
            conditioning = model.condition(readout.map(lambda part: part.to(device)[:, None]), time, prompt)
            begin = max(0, step - window)
            shown = tokens[:, begin : step + 1].masked_fill(
                holes[:, begin : step + 1], 0
            )  # its own are not attended to
            times = torch.arange(begin, step + 1, device=device).expand(shown.shape[:2])
            kv_cache = SegmentKVCache(model.encode_past(shown, times), window, step - begin, conditioning)
            for index, generator in enumerate(generators):
                generator.manual_seed(derive_seed(seed + index, "step", step))
            predict = _Predict(model, kv_cache, time)
            settings = later if step else first
            filled = fill(predict, tokens[:, step], holes[:, step], layout, settings, generators, support)
            before = tokens[:, step - 1] if step else torch.zeros_like(tokens[:, 0])
            tokens[:, step] = _with_values(model, filled.tokens, before, holes[:, step])
            confidence[:, step], num_passes[:, step] = filled.confidence, filled.num_passes
            holes[:, step] = False
        encodings = model.encode_past(tokens[:, step : step + 1], time).encodings
        memory.write(tokens[:, step].cpu(), encodings[:, 0], indices)
    return FillResult(tokens, confidence, num_passes)


def _with_values(model: MaskedTransformer, tokens: Tensor, before: Tensor, holes: Tensor) -> Tensor:
    """Steps whose values follow from tokens that were filled; those of known tokens stay."""
    if not model.layout.values_slots:
        return tokens
    layout, followed = model.layout, model.with_values(tokens, before)
    for name, slot in layout.values_slots.items():
        known, values = ~holes[:, layout.span(name)].any(-1, keepdim=True), layout.span(slot.name)
        followed[:, values] = torch.where(known, tokens[:, values], followed[:, values])
    return followed


class _Predict:
    """The model given the past, for `fill`: tokens and holes of some of the batch -> logits of the slots with
    holes."""

    def __init__(self, model: MaskedTransformer, kv_cache: SegmentKVCache, time: Int[Tensor, "B 1"]) -> None:
        self.model, self.kv_cache, self.time = model, kv_cache, time

    def __call__(self, tokens: Tensor, holes: Tensor, chosen: Tensor | None) -> dict[str, Tensor]:
        kv_cache = self.kv_cache if chosen is None else self.kv_cache.select(chosen)
        time = self.time if chosen is None else self.time[chosen]
        logits = self.model.predict(tokens[:, None], holes[:, None], time, kv_cache)
        return {name: slot_logits[:, 0] for name, slot_logits in logits.items()}
