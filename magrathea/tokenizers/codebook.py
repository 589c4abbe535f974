"""Making a codebook of patches, and looking patches up in it. K codes of P uint8 values, M patches."""

from __future__ import annotations

import numpy as np

_CHUNK = 4096  # patches compared with the codebook at a time
_CENTER = 128.0  # subtracted from all values: squared distances of patches up to 341 values are then exact in float32


def nearest_codes(patches: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Index (M,) of the code (K, P) with the least squared distance to each patch (M, P); the lower one in a tie."""
    return nearest_distances(patches, codes)[0]


def one_hot(patches: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Patches (M, P) of these values (C,) -> (M, P * C) uint8, whose squared distance counts the pixels that differ."""
    return ((patches[..., None] == values) * np.uint8(255)).reshape(len(patches), -1)


def nearest_distances(patches: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(index (M,), squared distance (M,) float32) of the nearest code of each patch."""
    centered = codes.astype(np.float32) - _CENTER
    half_norms = (centered * centered).sum(axis=1) / 2
    weights = np.ascontiguousarray(centered.T)
    indices = np.empty(len(patches), np.int64)
    distances = np.empty(len(patches), np.float32)
    for begin in range(0, len(patches), _CHUNK):
        chunk = patches[begin : begin + _CHUNK].astype(np.float32) - _CENTER
        scores = chunk @ weights
        scores -= half_norms
        best = scores.argmax(axis=1)
        indices[begin : begin + len(chunk)] = best
        norms = (chunk * chunk).sum(axis=1)
        distances[begin : begin + len(chunk)] = norms - 2 * scores[np.arange(len(chunk)), best]
    return indices, np.maximum(distances, 0)


def leaders(patches: np.ndarray, threshold: float, limit: int) -> np.ndarray:
    """Greedy leader clustering: indices of the patches (M, P) that are farther than `threshold` (squared) from every
    leader before them, in order; stops after `limit` of them. Order the patches by frequency first."""
    chosen: list[int] = []
    values = patches.astype(np.float32) - _CENTER
    for begin in range(0, len(values), 1024):
        if len(chosen) >= limit:
            break
        chunk = values[begin : begin + 1024]
        free = np.ones(len(chunk), bool)
        if chosen:
            free = nearest_distances(patches[begin : begin + 1024], patches[chosen])[1] > threshold
        candidates = np.flatnonzero(free)
        while len(candidates) and len(chosen) < limit:
            leader = candidates[0]
            chosen.append(begin + int(leader))
            gaps = ((chunk[candidates] - chunk[leader]) ** 2).sum(axis=1)
            candidates = candidates[gaps > threshold]
    return np.array(chosen, dtype=np.int64)


def refine(
    patches: np.ndarray, codes: np.ndarray, num_rounds: int, weights: np.ndarray | None = None, num_fixed: int = 0
) -> np.ndarray:
    """Rounds of k-means (Lloyd 1982): every code (K, P) but the first `num_fixed` becomes the weighted mean of the
    patches (M, P) nearest to it."""
    codes, values = codes.astype(np.float32), patches.astype(np.float32)
    for _ in range(num_rounds):
        codes[num_fixed:] = cluster_means(values, nearest_codes(patches, codes), codes, weights)[num_fixed:]
    return codes


def cluster_means(
    values: np.ndarray, assigned: np.ndarray, codes: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """The weighted mean (K, P) of the values (M, P) assigned to each code; a code without any stays where it is."""
    weights = np.ones(len(values)) if weights is None else weights
    order = np.argsort(assigned, kind="stable")
    present, starts = np.unique(assigned[order], return_index=True)
    ordered_weights = weights[order].astype(np.float32)[:, None]
    sums = np.add.reduceat(values[order] * ordered_weights, starts, axis=0)
    totals = np.add.reduceat(ordered_weights, starts, axis=0)
    means = codes.copy()
    means[present] = sums / totals
    return means
