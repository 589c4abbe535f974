"""Slots of observations: which one holds the pictures, its values and pictures, and the accuracy of actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from magrathea.layout import Layout, Slot
from magrathea.spaces import find_picture
from magrathea.tokenizers import Tokenizer
from magrathea.world import World


def picture_slot(world: World) -> Slot | None:
    """The slot of the picture that is shown of an observation, if that has channels, 16 x 16 pixels or more, and a grid
    of tokens."""
    path = find_picture(world.observation_space)
    key = None if path is None else "/".join(map(str, path))
    for slot in world.layout.of_role("observation"):
        if slot.is_grid and _leaf_key(world, slot) == key:
            shape = slot_tokenizer(world, slot).space.shape or ()
            return slot if len(shape) == 3 and min(shape[:2]) >= 16 else None
    return None


def leaf_of(observation: Any, slot: Slot) -> np.ndarray:
    """The array of an observation that a slot's tokens are made of, by the leaf's key."""
    for key in filter(None, slot.name.partition("/")[2].split("/")):
        if isinstance(observation, dict):
            observation = observation[key]
        elif isinstance(observation, tuple):
            observation = observation[int(key)]
    return np.asarray(observation)


def _leaf_key(world: World, slot: Slot) -> str:
    leaves, key = world.tokenizers["observation"].leaves, slot.name.partition("/")[2]
    return key if key in leaves else key.rpartition("/")[0]


def slot_tokenizer(world: World, slot: Slot) -> Tokenizer:
    """The tokenizer of the observation's leaf that a slot's tokens belong to."""
    return world.tokenizers["observation"].leaves[_leaf_key(world, slot)]


def pictures_of(world: World, slot: Slot, tokens: np.ndarray) -> np.ndarray:
    """tokens (…, N) -> pictures (…, rows, columns, channels) uint8 of the leaf that begins with a slot."""
    tokenizer, start = slot_tokenizer(world, slot), world.layout.span(slot.name).start
    return tokenizer.decode(tokens[..., start : start + tokenizer.tokens_per_step])


def action_scores(layout: Layout, logits: dict[str, Tensor], targets: Tensor) -> np.ndarray:
    """Whether the likeliest action is the one taken, in all its tokens: (B, C)."""
    correct = [
        (logits[slot.name].argmax(-1).cpu() == targets[..., layout.span(slot.name)]).all(-1)
        for slot in layout.of_role("action")
    ]
    return torch.stack(correct).all(0).numpy()
