"""The table and the figure that compare the memories of several worlds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from magrathea.evaluate.plots import DPI, FAINT_INK, PALETTE, add_axes, mark_chance, plot_curve, show_shares
from magrathea.evaluate.report import GAP, as_text
from magrathea.evaluate.results import MemoryMeasures, write_result


@dataclass(frozen=True)
class ComparedMemory:
    """What a world remembers, and further columns of the table."""

    memory: MemoryMeasures
    columns: dict[str, float] = field(default_factory=dict)


def write_comparison(compared: Mapping[str, ComparedMemory], out: Path) -> str:
    """Write `comparison.json`, `.png` and `.md` of the memories of worlds by name; returns the Markdown table."""
    out.mkdir(parents=True, exist_ok=True)
    write_result(out / "comparison.json", dict(compared))
    if all(each.memory.recall for each in compared.values()):
        _plot(out / "comparison.png", {name: each.memory for name, each in compared.items()})
    rows = [_row(name, each) for name, each in compared.items()]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1)]
    lines += [[row.get(column, "–") for column in columns] for row in rows]
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    (out / "comparison.md").write_text(text, "utf-8")
    return text


def _row(name: str, compared: ComparedMemory) -> dict[str, str]:
    memory = compared.memory
    row = {"world": name, "memory": memory.memory} | {key: f"{value:,.4g}" for key, value in compared.columns.items()}
    row |= {"bytes": f"{memory.state_bytes:,}", "next step": as_text(memory.next_step)}
    if memory.recall:
        ranges = next(iter(memory.recall.values())).ranges
        row |= {f"recall {name}": as_text(figures["model"]) for name, figures in ranges.items()}
    if GAP in memory.revisits:
        row[GAP] = as_text(memory.revisits[GAP]["model"], "dB")
    return row


def _plot(path: Path, compared: dict[str, MemoryMeasures]) -> None:
    """Recall curves, and recall beyond the window against the bytes of memory."""
    canvas = Canvas(figsize=(10.4, 4.0), layout="constrained")
    first = next(iter(compared.values()))
    measure = next(iter(first.recall))
    curves = add_axes(canvas, f"Recall, {measure}", "steps since the cell was last seen", "", (1, 2, 1))
    sizes = add_axes(canvas, "Recall beyond the window, by size", "bytes of memory (1 = none)", "", (1, 2, 2))
    points: dict[str, list[tuple[int, float]]] = {}  # kind of memory -> bytes and recall of each size
    for index, (name, memory) in enumerate(compared.items()):
        colour, recall = PALETTE[index % len(PALETTE)], memory.recall[measure]
        plot_curve(curves, recall.by_age, "model", colour, name)
        beyond, size = recall.ranges["beyond the window"]["model"], max(1, memory.state_bytes)
        if beyond.value is None:
            continue
        points.setdefault(re.sub(r":\d+", "", memory.memory), []).append((size, beyond.value))
        if beyond.low is not None and beyond.high is not None:
            ends = [[beyond.value - beyond.low], [beyond.high - beyond.value]]
            sizes.errorbar([size], [beyond.value], yerr=ends, fmt="o", color=colour, label=name)
    for of_kind in points.values():
        if len(of_kind) > 1:
            sizes.plot(*zip(*sorted(of_kind), strict=True), color=FAINT_INK, linewidth=1, zorder=0)
    mark_chance(curves, first.recall[measure], first.window)
    curves.legend(frameon=False, fontsize=8)
    all_bytes = [max(1, memory.state_bytes) for memory in compared.values()]
    sizes.set_xlim(min(all_bytes) / 2, 2 * max(all_bytes))
    sizes.set_xscale("log")
    sizes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    sizes.xaxis.set_major_formatter(EngFormatter(unit="B"))
    sizes.xaxis.set_minor_locator(NullLocator())
    show_shares(sizes)
    sizes.legend(frameon=False, fontsize=8, loc="lower right")
    canvas.savefig(path, dpi=DPI)
