"""Configuration of the masked transformer, and its presets of sizes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from magrathea.errors import MagratheaError
from magrathea.settings import Range, check

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
        memory: name of the memory beyond the window, of several with "+" between them, each with a size after ":".
    """

    width: Annotated[int, Range(HEAD_WIDTH, 2**14)] = 192
    num_layers: Annotated[int, Range(1, 1000)] = 4
    num_memory_layers: Annotated[int, Range(0, 1000)] = 1
    window: Annotated[int, Range(1, 63)] = 6
    mlp_ratio: Annotated[int, Range(1, 64)] = 2
    memory: str = "window"

    def __post_init__(self) -> None:
        check(self)
        if self.width % HEAD_WIDTH:
            raise MagratheaError(f"width is {self.width}; give a multiple of {HEAD_WIDTH}.")

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
