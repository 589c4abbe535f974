"""From a Gymnasium space to its tokenizer, and from a saved configuration to the same tokenizer again."""

from __future__ import annotations

from typing import Any

import gymnasium
import torch
from gymnasium import spaces

from magrathea.errors import MagratheaError
from magrathea.tokenizers.base import Tokenizer
from magrathea.tokenizers.discrete import (
    DiscreteTokenizer,
    MultiBinaryTokenizer,
    MultiDiscreteTokenizer,
    TerminatedTokenizer,
)
from magrathea.tokenizers.patch import PatchTokenizer, is_image
from magrathea.tokenizers.reward import RewardTokenizer

TOKENIZERS: dict[str, type[Tokenizer]] = {
    cls.type_name: cls
    for cls in (
        DiscreteTokenizer,
        MultiDiscreteTokenizer,
        MultiBinaryTokenizer,
        TerminatedTokenizer,
        RewardTokenizer,
        PatchTokenizer,
    )
}
"""Every kind of tokenizer by the "type" of its configuration; add yours here."""


def tokenizer_for(space: gymnasium.Space, *, image: str = "patch", **options: Any) -> Tokenizer:
    """A tokenizer for a space; `image` ("patch" or "autoencoder") says which kind images get, `options` go to theirs.

    Raises MagratheaError for a space that has no tokenizer. `fit` it where its kind needs that.
    """
    if is_image(space):
        return PatchTokenizer(space, **options)
    if isinstance(space, spaces.Discrete):
        return DiscreteTokenizer(space)
    if isinstance(space, spaces.MultiDiscrete):
        return MultiDiscreteTokenizer(space)
    if isinstance(space, spaces.MultiBinary):
        return MultiBinaryTokenizer(space)
    raise MagratheaError(
        f"No tokenizer for {space}; supported are image and number Box, Discrete, MultiDiscrete, "
        "MultiBinary, and Dict and Tuple of these"
    )


def tokenizer_from(
    config: dict[str, Any], tensors: dict[str, torch.Tensor], space: gymnasium.Space | None = None
) -> Tokenizer:
    """The tokenizer that `to_config()` and `tensors()` describe; reward and terminated need no space."""
    kind = config.get("type")
    if kind not in TOKENIZERS:
        raise MagratheaError(f"Unknown tokenizer type {kind!r}; known are {', '.join(sorted(TOKENIZERS))}")
    try:
        return TOKENIZERS[kind].from_config(config, tensors, space)  # type: ignore[arg-type]
    except (KeyError, TypeError, AssertionError) as error:
        raise MagratheaError(f"Tokenizer '{kind}' does not fit space {space} or lacks a setting ({error})") from error
