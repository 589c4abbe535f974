"""The machine's peak rate of matrix products, and the FLOPs, time and memory of a piece of work."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

SHAPES = ((256, 256, 256), (512, 512, 512), (1024, 192, 768), (256, 768, 768), (1024, 1024, 1024), (2048, 2048, 2048))


def matrix_peak(
    dtype: torch.dtype,
    device: torch.device,
    shapes: Iterable[tuple[int, int, int]] = SHAPES,
    seconds: float = 0.3,
) -> float:
    """The highest rate of (rows, inner) @ (inner, columns) over the shapes, in FLOP/s; a multiply-add is two.

    Each shape is measured for `seconds`. A shape of which one product would take longer is left out, as happens where
    the machine has no instructions for the type.
    """
    best = 0.0
    for rows, inner, columns in shapes:
        work = 2.0 * rows * inner * columns
        if best and work / best > seconds:
            continue
        left = torch.randn(rows, inner, device=device).to(dtype)
        right = torch.randn(inner, columns, device=device).to(dtype)
        fastest = best_seconds(lambda left=left, right=right: left @ right, device, seconds)
        best = max(best, work / fastest)
    return best


def best_seconds(function: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """The seconds of the fastest of repeated calls, at least two, after a warm-up call."""
    function()
    synchronize(device)
    fastest, end, num_calls = float("inf"), time.perf_counter() + seconds, 0
    while num_calls < 2 or time.perf_counter() < end:
        begin = time.perf_counter()
        function()
        synchronize(device)
        fastest, num_calls = min(fastest, time.perf_counter() - begin), num_calls + 1
    return fastest


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def count_flops(function: Callable[[], Any]) -> float:
    """FLOPs of the matrix products and attention of a call, as PyTorch counts them."""
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:  # the counter knows attention as matrix products on every device
        function()
    return float(counter.get_total_flops())


def peak_memory_mb() -> float:
    """The peak resident memory of this process so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6
