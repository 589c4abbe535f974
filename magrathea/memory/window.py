"""The baseline: no memory beyond the window of steps that the model attends to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor

from magrathea.interfaces import EpisodeReadout, MemoryOutputs, MemoryReadout
from magrathea.layout import Layout
from magrathea.model.config import ModelConfig


class WindowSpec:
    """The spec of no memory: nothing is fitted, nothing is kept."""

    @classmethod
    def outputs(cls, layout: Layout) -> MemoryOutputs:
        return MemoryOutputs()

    @classmethod
    def fit(cls, layout: Layout, episodes: Iterable[Int[Tensor, "_ N"]]) -> WindowSpec:
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

    def read_episode(self, tokens: Int[Tensor, "T N"], window: int) -> EpisodeReadout:
        return EpisodeReadout()


class WindowMemory:
    """Takes in steps without effect, and gives an empty readout."""

    def write(self, tokens: Int[Tensor, "I N"], encodings: Tensor, batch_indices: Sequence[int]) -> None:
        pass

    def read(
        self, tokens: Int[Tensor, "I N"], hole_mask: Bool[Tensor, "I N"], batch_indices: Sequence[int]
    ) -> MemoryReadout:
        return MemoryReadout()

    def reset(self, env_mask: Bool[Tensor, " B"] | None = None) -> None:
        pass

    def state_dict(self, batch_index: int) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, batch_index: int, state: dict[str, Tensor]) -> None:
        pass
