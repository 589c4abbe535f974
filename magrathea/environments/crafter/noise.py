"""NoisyPatchTokenizer: a patch codebook for pictures with noise, such as Crafter's nights.

Noise that is drawn anew at each step must not choose the code, or no model could predict it. Patches that recur exactly
are taken as noiseless and keep codes of their own. Patches that occur once may be pictures under noise: they are
averaged into few codes, and codes that redrawn noise would swap are merged. M patches, K codes, P values of a patch.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from magrathea.tokenizers.codebook import leaders, nearest_codes, nearest_distances, refine
from magrathea.tokenizers.patch import PatchTokenizer
from magrathea.tokenizers.patchfit import MAX_FRAMES, count_patches, leader_codes, sample_frames

_MAX_RECURRING = 40_000  # recurring patches that are looked at, the most frequent
_DRIFT = 18.0  # root mean square, in grey levels, by which changing light may change a patch that keeps its code
_CONTRAST = 50.0  # and the most that it may change a single value
_NUM_NEIGHBOURS = 8
_NUM_PROBED, _NUM_COMPARED = 1500, 20_000
_NUM_REDRAWN = 30_000  # patches whose noise is redrawn to see which codes it swaps
_MAX_SWAPPED = 0.005  # the share of redrawn patches that may change their code
_SPACING = 2.1  # spacing of noisy codes over the noise's own size; less only gives codes to merge


class NoisyPatchTokenizer(PatchTokenizer):
    """A `PatchTokenizer` whose codes do not follow noise: equal to it but for the fit, see `fit_noisy_codebook`."""

    type_name = "noisy_patch"

    def fit(self, values: Any, *, previous: Any = None, seed: int = 0) -> Self:
        """Make the codebook from frames (M, H, W[, channels]); M may be tens of thousands, memory-mapped is fine."""
        images = self._images_to_fit(values, seed)
        self._codebook = fit_noisy_codebook(images, self.patch, self._num_codes, seed)
        return self


def fit_noisy_codebook(images: np.ndarray, patch: tuple[int, int], num_codes: int, seed: int) -> np.ndarray:
    """Codes uint8 (K <= num_codes, P) for images (M, H, W, channels).

    All of the different patches if they are few enough; `recurring_codes` and `noisy_codes` where there is noise; and
    as many codes as allowed where there is none.
    """
    patches, weights, counts = count_patches(sample_frames(images, MAX_FRAMES, seed), patch, seed)
    if len(patches) <= num_codes:
        return patches
    recurring, once = counts > 1, counts == 1
    size = noise_size(patches[once], seed)
    if size == 0 or not recurring.any():
        return leader_codes(patches, weights, num_codes)
    patches_again, weights_again = patches[recurring][:_MAX_RECURRING], weights[recurring][:_MAX_RECURRING]
    widening = 1.0
    while True:  # nearly always once
        fixed = recurring_codes(patches_again, weights_again, widening, num_codes)
        if len(fixed) < 0.9 * num_codes:
            break
        widening *= 1.2
    noisy = noisy_codes(patches[once], fixed, size, images.shape[3], num_codes - len(fixed), seed)
    return np.unique(np.round(np.concatenate([fixed, noisy])).astype(np.uint8), axis=0)


def recurring_codes(patches: np.ndarray, weights: np.ndarray, widening: float, limit: int) -> np.ndarray:
    """About `limit` codes (K, P) float32 at most for patches (M, P), most frequent first: leaders, then averaged.

    A patch follows a leader if it differs little on the whole and at no single value much: that is what changing light
    does, while another digit differs much at few pixels and gets a code of its own. `widening` scales both limits.
    """
    values, free, chosen = patches.astype(np.float32), np.arange(len(patches)), []
    while len(free) and len(chosen) < limit:
        chosen.append(free[0])
        gaps = np.abs(values[free] - values[free[0]])
        follows = (gaps**2).mean(axis=1) <= (widening * _DRIFT) ** 2
        free = free[~(follows & (gaps.max(axis=1) <= widening * _CONTRAST))]
    return refine(patches, patches[chosen], 2, weights)


def noise_size(patches: np.ndarray, seed: int) -> float:
    """Root mean square of the noise in patches (M, P) that are all different, in grey levels; 0 if there is none.

    A noisy patch is nearer to the mean of its nearest patches than to the nearest of them, since averaging removes
    noise; a patch of a smoothly varying picture is nearest to its neighbour.
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
    """At most `limit` codes (K, P) float32 for noisy patches (M, P), besides the codes `fixed`, which do not change.

    Args:
        size: root mean square of the noise, in grey levels.
        channels: of a pixel; redrawn noise is drawn for whole pixels.
    """
    rng = np.random.default_rng(seed)
    patches = patches[rng.permutation(len(patches))]
    threshold = (_SPACING * size) ** 2 * patches.shape[1]
    uncovered = patches[nearest_distances(patches, fixed)[1] > threshold]
    codes = uncovered[leaders(uncovered, threshold, 4 * limit)].astype(np.float32)
    codes = _averaged(patches, fixed, codes, 4)
    while len(codes):
        swaps = _swaps(patches[:_NUM_REDRAWN], np.concatenate([fixed, codes]), channels, rng)
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
    """Rounds of k-means among these codes and `fixed` ones, which stay."""
    if not len(codes):
        return codes
    return refine(patches, np.concatenate([fixed, codes]), num_rounds, num_fixed=len(fixed))[len(fixed) :]


def _swaps(patches: np.ndarray, codes: np.ndarray, channels: int, rng: np.random.Generator) -> np.ndarray:
    """How many patches have code i, and code j after their noise is redrawn: (K, K).

    The residual to the code is shuffled over the pixels, which keeps a shift of the whole patch.
    """
    before = nearest_codes(patches, codes)
    num_pixels = patches.shape[1] // channels
    rest = (patches - codes[before]).reshape(len(patches), num_pixels, channels)
    order = rng.permuted(np.tile(np.arange(num_pixels), (len(patches), 1)), axis=1)
    redrawn = codes[before] + np.take_along_axis(rest, order[:, :, None], axis=1).reshape(len(patches), -1)
    after = nearest_codes(redrawn, codes)
    return np.bincount(before * len(codes) + after, minlength=len(codes) ** 2).reshape(len(codes), len(codes))


def _merged(codes: np.ndarray, fixed: np.ndarray, swaps: np.ndarray) -> np.ndarray:
    """Merge up to a twelfth of the codes with those that noise swaps them for: first those with the most swaps for the
    squared error that merging adds."""
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
