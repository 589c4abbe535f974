"""The baseline: no memory beyond the window of steps that the model attends to anyway."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from magrathea.interfaces import EpisodeReadout, MemoryOutputs, MemoryReadout
from magrathea.layout import Layout
from magrathea.model.config import ModelConfig


class WindowSpec:
    """Knows nothing, keeps nothing: what is older than the model's window is forgotten."""

    @classmethod
    def outputs(cls, layout: Layout) -> MemoryOutputs:
        return MemoryOutputs()

    @classmethod
    def fit(cls, layout: Layout, episodes: Iterable[Tensor]) -> WindowSpec:
        return cls()

    @classmethod
    def from_tensors(cls, layout: Layout, tensors: dict[str, Tensor]) -> WindowSpec:
        return cls()

    @classmethod
    def recurrence(cls, config: ModelConfig, layout: Layout) -> None:
        return None

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def new(self, batch_size: int, model: Any) -> WindowMemory:
        return WindowMemory()

    def read_episode(self, tokens: Tensor, window: int) -> EpisodeReadout:
        return EpisodeReadout()


class WindowMemory:
    """Reads nothing."""

    def write(self, tokens: Tensor, encodings: Tensor, batch_indices: Sequence[int]) -> None:
        pass

    def read(self, tokens: Tensor, hole_mask: Tensor, batch_indices: Sequence[int]) -> MemoryReadout:
        return MemoryReadout()

    def reset(self, env_mask: Tensor | None = None) -> None:
        pass

    def state_dict(self, batch_index: int) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, batch_index: int, state: dict[str, Tensor]) -> None:
        pass
