"""The plug-in point of memories."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from magrathea.layout import Layout
from magrathea.model.config import ModelConfig

NUM_FEATURES = 8
Part = Literal["picture", "light", "steps", "state", "features"]


@dataclass(frozen=True)
class MemoryReadout:
    """What memories give to steps that are to be filled; the leading dimensions are those of the steps.

    Attributes:
        picture: (..., C) tokens of the observation's picture as it would be if nothing had changed, absent where
            unknown.
        light: (..., 1) tokens of the light in which it will be seen, absent where unknown.
        steps: (..., K, N) tokens of past steps to attend to beside the window, the one that matters most first; where
            there are fewer than K, absent tokens.
        state: (..., *S) of the recurrence that the model holds for the memory.
        features: (..., NUM_FEATURES) float32 that tell something of the whole step, 0 where nothing is known.
    """

    picture: Tensor | None = None
    light: Tensor | None = None
    steps: Tensor | None = None
    state: Tensor | None = None
    features: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> MemoryReadout:
        """Every part that is there, changed."""
        return MemoryReadout(**{name: None if part is None else change(part) for name, part in vars(self).items()})

    def under(self, hole_mask: Tensor, layout: Layout) -> MemoryReadout:
        """Of what is recalled without and with the action (B, T, 2, ...), what a step with holes (B, T, N) gets."""
        unknown = hole_mask[..., layout.span(layout.of_role("action")[0].name)].any(-1)
        return self.each(
            lambda part: torch.where(unknown[(..., *[None] * (part.ndim - 3))], part[:, :, 0], part[:, :, 1])
        )

    def beside(self, other: MemoryReadout) -> MemoryReadout:
        """This and what another memory gives; the two give different parts."""
        return replace(self, **{name: part for name, part in vars(other).items() if part is not None})


@dataclass(frozen=True)
class EpisodeReadout:
    """What a memory recalls just before each of the T steps of a recorded episode, for training: not knowing the step's
    action and knowing it. A state is no part of it: the model makes it from the steps before.

    Attributes:
        picture: (T, 2, C) tokens.
        light: (T, 2, 1) tokens.
        sources: (T, 2, K) which of the episode's steps; -1 for none.
        features: (T, 2, NUM_FEATURES) float32.
    """

    picture: Tensor | None = None
    light: Tensor | None = None
    sources: Tensor | None = None
    features: Tensor | None = None


class Recurrence(Protocol):
    """A state of one tensor that final steps change and that steps to be filled read: a module, which learns with the
    model. It is held by the model, so its weights are the world's."""

    def states(self, encodings: Tensor, is_step: Tensor) -> Tensor:
        """The states (B, T, *S) before each of the steps (B, T, P, D), from an empty one; with gradients. Where is_step
        (B, T) is False there is no step, and nothing changes."""
        ...

    def write(self, state: Tensor, encodings: Tensor) -> Tensor:
        """The states (B, *S) after one step (B, P, D)."""
        ...

    def empty(self) -> Tensor:
        """(*S)"""
        ...

    def read(self, state: Tensor, positions: Tensor) -> Tensor:
        """What is added to positions (B, T, P, D) of steps that are filled, from states (B, T, *S)."""
        ...


class MemorySpec(Protocol):
    """What a world's memory knows before anything has happened there, learned from recordings. A plug-in.

    Attributes:
        recalls: the parts of a `Recall` that `Memory.read` gives; the model has a place for each.
    """

    recalls: ClassVar[tuple[Part, ...]]

    @classmethod
    def fit(cls, layout: Layout, episodes: Iterable[Tensor]) -> MemorySpec:
        """Learn from the tokens (T, N) of recorded episodes, before the model is trained."""
        ...

    @classmethod
    def from_tensors(cls, layout: Layout, tensors: dict[str, Tensor]) -> MemorySpec: ...

    @classmethod
    def recurrence(cls, config: ModelConfig, layout: Layout) -> Recurrence | None:
        """A new `Recurrence`, where "state" is among what is recalled."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs."""
        ...

    def new(self, batch_size: int, model: Any) -> Memory:
        """The empty memories of B worlds, whose model may be asked for its `config` and its `recurrence`."""
        ...

    def read_episode(self, tokens: Tensor, window: int) -> EpisodeReadout:
        """What is read before each step of a recorded episode (T, N), by a model that attends to a window of steps."""
        ...


@runtime_checkable
class Memory(Protocol):
    """Carries the past forward: h' = f(h, step). Works on a batch of worlds; costs the same however long they live.

    B worlds, R rows of them, N tokens of a step, P positions, D width.
    """

    def write(self, tokens: Tensor, encodings: Tensor, rows: Sequence[int]) -> None:
        """Take in final steps: their tokens (R, N) and encodings (R, P, D)."""
        ...

    def read(self, tokens: Tensor, hole_mask: Tensor, rows: Sequence[int]) -> MemoryReadout:
        """What matters to the steps (R, N) with holes that come next; (R, ...)."""
        ...

    def reset(self, env_mask: Tensor | None = None) -> None:
        """Forget all, in the worlds where env_mask (B,) is True, or in every one."""
        ...

    def state_dict(self, row: int) -> dict[str, Tensor]:
        """The state of one world, which later writes do not change."""
        ...

    def load_state_dict(self, row: int, state: dict[str, Tensor]) -> None: ...


def rows_of(env_mask: Tensor | None, batch_size: int) -> list[int]:
    """The rows that a reset means."""
    return list(range(batch_size)) if env_mask is None else env_mask.nonzero().flatten().tolist()
