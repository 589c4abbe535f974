"""The cycle that recordings go through: how long it is, and in which light each of its steps is seen.

S steps of all recordings, T steps of the longest, K lights, L steps of the cycle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from magrathea.errors import MagratheaError

SHORTEST = 8
LEAST_EXPLAINED = 0.1  # share of how later steps differ that the first cycle must foretell
SMOOTHED = 1 / 60  # of a cycle, the standard deviation that what it brings is averaged over
UNFORESEEN = 0.01  # chance of a light that was never recorded at that step of the cycle


@dataclass(frozen=True)
class Cycle:
    """Attributes:
    brings: (L, K) float64, the chances of each light at each of its steps.
    follows: (L, K) int16, the light that most often followed another at each of its steps; the commonest at that step
        where that other was never seen.
    usual: (L,) float64, how often recordings are at each of its steps.
    """

    brings: np.ndarray
    follows: np.ndarray
    usual: np.ndarray

    def likelihoods(self, light: int) -> np.ndarray:
        """How likely a light is at each of the cycle's steps, (L,)."""
        return self.brings[:, light] + UNFORESEEN


def find_cycle(episodes: Sequence[np.ndarray], num_lights: int) -> Cycle:
    """The cycle of the lights of recorded episodes (T,), each from its beginning; raises MagratheaError where there is
    none."""
    lights = np.concatenate(episodes)
    time = np.concatenate([np.arange(len(episode)) for episode in episodes])
    length = _length(np.eye(num_lights)[lights], time)
    counts = np.zeros((length, num_lights))
    np.add.at(counts, (time % length, lights), 1)
    often = counts.sum(axis=1)
    apart = np.minimum(np.arange(length), length - np.arange(length))
    weights = np.exp(-0.5 * (apart / (SMOOTHED * length)) ** 2)
    brings = weights[(np.arange(length)[:, None] - np.arange(length)) % length] @ counts
    follows = np.broadcast_to(counts.argmax(axis=1)[:, None], counts.shape).copy()
    pairs = np.zeros((length, num_lights, num_lights))
    for episode in episodes:
        np.add.at(pairs, (np.arange(1, len(episode)) % length, episode[:-1], episode[1:]), 1)
    follows = np.where(pairs.any(axis=2), pairs.argmax(axis=2), follows).astype(np.int16)
    return Cycle(brings / brings.sum(axis=1, keepdims=True), follows, (often + 1e-6) / (often + 1e-6).sum())


def _length(shown: np.ndarray, time: np.ndarray) -> int:
    """The length after which steps (S, K) look again as they did at first."""
    num_steps = time.max() + 1
    often = np.bincount(time, minlength=num_steps).astype(float)
    sums, squares = (
        np.stack([np.bincount(time, column, minlength=num_steps) for column in values.T], axis=1)
        for values in (shown, shown * shown)
    )
    best = (0.0, 0)
    for length in range(SHORTEST, num_steps):
        later = slice(length, None)
        first = (sums[:length] / often[:length, None])[np.arange(length, num_steps) % length]
        missed = (squares[later] - 2 * first * sums[later] + often[later, None] * first**2).sum()
        spread = (squares[later].sum(axis=0) - sums[later].sum(axis=0) ** 2 / often[later].sum()).sum()
        if spread - missed > LEAST_EXPLAINED * spread:
            best = max(best, (spread - missed, -length))
    if not best[1]:
        raise MagratheaError(
            "These recordings go through no cycle, such as day and night, at least twice: leave out the memory 'clock'."
        )
    return -best[1]
