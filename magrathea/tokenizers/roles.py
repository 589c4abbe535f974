"""The tokenizers of all roles of a step, and the layout that follows from them."""

from __future__ import annotations

from magrathea.errors import MagratheaError
from magrathea.layout import ROLES, Codec, Layout, Role, Slot, group_for
from magrathea.tokenizers.base import Tokenizer

Tokenizers = dict[Role, Tokenizer]


def layout_for(tokenizers: Tokenizers) -> Layout:
    """The slots that the tokenizers of all roles need, in the order of the roles."""
    slots: list[Slot] = []
    for role in ROLES:
        specs = tokenizers[role].slot_specs
        with_values = {key.rpartition("/")[0] for key, spec in specs.items() if spec.codec is not None}
        for key, spec in specs.items():
            alone = spec.codec is not None or key in with_values or spec.is_sequence
            slots.append(
                Slot(
                    name=f"{role}/{key}" if key else role,
                    role=role,
                    vocab_size=spec.vocab_size,
                    grid=spec.grid,
                    group=spec.group or ((1, 1) if alone else group_for(spec.grid)),
                    is_sequence=spec.is_sequence or None,
                    smoothing=spec.smoothing,
                    nothing=spec.nothing,
                    values_of=slots[-1].name if spec.codec is not None else None,
                )
            )
    return Layout(tuple(slots))


def codecs_of(tokenizers: Tokenizers) -> dict[str, Codec]:
    """The codecs of the slots that have values, by the slots' names."""
    codecs = {}
    for role in ROLES:
        for key, spec in tokenizers[role].slot_specs.items():
            if spec.codec is not None:
                codecs["/".join(filter(None, (role, key.rpartition("/")[0])))] = spec.codec
    return codecs


def check_layout(layout: Layout, tokenizers: Tokenizers) -> None:
    """Raises MagratheaError where a layout is not that of its tokenizers."""
    stored, expected = (
        [(slot.name, slot.role, slot.vocab_size, slot.grid, slot.nothing, slot.values_of) for slot in each.slots]
        for each in (layout, layout_for(tokenizers))
    )
    if stored != expected:
        raise MagratheaError(f"its layout has the slots {stored}, but its tokenizers make {expected}; save it anew.")
