"""The support of recordings: the tokens that dreams may draw at each place of an observation.

A model gives every token of a vocabulary some probability at every place, also those that no recording has there: a
tile of the map in the inventory. Once drawn, such a token stands in the context of the next steps, which no recording
has either. Where recordings leave hardly a token unseen, dreams draw those that were seen.

A model that draws all tokens of a step at once draws the ending apart from what shows it. Where the tokens of a place
tell whether a step ends, such as a health of 0, dreams end if these say so.

E episodes, T steps, N tokens of a step, C tokens of a slot, V of its vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Int
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.layout import Layout, Slot

MAX_NEW = 0.02  # tokens that an episode may be expected to bring to a place that has had none of them

Support = dict[str, Tensor]  # by slot name, bool (2, C, V): True on what steps that do not end, and that do, may have


def fit_support(layout: Layout, episodes: Iterable[Int[Tensor, "T N"]], starts: Int[Tensor, "K W N"]) -> Support:
    """The tokens that were recorded at each place, where an episode hardly brings another one, and elsewhere all.

    The number of tokens that the next episode brings to a place is estimated from those that exactly one of the E
    episodes had there (Good 1953): (their number + 1) / (E + 1), of which the ones let few episodes forbid nothing.
    Episodes are counted and not steps, which resemble those before them. Tokens of start states are always allowed.

    A place tells whether a step ends if that holds for steps that end and for the others, and no token is of both.
    """
    slots = [slot for slot in layout.of_role("observation") if _has_support(slot, layout)]
    shapes = {slot.name: (3, slot.num_tokens, slot.vocab_size + 1) for slot in slots}
    counts = {name: torch.zeros(shape, dtype=torch.int64) for name, shape in shapes.items()}
    totals = torch.zeros(3, 1, dtype=torch.int64)  # episodes with steps: of any kind, that do not end, that do
    for tokens in episodes:
        ends = tokens[:, layout.role_span("terminated")].squeeze(1) == 1
        for kind, is_kind in enumerate((torch.ones_like(ends), ~ends, ends)):
            totals[kind] += is_kind.any()
            for name, count in counts.items():
                count[kind] += _seen(tokens[is_kind][:, layout.span(name)], count[kind])
    support = {}
    for name, count in counts.items():
        is_complete = ((count[..., :-1] == 1).sum(-1) + 1) / (totals + 1) <= MAX_NEW
        in_starts = _seen(starts[..., layout.span(name)].flatten(0, 1), count[0])  # which do not end
        had = (count + torch.stack([in_starts, in_starts, torch.zeros_like(in_starts)]))[..., :-1] > 0
        tells = is_complete.all(0) & ~(had[1] & had[2]).any(-1)
        support[name] = torch.where(tells[:, None], had[1:], had[0] | ~is_complete[0, :, None])
    return _limiting(support)


def _has_support(slot: Slot, layout: Layout) -> bool:
    """Whether its tokens mean the same in every step, which changes of the step before do not, and belong to a place,
    which words do not."""
    return slot.values_of is None and slot.name not in layout.values_slots and not slot.is_sequence


def _seen(tokens: Int[Tensor, "T C"], like: Tensor) -> Tensor:
    """1 on the tokens that occur at each place, 0 on the others, in a tensor like this one (C, V + 1)."""
    return torch.zeros_like(like).scatter_(1, tokens.T.long(), 1)


def join_support(one: Support, other: Support) -> Support:
    """What either of two allows."""
    return _limiting({name: one[name] | other[name] for name in one.keys() & other.keys()})


def _limiting(support: Support) -> Support:
    """Without the slots of which all is allowed."""
    return {name: allowed for name, allowed in support.items() if not allowed.all()}


def check_support(support: Support, layout: Layout) -> None:
    """Raises MagratheaError where a support is not one of this layout, or allows nothing at a place."""
    shapes = {slot.name: (2, slot.num_tokens, slot.vocab_size) for slot in layout.of_role("observation")}
    for name, allowed in support.items():
        if allowed.dtype != torch.bool or tuple(allowed.shape) != shapes.get(name) or not allowed.any(-1).all():
            raise MagratheaError(f"its support of '{name}' does not fit its layout; save it anew.")
