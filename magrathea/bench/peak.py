"""What this machine's matrix products reach, and how much memory and arithmetic a piece of work takes."""

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
    """The best rate of (rows, inner) @ (inner, columns) over the shapes, in FLOP/s, a multiply-add being two.

    Each shape takes so many seconds; one whose first product would take longer by itself is left out, as it is where
    the type is not the machine's own.
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
    """The fastest of repeated calls within so many seconds, two at least, after a first one that warms up."""
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
    """Wait for what the device still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def count_flops(function: Callable[[], Any]) -> float:
    """FLOPs of the matrix products and attention of a call, by PyTorch's own counter."""
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:  # the counter knows attention as matrix products on every device
        function()
    return float(counter.get_total_flops())


def peak_memory_mb() -> float:
    """The most memory that this process has held so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6
