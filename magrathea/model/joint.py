"""One set of weights for several worlds.

The worlds have a joint layout, of whose slots each world has some: a slot is shared where two worlds have it alike, and
else it is a world's own. A step of a world has only its own slots, so that those it lacks cost nothing, are not
predicted and are not attended to. The layers are everyone's; the weights that belong to a slot (its embedding, its
head, its positions) are those of all worlds that have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from magrathea.errors import MagratheaError
from magrathea.layout import ROLES, Layout, Role, Slot
from magrathea.model.layers import module_name
from magrathea.model.transformer import MaskedTransformer

POSITIONS = "embedding.position"
# Weights of slots: by the slot's number among those with tokens, by its name, by its number among the sequences.
_BY_NUMBER = (
    "embedding.tokens",
    "embedding.merge",
    "head.split",
    "head.out",
    "head.copy_bias",
    "head.copy_vectors",
    "head.copy_gate",
    "head.prev_frame_attention",
    "head.pointers",
)
_BY_NAME = ("values", "embedding.recent_proj", "head.out_bias")
_BY_SEQUENCE = "action_contexts"


@dataclass(frozen=True)
class Part:
    """Which slots of a joint layout a world's own layout consists of.

    Attributes:
        joint: the slots of all worlds.
        own: the slots of one of them.
        names: for each of the own slots its name in the joint layout.
    """

    joint: Layout
    own: Layout
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        known = {slot.name: slot for slot in self.joint.slots}
        pairs = list(zip(self.own.slots, self.names, strict=False))
        if len(self.names) != len(self.own.slots) or any(name not in known for name in self.names):
            raise MagratheaError(f"A joint layout has the slots {list(known)}, and not all of {list(self.names)}.")
        for slot, name in pairs:
            same = replace(known[name], name=slot.name, values_of=slot.values_of)
            if same != slot or (known[name].values_of is None) != (slot.values_of is None):
                raise MagratheaError(f"Slot '{slot.name}' is not like '{name}' of the joint layout.")

    @cached_property
    def _joint_slots(self) -> dict[str, Slot]:
        """By own name."""
        known = {slot.name: slot for slot in self.joint.slots}
        return {slot.name: known[name] for slot, name in zip(self.own.slots, self.names, strict=True)}

    @cached_property
    def rows(self) -> Tensor:
        """(P,) where the own positions stand among those of the joint layout."""
        firsts = [(self.joint.first_position(self._joint_slots[slot.name]), slot) for slot in self.own.token_slots]
        return torch.cat([torch.arange(first, first + slot.num_positions) for first, slot in firsts])

    def joint_name(self, weight: str) -> str:
        """What a weight of the own model is called among those of the joint one."""
        for prefix in _BY_NUMBER:
            if weight.startswith(f"{prefix}."):
                number, _, rest = weight.removeprefix(f"{prefix}.").partition(".")
                slot = self._joint_slots[self.own.token_slots[int(number)].name]
                return f"{prefix}.{self.joint.token_slots.index(slot)}.{rest}"
        for prefix in _BY_NAME:
            if weight.startswith(f"{prefix}."):
                return self._renamed(prefix, weight.removeprefix(f"{prefix}."))
        if weight.startswith(f"{_BY_SEQUENCE}."):
            number, _, rest = weight.removeprefix(f"{_BY_SEQUENCE}.").partition(".")
            return f"{_BY_SEQUENCE}.{self._sequence(int(number))}.{rest}"
        return weight

    def _renamed(self, prefix: str, rest: str) -> str:
        """The weight of a slot, which its name says; names of slots may begin alike."""
        slots = [slot for slot in self.own.token_slots if f"{rest}.".startswith(f"{module_name(slot)}.")]
        own = max(slots, key=lambda slot: len(slot.name))
        return f"{prefix}.{module_name(self._joint_slots[own.name])}{rest.removeprefix(module_name(own))}"

    def _sequence(self, number: int) -> int:
        """The place of a sequence's projection; there is one before the layers and one after them, for each."""
        own, joint = (
            [slot for slot in layout.token_slots if slot.is_sequence and slot.role != "action"]
            for layout in (self.own, self.joint)
        )
        after, place = divmod(number, len(own))
        return after * len(joint) + joint.index(self._joint_slots[own[place].name])

    def select(self, weights: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
        """Of the joint model's weights those of the own model, whose names are given; raises MagratheaError where there
        is none for a name."""
        missing = [name for name in names if self.joint_name(name) not in weights]
        if missing:
            raise MagratheaError(f"the joint model has no weight '{self.joint_name(missing[0])}'; save it anew.")
        chosen = {name: weights[self.joint_name(name)] for name in names}
        if POSITIONS in chosen and chosen[POSITIONS].shape[0] == self.joint.num_positions:
            chosen[POSITIONS] = chosen[POSITIONS][self.rows]
        return chosen


def join(layouts: Sequence[Layout], kinds: Sequence[Mapping[Role, int]]) -> list[Part]:
    """The parts of several worlds in their joint layout, given the slots of each, and for each of its roles a number
    that is that of another world where both have the same slots, alike in all."""
    slots: list[Slot] = []
    names: list[list[str]] = [[] for _ in layouts]
    for role in ROLES:
        known: dict[int, list[str]] = {}
        for own, layout, kind in zip(names, layouts, kinds, strict=True):
            if kind[role] not in known:
                suffix = f"~{len(known) + 1}" if known else ""
                added = [_renamed(slot, suffix) for slot in layout.of_role(role)]
                known[kind[role]] = [slot.name for slot in added]
                slots += added
            own += known[kind[role]]
    joint = Layout(tuple(slots))
    return [Part(joint, layout, tuple(own)) for layout, own in zip(layouts, names, strict=True)]


def _renamed(slot: Slot, suffix: str) -> Slot:
    values_of = None if slot.values_of is None else slot.values_of + suffix
    return replace(slot, name=slot.name + suffix, values_of=values_of)


class JointModel(nn.Module):
    """The models of several worlds, which share their weights; of one world, its model alone.

    Its state is that of all weights by their names in the joint layout, each once.

    Args:
        members: the worlds' models; a weight that several have is that of the first of them from here on.
        parts: of the joint layout, one for each.
    """

    def __init__(self, members: Sequence[MaskedTransformer], parts: Sequence[Part]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.weights: dict[str, nn.Parameter] = {}
        if len(members) > 1:
            self._join_positions(members, parts)
        for member, part in zip(members, parts, strict=True):
            for name, weight in list(member.named_parameters()):
                shared = self.weights.setdefault(part.joint_name(name), weight)
                if shared is not weight:
                    _set_weight(member, name, shared)

    @classmethod
    def of(cls, model: MaskedTransformer) -> JointModel:
        """Of one world."""
        names = tuple(slot.name for slot in model.layout.slots)
        return cls([model], [Part(model.layout, model.layout, names)])

    @staticmethod
    def _join_positions(members: Sequence[MaskedTransformer], parts: Sequence[Part]) -> None:
        """Give all members one table of positions, of which each reads its own rows."""
        table = torch.zeros(parts[0].joint.num_positions, members[0].config.width)
        for member, part in reversed(list(zip(members, parts, strict=True))):
            table[part.rows] = member.embedding.position.detach()
        shared = nn.Parameter(table)
        for member, part in zip(members, parts, strict=True):
            member.embedding.share_position(shared, part.rows)

    @property
    def device(self) -> torch.device:
        return self.models[0].device

    @property
    def models(self) -> list[MaskedTransformer]:
        """The worlds' models."""
        return list(self.members)  # type: ignore[arg-type]

    def forward(self, member: int, *batch: Any) -> tuple[Tensor, Tensor]:
        """The training loss of a batch of a member's segments; see `MaskedTransformer.forward`."""
        return self.members[member](*batch)

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Tensor]:  # type: ignore[override]
        return {name: weight.detach() for name, weight in self.weights.items()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Tensor], *_: Any, **__: Any) -> None:  # type: ignore[override]
        """Raises KeyError for a weight that is missing, RuntimeError for one of another shape."""
        for name, weight in self.weights.items():
            weight.copy_(state_dict[name])


def _set_weight(model: nn.Module, name: str, weight: nn.Parameter) -> None:
    owner, _, own = name.rpartition(".")
    setattr(model.get_submodule(owner), own, weight)
