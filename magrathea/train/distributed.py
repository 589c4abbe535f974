"""Training on several processes at once, as torchrun starts them: all that concerns more than one of them.

Every function here does the plain thing where there is one process only.
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
    """Join the processes that torchrun started, if it did; yields this one's rank and its own device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0, device
        return
    dist.init_process_group(timeout=timedelta(days=1))  # the first process fits the tokenizers, the others wait
    on_gpu = device != "cpu" and torch.cuda.is_available()
    yield dist.get_rank(), f"cuda:{os.environ['LOCAL_RANK']}" if on_gpu else "cpu"
    dist.destroy_process_group()  # not after an error: the others may be waiting in a collective


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that writes files and shows progress."""
    return rank() == 0


def wait_for_all() -> None:
    """Wait until every process is here."""
    if dist.is_initialized():
        dist.barrier()


def data_parallel(model: nn.Module) -> nn.Module:
    """The model, whose gradients are averaged over all processes."""
    return DistributedDataParallel(model) if num_processes() > 1 else model


def from_first(number: float) -> float:
    """The first process's number, in every process."""
    if not dist.is_initialized():
        return number
    shared = torch.tensor(number, dtype=torch.float64)
    dist.broadcast(shared, src=0)
    return shared.item()


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of every process's tensor, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def mean_over_processes(tensor: Tensor) -> Tensor:
    """The mean of every process's tensor, in place."""
    return sum_over_processes(tensor).div_(num_processes())
