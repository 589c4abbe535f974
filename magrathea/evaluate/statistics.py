"""Figures with 95% bootstrap confidence intervals over episodes.

Everything measured is first reduced to additive statistics of an episode; a figure is a function of their sum. So whole
episodes are resampled, and their correlated steps never pass for independent samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torchmetrics.functional.classification import binary_stat_scores

from magrathea.evaluate.results import Figure

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95
NORMAL_QUANTILE = 1.96  # of that confidence, two-sided
MAX_GAIN = 60.0  # dB

Statistic = Callable[[np.ndarray], np.ndarray]


def ratio(sums: np.ndarray) -> np.ndarray:
    """sums (…, 2 or more): numerator and denominator -> their ratio (…), NaN where the denominator is 0."""
    numerator, denominator = sums[..., 0], sums[..., 1]
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


def ratio_of_ratios(sums: np.ndarray) -> np.ndarray:
    """sums (…, 4): the ratio of the first two over the ratio of the last two."""
    return ratio(np.stack([ratio(sums[..., :2]), ratio(sums[..., 2:])], axis=-1))


def difference_of_ratios(sums: np.ndarray) -> np.ndarray:
    """sums (…, 4): the ratio of the first two minus the ratio of the last two."""
    return ratio(sums[..., :2]) - ratio(sums[..., 2:])


def gain(sums: np.ndarray) -> np.ndarray:
    """sums (…, 2 or more): squared errors of a baseline and of a source -> 10·log10 of their ratio (…) in dB, within
    ±`MAX_GAIN`; 0 where both are 0."""
    baseline, source = sums[..., 0], sums[..., 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        decibels = 10 * np.log10(baseline / source)
    return np.clip(np.where((baseline == 0) & (source == 0), 0.0, decibels), -MAX_GAIN, MAX_GAIN)


def root_of_ratio(sums: np.ndarray) -> np.ndarray:
    """sums (…, 2 or more): the square root of `ratio`, as of a mean of squares."""
    return np.sqrt(ratio(sums))


def wilson(measured: Figure) -> Figure:
    """A share of `count` observations, with Wilson's interval for as many independent ones where that is wider than
    the one over episodes, which has no width where all are right (Wilson 1927)."""
    if measured.value is None or not measured.count:
        return measured
    square, count, share = NORMAL_QUANTILE**2, measured.count, measured.value
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = NORMAL_QUANTILE * np.sqrt(share * (1 - share) / count + square / (4 * count**2)) / (1 + square / count)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    if measured.low is not None and measured.high is not None:
        low, high = min(low, measured.low), max(high, measured.high)
    return replace(measured, low=finite(low), high=finite(high))


def figure(statistics: np.ndarray, statistic: Statistic = ratio, *, seed: int = 0) -> Figure:
    """A statistic of the episodes' sums with its 95% percentile interval over resampled episodes.

    statistics (E, K): additive statistics per episode; the last column's sum is the figure's count.
    """
    statistics = np.asarray(statistics, dtype=np.float64)
    contributing = statistics[np.abs(statistics).sum(axis=-1) > 0]
    num_episodes, low, high = len(contributing), None, None
    value = float(statistic(statistics.sum(axis=0)))
    if num_episodes >= 2 and np.isfinite(value):
        shares = np.full(num_episodes, 1 / num_episodes)
        weights = np.random.default_rng(seed).multinomial(num_episodes, shares, size=NUM_RESAMPLES)
        tail = (1 - CONFIDENCE) / 2
        low, high = map(finite, np.nanquantile(statistic(weights @ contributing), [tail, 1 - tail]))
    return Figure(finite(value), low, high, num_episodes, round(float(statistics[:, -1].sum())))


def finite(value: float) -> float | None:
    """The value rounded to six digits after the point, None where it is not finite (JSON has no NaN)."""
    return round(float(value), 6) if np.isfinite(value) else None


class Tally:
    """Additive statistics by name and episode."""

    def __init__(self, num_episodes: int) -> None:
        self.num_episodes = num_episodes
        self._sums: dict[str, np.ndarray] = {}

    def add(self, name: str, episodes: ArrayLike, *columns: ArrayLike) -> None:
        """Add to episodes (B,) indices; each column (B, …) is summed over all but its first axis."""
        episodes = np.asarray(episodes)
        values = [np.asarray(column, dtype=np.float64) for column in columns]
        sums = np.stack([value.reshape(len(episodes), -1).sum(axis=1) for value in values], axis=-1)
        np.add.at(self._sums.setdefault(name, np.zeros((self.num_episodes, sums.shape[-1]))), episodes, sums)

    def add_mean(self, name: str, episodes: ArrayLike, values: ArrayLike, where: ArrayLike | None = None) -> None:
        """Add values (B, …) of a mean, counting only those `where` (same shape) is True."""
        values = np.asarray(values, dtype=np.float64)
        where = np.ones(values.shape, dtype=bool) if where is None else np.broadcast_to(np.asarray(where), values.shape)
        self.add(name, episodes, np.where(where, values, 0.0), where)

    def add_f1(self, name: str, episode: int, predicted: np.ndarray, actual: np.ndarray) -> None:
        """Add detections of one episode: predicted and actual (S,) bool, for an F1."""
        scores = binary_stat_scores(torch.from_numpy(predicted).long(), torch.from_numpy(actual).long())
        hits, false_alarms, _, misses, positives = scores.tolist()
        self.add(f"{name}/f1", [episode], [2 * hits], [2 * hits + false_alarms + misses], [positives])

    def __contains__(self, name: str) -> bool:
        return name in self._sums

    def names(self, prefix: str = "") -> list[str]:
        """Names that start with the prefix, in order of first use."""
        return [name for name in self._sums if name.startswith(prefix)]

    def statistics(self, *names: str) -> np.ndarray:
        """(E, K) sums of one name, or those of several side by side."""
        return np.concatenate([self._sums[name] for name in names], axis=1)

    def figure(self, name: str, statistic: Statistic = ratio) -> Figure:
        """The named quantity's figure; without a value where it was not measured, or as an F1 without positives."""
        measured = figure(self._sums[name], statistic) if name in self._sums else Figure()
        if name.endswith("/f1") and not measured.count:
            return replace(measured, value=None, low=None, high=None)
        return measured

    def nested(self, prefix: str = "", statistic: Statistic = ratio) -> dict:
        """All figures whose names start with the prefix, as dictionaries by the rest of the name's parts."""
        result: dict = {}
        for name in self.names(prefix):
            *path, last = name.removeprefix(prefix).split("/")
            inner = result
            for part in path:
                inner = inner.setdefault(part, {})
            inner[last] = self.figure(name, statistic)
        return result
