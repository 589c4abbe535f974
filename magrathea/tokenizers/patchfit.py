"""Fitting a codebook of patches."""

from __future__ import annotations

import numpy as np

from magrathea.tokenizers.codebook import leaders, one_hot, refine
from magrathea.tokenizers.patches import hash_rows, split

MAX_FRAMES = 20_000
MOST_LABELS = 16  # different values of a picture in which each names a class, so that none is between two others
_FRAMES_AT_A_TIME = 256
_MAX_LONE = 60_000  # most patches with one occurrence that are kept; noise makes arbitrarily many


def sample_frames(frames: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """At most `limit` frames, drawn without replacement, in their order."""
    if len(frames) <= limit:
        return frames
    return frames[np.sort(np.random.default_rng(seed).choice(len(frames), limit, replace=False))]


def fit_codebook(images: np.ndarray, patch: tuple[int, int], num_codes: int, seed: int) -> np.ndarray:
    """Codes uint8 (K <= num_codes, P) for images (M, H, W, channels).

    All of the different patches if they are few enough, otherwise `leader_codes`, or for labels, which are one channel
    of few values, `label_codes`. Noise is not told from content: where
    pictures carry noise, the most frequent patches lead, and the codes that are left average the noisy ones.
    """
    patches, weights, _ = count_patches(sample_frames(images, MAX_FRAMES, seed), patch, seed)
    if len(patches) <= num_codes:
        return patches
    values = np.unique(patches)
    if images.shape[3] == 1 and len(values) <= MOST_LABELS:
        return label_codes(patches, values, weights, num_codes)
    return leader_codes(patches, weights, num_codes)


def count_patches(images: np.ndarray, patch: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The different patches (M, P) of images, most frequent first, their weights (M,) float32 and counts (M,).

    Weights are counts, but of the patches that come once only a random part is kept, and weighs for the rest.
    """
    length = patch[0] * patch[1] * images.shape[3]
    tokens = (images.shape[1] // patch[0]) * (images.shape[2] // patch[1])
    hashes = np.empty(len(images) * tokens, np.uint64)
    for begin in range(0, len(images), _FRAMES_AT_A_TIME):
        chunk = split(images[begin : begin + _FRAMES_AT_A_TIME], patch)
        hashes[begin * tokens : begin * tokens + len(chunk)] = hash_rows(chunk)
    _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    weights = counts.astype(np.float32)
    lone = np.flatnonzero(counts == 1)
    if len(lone) > _MAX_LONE:
        kept = np.random.default_rng(seed).choice(lone, _MAX_LONE, replace=False)
        weights[kept] = len(lone) / _MAX_LONE
        chosen = np.sort(np.concatenate([np.flatnonzero(counts > 1), kept]))
        first, weights, counts = first[chosen], weights[chosen], counts[chosen]
    order = np.lexsort((first, -counts))
    return _gather(images, patch, first[order], tokens)[:, :length], weights[order], counts[order]


def weighted_patches(patches: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`count_patches` of patches (M, P) that are cut already."""
    return count_patches(patches[:, None, :, None], (1, patches.shape[1]), seed)


def _gather(images: np.ndarray, patch: tuple[int, int], positions: np.ndarray, tokens: int) -> np.ndarray:
    """The patches (M, P) at positions (M,) of all patches of all images, without cutting all of them at once."""
    by_position = np.argsort(positions, kind="stable")
    parts = []
    bounds = np.arange(0, len(images), _FRAMES_AT_A_TIME)
    edges = np.searchsorted(positions[by_position], np.append(bounds, len(images)) * tokens)
    for begin, low, high in zip(bounds, edges[:-1], edges[1:], strict=True):
        cut = split(images[begin : begin + _FRAMES_AT_A_TIME], patch)
        parts.append(cut[positions[by_position[low:high]] - begin * tokens])
    gathered = np.concatenate(parts)
    result = np.empty_like(gathered)
    result[by_position] = gathered
    return result


def leader_codes(patches: np.ndarray, weights: np.ndarray, num_codes: int) -> np.ndarray:
    """At most `num_codes` codes uint8 (K, P) for patches (M, P), most frequent first: leader clustering with the least
    threshold that gives so few, then averaged."""
    low, high = 1.0, float(patches.shape[1] * 255**2)
    for _ in range(12):
        middle = float(np.sqrt(low * high))
        if len(leaders(patches, middle, num_codes + 1)) > num_codes:
            low = middle
        else:
            high = middle
    codes = refine(patches, patches[leaders(patches, high, num_codes)], 3, weights)
    return np.unique(np.round(codes).astype(np.uint8), axis=0)


def label_codes(patches: np.ndarray, values: np.ndarray, weights: np.ndarray, num_codes: int) -> np.ndarray:
    """`leader_codes` where the values (C,) of pixels are names: patches are as far apart as they have pixels that
    differ, and a code has at each pixel the most frequent value of its patches."""
    shares = leader_codes(one_hot(patches, values), weights, num_codes)
    return np.unique(values[shares.reshape(len(shares), -1, len(values)).argmax(-1)], axis=0)
