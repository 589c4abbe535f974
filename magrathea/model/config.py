"""The sizes of a world's heart."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from magrathea.errors import MagratheaError

HEAD_WIDTH = 48  # 16 numbers for each axis of the rotary positions: time, row, column


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the masked transformer.

    Attributes:
        width: D, a multiple of 48 (the width of a head).
        num_layers: layers that fill a step.
        num_memory_layers: layers that encode a past step, once.
        window: W, number of past steps that are attended to.
        mlp_ratio: hidden width of the feed-forward layers over D.
        memory: name of the memory beyond the window, of several with "+" between them, each with a size behind ":".
    """

    width: int = 192
    num_layers: int = 4
    num_memory_layers: int = 1
    window: int = 6
    mlp_ratio: int = 2
    memory: str = "window"

    def __post_init__(self) -> None:
        if self.width % HEAD_WIDTH:
            raise MagratheaError(f"Model width {self.width} is not a multiple of {HEAD_WIDTH}; choose one that is.")
        if not 1 <= self.window < 64:
            raise MagratheaError(f"Model window {self.window} is outside 1…63; choose a window within it.")

    @property
    def num_heads(self) -> int:
        return self.width // HEAD_WIDTH

    def to_config(self) -> dict[str, Any]:
        return asdict(self)


SIZES: dict[str, ModelConfig] = {
    "debug": ModelConfig(width=48, num_layers=2, num_memory_layers=1, window=3, mlp_ratio=2),
    "tiny": ModelConfig(width=144, num_layers=4, num_memory_layers=1, window=4),
    "small": ModelConfig(width=192, num_layers=5, num_memory_layers=2, window=6),
    "base": ModelConfig(width=384, num_layers=8, num_memory_layers=2, window=8),
}


def model_size(name: str) -> ModelConfig:
    if name not in SIZES:
        raise MagratheaError(f"Unknown size '{name}'; choose one of {', '.join(SIZES)}.")
    return SIZES[name]
