"""Light apart from matter: the same patches, as they look in one light or another.

A light changes the colours of each place of a picture in its own way: an affine map of the channels, so that night may
be darker at the edges, and a display that glows stays as it is. A picture is then the number of its light, and for each
place the code of what is there. Where a light shows too little to tell one code from another, the place is hidden.

M frames, K lights, C places, S pixels of a patch, c channels, V codes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

LEAST_VARIANCE = 4.0  # of a grey level, that the noise is taken to have where there is none
NUM_SCOUTS = 3  # lights that are tried on the whole of a frame, of all tried on a part of it
SCOUTED = 4  # every so many places are that part


@dataclass(frozen=True)
class Illumination:
    """Attributes:
    gains: (K, C, c, c) float32, what becomes of a difference in colour.
    offsets: (K, C, c) float32, what becomes of the mean colour of the codes.
    variance: (K, C) float32, of the noise of a value.
    visible: (K, C) bool, where a light shows what is there.
    """

    gains: np.ndarray
    offsets: np.ndarray
    variance: np.ndarray
    visible: np.ndarray

    def __len__(self) -> int:
        return len(self.gains)

    def chosen(self, lights: np.ndarray) -> Illumination:
        """Only these of the lights."""
        return Illumination(**{field.name: getattr(self, field.name)[lights] for field in fields(self)})

    def at(self, places: slice | np.ndarray) -> Illumination:
        """Only at these of the places."""
        return Illumination(**{field.name: getattr(self, field.name)[:, places] for field in fields(self)})

    def token_features(self) -> np.ndarray:
        """(K, F) numbers that are close for lights that are alike."""
        return np.concatenate([100 * self.gains.reshape(len(self), -1), self.offsets.reshape(len(self), -1)], axis=1)

    def shine(self, patches: np.ndarray, lights: np.ndarray) -> np.ndarray:
        """Differences of patches (M, C, S, c) from the mean colour, in lights (M,) -> values (M, C, S, c) float32."""
        return patches @ self.gains[lights].transpose(0, 1, 3, 2) + self.offsets[lights][:, :, None]


@dataclass(frozen=True)
class Albedo:
    """Codes without their light.

    Attributes:
        mean: (c,) float32, the mean colour.
        codes: (V, S, c) float32, how codes differ from it.
        likely: (V,) float32 logarithms of how often they come.
    """

    mean: np.ndarray
    codes: np.ndarray
    likely: np.ndarray

    @classmethod
    def of(cls, codes: np.ndarray, often: np.ndarray) -> Albedo:
        """Of codes (V, S, c) that came so often (V,)."""
        codes, share = codes.astype(np.float32), (often + 1.0) / (often + 1.0).sum()
        mean = (codes.mean(axis=1) * share[:, None]).sum(axis=0).astype(np.float32)
        return cls(mean, codes - mean, np.log(share).astype(np.float32))

    def counted(self, codes: np.ndarray) -> Albedo:
        """The same, as likely as codes (...) have shown."""
        often = np.bincount(codes.reshape(-1), minlength=len(self.codes)) + 1.0
        return Albedo(self.mean, self.codes, np.log(often / often.sum()).astype(np.float32))

    def recognize(self, patches: np.ndarray, lights: Illumination, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Patches (M, C, S, c) float32 seen in one of the lights -> the likeliest codes (M, C), and how unlikely the
        patches are (M, C): negative log-likelihoods, but for a constant.

        |p - A v - b|^2 = |p - b|^2 - 2 A'(p - b) . v + v' A'A v: one product with codes, the same in all lights.
        """
        gains, variance = lights.gains[index], lights.variance[index]
        rest = patches - lights.offsets[index][:, None]
        feature_proj = (rest @ gains).reshape(*patches.shape[:2], -1)  # rows times A are A' times columns
        bend = np.einsum("cji,cjk->cik", gains, gains).reshape(len(gains), -1)
        moments = np.einsum("vsi,vsk->vik", self.codes, self.codes).reshape(len(self.codes), -1)
        flat = self.codes.reshape(len(self.codes), -1)
        fits = feature_proj.reshape(-1, flat.shape[1]) @ flat.T
        fits = fits.reshape(*patches.shape[:2], -1)
        fits += (-0.5 * bend @ moments.T + variance[:, None] * patches.shape[-1] * self.likely)[None]
        best = fits.argmax(axis=-1)
        gained = np.take_along_axis(fits, best[..., None], axis=-1)[..., 0]
        energy = (0.5 * (rest * rest).sum(axis=(2, 3)) - gained) / variance
        return best, energy + 0.5 * flat.shape[1] * np.log(variance)


def encode(patches: np.ndarray, matter: Albedo, lights: Illumination) -> tuple[np.ndarray, np.ndarray]:
    """Patches (M, C, S, c) -> lights (M,) and codes (M, C); V where the light hides what is there."""
    patches = patches.astype(np.float32)
    scouts = scout(patches, matter, lights)
    chosen, codes, least = scouts[:, 0].copy(), np.zeros(patches.shape[:2], np.int64), np.full(len(patches), np.inf)
    for index in range(len(lights)):
        rows = np.flatnonzero((scouts == index).any(axis=1))
        if not len(rows):
            continue
        found, energy = matter.recognize(patches[rows], lights, index)
        energy = energy.sum(axis=1)
        better = energy < least[rows]
        rows, found = rows[better], found[better]
        least[rows], chosen[rows], codes[rows] = energy[better], index, found
    return chosen, np.where(lights.visible[chosen], codes, len(matter.codes))


def scout(patches: np.ndarray, matter: Albedo, lights: Illumination) -> np.ndarray:
    """The few lights (M, n), likeliest first, that a part of each frame's patches (M, C, S, c) speaks for."""
    part = slice(0, None, SCOUTED)
    seen, there = patches[:, part], lights.at(part)
    energy = np.stack([matter.recognize(seen, there, index)[1].sum(axis=1) for index in range(len(lights))], axis=1)
    return energy.argsort(axis=1)[:, :NUM_SCOUTS]
