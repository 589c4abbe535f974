"""Finding the lights of a world, and what there is in it, from its frames alone.

The light in which patches come back exactly is plain light, and its frames give the first codes. The other frames are
sorted by brightness into lights of a first guess. Then, in turns, every frame is given to the light that explains it
best, lights are fitted to the frames that they explain, and those that leave the most unexplained are split in two. In
between, what no code explains is put into plain light, and gives further codes.

M frames, K lights, C places, S pixels of a patch, c channels, V codes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from magrathea.tokenizers.illumination import LEAST_VARIANCE, Albedo, Illumination, encode
from magrathea.tokenizers.patches import unique_rows
from magrathea.tokenizers.patchfit import crisp_codes, weighted_patches

NUM_GUESSED = 10  # lights of the first guess
NUM_ROUNDS = 9
CODED_AFTER = 4, 6  # rounds, codes for what none explains
SPLIT_UNTIL = 7  # rounds
PLAIN_SHARE = 0.03  # of the frames, that are surely in plain light
MOSTLY = 0.6  # share of a frame's patches
RIDGE, CONTRAST = 200.0, 30.0  # pixels that a light's guess counts for, and grey levels by which they differ
LEAST_FRAMES = 10  # that a light must explain
LEAST_UNEXPLAINED = 0.1  # squared grey levels of a place's mean: a light that leaves less is not split
CLEAR_GAIN, CLEAR_DEVIATION = 0.6, 5.0  # least contrast and most noise of a light that shows new things well
UNLIKE, UNLIKE_ANYWHERE = 9.0, 50.0  # grey levels, on the whole or at one value, from which no code explains a patch
MOST_MISTAKEN = 0.02  # share of codes that a light may let one mistake at a place that it shows
NUM_TRIED = 300
NUM_DARK = 500  # of the darkest frames, that tell where a display glows
AT_A_TIME = 512


def fit_lights(patches: np.ndarray, num_codes: int, num_lights: int, seed: int) -> tuple[Albedo, Illumination]:
    """At most so many codes and lights for the patches (M, C, S, c) of frames."""
    plain = plainest(patches)
    codes = codes_for(patches[plain].reshape(-1, *patches.shape[2:]), num_codes, seed)
    matter = Albedo.of(codes, np.ones(len(codes)))
    glowing = glowing_places(patches, matter)
    lights = as_it_is(first_guess(patches, plain, matter, min(NUM_GUESSED, num_lights)), glowing, matter)
    chosen, found = encode_all(patches, matter, lights)
    for number in range(NUM_ROUNDS):
        if number < SPLIT_UNTIL:
            lights, chosen = split_worst(patches, chosen, found, matter, lights, num_lights)
        lights = as_it_is(fitted(patches, chosen, found, matter, lights), glowing, matter)
        if number in CODED_AFTER:
            matter = with_new_codes(patches, chosen, found, matter, lights, num_codes, seed)
        matter = matter.counted(found)
        chosen, found = encode_all(patches, matter, lights)
    lights = as_it_is(fitted(patches, chosen, found, matter, lights), glowing, matter)
    often = np.bincount(chosen, minlength=len(lights)) >= LEAST_FRAMES
    lights = brightest_first(lights.chosen(np.flatnonzero(often)))
    return matter, with_visible(patches, matter, lights, seed)


def plainest(patches: np.ndarray) -> np.ndarray:
    """The frames (n,) in plain light: those with the most patches (M, C, S, c) that other frames have, to the last bit,
    and all that have most of their patches from these."""
    flat = patches.reshape(len(patches) * patches.shape[1], -1)
    unique = unique_rows(np.pad(flat, ((0, 0), (0, -flat.shape[1] % 8))))
    which = unique.inverse.reshape(len(patches), -1)
    familiar = np.log(unique.counts)[which].mean(axis=1)
    known = np.zeros(len(unique.counts), bool)
    known[which[familiar >= np.quantile(familiar, 1 - PLAIN_SHARE)]] = True
    return np.flatnonzero(known[which].mean(axis=1) > MOSTLY)


def codes_for(patches: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """At most `limit` codes (V, S, c) float32 for patches (M, S, c) uint8."""
    values, weights, _ = weighted_patches(patches.reshape(len(patches), -1), seed)
    return crisp_codes(values, weights, 1.0, limit)[:limit].reshape(-1, *patches.shape[1:])


def glowing_places(patches: np.ndarray, matter: Albedo) -> np.ndarray:
    """(C,) which places of frames (M, C, S, c) no light changes, as those of a display: even the darkest half of the
    frames shows the codes of plain light there. A light fitted to its few patches might turn one into another."""
    bright = patches.mean(axis=(1, 2, 3))
    dark = patches[bright <= np.median(bright)][:NUM_DARK].astype(np.float32)
    codes = matter.recognize(dark, plain_light(patches.shape[1], matter), 0)[0]
    apart = ((dark - matter.mean - matter.codes[codes]) ** 2).mean(axis=(2, 3))
    return np.median(apart, axis=0) <= LEAST_VARIANCE


def plain_light(num_places: int, matter: Albedo) -> Illumination:
    """The one light that changes nothing."""
    channels, shape = len(matter.mean), (1, num_places)
    gains = np.broadcast_to(np.eye(channels, dtype=np.float32), (*shape, channels, channels))
    offsets = np.broadcast_to(matter.mean, (*shape, channels))
    return Illumination(gains, offsets, np.full(shape, LEAST_VARIANCE, np.float32), np.ones(shape, bool))


def as_it_is(lights: Illumination, glowing: np.ndarray, matter: Albedo) -> Illumination:
    """Lights that change nothing at places that glow."""
    plain = plain_light(len(glowing), matter)
    gains = np.where(glowing[:, None, None], plain.gains, lights.gains)
    offsets = np.where(glowing[:, None], plain.offsets, lights.offsets)
    return replace(lights, gains=gains, offsets=offsets)


def first_guess(patches: np.ndarray, plain: np.ndarray, matter: Albedo, num_lights: int) -> Illumination:
    """Lights of the frames (M, C, S, c) sorted by brightness, from the mean and the spread of each place."""
    mean, spread = _moments(patches[plain])
    order = np.argsort(patches.mean(axis=(1, 2, 3)), kind="stable")
    gains, offsets = [], []
    for group in np.array_split(order, num_lights):
        own_mean, own_spread = _moments(patches[group])
        gain = (own_spread + 1) / (spread + 1)
        gains.append(gain[..., None] * np.eye(gain.shape[-1]))
        offsets.append(own_mean + gain * (matter.mean - mean))
    shape = (num_lights, patches.shape[1])
    return Illumination(
        np.stack(gains).astype(np.float32),
        np.stack(offsets).astype(np.float32),
        np.full(shape, 100.0, np.float32),
        np.ones(shape, bool),
    )


def _moments(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of frames (M, C, S, c) the mean and the standard deviation of each place's channels, (C, c)."""
    mean = patches.mean(axis=(0, 2), dtype=np.float64)
    square = (patches.astype(np.float32) ** 2).mean(axis=(0, 2), dtype=np.float64)
    return mean, np.sqrt(np.maximum(square - mean**2, 0))


def encode_all(patches: np.ndarray, matter: Albedo, lights: Illumination) -> tuple[np.ndarray, np.ndarray]:
    """`encode`, some frames at a time."""
    parts = [encode(patches[begin : begin + AT_A_TIME], matter, lights) for begin in range(0, len(patches), AT_A_TIME)]
    chosen, codes = zip(*parts, strict=True)
    return np.concatenate(chosen), np.concatenate(codes)


def fitted(
    patches: np.ndarray, chosen: np.ndarray, codes: np.ndarray, matter: Albedo, guess: Illumination
) -> Illumination:
    """The lights under which codes (M, C) look most like patches (M, C, S, c), for frames of lights (M,)."""
    channels = patches.shape[-1]
    gains, offsets, variance = guess.gains.copy(), guess.offsets.copy(), guess.variance.copy()
    scale = RIDGE * np.diag([CONTRAST**2] * channels + [1.0]).astype(np.float32)
    for index in range(len(guess)):
        rows = np.flatnonzero(chosen == index)
        if not len(rows):
            continue
        seen = patches[rows].astype(np.float32).transpose(1, 0, 2, 3).reshape(patches.shape[1], -1, channels)
        there = matter.codes[codes[rows]].transpose(1, 0, 2, 3).reshape(patches.shape[1], -1, channels)
        there = np.concatenate([there, np.ones((*there.shape[:2], 1), np.float32)], axis=-1)
        prior = np.concatenate([guess.gains[index].transpose(0, 2, 1), guess.offsets[index][:, None]], axis=1)
        square = (there.transpose(0, 2, 1) @ there + scale).astype(np.float64)
        product = (there.transpose(0, 2, 1) @ seen + scale @ prior).astype(np.float64)
        solution = np.linalg.solve(square, product).astype(np.float32)
        gains[index], offsets[index] = solution[:, :channels].transpose(0, 2, 1), solution[:, channels]
        apart = ((seen - there @ solution) ** 2).reshape(patches.shape[1], len(rows), -1).mean(axis=2)
        variance[index] = np.maximum(np.median(apart, axis=1), LEAST_VARIANCE)  # whatever has no code yet
    return Illumination(gains, offsets, variance, guess.visible)


def split_worst(
    patches: np.ndarray, chosen: np.ndarray, codes: np.ndarray, matter: Albedo, lights: Illumination, num_lights: int
) -> tuple[Illumination, np.ndarray]:
    """Leave out lights that explain next to nothing, and make two of those that leave the most unexplained.

    What a frame leaves unexplained is looked at in the mean of each place: noise is gone from it, light is not.
    """
    often = np.bincount(chosen, minlength=len(lights))
    kept = np.flatnonzero(often >= LEAST_FRAMES)
    renamed = np.full(len(lights), -1)
    renamed[kept] = np.arange(len(kept))
    chosen, lights = renamed[chosen], lights.chosen(kept)
    unexplained = [_unexplained(patches, chosen, codes, matter, lights, index) for index in range(len(lights))]
    worst = sorted(range(len(lights)), key=lambda index: -unexplained[index][0])
    worst = [index for index in worst if unexplained[index][0] > LEAST_UNEXPLAINED * len(unexplained[index][1])]
    parts = [*range(len(lights))]
    for index in worst[: max(0, min(num_lights - len(lights), len(lights) // 2))]:
        _, rows, side = unexplained[index]
        chosen[rows[side > np.median(side)]] = len(parts)
        parts.append(index)
    return lights.chosen(np.array(parts)), chosen


def _unexplained(
    patches: np.ndarray, chosen: np.ndarray, codes: np.ndarray, matter: Albedo, lights: Illumination, index: int
) -> tuple[float, np.ndarray, np.ndarray]:
    """How much frames of one light differ along the direction in which they differ most, which they are (n,), and on
    which side of it they lie (n,)."""
    rows = np.flatnonzero(chosen == index)
    rest = np.concatenate(
        [
            (patches[part] - lights.shine(matter.codes[codes[part]], chosen[part])).mean(axis=2)
            for part in np.array_split(rows, -(-len(rows) // AT_A_TIME))
        ]
    ).reshape(len(rows), -1)
    rest -= rest.mean(axis=0)
    values, vectors = np.linalg.eigh((rest @ rest.T).astype(np.float64) / rest.shape[1])
    return float(values[-1]), rows, vectors[:, -1]


def with_new_codes(
    patches: np.ndarray,
    chosen: np.ndarray,
    codes: np.ndarray,
    matter: Albedo,
    lights: Illumination,
    limit: int,
    seed: int,
) -> Albedo:
    """Further codes for patches (M, C, S, c) that are seen well and look like no code, as they look in plain light."""
    unlike = []
    contrast = np.linalg.svd(lights.gains, compute_uv=False).min(axis=-1)  # (K, C)
    clear = (contrast >= CLEAR_GAIN) & (np.sqrt(lights.variance) <= CLEAR_DEVIATION)
    for begin in range(0, len(patches), AT_A_TIME):
        part = slice(begin, begin + AT_A_TIME)
        rows, places = np.nonzero(clear[chosen[part]])
        light = chosen[part][rows]
        back = np.linalg.inv(lights.gains[light, places])  # (n, c, c)
        plain = (patches[part][rows, places] - lights.offsets[light, places][:, None]) @ back.transpose(0, 2, 1)
        gaps = np.abs(plain - matter.codes[codes[part][rows, places]])
        unexplained = ((gaps**2).mean(axis=(1, 2)) > UNLIKE**2) | (gaps.max(axis=(1, 2)) > UNLIKE_ANYWHERE)
        unlike.append(np.clip(np.round(plain[unexplained] + matter.mean), 0, 255).astype(np.uint8))
    found = np.concatenate(unlike)
    if not len(found) or len(matter.codes) >= limit:
        return matter
    new = codes_for(found, limit - len(matter.codes), seed) - matter.mean
    new = new[~_relit(new + matter.mean, matter.codes + matter.mean)]
    return Albedo(matter.mean, np.concatenate([matter.codes, new]), matter.likely)


def _relit(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Which codes (V', S, c) are no more than one of others (V, S, c) that is brighter or darker."""
    new, old = (codes.reshape(len(codes), -1) for codes in (new, old))
    gain = (new @ old.T) / np.maximum((old * old).sum(axis=1), 1)
    gaps = np.abs(new[:, None] - gain[..., None] * old)
    alike = (np.sqrt((gaps**2).mean(axis=2)) <= UNLIKE) & (gaps.max(axis=2) <= UNLIKE_ANYWHERE)
    return (alike & (gain > 0.5) & (gain < 2)).any(axis=1)


def brightest_first(lights: Illumination) -> Illumination:
    return lights.chosen(np.argsort(-np.trace(lights.gains, axis1=2, axis2=3).mean(axis=1), kind="stable"))


def with_visible(patches: np.ndarray, matter: Albedo, lights: Illumination, seed: int) -> Illumination:
    """Where lights show what is there: codes that were seen in frames (M, C, S, c) are put into a light, with what that
    light left unexplained of a frame of its own, and must be recognized."""
    dice, visible = np.random.default_rng(seed), np.ones(lights.visible.shape, bool)
    chosen, codes = encode_all(patches, matter, replace(lights, visible=visible))
    shown = np.zeros_like(visible)
    for index in range(len(lights)):
        rows = np.flatnonzero(chosen == index)
        rows = rows[dice.permutation(len(rows))[:NUM_TRIED]]
        light = np.full(len(rows), index)
        rest = patches[rows] - lights.shine(matter.codes[codes[rows]], light)
        other = codes[dice.integers(len(codes), size=len(rows))]
        seen = lights.shine(matter.codes[other], light) + rest
        shown[index] = (matter.recognize(seen, lights, index)[0] != other).mean(axis=0) <= MOST_MISTAKEN
    return replace(lights, visible=shown)
