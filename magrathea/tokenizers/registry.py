"""From a Gymnasium space to its tokenizer, and from a saved configuration to the same tokenizer again."""

from __future__ import annotations

import inspect
from typing import Any

import gymnasium
import torch
from gymnasium import spaces

from magrathea import plugins
from magrathea.errors import MagratheaError
from magrathea.plugins import load_plugin
from magrathea.sounds import Sound
from magrathea.spaces import is_image, leaf_spaces_of
from magrathea.tokenizers.autoencoder import MaskedAutoencoderTokenizer
from magrathea.tokenizers.base import Tokenizer
from magrathea.tokenizers.composite import CompositeTokenizer
from magrathea.tokenizers.delta import DeltaTokenizer
from magrathea.tokenizers.discrete import (
    DiscreteTokenizer,
    MultiBinaryTokenizer,
    MultiDiscreteTokenizer,
    TerminatedTokenizer,
)
from magrathea.tokenizers.motion import MotionTokenizer
from magrathea.tokenizers.numbers import BoxTokenizer, RewardTokenizer
from magrathea.tokenizers.patch import PatchTokenizer
from magrathea.tokenizers.sound import SoundTokenizer
from magrathea.tokenizers.text import TextTokenizer

TOKENIZERS: dict[str, type[Tokenizer]] = {
    cls.type_name: cls
    for cls in (
        DiscreteTokenizer,
        MultiDiscreteTokenizer,
        MultiBinaryTokenizer,
        TerminatedTokenizer,
        RewardTokenizer,
        PatchTokenizer,
        MotionTokenizer,
        MaskedAutoencoderTokenizer,
        BoxTokenizer,
        DeltaTokenizer,
        TextTokenizer,
        SoundTokenizer,
        CompositeTokenizer,
    )
}
"""Built-in tokenizers by the "type" of their configuration. Packages add others as entry points of the group
`magrathea.tokenizers`, named by that type."""

IMAGE_TOKENIZERS: dict[str, type[Tokenizer]] = {
    cls.type_name: cls for cls in (MotionTokenizer, PatchTokenizer, MaskedAutoencoderTokenizer)
}
"""Built-in tokenizers of images."""

NUMBER_TOKENIZERS: dict[str, type[Tokenizer]] = {cls.type_name: cls for cls in (DeltaTokenizer, BoxTokenizer)}
"""Built-in tokenizers of other Boxes."""

TEXT_TOKENIZERS: dict[str, type[Tokenizer]] = {TextTokenizer.type_name: TextTokenizer}
"""Built-in tokenizers of texts."""

SOUND_TOKENIZERS: dict[str, type[Tokenizer]] = {SoundTokenizer.type_name: SoundTokenizer}
"""Built-in tokenizers of sounds."""


def tokenizer_for(
    space: gymnasium.Space,
    *,
    image: str = "patch",
    numbers: str = "box",
    text: str = "text",
    sound: str = "sound",
    **options: Any,
) -> Tokenizer:
    """A tokenizer for a space.

    Args:
        space: of the values.
        image: type of the tokenizers of its images: "motion", "patch", "autoencoder", or a plug-in's.
        numbers: type of the tokenizers of its other Boxes: "delta" or "box".
        text: type of the tokenizers of its texts: "text", or a plug-in's.
        sound: type of the tokenizers of its sounds: "sound", or a plug-in's.
        options: of those four; each leaf takes those that concern its kind. `fit` it
    where its kind needs that. Raises MagratheaError for a space that has no tokenizer and for an option that none has.
    """
    image_class = load_plugin(plugins.TOKENIZERS, image, Tokenizer, IMAGE_TOKENIZERS)
    numbers_class = load_plugin(plugins.TOKENIZERS, numbers, Tokenizer, NUMBER_TOKENIZERS)
    text_class = load_plugin(plugins.TOKENIZERS, text, Tokenizer, TEXT_TOKENIZERS)
    sound_class = load_plugin(plugins.TOKENIZERS, sound, Tokenizer, SOUND_TOKENIZERS)
    classes = image_class, numbers_class, text_class, sound_class
    known = {name for each in classes for name in _options_of(each)}
    if foreign := sorted(set(options) - known):
        raise MagratheaError(f"Unknown option '{foreign[0]}' of image={image!r}; known are {', '.join(sorted(known))}")
    if isinstance(space, spaces.Dict | spaces.Tuple):
        leaves = {key: _leaf_for(leaf, *classes, options) for key, leaf in leaf_spaces_of(space)}
        return CompositeTokenizer(space, leaves)
    return _leaf_for(space, *classes, options)


def _leaf_for(
    space: gymnasium.Space,
    image_class: type[Tokenizer],
    numbers_class: type[Tokenizer],
    text_class: type[Tokenizer],
    sound_class: type[Tokenizer],
    options: dict[str, Any],
) -> Tokenizer:
    """The tokenizer of a space that holds no other spaces, with those of the options that concern it."""
    if isinstance(space, Sound):
        return _with_options(sound_class, space, options)
    if is_image(space):
        return _with_options(image_class, space, options)
    if isinstance(space, spaces.Box):
        return _with_options(numbers_class, space, options)
    if isinstance(space, spaces.Text):
        return _with_options(text_class, space, options)
    if isinstance(space, spaces.Discrete):
        return DiscreteTokenizer(space)
    if isinstance(space, spaces.MultiDiscrete):
        return MultiDiscreteTokenizer(space)
    if isinstance(space, spaces.MultiBinary):
        return MultiBinaryTokenizer(space)
    raise MagratheaError(
        f"No tokenizer for {space}; supported are image, sound and number Box, Discrete, MultiDiscrete, "
        "MultiBinary, Text, and Dict and Tuple of these"
    )


def _options_of(tokenizer_class: type[Tokenizer]) -> set[str]:
    """The names of a tokenizer's options: the keyword-only parameters of its constructor."""
    parameters = inspect.signature(tokenizer_class).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def _with_options(tokenizer_class: type[Any], space: gymnasium.Space, options: dict[str, Any]) -> Tokenizer:
    own = _options_of(tokenizer_class)
    return tokenizer_class(space, **{name: value for name, value in options.items() if name in own})


def tokenizer_from(
    config: dict[str, Any], tensors: dict[str, torch.Tensor], space: gymnasium.Space | None = None
) -> Tokenizer:
    """The tokenizer that `to_config()` and `tensors()` describe; reward and terminated need no space."""
    kind = str(config.get("type"))
    try:
        if kind == CompositeTokenizer.type_name:
            return CompositeTokenizer.from_leaf_configs(config, tensors, space, tokenizer_from)  # type: ignore[arg-type]
        return load_plugin(plugins.TOKENIZERS, kind, Tokenizer, TOKENIZERS).from_config(config, tensors, space)
    except (MagratheaError, ImportError):
        raise
    except Exception as error:  # of a plug-in
        raise MagratheaError(f"Tokenizer '{kind}' does not fit space {space} or lacks a setting ({error})") from error
