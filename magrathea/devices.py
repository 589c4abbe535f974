"""Where tensors live, and in what type the model computes there."""

from __future__ import annotations

import os
from pathlib import Path

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
    """bf16 on GPUs and on CPUs that multiply it faster, float32 elsewhere."""
    fast = device.type == "cuda" or _cpu_multiplies_bf16_faster()
    return torch.bfloat16 if fast else torch.float32


def _cpu_multiplies_bf16_faster() -> bool:
    """CPUs with AMX tiles do, and of those with AVX-512 BF16 AMD's (446 GFLOP/s on two cores, float32 207) but not
    Intel's (150, float32 260)."""
    return torch.cpu._is_amx_tile_supported() or (torch.cpu._is_avx512_bf16_supported() and _is_amd())


def _is_amd() -> bool:
    cpu = Path("/proc/cpuinfo")
    return cpu.exists() and "AuthenticAMD" in cpu.read_text()
