"""The plug-in point of memories."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from magrathea.layout import Layout


@dataclass(frozen=True)
class Recall:
    """What a memory gives to the step that comes next.

    Attributes:
        picture: (R, C) tokens of the observation's picture as it would be if nothing had changed, absent where unknown.
    """

    picture: Tensor | None = None


class MemoryKind(Protocol):
    """What a world's memory knows before anything has happened there, learned from recordings. A plug-in.

    Attributes:
        recalls_pictures: whether `Memory.read` gives pictures.
    """

    recalls_pictures: ClassVar[bool]

    @classmethod
    def fit(cls, layout: Layout, episodes: Iterable[Tensor]) -> MemoryKind:
        """Learn from the tokens (T, N) of recorded episodes, before the model is trained."""
        ...

    @classmethod
    def from_tensors(cls, layout: Layout, tensors: dict[str, Tensor]) -> MemoryKind: ...

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs."""
        ...

    def new(self, batch_size: int) -> Memory:
        """The empty memories of B worlds."""
        ...

    def recall_episode(self, tokens: Tensor) -> Tensor | None:
        """What is read just before each step of a recorded episode (T, N), for training: pictures (T, 2, C), not
        knowing the step's action and knowing it; None of a memory that does not recall pictures."""
        ...


@runtime_checkable
class Memory(Protocol):
    """Carries the past forward: h' = f(h, step). Works on a batch of worlds; costs the same however long they live.

    B worlds, R rows of them, N tokens of a step, P positions, D width, M memory steps.
    """

    def write(self, tokens: Tensor, encodings: Tensor, rows: Sequence[int]) -> None:
        """Take in final steps: their tokens (R, N) and encodings (R, P, D)."""
        ...

    def read(self, tokens: Tensor, hole_mask: Tensor, rows: Sequence[int]) -> Recall:
        """What matters to the steps (R, N) with holes that come next."""
        ...

    def reset(self, env_mask: Tensor | None = None) -> None:
        """Forget all, in the worlds where env_mask (B,) is True, or in every one."""
        ...

    def state_dict(self, row: int) -> dict[str, Tensor]:
        """The state of one world, which later writes do not change."""
        ...

    def load_state_dict(self, row: int, state: dict[str, Tensor]) -> None: ...
