"""Reconstruction quality of a tokenizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from magrathea.tokenizers.base import VALUES, Tokenizer

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
