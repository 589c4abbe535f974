"""Codebooks of frames of sound: one, in which a frame is looked up by how it sounds, or several, whose vectors add up.

M frames, P numbers of a frame, Q books, K codes of a book. `vectors` (Q, K, P) are what codes decode to, one of each
book added up.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from torch import Tensor

from magrathea.tokenizers.codebook import cluster_means
from magrathea.tokenizers.sound_measures import mel_spectra

ROUNDS = 8  # of k-means
FRAMES_AT_A_TIME = 128  # always: so that a step's tokens are the same whatever it is encoded with


class MelCodebook:
    """One book of recorded frames. A frame's code is the one whose log mel spectra are the nearest, whatever its phase:
    so few codes are needed, each of which is met often enough to be learnt.

    Args:
        vectors: (1, K, P).
        num_channels: of sound, in a frame one after the other.
        sample_rate: samples per second.
    """

    def __init__(self, vectors: Tensor, num_channels: int, sample_rate: int) -> None:
        self.vectors, self.num_channels, self.sample_rate = vectors, num_channels, sample_rate
        self._mels = frame_mels(vectors[0], num_channels, sample_rate)

    @classmethod
    def fit(cls, frames: Tensor, num_codes: int, rng: np.random.Generator, num_channels: int, sample_rate: int) -> Self:
        """Those of frames (M, P) that are nearest to the means of clusters of their spectra."""
        found = frames
        if len(frames):
            mels = frame_mels(frames, num_channels, sample_rate)
            found = frames[nearest(k_means(mels, num_codes, rng), mels)]
        return cls(_filled(found, num_codes)[None], num_channels, sample_rate)

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (M, P) -> their codes (M, 1)."""
        return nearest(frame_mels(frames, self.num_channels, self.sample_rate), self._mels)[:, None]


class ResidualCodebooks:
    """Residual vector quantization (Zeghidour et al. 2021, arXiv 2107.03312): each book has the code that is nearest to
    what the books before it leave of a frame.

    Args:
        vectors: (Q, K, P).
    """

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors

    @classmethod
    def fit(cls, frames: Tensor, num_books: int, num_codes: int, rng: np.random.Generator) -> Self:
        """Each book by k-means of what those before it leave of frames (M, P)."""
        left, books = frames, []
        for _ in range(num_books):
            # what a book leaves nothing of is to be nothing in those after it
            first = left.new_zeros(min(1, len(books)), left.shape[1])
            book = _filled(torch.cat([first, k_means(left, num_codes - len(first), rng)]), num_codes)
            books.append(book)
            left = left - book[nearest(left, book)]
        return cls(torch.stack(books))

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (M, P) -> their codes (M, Q)."""
        left, codes = frames, []
        for book in self.vectors:
            codes.append(nearest(left, book))
            left = left - book[codes[-1]]
        return torch.stack(codes, dim=-1)


SoundCodebooks = MelCodebook | ResidualCodebooks


def frame_mels(frames: Tensor, num_channels: int, sample_rate: int) -> Tensor:
    """Frames (M, P) -> (M, F) the log mel spectra of several windows, of equal weight."""
    parts = mel_spectra(frames.unflatten(-1, (num_channels, -1)), sample_rate)
    return torch.cat([part * part.shape[1] ** -0.5 for part in parts], dim=1)


def k_means(frames: Tensor, num_codes: int, rng: np.random.Generator) -> Tensor:
    """At most num_codes vectors (K, P) with a small squared distance from frames (M, P); the different frames
    themselves where they are no more."""
    different = torch.unique(frames, dim=0)
    if len(different) <= num_codes:
        return different
    codes = different[torch.from_numpy(rng.permutation(len(different))[:num_codes])]
    for _ in range(ROUNDS):
        means = cluster_means(frames.numpy(), nearest(frames, codes).numpy(), codes.numpy())
        codes = torch.from_numpy(means)
    return codes


def nearest(frames: Tensor, codes: Tensor) -> Tensor:
    """The index (M,) of the vector (K, P) with the least squared distance to each frame (M, P)."""
    half_norms = codes.square().sum(-1) / 2
    padded = torch.cat([frames, frames.new_zeros(-len(frames) % FRAMES_AT_A_TIME, frames.shape[1])])
    found = [(part @ codes.T - half_norms).argmax(-1) for part in padded.split(FRAMES_AT_A_TIME)]
    return torch.cat(found)[: len(frames)] if found else torch.zeros(0, dtype=torch.long)


def _filled(codes: Tensor, num_codes: int) -> Tensor:
    """Codes (k, P) and zeros for the others of a book (K, P)."""
    return torch.cat([codes, codes.new_zeros(num_codes - len(codes), codes.shape[1])])
