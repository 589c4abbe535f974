"""What a session may be started with: seeds, and the steps that a dream begins from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.rng import derive_seed
from magrathea.world import World, absent_tokens

Start = int | Sequence[int] | np.ndarray | Tensor | Sequence[Tensor] | None
Seed = int | Sequence[int]


def per_row(value: int | Sequence[int], num_rows: int, what: str) -> list[int]:
    """One number for all rows, or one for each."""
    numbers = [int(value)] * num_rows if isinstance(value, int | np.integer) else [int(number) for number in value]
    if len(numbers) != num_rows:
        raise MagratheaError(f"Session has {num_rows} rows but got {len(numbers)} {what}; give one each.")
    return numbers


def seeds_of(seed: Seed, num_rows: int) -> list[int]:
    """The seeds of all rows: row b has seed + b, or the one that was given for it."""
    steps = range(num_rows) if isinstance(seed, int | np.integer) else [0] * num_rows
    seeds = [number + step for number, step in zip(per_row(seed, num_rows, "seeds"), steps, strict=True)]
    if not all(-(2**63) <= number < 2**63 for number in seeds):
        raise MagratheaError(f"Seeds {seeds} are not all whole numbers of 64 bits; give smaller ones.")
    return seeds


def starts_of(world: World, start: Start, num_rows: int, seeds: Sequence[int]) -> list[Tensor]:
    """The first steps (T, N) of all rows; see `Session` for what `start` may be."""
    stored = world.starts
    if isinstance(start, Tensor) and start.ndim >= 2:
        start = list(start.expand(num_rows, *start.shape) if start.ndim == 2 else start)
    if isinstance(start, Sequence) and start and isinstance(start[0], Tensor):
        return _given_starts(world, [tokens.cpu() for tokens in start], num_rows)  # type: ignore[union-attr]
    if not len(stored):
        raise MagratheaError("This world has no stored starts; start it from recorded steps.")
    if start is None:
        return [stored[derive_seed(seed, "start") % len(stored)] for seed in seeds]
    indices = per_row(start, num_rows, "starts")  # type: ignore[arg-type]
    if not all(0 <= index < len(stored) for index in indices):
        raise MagratheaError(f"Starts {indices} are not indices within 0…{len(stored) - 1}.")
    return [stored[index] for index in indices]


def _given_starts(world: World, starts: list[Tensor], num_rows: int) -> list[Tensor]:
    absent = absent_tokens(world.layout)
    if len(starts) != num_rows or any(
        start.ndim != 2 or start.shape[1:] != absent.shape or not len(start) for start in starts
    ):
        raise MagratheaError(
            f"A start is (T, N) or (B, T, N) tokens, or a list of B of (T, N), with B = {num_rows}, T of 1 or more and "
            f"N = {len(absent)}; got {[tuple(start.shape) for start in starts[:4]]}."
        )
    if any(bool(((start < 0) | (start > absent)).any()) for start in starts):
        raise MagratheaError("A start has tokens that this world does not have; make them with World.encode_episode.")
    return starts
