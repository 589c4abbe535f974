"""The baseline: no memory beyond the window of steps that the model attends to anyway."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from torch import Tensor

from magrathea.layout import Layout
from magrathea.memory.base import Recall


class Window:
    """Knows nothing, keeps nothing: what is older than the model's window is forgotten."""

    recalls_pictures: ClassVar[bool] = False

    @classmethod
    def fit(cls, layout: Layout, episodes: Iterable[Tensor]) -> Window:
        return cls()

    @classmethod
    def from_tensors(cls, layout: Layout, tensors: dict[str, Tensor]) -> Window:
        return cls()

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def new(self, batch_size: int) -> WindowMemory:
        return WindowMemory()

    def recall_episode(self, tokens: Tensor) -> None:
        return None


class WindowMemory:
    """Reads nothing."""

    def write(self, tokens: Tensor, encodings: Tensor, rows: Sequence[int]) -> None:
        pass

    def read(self, tokens: Tensor, hole_mask: Tensor, rows: Sequence[int]) -> Recall:
        return Recall()

    def reset(self, env_mask: Tensor | None = None) -> None:
        pass

    def state_dict(self, row: int) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, row: int, state: dict[str, Tensor]) -> None:
        pass
