"""The cycle that recordings go through: how long it is, and what each of its steps brings.

S steps of all recordings, T steps of the longest, V numbers that tell of a step, D directions in which they differ
most, K of them in which the cycle moves, L steps of the cycle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from magrathea.errors import MagratheaError

NUM_DIRECTIONS = 8
SHORTEST = 8
LEAST_EXPLAINED = 0.1  # share of how later steps differ that the first cycle must foretell
SMOOTHED = 1 / 60  # of a cycle, the standard deviation that what it brings is averaged over
LEAST_VARIANCE = 1e-3  # of what a picture tells beside the cycle, as a share of all


@dataclass(frozen=True)
class Cycle:
    """Attributes:
    directions: (V, K) float32 in which the cycle moves.
    brings: (L, K) float64 where it is in them at each of its steps.
    precision: (K, K) float64 of what one step tells, were each independent of the one before.
    usual: (L,) float64, how often recordings are at each of its steps.
    """

    directions: np.ndarray
    brings: np.ndarray
    precision: np.ndarray
    usual: np.ndarray

    def likelihoods(self, told: np.ndarray) -> np.ndarray:
        """What a step (V,) shows, were it each of the cycle's steps -> (L,) likelihoods, the greatest 1."""
        away = self.brings - told @ self.directions
        energy = 0.5 * ((away @ self.precision) * away).sum(axis=1)
        return np.exp(energy.min() - energy)


def find_cycle(episodes: Sequence[np.ndarray]) -> Cycle:
    """The cycle of recorded episodes (T, V), each from its beginning; raises MagratheaError where there is none."""
    steps = np.concatenate(episodes)
    time = np.concatenate([np.arange(len(episode)) for episode in episodes])
    directions = _directions(steps)
    told = (steps @ directions).astype(np.float64)
    length, moves = _length(told, time)
    directions, told, hour = np.ascontiguousarray(directions[:, moves]), told[:, moves], time % length
    brings, often = _brings(told, hour, length)
    rest = told - brings[hour]
    varies = np.cov(rest.T).reshape(len(moves), len(moves))
    varies += LEAST_VARIANCE * np.diag(told.var(axis=0))
    slowness = _slowness(rest, time, max(1, length // 5))
    return Cycle(directions, brings, np.linalg.inv(varies) / slowness, often / often.sum())


def _directions(steps: np.ndarray) -> np.ndarray:
    """(V, D) in which steps (S, V) differ most."""
    centred = steps - steps.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return vectors[:, ::-1][:, :NUM_DIRECTIONS]


def _length(told: np.ndarray, time: np.ndarray) -> tuple[int, np.ndarray]:
    """The length after which steps (S, D) look again as they did at first, and the directions (K,) in which they do."""
    num_steps = time.max() + 1
    often = np.bincount(time, minlength=num_steps).astype(float)
    sums, squares = (
        np.stack([np.bincount(time, column, minlength=num_steps) for column in values.T], axis=1)
        for values in (told, told * told)
    )
    best = (0.0, 0, np.zeros(0, np.int64))
    for length in range(SHORTEST, num_steps):
        later = slice(length, None)
        first = (sums[:length] / often[:length, None])[np.arange(length, num_steps) % length]
        missed = (squares[later] - 2 * first * sums[later] + often[later, None] * first**2).sum(axis=0)
        spread = squares[later].sum(axis=0) - sums[later].sum(axis=0) ** 2 / often[later].sum()
        explained = spread - missed
        moves = np.flatnonzero(explained > LEAST_EXPLAINED * spread)
        if len(moves) and explained.clip(min=0).sum() > LEAST_EXPLAINED * spread.sum():
            best = max(best, (explained[moves].sum(), -length, moves), key=lambda each: each[:2])
    if not best[1]:
        raise MagratheaError(
            "These recordings go through no cycle, such as day and night, at least twice: leave out the memory 'clock'."
        )
    return -best[1], best[2]


def _brings(told: np.ndarray, hour: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean of steps (S, K) at each hour (L, K), averaged over its neighbours, and how many there are (L,)."""
    often = np.bincount(hour, minlength=length).astype(float)
    sums = np.stack([np.bincount(hour, column, minlength=length) for column in told.T], axis=1)
    apart = np.minimum(np.arange(length), length - np.arange(length))
    weights = np.exp(-0.5 * (apart / (SMOOTHED * length)) ** 2)
    near = weights[(np.arange(length)[:, None] - np.arange(length)) % length]
    return (near @ sums) / (near @ often)[:, None], near @ often + 1e-6


def _slowness(rest: np.ndarray, time: np.ndarray, furthest: int) -> float:
    """How many steps in a row tell as much as one: what is beside the cycle, (S, K), changes slowly."""
    variance, slowness = (rest**2).mean(axis=0), 1.0
    for apart in range(1, furthest):
        together = time[apart:] >= apart
        shared = (rest[apart:] * rest[:-apart])[together].mean(axis=0) / np.maximum(variance, 1e-12)
        if shared.mean() <= 0:
            break
        slowness += 2 * shared.mean()
    return slowness
