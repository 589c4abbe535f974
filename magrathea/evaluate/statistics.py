"""Figures with 95% bootstrap confidence intervals over episodes.

Everything measured is first reduced to *additive* statistics of an episode (counts, sums); a figure is a function of
their sum. Resampling whole episodes then is one matrix product, and steps of an episode, which are alike, never
pass for independent samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95

Statistic = Callable[[np.ndarray], np.ndarray]


def ratio(sums: np.ndarray) -> np.ndarray:
    """sums (…, 2): numerator and denominator -> their ratio (…), NaN where there is nothing to divide by."""
    numerator, denominator = sums[..., 0], sums[..., 1]
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


def f1(sums: np.ndarray) -> np.ndarray:
    """sums (…, 3): true positives, false positives, false negatives -> F1 (…)."""
    hits, false_alarms, misses = sums[..., 0], sums[..., 1], sums[..., 2]
    return ratio(np.stack([2 * hits, 2 * hits + false_alarms + misses], axis=-1))


def expected_calibration_error(sums: np.ndarray) -> np.ndarray:
    """sums (…, bins * 3): each bin's count, summed confidence and number right -> the error (…), in [0, 1].

    The average over predictions of |confidence - accuracy| of their bin (Guo et al. 2017, arXiv 1706.04599).
    """
    bins = sums.reshape(*sums.shape[:-1], -1, 3)
    gap = np.abs(bins[..., 1] - bins[..., 2]).sum(axis=-1)
    return ratio(np.stack([gap, bins[..., 0].sum(axis=-1)], axis=-1))


def pooled_psnr(sums: np.ndarray) -> np.ndarray:
    """sums (…, 2): summed mean-squared error (grey levels²) and number of frames -> PSNR (…) of the mean error, dB."""
    error = np.maximum(ratio(sums), 1e-10)
    return 10 * np.log10(255.0**2 / error)


def figure(statistics: np.ndarray, statistic: Statistic = ratio, *, note: str = "", seed: int = 0) -> dict:
    """A statistic of the episodes' sums with its 95% percentile interval over resampled episodes.

    statistics (E, K): additive statistics per episode. Returns value, low, high (None where undefined; low and high
    also where fewer than two episodes took part), episodes that took part, count (the last column's sum), and the
    note if there is one.
    """
    statistics = np.asarray(statistics, dtype=np.float64)
    taking_part = statistics[np.abs(statistics).sum(axis=-1) > 0]
    num_episodes = len(taking_part)
    value = float(statistic(statistics.sum(axis=0)))
    result: dict = {"value": finite(value), "low": None, "high": None, "episodes": num_episodes}
    result["count"] = round(float(statistics[:, -1].sum()))
    if num_episodes >= 2 and np.isfinite(value):
        weights = np.random.default_rng(seed).multinomial(
            num_episodes, np.full(num_episodes, 1 / num_episodes), size=NUM_RESAMPLES
        )
        resampled = statistic(weights @ taking_part)
        tail = (1 - CONFIDENCE) / 2
        low, high = np.nanquantile(resampled, [tail, 1 - tail])
        result["low"], result["high"] = finite(float(low)), finite(float(high))
    if note:
        result["note"] = note
    return result


def finite(value: float) -> float | None:
    """The value rounded to six digits after the point, or None where it is no number (JSON has no NaN)."""
    return round(value, 6) if np.isfinite(value) else None


class Tally:
    """Sums of named quantities per episode, the form in which everything here is measured."""

    def __init__(self, num_episodes: int) -> None:
        self.num_episodes = num_episodes
        self._sums: dict[str, np.ndarray] = {}

    def add(self, name: str, episodes: ArrayLike, *columns: ArrayLike) -> None:
        """Add to each row's episode: episodes (B,) indices; each column (B, …), summed over all but its first axis."""
        episodes = np.asarray(episodes)
        values = [np.asarray(column, dtype=np.float64) for column in columns]
        rows = np.stack([value.reshape(len(episodes), -1).sum(axis=1) for value in values], axis=-1)
        np.add.at(self._sums.setdefault(name, np.zeros((self.num_episodes, rows.shape[-1]))), episodes, rows)

    def add_mean(self, name: str, episodes: ArrayLike, values: ArrayLike, where: ArrayLike | None = None) -> None:
        """Add values (B, …) that a mean is wanted of, counting only those `where` (same shape) is True."""
        values = np.asarray(values, dtype=np.float64)
        where = np.ones(values.shape, dtype=bool) if where is None else np.broadcast_to(np.asarray(where), values.shape)
        self.add(name, episodes, np.where(where, values, 0.0), where)

    def add_hits(self, name: str, episodes: ArrayLike, predicted: ArrayLike, actual: ArrayLike) -> None:
        """Add detections: predicted and actual (B, …) bool, for an F1 and its prevalence."""
        predicted, actual = np.asarray(predicted, dtype=bool), np.asarray(actual, dtype=bool)
        self.add(name, episodes, predicted & actual, predicted & ~actual, ~predicted & actual)
        self.add_mean(f"{name}/prevalence", episodes, actual)

    def __contains__(self, name: str) -> bool:
        return name in self._sums

    def names(self, prefix: str = "") -> list[str]:
        """Names that start with the prefix, in order of first use."""
        return [name for name in self._sums if name.startswith(prefix)]

    def statistics(self, name: str) -> np.ndarray:
        """(E, K) sums of the name."""
        return self._sums[name]

    def figure(self, name: str, statistic: Statistic = ratio, note: str = "") -> dict:
        """The named quantity's figure, or one that says it was not measured."""
        if name not in self._sums:
            return {"value": None, "low": None, "high": None, "episodes": 0, "count": 0, "note": note or "not measured"}
        return figure(self._sums[name], statistic, note=note)

    def detection(self, name: str) -> dict:
        """F1 of `add_hits`, with its prevalence; says so where there was no positive example."""
        if name not in self._sums:
            return {"f1": self.figure(name), "prevalence": self.figure(f"{name}/prevalence")}
        hits, _, misses = self._sums[name].sum(axis=0)
        num_positive = int(hits + misses)
        f1_figure = figure(self._sums[name], f1, note="" if num_positive else "no positive example")
        if not num_positive:
            f1_figure.update(value=None, low=None, high=None)
        f1_figure["count"] = num_positive
        return {"f1": f1_figure, "prevalence": self.figure(f"{name}/prevalence")}


def spread(values: Sequence[float], fractions: Sequence[float]) -> list[float]:
    """Quantiles of the values as plain floats."""
    return [float(value) for value in np.quantile(np.asarray(values, dtype=np.float64), fractions)]
