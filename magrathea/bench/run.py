"""All measurements of `magrathea bench`: dreams in batches, training, memory, and the machine's matrix peak."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from magrathea.bench.peak import matrix_peak, peak_memory_mb
from magrathea.bench.play import measure_playing
from magrathea.bench.training import measure_training
from magrathea.world import World

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def bench(
    world: str | Path | World,
    batch_sizes: Sequence[int] = (1, 8, 32, 128),
    *,
    seconds: float = 5.0,
    device: str = "cpu",
    seed: int = 0,
) -> dict[str, Any]:
    """Measure the speed of a world's dreams and of its training on this machine. Run nothing else meanwhile.

    Args:
        world: a world, its folder, the name of a shipped one, or a hub id.
        batch_sizes: numbers of dreams that are stepped together.
        seconds: duration of each measurement; short ones take a few steps at least.
        device: "cpu", "cuda", "cuda:N" or "auto".
        seed: of the start states, actions and dreams.

    Returns:
        a JSON-able dict: "playing" (for each batch size environment steps per second, median and 95th percentile of a
        step's milliseconds with decoding, passes per step), "training", "memory" (peak resident memory in MB) and
        "machine". "share_of_float32_peak" and "share_of_bfloat16_peak" are the rates of matrix products and attention
        relative to the machine's matrix peak, which is measured between playing and training.
    """
    world = world if isinstance(world, World) else World.from_pretrained(world, device=device)
    memory = {"peak_rss_mb_loaded": round(peak_memory_mb(), 1)}
    playing: dict[str, dict[str, Any]] = {}
    for batch_size in sorted(batch_sizes):
        measured = measure_playing(world, batch_size, seconds, seed)
        playing[str(batch_size)] = dict(measured.to_json())
        memory[f"peak_rss_mb_batch_{batch_size}"] = round(peak_memory_mb(), 1)
    peaks = {name: matrix_peak(dtype, world.device, seconds=min(0.3, seconds)) / 1e9 for name, dtype in DTYPES.items()}
    training: dict[str, Any] = dict(measure_training(world, seconds, seed))
    memory["peak_rss_mb_training"] = round(peak_memory_mb(), 1)
    for measured in (*playing.values(), training):
        for name, peak in peaks.items():
            measured[f"share_of_{name}_peak"] = round(measured["gflop_per_second"] / peak, 4)
    return {
        "world": world.metadata.get("name"),
        "parameters": sum(weights.numel() for weights in world.model.parameters()),
        "playing": playing,
        "training": training,
        "memory": memory,
        "machine": _machine(world) | {f"{name}_peak_gflop_per_second": round(peak, 1) for name, peak in peaks.items()},
    }


def _machine(world: World) -> dict[str, Any]:
    device = world.device
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return gpu | {
        "device": str(device),
        "dtype": str(world.model.compute_dtype).removeprefix("torch."),
        "processor": platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
