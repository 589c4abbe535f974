"""The training loss of steps with holes: cross-entropy at the holes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from magrathea.layout import Slot
from magrathea.model.layers import StepHead
from magrathea.model.pointer import Copies
from magrathea.model.values import ValuesSlot


def loss_at_holes(
    head: StepHead,
    values: Mapping[str, ValuesSlot],
    features: Mapping[str, Tensor],
    copy_sources: Mapping[str, Sequence[Tensor]],
    copies: Mapping[str, Copies],
    tokens: Int[Tensor, "B F N"],
    hole_mask: Bool[Tensor, "B F N"],
    previous: Int[Tensor, "B F N"],
    event_weights: Mapping[str, Float[Tensor, " V"]],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The weighted sum of the cross-entropies at the holes, and the sum of their weights.

    Args:
        head: that makes logits of features.
        values: of the slots that have values, by name.
        features, copy_sources, copies: for each slot's name, what `head.logits` takes, of all tokens.
        tokens: the true steps; holes whose token is absent have no loss.
        hole_mask: True = hole.
        previous: the true steps before.
        event_weights: for names of slots how much each of their tokens weighs. The logits are those of the tokens as
            often as they are: in the loss they are raised by the logarithms of the weights, which so change how fast
            what is rare is learned, and not what is learned (logit adjustment, Menon et al. 2021).
    """
    total, num_holes = (torch.zeros((), device=tokens.device) for _ in range(2))
    num_tokens = sum(slot.num_tokens for slot in head.slots)
    for index, slot in enumerate(head.slots):
        feature, copied, span = features[slot.name], copies.get(slot.name), head.layout.span(slot.name)
        target = tokens[..., span]
        holes = hole_mask[..., span] & (target < slot.vocab_size)
        weight = max(1.0, num_tokens / (10 * slot.num_tokens))  # no slot is under a tenth of a step
        if slot.name in values:
            loss, weights = values[slot.name].loss(head.logits(index, feature, []), tokens, previous, holes)
            total, num_holes = total + weight * loss, num_holes + weight * weights
            continue
        own, here = [source[holes] for source in copy_sources[slot.name]], None if copied is None else copied.at(holes)
        logits = head.logits(index, feature[holes], own, here).float()
        if slot.name in event_weights:
            each = event_weights[slot.name]
            loss = F.cross_entropy(logits + each.log(), target[holes], weight=each, reduction="sum")
            weights = each[target[holes]].sum()
        else:
            loss = F.cross_entropy(logits, _targets(slot, target[holes]), reduction="sum")
            weights = holes.sum()
        total, num_holes = total + weight * loss, num_holes + weight * weights
    return total, num_holes


def _targets(slot: Slot, tokens: Int[Tensor, " n"]) -> Int[Tensor, " n"] | Float[Tensor, "n V"]:
    """What holes of a slot should be: tokens, or probabilities where its tokens are smoothed."""
    if slot.smoothing is None:
        return tokens
    distances = torch.arange(slot.vocab_size, device=tokens.device) - tokens[:, None]
    return (-0.5 * (distances / slot.smoothing) ** 2).softmax(-1)
