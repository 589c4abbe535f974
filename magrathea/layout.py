"""The slots of a step: which tokens a world's step consists of, and in what order.

A step is one Gymnasium transition: the action that was taken, and what came back. Each part of it is a slot of
discrete tokens. Every tensor of tokens in Magrathea has the layout's N tokens as its last dimension.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from magrathea.errors import MagratheaError

Role = Literal["action", "observation", "reward", "terminated"]
ROLES: tuple[Role, ...] = ("action", "observation", "reward", "terminated")
END = 0  # of a slot that is a sequence: the token that follows its last one, to the end of the slot


@runtime_checkable
class Codec(Protocol):
    """How the tokens of a slot and its values belong together: what a step shows, given what the one before showed.

    A module without parameters. C tokens, of a vocabulary of V, of which 0 keeps what was there; Q values; K features
    of a token.
    """

    num_features: int

    def decode(self, tokens: Int[Tensor, "*n C"], previous: Int[Tensor, "*n Q"]) -> Int[Tensor, "*n Q"]:
        """The values that tokens make of those of the step before."""
        ...

    def features(self, values: Int[Tensor, "*n S Q"]) -> Float[Tensor, "*n S-1 C K"]:
        """What the model sees, by token, of the values of S steps, the newest first, each given those of the step
        before; not of the oldest, which has none before."""
        ...

    def log_likelihood(
        self, log_probs: Float[Tensor, "B C V"], values: Int[Tensor, "B Q"], previous: Int[Tensor, "B Q"]
    ) -> tuple[Float[Tensor, "B C"], Bool[Tensor, "B C"]]:
        """How likely tokens of these log-probabilities are to make the values, and where token 0 would not."""
        ...

    def keeps(self, previous: Int[Tensor, "*n Q"]) -> Tensor:
        """Which tokens make the values of the step before again, so that token 0 would do: bool (*n, C, V) or (V,)."""
        ...

    def merge_alike(self, logits: Float[Tensor, "*n C V"], previous: Int[Tensor, "*n Q"]) -> Float[Tensor, "*n C V"]:
        """Logits in which one of several tokens that make the same has the probability of all of them, wherever there
        are so many that each alone would be unlikely."""
        ...


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One part of a step.

    Attributes:
        name: unique in its layout, for instance ``"observation/image"``.
        role: which part of a Gymnasium transition it is.
        vocab_size: number of different tokens; the value ``vocab_size`` itself means *absent*.
        grid: rows and columns in which its tokens are laid out.
        group: rows and columns of neighbouring tokens that share one position of the transformer; at the grid's far
            edges a position may have fewer.
        is_sequence: True where its tokens follow one another as those of a text do.
        smoothing: for tokens of rising numbers, the standard deviation in tokens of the normal distribution that is the
            target of a hole in training (HL-Gauss, Farebrother et al. 2024); one token alone, if not given.
        nothing: the token of a slot in which there is nothing, such as silence; whether that is so is drawn first, and
            otherwise the slot has the likeliest of its other tokens.
        values_of: name of the slot before, where this slot holds the values that the tokens of that one decode to. They
            have no positions, are never holes, and show the model what the tokens mean.
    """

    name: str
    role: Role
    vocab_size: int
    grid: tuple[int, int] = (1, 1)
    group: tuple[int, int] = (1, 1)
    is_sequence: bool | None = None
    smoothing: float | None = None
    nothing: int | None = None
    values_of: str | None = None

    @cached_property
    def num_tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def is_grid(self) -> bool:
        """Whether its tokens are a picture's: a grid of 3x3 or more."""
        return self.values_of is None and min(self.grid) >= 3

    @property
    def tokens_per_position(self) -> int:
        return self.group[0] * self.group[1]

    @property
    def position_grid(self) -> tuple[int, int]:
        return -(-self.grid[0] // self.group[0]), -(-self.grid[1] // self.group[1])

    @property
    def num_positions(self) -> int:
        return 0 if self.values_of is not None else self.position_grid[0] * self.position_grid[1]

    @property
    def absent(self) -> int:
        """The token of a slot without a value, such as the action of a reset."""
        return self.vocab_size


@dataclass(frozen=True)
class Layout:
    """The slots of a step in their order: action, observation, reward, terminated."""

    slots: tuple[Slot, ...]

    def __post_init__(self) -> None:
        names = [slot.name for slot in self.slots]
        if len(set(names)) != len(names):
            raise MagratheaError(f"Layout has two slots of one name: {names}.")
        for before, slot in zip((None, *self.slots), self.slots, strict=False):
            if slot.values_of is not None and (before is None or slot.values_of != before.name):
                raise MagratheaError(f"Slot '{slot.name}' does not follow '{slot.values_of}', whose values it holds.")

    @cached_property
    def num_tokens(self) -> int:
        return sum(slot.num_tokens for slot in self.slots)

    @property
    def num_positions(self) -> int:
        return sum(slot.num_positions for slot in self.slots)

    @cached_property
    def spans(self) -> dict[str, slice]:
        """The slice of each slot's tokens among the N tokens of a step."""
        spans, start = {}, 0
        for slot in self.slots:
            spans[slot.name] = slice(start, start + slot.num_tokens)
            start += slot.num_tokens
        return spans

    def span(self, name: str) -> slice:
        """The slice of one slot's tokens; raises MagratheaError for a name that the layout does not have."""
        if name not in self.spans:
            raise MagratheaError(f"Layout has no slot '{name}'; it has {', '.join(self.spans)}.")
        return self.spans[name]

    def role_span(self, role: Role) -> slice:
        """The slice of a role's tokens, which are contiguous."""
        spans = [self.spans[slot.name] for slot in self.of_role(role)]
        return slice(spans[0].start, spans[-1].stop)

    @cached_property
    def token_slots(self) -> tuple[Slot, ...]:
        """The slots whose tokens are predicted: all but those that hold values."""
        return tuple(slot for slot in self.slots if slot.values_of is None)

    @cached_property
    def values_slots(self) -> dict[str, Slot]:
        """The slots that hold values, by the name of the slot that they are the values of."""
        return {slot.values_of: slot for slot in self.slots if slot.values_of is not None}

    @cached_property
    def values_mask(self) -> Bool[Tensor, " N"]:
        """True on the entries of a step that are values."""
        return torch.cat([torch.full((slot.num_tokens,), slot.values_of is not None) for slot in self.slots])

    @cached_property
    def absent_tokens(self) -> Int[Tensor, " N"]:
        """A step of which every slot is absent."""
        return torch.cat([torch.full((slot.num_tokens,), slot.absent) for slot in self.slots])

    def mask_of(self, *roles: Role) -> Bool[Tensor, " N"]:
        """True on the entries of a step that are of these roles."""
        return torch.cat([torch.full((slot.num_tokens,), slot.role in roles) for slot in self.slots])

    @property
    def is_one_row(self) -> bool:
        """Whether observations have neither pictures nor texts."""
        return not any(slot.is_grid or slot.is_sequence for slot in self.of_role("observation"))

    def of_role(self, *roles: Role) -> tuple[Slot, ...]:
        return tuple(slot for slot in self.slots if slot.role in roles)

    def first_position(self, slot: Slot) -> int:
        """Where a slot's positions begin among the P positions of a step."""
        return sum(other.num_positions for other in self.slots[: self.slots.index(slot)])

    @property
    def picture(self) -> Slot:
        """The observation's largest grid of tokens that mean the same in every step; raises MagratheaError where there
        is none of 3x3 or more."""
        slots = [slot for slot in self.of_role("observation") if slot.is_grid and slot.name not in self.values_slots]
        if not slots:
            raise MagratheaError(
                "This world has no picture of 3x3 tokens or more that mean the same in every step; choose the memory "
                "'window'."
            )
        return max(slots, key=lambda slot: slot.num_tokens)

    @property
    def texts_beside_others(self) -> tuple[Slot, ...]:
        """The observation's slots that hold texts, if there are others beside them."""
        slots = [slot for slot in self.of_role("observation") if slot.values_of is None]
        texts = tuple(slot for slot in slots if slot.is_sequence)
        return texts if len(texts) < len(slots) else ()

    def to_config(self) -> list[dict[str, Any]]:
        return [{key: x for key, x in asdict(slot).items() if x is not None} for slot in self.slots]

    @classmethod
    def from_config(cls, config: list[dict[str, Any]]) -> Layout:
        return cls(
            tuple(Slot(**{**slot, "grid": tuple(slot["grid"]), "group": tuple(slot["group"])}) for slot in config)
        )


def group_for(grid: tuple[int, int], most_positions: int = 32) -> tuple[int, int]:
    """Group a grid's tokens along rows until it needs few positions: 3 or 2 columns at a time (3 if neither divides
    them), then 2 rows."""
    rows, columns = grid
    if rows * columns <= most_positions:
        return 1, 1
    width = 2 if columns % 2 == 0 and columns % 3 else 3
    height = 2 if rows % 2 == 0 and rows * -(-columns // width) > most_positions else 1
    return height, width


def group_tokens(values: Tensor, slot: Slot) -> Tensor:
    """(..., tokens of the slot) -> (..., positions of the slot, tokens per position); absent beyond the edges."""
    if slot.tokens_per_position == 1:
        return values.unsqueeze(-1)
    (rows, columns), (height, width) = slot.position_grid, slot.group
    grid = values.unflatten(-1, slot.grid)
    grid = F.pad(grid, (0, columns * width - slot.grid[1], 0, rows * height - slot.grid[0]), value=slot.absent)
    grid = grid.unflatten(-1, (columns, width)).unflatten(-3, (rows, height)).transpose(-2, -3)
    return grid.reshape(*values.shape[:-1], slot.num_positions, slot.tokens_per_position)


def group_features(values: Tensor, slot: Slot) -> Tensor:
    """(..., tokens of the slot, E) -> (..., positions of the slot, tokens per position * E); 0 beyond the edges."""
    if slot.tokens_per_position == 1:
        return values
    (rows, columns), (height, width) = slot.position_grid, slot.group
    grid = values.unflatten(-2, slot.grid)
    grid = F.pad(grid, (0, 0, 0, columns * width - slot.grid[1], 0, rows * height - slot.grid[0]))
    grid = grid.unflatten(-2, (columns, width)).unflatten(-4, (rows, height)).transpose(-3, -4)
    return grid.reshape(*values.shape[:-2], slot.num_positions, slot.tokens_per_position * values.shape[-1])


def ungroup_tokens(values: Tensor, slot: Slot) -> Tensor:
    """(..., positions of the slot, tokens per position, E) -> (..., tokens of the slot, E)"""
    if slot.tokens_per_position == 1:
        return values.squeeze(-2)
    (rows, columns), (height, width) = slot.position_grid, slot.group
    grid = values.unflatten(-2, (height, width)).unflatten(-4, (rows, columns)).transpose(-3, -4)
    grid = grid.reshape(*values.shape[:-3], rows * height, columns * width, values.shape[-1])
    return grid[..., : slot.grid[0], : slot.grid[1], :].flatten(-3, -2)
