"""How far pictures and token distributions are apart: PSNR, SSIM, sharpness, histogram distance."""

from __future__ import annotations

import numpy as np
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

PSNR_CAP = 20 * float(np.log10(255.0))  # 48.1 dB: an error of one grey level, the least that a uint8 picture can show


def mean_squared_error(pictures: np.ndarray, real: np.ndarray) -> np.ndarray:
    """pictures, real (…, rows, cols, C) uint8 -> (…) mean squared error in grey levels²."""
    difference = pictures.astype(np.float32) - real.astype(np.float32)
    return np.square(difference).mean(axis=(-3, -2, -1))


def psnr(error: np.ndarray) -> np.ndarray:
    """Mean squared error (…) in grey levels² -> PSNR (…) in dB, at most `PSNR_CAP` (exact would be infinite)."""
    return np.minimum(10 * np.log10(255.0**2 / np.maximum(error, 1.0)), PSNR_CAP)


def ssim(pictures: np.ndarray, real: np.ndarray, *, chunk: int = 256) -> np.ndarray:
    """pictures, real (…, rows, cols, C) uint8 -> SSIM (…), by torchmetrics (11×11 Gaussian window)."""
    shape = pictures.shape[:-3]
    flat = [np.moveaxis(array.reshape(-1, *array.shape[-3:]), -1, 1) for array in (pictures, real)]
    values = []
    for begin in range(0, len(flat[0]), chunk):
        dreamt, actual = (torch.from_numpy(array[begin : begin + chunk].astype(np.float32)) for array in flat)
        value = structural_similarity_index_measure(dreamt, actual, data_range=255.0, reduction="none")
        values.append(torch.as_tensor(value).reshape(-1).numpy())
    return np.concatenate(values).reshape(shape) if values else np.zeros(shape, dtype=np.float32)


def sharpness(pictures: np.ndarray) -> np.ndarray:
    """pictures (…, rows, cols, C) uint8 -> (…) mean absolute difference of neighbouring pixels, in grey levels."""
    grey = pictures.astype(np.float32).mean(axis=-1)
    vertical = np.abs(np.diff(grey, axis=-2)).mean(axis=(-2, -1))
    horizontal = np.abs(np.diff(grey, axis=-1)).mean(axis=(-2, -1))
    return (vertical + horizontal) / 2


def histogram(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """tokens (any shape) in [0, vocab_size] -> (vocab_size + 1,) relative frequencies."""
    counts = np.bincount(tokens.reshape(-1).astype(np.int64), minlength=vocab_size + 1).astype(np.float64)
    return counts / max(counts.sum(), 1.0)


def total_variation(first: np.ndarray, second: np.ndarray) -> float:
    """Total variation distance of two histograms, in [0, 1]: the share of tokens that would have to change."""
    return float(np.abs(first - second).sum() / 2)


def jensen_shannon(first: np.ndarray, second: np.ndarray) -> float:
    """Jensen-Shannon divergence of two histograms in bits, in [0, 1]; unlike KL it is finite where one is empty."""
    middle = (first + second) / 2

    def divergence(histogram_: np.ndarray) -> float:
        used = histogram_ > 0
        return float((histogram_[used] * np.log2(histogram_[used] / middle[used])).sum())

    return (divergence(first) + divergence(second)) / 2


def perplexity(frequencies: np.ndarray) -> float:
    """2^entropy of a histogram: how many codes are in effective use."""
    used = frequencies[frequencies > 0]
    return float(np.exp(-(used * np.log(used)).sum()))


def upscale(pictures: np.ndarray, smallest: int = 252) -> np.ndarray:
    """Repeat pixels of pictures (…, rows, cols, 3) by the whole factor that brings rows to about `smallest`."""
    factor = max(1, round(smallest / pictures.shape[-3]))
    return pictures.repeat(factor, axis=-3).repeat(factor, axis=-2)


def as_rgb(observation: np.ndarray) -> np.ndarray:
    """Pictures (…, rows, cols, 1 or 3) uint8 -> (…, rows, cols, 3)."""
    return observation if observation.shape[-1] == 3 else np.broadcast_to(observation, (*observation.shape[:-1], 3))
