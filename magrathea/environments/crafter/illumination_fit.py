"""Fitting illuminations and codes to frames, without labels.

Frames whose patches recur exactly are taken as the reference illumination; they give the first codes. The other frames
are sorted by brightness into initial illuminations. Then, alternately, every frame is assigned to the illumination that
explains it best, and illuminations are fitted to their frames (as in a mixture model); those that leave the largest
residuals are split in two. In between, patches that no code explains are mapped to the reference and become codes.

M frames, K illuminations, C cells, S pixels of a patch, c channels, V codes. `indices` (M,) are the frames'
illuminations, `codes` (M, C) indices of their patches' codes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from magrathea.environments.crafter.illumination import FRAMES_AT_A_TIME, MIN_VARIANCE, Albedo, Illumination, encode
from magrathea.environments.crafter.noise import recurring_codes
from magrathea.tokenizers.patches import unique_rows
from magrathea.tokenizers.patchfit import weighted_patches

NUM_INITIAL = 10  # initial illuminations
NUM_ROUNDS = 9
ADD_CODES_AFTER = 4, 6  # rounds
SPLIT_UNTIL = 7  # rounds
REFERENCE_SHARE = 0.03  # of the frames, with the most frequent patches: surely under the reference illumination
MOSTLY = 0.6  # share of a frame's patches
PRIOR_PIXELS, PRIOR_CONTRAST = 200.0, 30.0  # pixels that the previous fit counts for, and their contrast, grey levels
MIN_FRAMES = 10  # of an illumination
MIN_RESIDUAL = 0.1  # squared grey levels of a cell's mean: an illumination that leaves less is not split
CLEAR_GAIN, CLEAR_DEVIATION = 0.6, 5.0  # least contrast and most noise at which new codes are taken
UNLIKE, UNLIKE_ANYWHERE = (
    9.0,
    50.0,
)  # grey levels, root mean square or at one value, from which no code explains a patch
MAX_CONFUSED = 0.02  # share of codes that may be confused where a cell counts as visible
NUM_TRIED = 300  # frames of an illumination, to find its visible cells
NUM_DARK = 500  # of the darkest frames, to find the cells that no illumination changes


def fit_illumination(patches: np.ndarray, num_codes: int, num_lights: int, seed: int) -> tuple[Albedo, Illumination]:
    """At most `num_codes` codes and `num_lights` illuminations for the patches (M, C, S, c) of frames."""
    reference = reference_frames(patches)
    codes = fit_codes(patches[reference].reshape(-1, *patches.shape[2:]), num_codes, seed)
    albedo = Albedo.from_codes(codes, np.ones(len(codes)))
    constant = constant_cells(patches, albedo)
    initial = initial_illumination(patches, reference, albedo, min(NUM_INITIAL, num_lights))
    illumination = with_identity_at(constant, initial, albedo)
    indices, found = encode_all(patches, albedo, illumination)
    for number in range(NUM_ROUNDS):
        if number < SPLIT_UNTIL:
            illumination, indices = split_worst(patches, indices, found, albedo, illumination, num_lights)
        illumination = with_identity_at(constant, fit_maps(patches, indices, found, albedo, illumination), albedo)
        if number in ADD_CODES_AFTER:
            albedo = with_new_codes(patches, indices, found, albedo, illumination, num_codes, seed)
        albedo = albedo.with_prior_from(found)
        indices, found = encode_all(patches, albedo, illumination)
    illumination = with_identity_at(constant, fit_maps(patches, indices, found, albedo, illumination), albedo)
    enough = np.bincount(indices, minlength=len(illumination)) >= MIN_FRAMES
    illumination = sorted_by_brightness(illumination.select(np.flatnonzero(enough)))
    return albedo, with_visibility(patches, albedo, illumination, seed)


def reference_frames(patches: np.ndarray) -> np.ndarray:
    """Indices (n,) of the frames under the reference illumination: those with the most patches (M, C, S, c) that recur
    exactly in other frames, and all that share most of their patches with them."""
    flat = patches.reshape(len(patches) * patches.shape[1], -1)
    unique = unique_rows(np.pad(flat, ((0, 0), (0, -flat.shape[1] % 8))))
    which = unique.inverse.reshape(len(patches), -1)
    frequency = np.log(unique.counts)[which].mean(axis=1)
    known = np.zeros(len(unique.counts), bool)
    known[which[frequency >= np.quantile(frequency, 1 - REFERENCE_SHARE)]] = True
    return np.flatnonzero(known[which].mean(axis=1) > MOSTLY)


def fit_codes(patches: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """At most `limit` codes (V, S, c) float32 for patches (M, S, c) uint8."""
    values, weights, _ = weighted_patches(patches.reshape(len(patches), -1), seed)
    return recurring_codes(values, weights, 1.0, limit)[:limit].reshape(-1, *patches.shape[1:])


def constant_cells(patches: np.ndarray, albedo: Albedo) -> np.ndarray:
    """(C,) True for cells of frames (M, C, S, c) that no illumination changes, such as a display: even the darker half
    of the frames shows unchanged codes there. Maps fitted to their few patches might turn one code into another."""
    bright = patches.mean(axis=(1, 2, 3))
    dark = patches[bright <= np.median(bright)][:NUM_DARK].astype(np.float32)
    codes = albedo.match(dark, identity_illumination(patches.shape[1], albedo), 0)[0]
    residual = ((dark - albedo.mean - albedo.codes[codes]) ** 2).mean(axis=(2, 3))
    return np.median(residual, axis=0) <= MIN_VARIANCE


def identity_illumination(num_cells: int, albedo: Albedo) -> Illumination:
    """One illumination that changes nothing."""
    channels, shape = len(albedo.mean), (1, num_cells)
    gains = np.broadcast_to(np.eye(channels, dtype=np.float32), (*shape, channels, channels))
    offsets = np.broadcast_to(albedo.mean, (*shape, channels))
    return Illumination(gains, offsets, np.full(shape, MIN_VARIANCE, np.float32), np.ones(shape, bool))


def with_identity_at(cells: np.ndarray, illumination: Illumination, albedo: Albedo) -> Illumination:
    """Illuminations that change nothing at cells (C,) bool."""
    identity = identity_illumination(len(cells), albedo)
    gains = np.where(cells[:, None, None], identity.gains, illumination.gains)
    offsets = np.where(cells[:, None], identity.offsets, illumination.offsets)
    return replace(illumination, gains=gains, offsets=offsets)


def initial_illumination(
    patches: np.ndarray, reference: np.ndarray, albedo: Albedo, num_illuminations: int
) -> Illumination:
    """Illuminations of frames (M, C, S, c) sorted by brightness, from each cell's mean and standard deviation."""
    mean, deviation = _moments(patches[reference])
    order = np.argsort(patches.mean(axis=(1, 2, 3)), kind="stable")
    gains, offsets = [], []
    for group in np.array_split(order, num_illuminations):
        own_mean, own_deviation = _moments(patches[group])
        gain = (own_deviation + 1) / (deviation + 1)
        gains.append(gain[..., None] * np.eye(gain.shape[-1]))
        offsets.append(own_mean + gain * (albedo.mean - mean))
    shape = (num_illuminations, patches.shape[1])
    return Illumination(
        np.stack(gains).astype(np.float32),
        np.stack(offsets).astype(np.float32),
        np.full(shape, 100.0, np.float32),
        np.ones(shape, bool),
    )


def _moments(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (C, c) of each cell's channels in frames (M, C, S, c)."""
    mean = patches.mean(axis=(0, 2), dtype=np.float64)
    square = (patches.astype(np.float32) ** 2).mean(axis=(0, 2), dtype=np.float64)
    return mean, np.sqrt(np.maximum(square - mean**2, 0))


def encode_all(patches: np.ndarray, albedo: Albedo, illumination: Illumination) -> tuple[np.ndarray, np.ndarray]:
    """`encode`, some frames at a time."""
    parts = [
        encode(patches[begin : begin + FRAMES_AT_A_TIME], albedo, illumination)
        for begin in range(0, len(patches), FRAMES_AT_A_TIME)
    ]
    indices, codes = zip(*parts, strict=True)
    return np.concatenate(indices), np.concatenate(codes)


def fit_maps(
    patches: np.ndarray, indices: np.ndarray, codes: np.ndarray, albedo: Albedo, previous: Illumination
) -> Illumination:
    """Illuminations under which codes (M, C) look most like patches (M, C, S, c): ridge regression of the maps for each
    illumination and cell, toward the previous ones."""
    channels = patches.shape[-1]
    gains, offsets, variance = previous.gains.copy(), previous.offsets.copy(), previous.variance.copy()
    ridge = PRIOR_PIXELS * np.diag([PRIOR_CONTRAST**2] * channels + [1.0]).astype(np.float32)
    for index in range(len(previous)):
        frames = np.flatnonzero(indices == index)
        if not len(frames):
            continue
        seen = patches[frames].astype(np.float32).transpose(1, 0, 2, 3).reshape(patches.shape[1], -1, channels)
        inputs = albedo.codes[codes[frames]].transpose(1, 0, 2, 3).reshape(patches.shape[1], -1, channels)
        inputs = np.concatenate([inputs, np.ones((*inputs.shape[:2], 1), np.float32)], axis=-1)
        prior = np.concatenate([previous.gains[index].transpose(0, 2, 1), previous.offsets[index][:, None]], axis=1)
        square = (inputs.transpose(0, 2, 1) @ inputs + ridge).astype(np.float64)
        product = (inputs.transpose(0, 2, 1) @ seen + ridge @ prior).astype(np.float64)
        solution = np.linalg.solve(square, product).astype(np.float32)
        gains[index], offsets[index] = solution[:, :channels].transpose(0, 2, 1), solution[:, channels]
        residual = ((seen - inputs @ solution) ** 2).reshape(patches.shape[1], len(frames), -1).mean(axis=2)
        variance[index] = np.maximum(np.median(residual, axis=1), MIN_VARIANCE)  # median: some patches have no code yet
    return Illumination(gains, offsets, variance, previous.visible)


def split_worst(
    patches: np.ndarray,
    indices: np.ndarray,
    codes: np.ndarray,
    albedo: Albedo,
    illumination: Illumination,
    num_lights: int,
) -> tuple[Illumination, np.ndarray]:
    """Drop illuminations of few frames, and split those with the largest residuals in two; at most `num_lights`.

    Residuals are averaged over each cell, which removes noise and keeps differences of illumination.
    """
    counts = np.bincount(indices, minlength=len(illumination))
    kept = np.flatnonzero(counts >= MIN_FRAMES)
    new_index = np.full(len(illumination), -1)
    new_index[kept] = np.arange(len(kept))
    indices, illumination = new_index[indices], illumination.select(kept)
    residuals = [
        _main_residual(patches, indices, codes, albedo, illumination, index) for index in range(len(illumination))
    ]
    worst = sorted(range(len(illumination)), key=lambda index: -residuals[index][0])
    worst = [index for index in worst if residuals[index][0] > MIN_RESIDUAL * len(residuals[index][1])]
    parts = [*range(len(illumination))]
    for index in worst[: max(0, min(num_lights - len(illumination), len(illumination) // 2))]:
        _, frames, side = residuals[index]
        indices[frames[side > np.median(side)]] = len(parts)
        parts.append(index)
    return illumination.select(np.array(parts)), indices


def _main_residual(
    patches: np.ndarray, indices: np.ndarray, codes: np.ndarray, albedo: Albedo, illumination: Illumination, index: int
) -> tuple[float, np.ndarray, np.ndarray]:
    """The first principal component of the residuals of one illumination's frames: its eigenvalue, the frames' numbers
    (n,) and their coefficients (n,)."""
    frames = np.flatnonzero(indices == index)
    rest = np.concatenate(
        [
            (patches[part] - illumination.render(albedo.codes[codes[part]], indices[part])).mean(axis=2)
            for part in np.array_split(frames, -(-len(frames) // FRAMES_AT_A_TIME))
        ]
    ).reshape(len(frames), -1)
    rest -= rest.mean(axis=0)
    values, vectors = np.linalg.eigh((rest @ rest.T).astype(np.float64) / rest.shape[1])
    return float(values[-1]), frames, vectors[:, -1]


def with_new_codes(
    patches: np.ndarray,
    indices: np.ndarray,
    codes: np.ndarray,
    albedo: Albedo,
    illumination: Illumination,
    limit: int,
    seed: int,
) -> Albedo:
    """Further codes, at most `limit` in all, for clearly visible patches (M, C, S, c) that no code explains, mapped
    back to the reference illumination."""
    unexplained = []
    contrast = np.linalg.svd(illumination.gains, compute_uv=False).min(axis=-1)  # (K, C)
    clear = (contrast >= CLEAR_GAIN) & (np.sqrt(illumination.variance) <= CLEAR_DEVIATION)
    for begin in range(0, len(patches), FRAMES_AT_A_TIME):
        part = slice(begin, begin + FRAMES_AT_A_TIME)
        frames, cells = np.nonzero(clear[indices[part]])
        index = indices[part][frames]
        inverse = np.linalg.inv(illumination.gains[index, cells])  # (n, c, c)
        mapped = (patches[part][frames, cells] - illumination.offsets[index, cells][:, None]) @ inverse.transpose(
            0, 2, 1
        )
        gaps = np.abs(mapped - albedo.codes[codes[part][frames, cells]])
        unlike = ((gaps**2).mean(axis=(1, 2)) > UNLIKE**2) | (gaps.max(axis=(1, 2)) > UNLIKE_ANYWHERE)
        unexplained.append(np.clip(np.round(mapped[unlike] + albedo.mean), 0, 255).astype(np.uint8))
    found = np.concatenate(unexplained)
    if not len(found) or len(albedo.codes) >= limit:
        return albedo
    new = fit_codes(found, limit - len(albedo.codes), seed) - albedo.mean
    new = new[~_scaled_copies(new + albedo.mean, albedo.codes + albedo.mean)]
    return Albedo(albedo.mean, np.concatenate([albedo.codes, new]), albedo.log_prior)


def _scaled_copies(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """(V',) True for codes (V', S, c) that are one of the codes (V, S, c), brighter or darker."""
    new, old = (codes.reshape(len(codes), -1) for codes in (new, old))
    gain = (new @ old.T) / np.maximum((old * old).sum(axis=1), 1)
    gaps = np.abs(new[:, None] - gain[..., None] * old)
    alike = (np.sqrt((gaps**2).mean(axis=2)) <= UNLIKE) & (gaps.max(axis=2) <= UNLIKE_ANYWHERE)
    return (alike & (gain > 0.5) & (gain < 2)).any(axis=1)


def sorted_by_brightness(illumination: Illumination) -> Illumination:
    """The same illuminations, brightest first."""
    brightness = np.trace(illumination.gains, axis1=2, axis2=3).mean(axis=1)
    return illumination.select(np.argsort(-brightness, kind="stable"))


def with_visibility(patches: np.ndarray, albedo: Albedo, illumination: Illumination, seed: int) -> Illumination:
    """Mark the cells where codes can be told apart: codes of frames (M, C, S, c) are rendered under an illumination,
    with the residual of a frame of its own added, and must be recognized."""
    rng, all_visible = np.random.default_rng(seed), np.ones(illumination.visible.shape, bool)
    indices, codes = encode_all(patches, albedo, replace(illumination, visible=all_visible))
    visible = np.zeros_like(all_visible)
    for index in range(len(illumination)):
        frames = np.flatnonzero(indices == index)
        frames = frames[rng.permutation(len(frames))[:NUM_TRIED]]
        repeated = np.full(len(frames), index)
        rest = patches[frames] - illumination.render(albedo.codes[codes[frames]], repeated)
        other = codes[rng.integers(len(codes), size=len(frames))]
        seen = illumination.render(albedo.codes[other], repeated) + rest
        visible[index] = (albedo.match(seen, illumination, index)[0] != other).mean(axis=0) <= MAX_CONFUSED
    return replace(illumination, visible=visible)
