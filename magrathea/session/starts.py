"""What a session may be started with: seeds, and the steps that a dream begins from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.sampler import derive_seed
from magrathea.world import World

Start = int | Sequence[int] | np.ndarray | Tensor | Sequence[Tensor] | None
Seed = int | Sequence[int]


def one_each(value: int | Sequence[int], batch_size: int, what: str) -> list[int]:
    """(B,) numbers, of one number for all worlds of a batch or one for each."""
    numbers = [int(value)] * batch_size if isinstance(value, int | np.integer) else [int(number) for number in value]
    if len(numbers) != batch_size:
        raise MagratheaError(f"Session has a batch of {batch_size} but got {len(numbers)} {what}; give one each.")
    return numbers


def parse_seeds(seed: Seed, batch_size: int) -> list[int]:
    """(B,) seeds: batch index b has seed + b, or the one that was given for it."""
    steps = range(batch_size) if isinstance(seed, int | np.integer) else [0] * batch_size
    seeds = [number + step for number, step in zip(one_each(seed, batch_size, "seeds"), steps, strict=True)]
    if not all(-(2**63) <= number < 2**63 for number in seeds):
        raise MagratheaError(f"Seeds {seeds} are not all whole numbers of 64 bits; give smaller ones.")
    return seeds


def parse_starts(world: World, start: Start, batch_size: int, seeds: Sequence[int]) -> list[Tensor]:
    """The first steps (T, N) of each world; see `Session` for what `start` may be."""
    stored = world.starts
    if isinstance(start, Tensor) and start.ndim >= 2:
        start = list(start.expand(batch_size, *start.shape) if start.ndim == 2 else start)
    if isinstance(start, Sequence) and start and isinstance(start[0], Tensor):
        return _given_starts(world, [tokens.cpu() for tokens in start], batch_size)  # type: ignore[union-attr]
    if not len(stored):
        raise MagratheaError("This world has no stored starts; start it from recorded steps.")
    if start is None:
        return [stored[derive_seed(seed, "start") % len(stored)] for seed in seeds]
    indices = one_each(start, batch_size, "starts")  # type: ignore[arg-type]
    if not all(0 <= index < len(stored) for index in indices):
        raise MagratheaError(f"Starts {indices} are not indices within 0…{len(stored) - 1}.")
    return [stored[index] for index in indices]


def _given_starts(world: World, starts: list[Tensor], batch_size: int) -> list[Tensor]:
    absent = world.layout.absent_tokens
    if len(starts) != batch_size or any(
        start.ndim != 2 or start.shape[1:] != absent.shape or not len(start) for start in starts
    ):
        raise MagratheaError(
            f"A start is (T, N) or (B, T, N) tokens, or a list of B of (T, N), with B = {batch_size}, T of 1 or more "
            f"and N = {len(absent)}; got {[tuple(start.shape) for start in starts[:4]]}."
        )
    if any(bool(((start < 0) | (start > absent)).any()) for start in starts):
        raise MagratheaError("A start has tokens that this world does not have; make them with World.encode_episode.")
    return starts
