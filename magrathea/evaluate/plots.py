"""The plots of an evaluation, drawn by matplotlib without any display."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {"dream": "#3b6ef5", "real": "#10a37f", "repeat": "#e0703c", "reconstruction": "#10a37f", "model": "#3b6ef5"}
NAMES = {
    "dream": "dream",
    "repeat": "repeat the last frame",
    "reconstruction": "tokenizer's reconstruction",
    "real": "real frames",
    "reality again": "reality with other chances",
    "model": "model",
}
INK, FAINT_INK, GRID = "#1c2333", "#626c80", "#e4e7ee"


def _axes(title: str, across: str, up: str, size: tuple[float, float] = (6.4, 3.6)) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    return figure, add_axes(figure, title, across, up)


def add_axes(figure: Figure, title: str, across: str, up: str, place: tuple[int, int, int] = (1, 1, 1)) -> Axes:
    """A panel of a figure, in our looks; its place is (rows, columns, number)."""
    axes = figure.add_subplot(*place)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(across, fontsize=9, color=FAINT_INK)
    axes.set_ylabel(up, fontsize=9, color=FAINT_INK)
    axes.tick_params(labelsize=8, colors=FAINT_INK, length=0)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    return axes


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as a picture."""
    figure.savefig(path, dpi=160)
    return path


def band(
    axes: Axes,
    across: list[float],
    figures: list[dict],
    source: str,
    colour: str | None = None,
    label: str | None = None,
) -> None:
    """A line of figures with their intervals as a band; colour and label are the source's own, if not given."""
    points = [(place, figure) for place, figure in zip(across, figures, strict=True) if figure["value"] is not None]
    places = [place for place, _ in points]
    colour = colour or COLOURS.get(source, "#8a5cd6")
    axes.plot(
        places,
        [figure["value"] for _, figure in points],
        color=colour,
        linewidth=1.8,
        marker="o",
        markersize=2.5,
        label=label or NAMES.get(source, source),
    )
    sure = [(place, figure) for place, figure in points if figure["low"] is not None]
    axes.fill_between(
        [place for place, _ in sure],
        [figure["low"] for _, figure in sure],
        [figure["high"] for _, figure in sure],
        color=colour,
        alpha=0.16,
        linewidth=0,
    )


def plot_horizon(path: Path, curves: dict[str, dict[str, dict]], title: str, up: str) -> Path:
    """curves: source -> horizon -> figure."""
    figure, axes = _axes(title, "dreamt steps", up)
    for source, by_horizon in curves.items():
        band(axes, [float(horizon) for horizon in by_horizon], list(by_horizon.values()), source)
    axes.legend(frameon=False, fontsize=8)
    return save(figure, path)


def plot_reliability(path: Path, calibration: dict[str, dict]) -> Path:
    """How often the model is right (up) when it is so confident (across), for each slot."""
    figure, axes = _axes("Calibration of the next step's tokens", "confidence", "share right", (4.6, 4.2))
    axes.plot([0, 1], [0, 1], color=FAINT_INK, linewidth=1, linestyle=":")
    for index, (slot, measured) in enumerate(calibration.items()):
        curve, error = measured["curve"], measured["expected calibration error"]["value"]
        axes.plot(
            curve["confidence"],
            curve["accuracy"],
            color=list(COLOURS.values())[index % 3],
            marker="o",
            markersize=4,
            linewidth=1.6,
            label=f"{slot} (ECE {error:.3f})",
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, fontsize=8)
    return save(figure, path)


def plot_drift(path: Path, drift: dict) -> Path:
    """Figures of dreams by their age, beside those of recordings."""
    ages, real = drift["ages"], drift["real"]
    first = next(iter(ages.values()))
    titles = {
        "controllability": "Controllability",
        "impossible neighbours": "Impossible neighbours",
        "confidence": "Confidence of the next step",
        "histogram distance": "Token histogram distance",
        "pictures that change": "Pictures that change",
        "sharpness": "Sharpness, grey levels",
    }
    shown = [name for name in titles if name in first]
    figure = Figure(figsize=(10.4, 5.6), layout="constrained")
    for index, name in enumerate(shown):
        axes = add_axes(figure, titles[name], "age of the dream, steps", "", (2, 3, index + 1))
        values = [figures[name] for figures in ages.values()]
        figures = [value if isinstance(value, dict) else {"value": value, "low": None} for value in values]
        band(axes, [float(age) for age in ages], figures, "dream")
        axes.axhline(real[name]["value"], color=COLOURS["real"], linestyle="--", label="recordings")
        if real[name]["low"] is not None:
            axes.axhspan(real[name]["low"], real[name]["high"], color=COLOURS["real"], alpha=0.12, linewidth=0)
        axes.set_xscale("log")
        axes.set_xticks([float(age) for age in ages], list(ages))
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8)
    return save(figure, path)


def plot_actions(path: Path, by_action: dict[str, dict]) -> Path:
    """Controllability by action: bars of the dream's and the real frames' accuracy."""
    names = list(by_action)
    figure, axes = _axes(
        "Which action was it? Inverse dynamics, by action", "", "share right", (max(6.4, 0.55 * len(names)), 3.6)
    )
    for offset, source in ((-0.2, "dream"), (0.2, "real")):
        values = [by_action[name][source]["value"] or 0.0 for name in names]
        axes.bar(
            [place + offset for place in range(len(names))],
            values,
            width=0.38,
            color=COLOURS[source],
            label=NAMES[source],
        )
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    return save(figure, path)
