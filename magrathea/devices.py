"""Where tensors live, and in what type the model computes there."""

from __future__ import annotations

import os

import torch

from magrathea.errors import MagratheaError


def device_named(name: str) -> str:
    """The device to use for "auto" (a GPU if there is one), "cpu" or "cuda…"; raises MagratheaError where it is not."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise MagratheaError(f"Device '{name}' is not here; use --device cpu.")
    return name


def num_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compute_dtype(device: torch.device) -> torch.dtype:
    """bf16 on GPUs and on CPUs with AMX tiles, float32 elsewhere: vector units that multiply bf16 (AVX-512) are faster
    in float32 (260 against 150 GFLOP/s on two cores)."""
    multiplies = device.type == "cuda" or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if multiplies else torch.float32
