"""The figures of remembering as tables: the same ones for the terminal and for the page."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from magrathea.evaluate.memory.recall import LANDMARKS
from magrathea.evaluate.page import cards, heading, number, plot_grid, show, table, write_sections

STRETCHES = ("in the window", "beyond the window", *(f"{landmark} beyond" for landmark in LANDMARKS))
NO_FIGURES = {"value": None, "low": None, "high": None, "count": 0}  # the figure of what was not measured
TRIP = "128"  # steps out, of the trip that stands in the headlines

NOTES = {
    "recall": "History is real; the next picture is predicted. Asked are the cells that were seen before and look the "
    "same now. A perfect memory shows again what it saw last; cells never seen before are what can be guessed.",
    "dreams": "History is the dream itself, under actions of travel; its pose is told by laying its pictures over each "
    "other. Asked is whether a cell is shown again as the dream showed it last. A monotonous dream has this for "
    "nothing: landmarks are the cells that were not of the most frequent kind.",
    "trips": "Out some steps and back the same way. Asked are the cells that were shown on the way out and were then "
    "out of sight for longer than the window: in the last picture, at home, and on the whole way back.",
    "poses": "PSNR of the predicted next picture where an earlier one was taken from nearly the same pose, before the "
    "body went away, and where none was. Beside it: the last picture again, the earlier picture from the nearest pose, "
    "and the tokenizer's reconstruction.",
}


@dataclass(frozen=True)
class Table:
    """Rows of figures, with what they are called, in a unit."""

    title: str
    note: str
    columns: list[str]
    rows: list[tuple[str, list[dict[str, Any]]]]
    unit: str = "%"

    def html(self) -> str:
        rows = [
            [escape(name), *(show(figure, self.unit) for figure in figures), f"{figures[0]['count']:,}"]
            for name, figures in self.rows
        ]
        note = f"<p>{escape(self.note)}</p>" if self.note else ""
        return f"<h3>{escape(self.title)}</h3>{note}{table([*self.columns, 'number'], rows)}"

    def markdown(self) -> str:
        columns = [*self.columns, "number"]
        lines = [self.title, "", f"| {' | '.join(columns)} |", f"| --- {'| ---: ' * (len(columns) - 1)}|"]
        for name, figures in self.rows:
            cells = [as_text(figure, self.unit) for figure in figures]
            lines.append(f"| {name} | {' | '.join(cells)} | {figures[0]['count']:,} |")
        return "\n".join(lines) + "\n"


def as_text(figure: dict[str, Any], unit: str = "%") -> str:
    """A figure with its interval, or a dash."""
    if figure["value"] is None:
        return "–"
    interval = "" if figure["low"] is None else f" ({number(figure['low'], unit)} … {number(figure['high'], unit)})"
    return number(figure["value"], unit) + interval


def tables(measured: dict[str, Any]) -> list[Table]:
    """All that was measured, the most important first."""
    found = [
        _recall(f"Recall, {measure}", curves, ["model", "perfect memory", "most frequent"], NOTES["recall"])
        for measure, curves in measured.get("recall", {}).items()
    ]
    if "dreams" in measured:
        found += [
            _recall(f"Dreams agree with themselves, {cells}", measured["dreams"][cells], ["dream"], NOTES["dreams"])
            for cells in ("all", "landmarks")
        ]
    for where, trips in measured.get("trips", {}).items():
        columns = [name for name in next(iter(trips.values()), {}) if "frequent" not in name]
        rows = [(f"{steps} steps out", [figures[name] for name in columns]) for steps, figures in trips.items()]
        if rows:
            found.append(Table(f"Leave and return, {where}", NOTES["trips"], ["trip", *columns], rows))
    if "poses" in measured:
        columns = ["model", "repeat", "copy", "reconstruction"]
        rows = [
            (name, [figures.get(source, NO_FIGURES) for source in columns])
            for name, figures in measured["poses"].items()
        ]
        title = "Revisited poses and new ones, PSNR"
        found.append(Table(title, NOTES["poses"], ["frames, by when they were last seen", *columns], rows, "dB"))
    return found


def _recall(title: str, curves: dict[str, Any], sources: list[str], note: str) -> Table:
    rows = [(name, [curves[name][source] for source in sources]) for name in STRETCHES]
    for bucket in curves["curve"]:
        name = str(bucket["to"]) if bucket["from"] == bucket["to"] else f"{bucket['from']}…{bucket['to']}"
        rows.append((f"{name} steps ago", [bucket[source] for source in sources]))
    if "new" in curves:
        rows.append(("never seen before", [curves["new"].get(source, NO_FIGURES) for source in sources]))
    rows = [(name, figures) for name, figures in rows if figures[0]["count"]]
    return Table(title, note, ["cell last seen", *sources], rows)


def headlines(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """[{"name", "figure", "unit", "beside"}], as of the evaluation."""
    items = []
    if "recall" in measured:
        curves = next(iter(measured["recall"].values()))
        chance = f"never seen before {as_text(curves['new']['model'])}"
        for stretch in STRETCHES:
            name = stretch if "the window" in stretch else f"{stretch.split()[0]} steps beyond the window"
            items.append({"name": f"Recall {name}", "figure": curves[stretch]["model"], "unit": "%", "beside": chance})
    trip = measured.get("trips", {}).get("dream", {}).get(TRIP)
    if trip:
        beside = f"landmarks {as_text(trip['at home, landmarks'])}; came back {as_text(trip['came back'])}"
        name = f"Home as it was, {TRIP} steps out and back in a dream"
        items.append({"name": name, "figure": trip["at home"], "unit": "%", "beside": beside})
    if "revisited - new" in measured.get("poses", {}):
        figure = measured["poses"]["revisited - new"]["model"]
        repeat = as_text(measured["poses"]["revisited - new"]["repeat"], "dB")
        item = {"name": "PSNR at revisited poses above new ones", "figure": figure, "unit": "dB"}
        items.append(item | {"beside": f"repeating the last picture {repeat}"})
    return [item for item in items if item["figure"]["value"] is not None]


def write_memory_page(out: Path, metrics: dict[str, Any]) -> Path:
    """Write `memory.html` into the folder that holds the plots."""
    measured = metrics["memory"]
    about = (
        f"<p>Memory “{escape(measured['memory'])}”, {measured['bytes']:,} bytes of state beside the attention window "
        f"of {measured['window']} steps. Next step: {as_text(measured['next step'])} of the tokens right.</p>"
    )
    sections = [
        heading(metrics["about"], "memory.json"),
        cards(headlines(measured)),
        "<h2>What it remembers</h2>",
        about,
        plot_grid(out, "memory.png", "trips.png"),
        *(each.html() for each in tables(measured)),
    ]
    return write_sections(out / "memory.html", f"{metrics['about']['world']}: memory", sections)
