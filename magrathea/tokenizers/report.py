"""Reconstruction quality of a tokenizer."""

from __future__ import annotations

from typing import Any

import numpy as np

from magrathea.tokenizers.base import Tokenizer


def reconstruction_report(tokenizer: Tokenizer, values: Any) -> dict[str, float]:
    """Reconstruct images (M, H, W, channels) uint8 -> psnr in dB, the share of the codebook that they use, and the
    perplexity of that use (the number of codes that would do if all were used alike)."""
    values = np.asarray(values)
    tokens = tokenizer.encode(values)
    error = np.square(tokenizer.decode(tokens).astype(np.float32) - values).mean()
    counts = np.bincount(tokens.reshape(-1), minlength=tokenizer.vocab_size)
    shares = counts[counts > 0] / counts.sum()
    return {
        "psnr": round(float(10 * np.log10(255**2 / max(error, 1e-10))), 2),
        "codebook_used": round(float((counts > 0).mean()), 4),
        "codebook_perplexity": round(float(np.exp(-(shares * np.log(shares)).sum())), 1),
    }
