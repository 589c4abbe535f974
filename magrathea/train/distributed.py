"""Data-parallel training on several processes, started by torchrun; everything that concerns more than one process.

With a single process, every function returns what it was given.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def process_group(device: str) -> Iterator[tuple[int, str]]:
    """Join the process group if torchrun started this process; yields its rank and its device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0, device
        return
    dist.init_process_group(timeout=timedelta(days=1))  # the first process fits the tokenizers, the others wait
    on_gpu = device != "cpu" and torch.cuda.is_available()
    yield dist.get_rank(), f"cuda:{os.environ['LOCAL_RANK']}" if on_gpu else "cpu"
    dist.destroy_process_group()  # not after an error: the others may be waiting in a collective


def rank() -> int:
    """Index of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_processes() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that writes files and shows progress."""
    return rank() == 0


def wait_for_all() -> None:
    """Wait until every process has called this."""
    if dist.is_initialized():
        dist.barrier()


def data_parallel(model: nn.Module) -> nn.Module:
    """The model, wrapped such that its gradients are averaged over all processes."""
    return DistributedDataParallel(model) if num_processes() > 1 else model


def broadcast(number: float) -> float:
    """The first process's number, on every process."""
    if not dist.is_initialized():
        return number
    shared = torch.tensor(number, dtype=torch.float64)
    dist.broadcast(shared, src=0)
    return shared.item()


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def mean_over_processes(tensor: Tensor) -> Tensor:
    """Average a tensor over all processes, in place."""
    return sum_over_processes(tensor).div_(num_processes())
