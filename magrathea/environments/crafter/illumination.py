"""A model of illumination: the same patch codes as they look under one illumination or another.

An illumination is an affine map of the colour channels for each cell of the picture: night may be darker at the edges,
and a display may stay as it is. A frame is then the index of its illumination and, for each cell, the code of what is
there. Where an illumination shows too little to tell codes apart, the cell is hidden.

M frames, K illuminations, C cells, S pixels of a patch, c channels, V codes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

FRAMES_AT_A_TIME = 512
MIN_VARIANCE = 4.0  # squared grey levels; assumed where a cell has no noise
NUM_CANDIDATES = 3  # illuminations that are compared on all cells of a frame
CANDIDATE_STRIDE = 4  # candidates are chosen on every fourth cell


@dataclass(frozen=True)
class Illumination:
    """K affine maps of colours for each cell: value = gains @ (code - mean of codes) + offsets.

    Attributes:
        gains: (K, C, c, c) float32.
        offsets: (K, C, c) float32, grey levels.
        variance: (K, C) float32, of a value's noise, in squared grey levels.
        visible: (K, C) bool, False where codes cannot be told apart.
    """

    gains: np.ndarray
    offsets: np.ndarray
    variance: np.ndarray
    visible: np.ndarray

    def __len__(self) -> int:
        return len(self.gains)

    def select(self, indices: np.ndarray) -> Illumination:
        """The illuminations of these indices."""
        return Illumination(**{field.name: getattr(self, field.name)[indices] for field in fields(self)})

    def at_cells(self, cells: slice | np.ndarray) -> Illumination:
        """The same illuminations at these cells only."""
        return Illumination(**{field.name: getattr(self, field.name)[:, cells] for field in fields(self)})

    def token_features(self) -> np.ndarray:
        """(K, F) numbers that are close for similar illuminations."""
        return np.concatenate([100 * self.gains.reshape(len(self), -1), self.offsets.reshape(len(self), -1)], axis=1)

    def render(self, patches: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Patches (M, C, S, c) minus the mean colour, under illuminations (M,) -> values (M, C, S, c) float32."""
        return patches @ self.gains[indices].transpose(0, 1, 3, 2) + self.offsets[indices][:, :, None]


@dataclass(frozen=True)
class Albedo:
    """Patch codes independent of the illumination.

    Attributes:
        mean: (c,) float32, the mean colour.
        codes: (V, S, c) float32, minus the mean colour.
        log_prior: (V,) float32, logarithms of the codes' relative frequencies.
    """

    mean: np.ndarray
    codes: np.ndarray
    log_prior: np.ndarray

    @classmethod
    def from_codes(cls, codes: np.ndarray, counts: np.ndarray) -> Albedo:
        """From codes (V, S, c) in grey levels and how often each occurred (V,)."""
        codes, share = codes.astype(np.float32), (counts + 1.0) / (counts + 1.0).sum()
        mean = (codes.mean(axis=1) * share[:, None]).sum(axis=0).astype(np.float32)
        return cls(mean, codes - mean, np.log(share).astype(np.float32))

    def with_prior_from(self, codes: np.ndarray) -> Albedo:
        """The same codes with the frequencies that they have among code indices (...)."""
        counts = np.bincount(codes.reshape(-1), minlength=len(self.codes)) + 1.0
        return Albedo(self.mean, self.codes, np.log(counts / counts.sum()).astype(np.float32))

    def match(self, patches: np.ndarray, illumination: Illumination, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The likeliest codes (M, C) of float32 patches (M, C, S, c) under one illumination, and the energies (M, C):
        negative log-likelihoods up to a constant.

        |p - A v - b|^2 = |p - b|^2 - 2 A'(p - b) . v + v' A'A v: one product with all codes, at any illumination.
        """
        gains, variance = illumination.gains[index], illumination.variance[index]
        rest = patches - illumination.offsets[index][:, None]
        projected = (rest @ gains).reshape(*patches.shape[:2], -1)  # A'(p - b)
        gram = np.einsum("cji,cjk->cik", gains, gains).reshape(len(gains), -1)  # A'A
        moments = np.einsum("vsi,vsk->vik", self.codes, self.codes).reshape(len(self.codes), -1)
        flat = self.codes.reshape(len(self.codes), -1)
        scores = projected.reshape(-1, flat.shape[1]) @ flat.T
        scores = scores.reshape(*patches.shape[:2], -1)
        scores += (-0.5 * gram @ moments.T + variance[:, None] * patches.shape[-1] * self.log_prior)[None]
        best = scores.argmax(axis=-1)
        best_scores = np.take_along_axis(scores, best[..., None], axis=-1)[..., 0]
        energy = (0.5 * (rest * rest).sum(axis=(2, 3)) - best_scores) / variance
        return best, energy + 0.5 * flat.shape[1] * np.log(variance)


def encode(patches: np.ndarray, albedo: Albedo, illumination: Illumination) -> tuple[np.ndarray, np.ndarray]:
    """Patches (M, C, S, c) -> illumination indices (M,) and codes (M, C); V where a cell is hidden."""
    patches = patches.astype(np.float32)
    candidates = candidate_illuminations(patches, albedo, illumination)
    indices, codes = candidates[:, 0].copy(), np.zeros(patches.shape[:2], np.int64)
    least = np.full(len(patches), np.inf)
    for index in range(len(illumination)):
        frames = np.flatnonzero((candidates == index).any(axis=1))
        if not len(frames):
            continue
        found, energy = albedo.match(patches[frames], illumination, index)
        energy = energy.sum(axis=1)
        better = energy < least[frames]
        frames, found = frames[better], found[better]
        least[frames], indices[frames], codes[frames] = energy[better], index, found
    return indices, np.where(illumination.visible[indices], codes, len(albedo.codes))


def candidate_illuminations(patches: np.ndarray, albedo: Albedo, illumination: Illumination) -> np.ndarray:
    """Indices (M, NUM_CANDIDATES) of the likeliest illuminations of patches (M, C, S, c), judged on a part of the
    cells, likeliest first."""
    part = slice(0, None, CANDIDATE_STRIDE)
    seen, there = patches[:, part], illumination.at_cells(part)
    energy = np.stack([albedo.match(seen, there, index)[1].sum(axis=1) for index in range(len(there))], axis=1)
    return energy.argsort(axis=1)[:, :NUM_CANDIDATES]
