"""The protocols that a memory implements, and what it exchanges with the model.

A memory carries the past beyond the model's window. `MemorySpec` is what is learned from recordings before anything has
happened; `MemorySpec.new` makes the running `Memory` of a batch of worlds; `Memory.read` gives a `MemoryReadout` to the
steps that are filled next. The model knows no kind of memory by name: it has a place for each output that
`MemorySpec.outputs` declares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from magrathea.layout import Layout
from magrathea.model.config import ModelConfig

NUM_FEATURES = 8


@dataclass(frozen=True)
class MemoryOutputs:
    """Which parts of a `MemoryReadout` a memory gives; the model makes a place for each.

    Attributes:
        slots: names of the slots whose tokens it predicts.
        steps: whether it gives past steps to attend to.
        state: whether the model holds a `Recurrence` for it.
        features: whether it gives numbers that concern the whole step.
    """

    slots: tuple[str, ...] = ()
    steps: bool = False
    state: bool = False
    features: bool = False

    def names(self) -> list[str]:
        """The name of everything that is given."""
        return [*self.slots, *(name for name in ("steps", "state", "features") if getattr(self, name))]


@dataclass(frozen=True)
class MemoryReadout:
    """What memories give to steps that are to be filled; the leading dimensions (...) are those of the steps.

    Attributes:
        predicted_tokens: by slot name (..., tokens of the slot) what the slot would hold if nothing unforeseen
            happened; the absent token where nothing is known.
        steps: (..., K, N) tokens of past steps to attend to in addition to the window, the most relevant first;
            where there are fewer than K, absent tokens.
        state: (..., *S) of the recurrence that the model holds for the memory.
        features: (..., NUM_FEATURES) float32 that concern the whole step, 0 where nothing is known.
    """

    predicted_tokens: dict[str, Tensor] = field(default_factory=dict)
    steps: Tensor | None = None
    state: Tensor | None = None
    features: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> MemoryReadout:
        """A function of every tensor."""
        predicted = {name: function(tokens) for name, tokens in self.predicted_tokens.items()}
        rest = (self.steps, self.state, self.features)
        return MemoryReadout(predicted, *(None if part is None else function(part) for part in rest))

    def select_known_action(self, hole_mask: Bool[Tensor, "B T N"], layout: Layout) -> MemoryReadout:
        """Of readouts without and with the step's action (B, T, 2, ...), the one that fits each of the steps with holes
        (B, T, N): (B, T, ...)."""
        unknown = hole_mask[..., layout.role_span("action")].any(-1)
        return self.map(
            lambda part: torch.where(unknown[(..., *[None] * (part.ndim - 3))], part[:, :, 0], part[:, :, 1])
        )

    @staticmethod
    def stack(readouts: Sequence[MemoryReadout]) -> MemoryReadout:
        """Readouts that have the same parts, in a new first dimension."""
        first = readouts[0]
        predicted = {
            name: torch.stack([readout.predicted_tokens[name] for readout in readouts])
            for name in first.predicted_tokens
        }
        rest = {
            name: torch.stack([getattr(readout, name) for readout in readouts])
            for name in ("steps", "state", "features")
            if getattr(first, name) is not None
        }
        return MemoryReadout(predicted, **rest)

    def merge(self, other: MemoryReadout) -> MemoryReadout:
        """This and the readout of another memory, which gives other parts."""
        rest = {
            name: getattr(self, name) if getattr(other, name) is None else getattr(other, name)
            for name in ("steps", "state", "features")
        }
        return MemoryReadout(self.predicted_tokens | other.predicted_tokens, **rest)


@dataclass(frozen=True)
class EpisodeReadout:
    """What a memory gives just before each of the T steps of a recorded episode, for training: [:, 0] without the
    step's action and [:, 1] with it. A recurrent state is no part of it: the model computes it from the steps before.

    Attributes:
        predicted_tokens: by slot name (T, 2, tokens of the slot).
        sources: (T, 2, K) indices of the episode's steps to attend to; -1 for none.
        features: (T, 2, NUM_FEATURES) float32.
    """

    predicted_tokens: dict[str, Tensor] = field(default_factory=dict)
    sources: Tensor | None = None
    features: Tensor | None = None


@runtime_checkable
class Recurrence(Protocol):
    """A module that learns with the model: a state of one tensor, which final steps change and which steps to be filled
    read. The model holds it, so its weights are the world's."""

    def states(self, encodings: Float[Tensor, "B T P D"], is_step: Bool[Tensor, "B T"]) -> Float[Tensor, "B T ..."]:
        """The states (B, T, *S) before each of the steps (B, T, P, D), from an empty one; with gradients. Where is_step
        (B, T) is False the state stays as it is."""
        ...

    def write(self, state: Tensor, encodings: Float[Tensor, "B P D"]) -> Tensor:
        """The states (B, *S) after one step (B, P, D)."""
        ...

    def empty(self) -> Tensor:
        """(*S)"""
        ...

    def read(self, state: Float[Tensor, "B T ..."], positions: Float[Tensor, "B T P D"]) -> Float[Tensor, "B T P D"]:
        """What is added to positions (B, T, P, D) of steps that are filled, from states (B, T, *S)."""
        ...


@runtime_checkable
class MemorySpec(Protocol):
    """A kind of memory, fitted to a world: what it knows before anything has happened there. A plug-in, registered
    under the entry point group `magrathea.memories`."""

    @classmethod
    def outputs(cls, layout: Layout) -> MemoryOutputs:
        """What `Memory.read` gives in a world of this layout."""
        ...

    @classmethod
    def fit(cls, layout: Layout, episodes: Iterable[Tensor]) -> MemorySpec:
        """Learn from the tokens (T, N) of recorded episodes, before the model is trained; raises MagratheaError where
        they do not have what this memory needs."""
        ...

    @classmethod
    def from_tensors(cls, layout: Layout, tensors: dict[str, Tensor]) -> MemorySpec:
        """The inverse of `tensors`; raises MagratheaError for those of another kind or version."""
        ...

    @classmethod
    def recurrence(cls, config: ModelConfig, layout: Layout) -> Recurrence | None:
        """A new `Recurrence`, where `outputs` declares a state."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs, to be stored with the world's weights."""
        ...

    def new(self, batch_size: int, model: Any) -> Memory:
        """The empty memories of B worlds, whose model has a `config` and a `recurrence`."""
        ...

    def read_episode(self, tokens: Int[Tensor, "T N"], window: int) -> EpisodeReadout:
        """What is read before each step of a recorded episode (T, N) by a model that attends to a window of steps."""
        ...


@runtime_checkable
class Memory(Protocol):
    """The running memories of B worlds: h' = f(h, step). The cost of a step does not grow with the history.

    I batch indices, N tokens of a step, P positions, D width.
    """

    def write(
        self, tokens: Int[Tensor, "I N"], encodings: Float[Tensor, "I P D"], batch_indices: Sequence[int]
    ) -> None:
        """Take in final steps: their tokens (I, N) and encodings (I, P, D)."""
        ...

    def read(
        self, tokens: Int[Tensor, "I N"], hole_mask: Bool[Tensor, "I N"], batch_indices: Sequence[int]
    ) -> MemoryReadout:
        """The readout (I, ...) for the steps (I, N) with holes that come next."""
        ...

    def reset(self, env_mask: Bool[Tensor, " B"] | None = None) -> None:
        """Empty the memories where env_mask (B,) is True, or all."""
        ...

    def state_dict(self, batch_index: int) -> dict[str, Tensor]:
        """The state of one world's memory, which later writes do not change."""
        ...

    def load_state_dict(self, batch_index: int, state: dict[str, Tensor]) -> None:
        """Set the state of one world's memory, which is empty."""
        ...
