"""Codes for patches that carry noise: a night's grain must not choose the code, or nothing could foretell it.

A patch that comes back exactly is a picture; one that is never seen twice may be a picture under noise drawn anew each
time. Such patches are averaged into few codes, and codes that the noise alone would swap are merged. K codes, P values.
"""

from __future__ import annotations

import numpy as np

from magrathea.tokenizers.codebook import cluster_means, leaders, nearest_codes, nearest_distances

_NUM_NEIGHBOURS = 8
_NUM_PROBED, _NUM_COMPARED = 1500, 20_000
_NUM_REDRAWN = 30_000  # patches whose noise is redrawn to see which codes it swaps
_MAX_SWAPPED = 0.005  # the share of redrawn patches that may change their code
_SPACING = 2.1  # spacing of noisy codes over the noise's own size; less only gives codes to merge


def noise_size(patches: np.ndarray, seed: int) -> float:
    """Root mean square of the noise in patches (M, P) that are all different, in grey levels; 0 if it is no noise.

    Noise is what an average takes away: a noisy patch is nearer to the mean of its nearest patches than to the nearest
    of them, while a patch of a smoothly varying picture is nearest to its neighbour.
    """
    if len(patches) < 10 * _NUM_NEIGHBOURS:
        return 0.0
    chosen = np.random.default_rng(seed).permutation(len(patches))[:_NUM_COMPARED]
    values = patches[chosen].astype(np.float32) - 128
    norms = (values * values).sum(axis=1)
    to_mean, to_nearest = [], []
    for begin in range(0, min(len(values), _NUM_PROBED), 500):
        probes = values[begin : begin + 500]
        gaps = norms - 2 * probes @ values.T + norms[begin : begin + len(probes), None]
        gaps[np.arange(len(probes)), np.arange(begin, begin + len(probes))] = np.inf
        near = np.argpartition(gaps, _NUM_NEIGHBOURS, axis=1)[:, :_NUM_NEIGHBOURS]
        to_mean.append(((probes - values[near].mean(axis=1)) ** 2).sum(axis=1))
        to_nearest.append(np.take_along_axis(gaps, near, axis=1).min(axis=1))
    mean_gap, nearest_gap = np.concatenate(to_mean), np.concatenate(to_nearest)
    if np.median(mean_gap / np.maximum(nearest_gap, 1.0)) > 0.9:
        return 0.0
    variance = mean_gap / (1 + 1 / _NUM_NEIGHBOURS) / patches.shape[1]
    return float(np.sqrt(np.quantile(variance, 0.9)))


def noisy_codes(
    patches: np.ndarray, fixed: np.ndarray, size: float, channels: int, limit: int, seed: int
) -> np.ndarray:
    """At most `limit` codes (K, P) float32 for noisy patches (M, P), beside the codes `fixed` that stay as they are."""
    random = np.random.default_rng(seed)
    patches = patches[random.permutation(len(patches))]
    threshold = (_SPACING * size) ** 2 * patches.shape[1]
    uncovered = patches[nearest_distances(patches, fixed)[1] > threshold]
    codes = uncovered[leaders(uncovered, threshold, 4 * limit)].astype(np.float32)
    codes = _averaged(patches, fixed, codes, 4)
    while len(codes):
        swaps = _swaps(patches[:_NUM_REDRAWN], np.concatenate([fixed, codes]), channels, random)
        few_enough = len(codes) <= limit
        if few_enough and 1 - np.trace(swaps) / swaps.sum() <= _MAX_SWAPPED:
            break
        fewer = _merged(codes, fixed, swaps)
        if len(fewer) == len(codes):
            codes = codes[:limit]
            break
        codes = fewer
    return _averaged(patches, fixed, codes, 1)


def _averaged(patches: np.ndarray, fixed: np.ndarray, codes: np.ndarray, num_rounds: int) -> np.ndarray:
    """Lloyd's rounds in which only `codes` move."""
    if not len(codes):
        return codes
    values, weights = patches.astype(np.float32), np.ones(len(patches), np.float32)
    for _ in range(num_rounds):
        both = np.concatenate([fixed, codes])
        codes = cluster_means(values, weights, nearest_codes(patches, both), both)[len(fixed) :]
    return codes


def _swaps(patches: np.ndarray, codes: np.ndarray, channels: int, random: np.random.Generator) -> np.ndarray:
    """How many patches have code i and would have code j with their noise drawn anew: (K, K).

    Anew: what differs from the code is shuffled over the pixels, so a shift of the whole patch stays.
    """
    before = nearest_codes(patches, codes)
    num_pixels = patches.shape[1] // channels
    rest = (patches - codes[before]).reshape(len(patches), num_pixels, channels)
    order = random.permuted(np.tile(np.arange(num_pixels), (len(patches), 1)), axis=1)
    redrawn = codes[before] + np.take_along_axis(rest, order[:, :, None], axis=1).reshape(len(patches), -1)
    after = nearest_codes(redrawn, codes)
    return np.bincount(before * len(codes) + after, minlength=len(codes) ** 2).reshape(len(codes), len(codes))


def _merged(codes: np.ndarray, fixed: np.ndarray, swaps: np.ndarray) -> np.ndarray:
    """Merge up to a twelfth of the codes with those that noise swaps them for: the most swaps per error added first."""
    both, num_fixed = np.concatenate([fixed, codes]), len(fixed)
    swapped, counts = swaps + swaps.T, swaps.sum(axis=1) + 1.0
    first, second = np.nonzero(np.triu(swapped, 1))
    movable = second >= num_fixed
    first, second = first[movable], second[movable]
    gaps = ((both[first] - both[second]) ** 2).sum(axis=1)
    shared = counts[first] * counts[second] / (counts[first] + counts[second])
    cost = np.where(first < num_fixed, counts[second], shared) * gaps
    merged, gone, taken = codes.copy(), [], set()
    for pair in np.argsort(-swapped[first, second] / cost, kind="stable")[: max(1, len(codes) // 12)]:
        low, high = int(first[pair]), int(second[pair])
        if low in taken or high in taken:
            continue
        taken |= {low, high}
        gone.append(high - num_fixed)
        if low >= num_fixed:
            total = counts[low] + counts[high]
            merged[low - num_fixed] = (counts[low] * both[low] + counts[high] * both[high]) / total
    return np.delete(merged, gone, axis=0)
