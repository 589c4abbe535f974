"""Reconstruction quality of a tokenizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from magrathea.sounds import Sound
from magrathea.tokenizers.base import VALUES, Tokenizer
from magrathea.tokenizers.sound_measures import mel_distance, si_sdr

MOST_PAIRS = 400  # of images that follow one another


def reconstruction_report(tokenizer: Tokenizer, values: Any) -> dict[str, Any]:
    """Reconstruct images (M, H, W, channels) uint8 that follow one another -> psnr in dB, the share of the codebook
    that they use, and the perplexity of that use (the number of codes that would do if all were used alike).

    Where tokens say how an image is made of the one before, they are given that one, "repeat_psnr" is that of repeating
    it, "grid" the rows and columns of tokens, and "group" those that share a position of the model.
    """
    values = np.asarray(values)
    values_spec = tokenizer.slot_specs.get(VALUES)
    if values_spec is None or values_spec.codec is None:
        tokens = tokenizer.encode(values)
        psnr = _psnr(tokenizer.decode(tokens), values)
        return {"psnr": psnr, **_usage(tokens, tokenizer.vocab_size)}
    spec = tokenizer.slot_specs[""]
    now, before = values[1 : MOST_PAIRS + 1], values[:-1][:MOST_PAIRS]
    num_tokens = spec.grid[0] * spec.grid[1]
    tokens = tokenizer.encode(now, before)[:, :num_tokens]
    shown = values_spec.codec.decode(torch.from_numpy(tokens), torch.from_numpy(before.reshape(len(before), -1)).long())
    return {
        "psnr": _psnr(shown.numpy().reshape(now.shape), now),
        "repeat_psnr": _psnr(before, now),
        "grid": list(spec.grid),
        "group": list(spec.group or (1, 1)),
        **_usage(tokens, spec.vocab_size),
    }


def sound_report(tokenizer: Tokenizer, values: Any) -> dict[str, float]:
    """Reconstruct sounds (M, *shape) that follow one another -> SI-SDR in dB, mel distance, that of silence, and the
    share of the vocabulary that they use."""
    space, sounds = tokenizer.space, np.asarray(values)
    assert isinstance(space, Sound)
    tokens = tokenizer.encode(sounds)
    real, heard = (one_wave(space, each) for each in (sounds, tokenizer.decode(tokens)))
    distances = {"mel_distance": heard, "mel_distance_of_silence": torch.zeros_like(real)}
    measured = {name: round(float(mel_distance(real, wave, space.sample_rate)), 4) for name, wave in distances.items()}
    used = len(np.unique(tokens)) / tokenizer.vocab_size
    return {"si_sdr": round(si_sdr(real, heard), 2), **measured, "codebook_used": round(used, 4)}


def one_wave(space: Sound, sounds: np.ndarray) -> torch.Tensor:
    """Sounds (M, *shape) that follow one another as one wave (channels, M * samples)."""
    return torch.from_numpy(np.concatenate([*space.waveform(sounds)], axis=-1))


def _psnr(images: np.ndarray, real: np.ndarray) -> float:
    error = np.square(images.astype(np.float32) - real).mean()
    return round(float(10 * np.log10(255**2 / max(error, 1e-10))), 2)


def _usage(tokens: np.ndarray, vocab_size: int) -> dict[str, float]:
    counts = np.bincount(tokens.reshape(-1), minlength=vocab_size)
    shares = counts[counts > 0] / counts.sum()
    return {
        "codebook_used": round(float((counts > 0).mean()), 4),
        "codebook_perplexity": round(float(np.exp(-(shares * np.log(shares)).sum())), 1),
    }
