"""How far one sound is from another: multi-scale mel distance and SI-SDR. C channels, n samples."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

WINDOWS = (128, 256, 512, 1024, 2048)  # samples; of a mel spectrum each
MELS_PER_WINDOW = 1 / 16  # bands of a mel spectrum, for each sample of its window
QUIET = 1e-4  # magnitude below which spectra are not told apart
MOST_SDR = 60.0  # dB


@cache
def mel_filters(window: int, rate: int) -> Tensor:
    """(bands, window / 2 + 1): triangles that are even on the mel scale, each of a sum of 1."""
    top, num = 2595 * math.log10(1 + rate / 2 / 700), max(4, round(MELS_PER_WINDOW * window))
    edges = 700 * (10 ** (torch.linspace(0, top, num + 2) / 2595) - 1)
    frequencies = torch.linspace(0, rate / 2, window // 2 + 1)
    width = rate / window  # so that no band falls between two frequencies
    rise = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2]).clamp_min(width)[:, None]
    fall = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1]).clamp_min(width)[:, None]
    filters = torch.minimum(rise, fall).clamp_min(0)
    return filters / filters.sum(1, keepdim=True).clamp_min(1e-6)


def log_mels(waves: Tensor, window: int, rate: int) -> Tensor:
    """Waves (..., n) as the decimal logarithms of mel spectra (..., bands, frames), of Hann windows a quarter apart."""
    shape = torch.hann_window(window, device=waves.device)
    flat = waves.reshape(-1, waves.shape[-1])
    spectra = torch.stft(flat, window, window // 4, window=shape, center=True, pad_mode="constant", return_complex=True)
    # the root of a small number has no gradient at 0
    magnitudes = (spectra.real.square() + spectra.imag.square() + QUIET**2 / 4).sqrt() * (2 / shape.sum())
    mels = mel_filters(window, rate).to(waves.device) @ magnitudes
    return mels.clamp_min(QUIET).log10().unflatten(0, waves.shape[:-1])


def mel_spectra(waves: Tensor, rate: int) -> list[Tensor]:
    """Sounds (..., C, n) -> (..., F) their log mel spectra, for each of WINDOWS that is no longer than they are."""
    windows = [window for window in WINDOWS if window <= max(WINDOWS[0], waves.shape[-1])]
    return [log_mels(waves, window, rate).flatten(-3) for window in windows]


def mel_distance(real: Tensor, other: Tensor, rate: int) -> Tensor:
    """The mean absolute differences (...) of the log mel spectra of sounds (..., C, n), over several windows, as in
    Kumar et al. 2023, arXiv 2306.06546 (1 is a factor of ten)."""
    pairs = zip(mel_spectra(real, rate), mel_spectra(other, rate), strict=True)
    return torch.stack([(first - second).abs().mean(-1) for first, second in pairs]).mean(0)


def mel_distances(these: Tensor, those: Tensor, rate: int) -> Tensor:
    """`mel_distance` (A, B) of each of these sounds (A, C, n) from each of those (B, C, n)."""
    pairs = zip(mel_spectra(these, rate), mel_spectra(those, rate), strict=True)
    return torch.stack([torch.cdist(first, second, p=1) / first.shape[1] for first, second in pairs]).mean(0)


def si_sdr(real: Tensor, other: Tensor) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019, arXiv 1811.02508) of waves of one shape;
    0 of what is silent, for a real one that is not."""
    real, other = real.double().flatten(), other.double().flatten()
    real, other = real - real.mean(), other - other.mean()
    if not real.any() or not other.any():
        return MOST_SDR if torch.equal(real, other) else 0.0
    target = (other @ real) / (real @ real) * real
    ratio = target.square().sum() / (other - target).square().sum().clamp_min(1e-20)
    return float((10 * ratio.log10()).clamp(-MOST_SDR, MOST_SDR))
