"""Observations by slot and by kind: pictures, numbers and choices, and which of a step's tokens can be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import optree
from gymnasium import spaces

from magrathea.layout import Layout, Slot
from magrathea.sounds import Sound
from magrathea.spaces import COUNTERS, find_picture, has_counters, is_image, leaf_spaces_of, space_tree
from magrathea.tokenizers import Tokenizer
from magrathea.world import World

MIN_SIDE = 16  # pixels of a picture, from which it is compared as one
PICTURE, NUMBERS, CHOICES = "picture", "numbers", "choices"  # and COUNTERS


# -- values -----------------------------------------------------------------------------------------------------------
def is_picture(space: Any) -> bool:
    """Whether a space is an image of at least 16x16 pixels."""
    return is_image(space) and min(space.shape[:2]) >= MIN_SIDE


def by_kind(space: gymnasium.Space, leaves: Sequence[np.ndarray], num_leading: int) -> dict[str, np.ndarray]:
    """The leaves (*n, *shape) of observations, n of num_leading dimensions, joined by kind.

    Returns what there is of "picture" (*n, rows, columns, 1 or 3) uint8, the one that is shown; "counters" (*n, K)
    int64; "numbers" (*n, Q) float64 of other Boxes; "choices" (*n, Q) int64 of all else, small images among them, and a
    number for each text. Sounds are in none of them.
    """
    found, kinds = {}, {NUMBERS: [], CHOICES: []}
    paths, shown = optree.tree_paths(space_tree(space)), find_picture(space)
    for path, (_, leaf_space), leaf in zip(paths, leaf_spaces_of(space), leaves, strict=True):
        if path == (COUNTERS,) and has_counters(space):
            found[COUNTERS] = leaf.astype(np.int64)
            continue
        if isinstance(leaf_space, Sound):
            continue
        if is_picture(leaf_space):
            if path == shown or PICTURE not in found:
                found[PICTURE] = _channels(leaf, num_leading)
            continue
        is_numeric = isinstance(leaf_space, spaces.Box) and not is_image(leaf_space)
        leaf = _text_numbers(leaf) if isinstance(leaf_space, spaces.Text) else leaf
        kinds[NUMBERS if is_numeric else CHOICES].append(leaf.reshape(*leaf.shape[:num_leading], -1))
    for kind, dtype in ((NUMBERS, np.float64), (CHOICES, np.int64)):
        if kinds[kind]:
            found[kind] = np.concatenate(kinds[kind], axis=-1).astype(dtype)
    return found


def _text_numbers(texts: np.ndarray) -> np.ndarray:
    """Texts as int64 of the same shape, equal where the texts are."""
    numbers = [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest()) for text in texts.ravel()]
    return np.array(numbers, np.int64).reshape(texts.shape)


def _channels(pictures: np.ndarray, num_leading: int) -> np.ndarray:
    """Pictures (*n, rows, columns[, channels]) with a last dimension of 1 or 3."""
    pictures = pictures[..., None] if pictures.ndim == num_leading + 2 else pictures
    return pictures[..., :3]


# -- tokens -----------------------------------------------------------------------------------------------------------
def picture_slot(world: World) -> Slot | None:
    """The slot of the picture that is shown of an observation, if that has 16x16 pixels or more and a token grid."""
    path = find_picture(world.observation_space)
    key = None if path is None else "/".join(map(str, path))
    for slot in world.layout.of_role("observation"):
        if slot.is_grid and leaf_key(world, slot) == key:
            return slot if is_picture(slot_tokenizer(world, slot).space) else None
    return None


def comparable(layout: Layout) -> np.ndarray:
    """(N,) True for the entries of a step's observation that mean the same in every step: tokens of slots without
    values, and values."""
    chosen = np.zeros(layout.num_tokens, dtype=bool)
    for slot in layout.of_role("observation"):
        chosen[layout.span(slot.name)] = slot.name not in layout.values_slots
    return chosen


def leaf_of(observation: Any, slot: Slot) -> np.ndarray:
    """The array of an observation that a slot's tokens are made of, by the leaf's key."""
    for key in filter(None, slot.name.partition("/")[2].split("/")):
        if isinstance(observation, dict):
            observation = observation[key]
        elif isinstance(observation, tuple):
            observation = observation[int(key)]
    return np.asarray(observation)


def leaf_key(world: World, slot: Slot) -> str:
    """The key of the observation's leaf that a slot's tokens belong to."""
    leaves, key = world.tokenizers["observation"].leaves, slot.name.partition("/")[2]
    return key if key in leaves else key.rpartition("/")[0]


def slot_tokenizer(world: World, slot: Slot) -> Tokenizer:
    """The tokenizer of the observation's leaf that a slot's tokens belong to."""
    return world.tokenizers["observation"].leaves[leaf_key(world, slot)]


def pictures_of(world: World, slot: Slot, tokens: np.ndarray) -> np.ndarray:
    """tokens (…, N) -> pictures (…, rows, columns, 1 or 3) uint8 of the leaf that begins with a slot."""
    tokenizer, start = slot_tokenizer(world, slot), world.layout.span(slot.name).start
    pictures = tokenizer.decode(tokens[..., start : start + tokenizer.tokens_per_step])
    return _channels(pictures, tokens.ndim - 1)
