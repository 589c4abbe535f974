"""Plots, drawn by matplotlib without any display."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter, ScalarFormatter

from magrathea.evaluate.results import Figure, MemoryMeasures, Recall, Sources

PALETTE = ("#3b6ef5", "#10a37f", "#e0703c", "#8a5cd6", "#c2388e", "#b08d00")
BLUE, GREEN = PALETTE[:2]
INK, FAINT_INK, GRID = "#1c2333", "#626c80", "#e4e7ee"
AGE_TICKS = (1, 10, 100, 1000)
DPI = 160
MIN_SHOWN = 100  # cells of an age, from which a point is drawn


def add_axes(canvas: Canvas, title: str, across: str, up: str, place: tuple[int, int, int] = (1, 1, 1)) -> Axes:
    """A panel in our style; its place is (rows, columns, number)."""
    axes = canvas.add_subplot(*place)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(across, fontsize=9, color=FAINT_INK)
    axes.set_ylabel(up, fontsize=9, color=FAINT_INK)
    axes.tick_params(labelsize=8, colors=FAINT_INK, length=0)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    return axes


def band(axes: Axes, across: Sequence[float], figures: Sequence[Figure], colour: str, label: str) -> None:
    """A line of figures with their intervals as a band; undefined ones are left out."""
    values, low, high = (
        np.array([getattr(figure, name) for figure in figures], dtype=float) for name in ("value", "low", "high")
    )
    places, known = np.array(across), ~np.isnan(values)
    axes.plot(places[known], values[known], color=colour, linewidth=1.8, marker="o", ms=2.5, label=label)
    sure = ~np.isnan(low)
    axes.fill_between(places[sure], low[sure], high[sure], color=colour, alpha=0.16, linewidth=0)


def plot_horizon(path: Path, curves: dict[str, Sources], title: str, up: str) -> None:
    """curves: source -> horizon -> figure."""
    canvas = Canvas(figsize=(6.4, 3.6), layout="constrained")
    axes = add_axes(canvas, title, "dreamt steps", up)
    for colour, (source, figures) in zip(PALETTE, curves.items(), strict=False):
        band(axes, [float(horizon) for horizon in figures], list(figures.values()), colour, source)
    axes.legend(frameon=False, fontsize=8)
    canvas.savefig(path, dpi=DPI)


def plot_memory(path: Path, measured: MemoryMeasures) -> None:
    """Recall over the steps since a cell was last seen: of all cells, and of landmarks; with the chance level, and the
    window's length marked."""
    canvas = Canvas(figsize=(10.4, 3.8), layout="constrained")
    first = next(iter(measured.recall))
    panels = {first: ("All cells", "all"), f"{first}, landmarks": ("Landmarks", "landmarks")}
    for index, (measure, (title, cells)) in enumerate(panels.items()):
        across = "steps since the cell was last seen"
        axes = add_axes(canvas, f"{title}: {first} again", across, "", (1, 2, index + 1))
        recall = measured.recall[measure]
        plot_curve(axes, recall.by_age, "model", BLUE, "next step, history is real")
        if measured.self_consistency:
            plot_curve(axes, measured.self_consistency[cells].by_age, "dream", GREEN, "dream, with itself")
        mark_chance(axes, recall, measured.window)
        axes.legend(frameon=False, fontsize=8)
    canvas.savefig(path, dpi=DPI)


def plot_curve(axes: Axes, by_age: dict[str, Sources], source: str, colour: str, label: str) -> None:
    """Recall by age, of the ages "first…last" with enough cells."""
    shown = {age: figures[source] for age, figures in by_age.items() if figures[source].count >= MIN_SHOWN}
    places = [math.prod(map(int, age.split("…"))) ** 0.5 for age in shown]
    band(axes, places, list(shown.values()), colour, label)


def mark_chance(axes: Axes, recall: Recall, window: int) -> None:
    """Mark what can be guessed, and how far the attention window reaches."""
    chances = {"never seen before: chance": ("model", "--"), "always the most frequent": ("most frequent", ":")}
    for label, (source, style) in chances.items():
        value = recall.ranges["never seen"][source].value
        if value:
            axes.axhline(value, color=FAINT_INK, linewidth=1, linestyle=style, label=label)
    axes.axvspan(1, window, color=FAINT_INK, alpha=0.12, linewidth=0, label=f"window of {window} steps")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(AGE_TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlim(0.9, 1100)
    show_shares(axes)


def show_shares(axes: Axes) -> None:
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
