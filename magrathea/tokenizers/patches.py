"""Images cut in patches and put together again, and finding the different patches quickly.

B images, R rows and C columns of patches, P = patch height * width * channels (the length of a patch).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from magrathea.errors import MagratheaError
from magrathea.patch_sizes import patch_choices

_HASH_CHUNK = 8192  # patches hashed at a time: they stay in the processor's cache
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class UniquePatches(NamedTuple):
    """The different rows of an array: where each comes first, which one every row is, and how often each comes."""

    first: np.ndarray
    inverse: np.ndarray
    counts: np.ndarray


def split(images: np.ndarray, patch: tuple[int, int]) -> np.ndarray:
    """uint8 images (B, H, W, channels) -> patches (B*R*C, P), row by row; P is padded with zeros to a multiple of 8."""
    batch, height, width, channels = images.shape
    rows, columns = height // patch[0], width // patch[1]
    length = patch[0] * patch[1] * channels
    padded = np.zeros((batch, rows, columns, -(-length // 8) * 8), np.uint8)
    target = padded[..., :length].reshape(batch, rows, columns, patch[0], patch[1], channels)
    if not np.shares_memory(target, padded):  # splitting the last dimension is always a view
        raise AssertionError("patches are not a view of their buffer")
    target[...] = images.reshape(batch, rows, patch[0], columns, patch[1], channels).transpose(0, 1, 3, 2, 4, 5)
    return padded.reshape(batch * rows * columns, -1)


def join(patches: np.ndarray, rows: int, columns: int, patch: tuple[int, int], channels: int) -> np.ndarray:
    """Patches (B*R*C, P) without padding -> images (B, H, W, channels)."""
    cut = patches.reshape(-1, rows, columns, patch[0], patch[1], channels)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(-1, rows * patch[0], columns * patch[1], channels)


def hash_rows(rows: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each row; rows (M, 8*k) uint8, contiguous."""
    words = rows.view(np.uint64)
    hashes = np.empty(len(rows), np.uint64)
    for begin in range(0, len(rows), _HASH_CHUNK):
        chunk = words[begin : begin + _HASH_CHUNK]
        value = np.full(len(chunk), _MULTIPLIER, np.uint64)
        for index in range(words.shape[1]):
            value ^= chunk[:, index]
            value *= _MULTIPLIER
            value ^= value >> np.uint64(29)
        hashes[begin : begin + len(chunk)] = value
    return hashes


def unique_rows(rows: np.ndarray) -> UniquePatches:
    """The different rows of (M, 8*k) uint8 by their hashes (two different rows share one by chance about never)."""
    _, first, inverse, counts = np.unique(hash_rows(rows), return_index=True, return_inverse=True, return_counts=True)
    return UniquePatches(first, inverse.reshape(-1), counts)


def patch_pair(patch: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a patch given as such or as one number for both; raises MagratheaError for anything else."""
    pair = (patch, patch) if isinstance(patch, int) else tuple(patch)
    if len(pair) != 2 or not all(isinstance(size, int) and size > 0 for size in pair):
        raise MagratheaError(f"patch={patch} is no size; give a number of pixels or (height, width)")
    return pair[0], pair[1]


def choose_patch(images: np.ndarray) -> tuple[int, int]:
    """The patch size (h, w) with which images (B, H, W, channels) have the shortest description.

    Its length is that of the different patches (8 bits a value) and of the tokens (log2 of their number each): a tile
    world has few different patches when the patch is its tile. Ties, and worlds without tiles, go to the larger patch.
    """
    choices = patch_choices(images.shape[1], images.shape[2])
    if len(choices) == 1:
        return choices[0]
    bits = []
    for patch in choices:
        rows = split(images, patch)
        num_different = len(np.unique(hash_rows(rows)))
        length = math.prod(patch) * images.shape[3]
        bits.append(num_different * 8 * length + len(rows) * math.log2(num_different + 1))
    best = min(bits)
    return next(patch for patch, cost in zip(choices, bits, strict=True) if cost <= best * 1.02)
