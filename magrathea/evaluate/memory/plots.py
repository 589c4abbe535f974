"""The curves of remembering, drawn by matplotlib without any display."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, NullLocator, PercentFormatter, ScalarFormatter

from magrathea.evaluate.plots import COLOURS, FAINT_INK, add_axes, band, save

PALETTE = ("#3b6ef5", "#10a37f", "#e0703c", "#8a5cd6", "#c2388e", "#b08d00")
TICKS = (1, 10, 100, 1000)
LEAST_SHOWN = 100  # cells of an age, of which a point is drawn


def plot_memory(path: Path, measured: dict[str, Any]) -> Path:
    """Recall over the steps since a cell was last seen: of all cells, and of landmarks; with the chance level, and the
    window's length marked."""
    figure = Figure(figsize=(10.4, 3.8), layout="constrained")
    first = next(iter(measured["recall"]))
    panels = {first: ("All cells", "all"), f"{first}, landmarks": ("Landmarks", "landmarks")}
    for index, (measure, (title, cells)) in enumerate(panels.items()):
        axes = add_axes(figure, f"{title}: {first} again", "steps since the cell was last seen", "", (1, 2, index + 1))
        curves = measured["recall"][measure]
        _curve(axes, curves["curve"], "model", COLOURS["dream"], "next step, history is real")
        if "dreams" in measured:
            _curve(axes, measured["dreams"][cells]["curve"], "dream", COLOURS["real"], "dream, with itself")
        _chance(axes, curves, measured["window"])
        axes.legend(frameon=False, fontsize=8)
    return save(figure, path)


def plot_trips(path: Path, trips: dict[str, dict]) -> Path:
    """What is there again after a trip, by its length; in dreams and in reality."""
    figure = Figure(figsize=(10.4, 3.4), layout="constrained")
    panels = {"at home": "home as it was", "way back, landmarks": "landmarks on the way back"}
    for index, (name, title) in enumerate(panels.items()):
        axes = add_axes(figure, f"Leave and return: {title}", "steps out", "", (1, 2, index + 1))
        for where, by_steps in trips.items():
            points = [(float(steps), figures[name]) for steps, figures in by_steps.items()]
            band(axes, [steps for steps, _ in points], [figure for _, figure in points], where)
        lengths = [float(steps) for by_steps in trips.values() for steps in by_steps] or [1.0]
        axes.set_xlim(min(lengths) / 1.2, max(lengths) * 1.2)  # also where no trip came back
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        _shares(axes)
        axes.legend(frameon=False, fontsize=8, loc="lower left")
    return save(figure, path)


def plot_comparison(path: Path, compared: dict[str, dict[str, Any]]) -> Path:
    """Recall curves of several worlds, and their recall beyond the window against the bytes of their memory."""
    figure = Figure(figsize=(10.4, 4.0), layout="constrained")
    measure = next(iter(next(iter(compared.values()))["recall"]))
    curves = add_axes(figure, f"Recall, {measure}", "steps since the cell was last seen", "", (1, 2, 1))
    sizes = add_axes(figure, "Recall beyond the window, by size", "bytes of memory (1 = none)", "", (1, 2, 2))
    for index, (name, measured) in enumerate(compared.items()):
        colour, recall = PALETTE[index % len(PALETTE)], measured["recall"][measure]
        _curve(curves, recall["curve"], "model", colour, name)
        beyond = recall["beyond the window"]["model"]
        if beyond["low"] is not None:
            spread = [[beyond["value"] - beyond["low"]], [beyond["high"] - beyond["value"]]]
            size = max(1, measured["bytes"])
            sizes.errorbar([size], [beyond["value"]], yerr=spread, fmt="o", color=colour, label=name)
    for points in _by_kind(compared, measure):
        sizes.plot(*zip(*points, strict=True), color=FAINT_INK, linewidth=1, zorder=0)
    first = next(iter(compared.values()))
    _chance(curves, first["recall"][measure], first["window"])
    curves.legend(frameon=False, fontsize=8)
    all_bytes = [max(1, measured["bytes"]) for measured in compared.values()]
    sizes.set_xlim(min(all_bytes) / 2, 2 * max(all_bytes))
    sizes.set_xscale("log")
    sizes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    sizes.xaxis.set_major_formatter(EngFormatter(unit="B"))
    sizes.xaxis.set_minor_locator(NullLocator())
    _shares(sizes)
    sizes.legend(frameon=False, fontsize=8, loc="lower right")
    return save(figure, path)


def _by_kind(compared: dict[str, dict[str, Any]], measure: str) -> list[list[tuple[int, float]]]:
    """For each kind of memory that there is in several sizes its points: bytes, recall beyond the window."""
    kinds: dict[str, list[tuple[int, float]]] = {}
    for measured in compared.values():
        value = measured["recall"][measure]["beyond the window"]["model"]["value"]
        if value is not None:
            kind = re.sub(r":\d+", "", measured["memory"])
            kinds.setdefault(kind, []).append((max(1, measured["bytes"]), value))
    return [sorted(points) for points in kinds.values() if len(points) > 1]


def _curve(axes: Axes, curve: list[dict[str, Any]], source: str, colour: str, label: str) -> None:
    curve = [bucket for bucket in curve if bucket[source]["count"] >= LEAST_SHOWN]
    places = [(bucket["from"] * bucket["to"]) ** 0.5 for bucket in curve]
    band(axes, places, [bucket[source] for bucket in curve], source, colour, label)


def _chance(axes: Axes, curves: dict[str, Any], window: int) -> None:
    """Mark what can be guessed, and how far the attention window reaches."""
    chances = {"never seen before: chance": ("model", "--"), "always the most frequent": ("most frequent", ":")}
    for label, (source, style) in chances.items():
        value = curves["new"][source]["value"]
        if value:
            axes.axhline(value, color=FAINT_INK, linewidth=1, linestyle=style, label=label)
    axes.axvspan(1, window, color=FAINT_INK, alpha=0.12, linewidth=0, label=f"window of {window} steps")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlim(0.9, 1100)
    _shares(axes)


def _shares(axes: Axes) -> None:
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
