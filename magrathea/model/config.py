"""Configuration of the masked transformer, and its presets of sizes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from magrathea.errors import MagratheaError, one_line
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
        num_conv_blocks: residual blocks of convolutions over the cells of a picture that has values, before the layers,
            and as many after them.
        num_recent: R, if not 0 the last R steps are shown to the step that is filled position by position, instead of
            attended to; slots that have values need that.
        sequence_context: whether the positions of texts are given a projection of the action's, as cells of pictures
            always are.
        memory: name of the memory beyond the window, of several with "+" between them, each with a size after ":".
        prompt: text that tells which of several worlds with the same weights this is; none, if empty.
    """

    width: Annotated[int, Range(HEAD_WIDTH, 2**14)] = 192
    num_layers: Annotated[int, Range(1, 1000)] = 4
    num_memory_layers: Annotated[int, Range(0, 1000)] = 1
    window: Annotated[int, Range(1, 63)] = 6
    mlp_ratio: Annotated[int, Range(1, 64)] = 2
    num_conv_blocks: Annotated[int, Range(0, 100)] = 0
    num_recent: Annotated[int, Range(0, 63)] = 0
    sequence_context: bool = False
    memory: str = "window"
    prompt: str = ""

    def __post_init__(self) -> None:
        check(self)
        if self.width % HEAD_WIDTH:
            raise MagratheaError(f"width is {self.width}; give a multiple of {HEAD_WIDTH}.")
        if self.num_recent > self.window:
            raise MagratheaError(f"num_recent is {self.num_recent}; give at most the window, {self.window}.")

    @property
    def attends_to_window(self) -> bool:
        return self.num_recent == 0

    @property
    def num_heads(self) -> int:
        return self.width // HEAD_WIDTH

    def to_config(self) -> dict[str, Any]:
        """All fields, but those that worlds of earlier versions do not have only where they differ from the default: a
        world's fingerprint must not change."""
        later = {"num_conv_blocks": 0, "num_recent": 0, "sequence_context": False, "prompt": ""}
        return {name: value for name, value in asdict(self).items() if later.get(name) != value}


SIZES: dict[str, ModelConfig] = {
    "debug": ModelConfig(
        width=48, num_layers=2, num_memory_layers=0, window=3, num_recent=3, num_conv_blocks=1, sequence_context=True
    ),
    "tiny": ModelConfig(
        width=144, num_layers=3, num_memory_layers=0, window=3, num_recent=3, num_conv_blocks=2, sequence_context=True
    ),
    "small": ModelConfig(
        width=192, num_layers=4, num_memory_layers=0, window=4, num_recent=4, num_conv_blocks=2, sequence_context=True
    ),
    "base": ModelConfig(
        width=384, num_layers=8, num_memory_layers=0, window=4, num_recent=4, num_conv_blocks=3, sequence_context=True
    ),
}


def model_size(name: Any) -> ModelConfig:
    """The model of a named size; raises MagratheaError for any other value."""
    if not isinstance(name, str) or name not in SIZES:
        raise MagratheaError(f"size is {one_line(repr(name), 100)}; choose one of {', '.join(SIZES)}.")
    return SIZES[name]
