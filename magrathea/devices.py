"""The device of a run, and the type in which its model computes there."""

from __future__ import annotations

from pathlib import Path

import torch

from magrathea.errors import MagratheaError
from magrathea.settings import DeviceName, check_value


def resolve_device(device: str | torch.device) -> tuple[torch.device, torch.dtype]:
    """The device that a name stands for, and the type in which a model computes fastest there.

    "auto" is a GPU if there is one; the type is bf16 on GPUs and on CPUs that multiply it faster than float32. Raises
    MagratheaError for a name that is none, and for a device that this machine does not have.
    """
    if isinstance(device, str):
        check_value("device", device, DeviceName)
        if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= torch.cuda.device_count():
            raise MagratheaError(f"This machine has no device '{device}'; give cpu or auto.")
        device = torch.device(device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    fast = device.type == "cuda" or _cpu_multiplies_bf16_faster()
    return device, torch.bfloat16 if fast else torch.float32


def _cpu_multiplies_bf16_faster() -> bool:
    """CPUs with AMX tiles do, and of those with AVX-512 BF16 AMD's (446 GFLOP/s on two cores, float32 207) but not
    Intel's (150, float32 260)."""
    return torch.cpu._is_amx_tile_supported() or (torch.cpu._is_avx512_bf16_supported() and _is_amd())


def _is_amd() -> bool:
    cpu = Path("/proc/cpuinfo")
    return cpu.exists() and "AuthenticAMD" in cpu.read_text()
