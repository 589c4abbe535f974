"""Where two dreams part."""

from __future__ import annotations

from dataclasses import dataclass

from magrathea.layout import Layout
from magrathea.session.history import History


@dataclass(frozen=True)
class Difference:
    """How two rows differ. Steps are counted from 0, those of the start included.

    Attributes:
        first: the first step that differs, or that only one of them has; None where they are the same.
        num_steps: how many of the steps that both have differ.
        num_tokens: for each slot's name, how many tokens of those steps differ.
        lengths: number of steps of each.
    """

    first: int | None
    num_steps: int
    num_tokens: dict[str, int]
    lengths: tuple[int, int]

    @property
    def same(self) -> bool:
        return self.first is None


def difference(a: History, b: History, layout: Layout) -> Difference:
    """Compare two logs; what they share as forks of one session takes no time."""
    shared, both = a.shared_with(b), min(len(a), len(b))
    shared = min(shared, both)
    differs = a.read(shared, both)["tokens"] != b.read(shared, both)["tokens"]
    steps = differs.any(-1)
    first = None if len(a) == len(b) else both
    if steps.any():
        first = shared + int(steps.argmax())
    num_tokens = {slot.name: int(differs[:, layout.span(slot.name)].sum()) for slot in layout.slots}
    return Difference(first, int(steps.sum()), num_tokens, (len(a), len(b)))
