"""What is shown of the drift of long dreams: tables, a page, a contact sheet."""

from __future__ import annotations

import time
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from magrathea.data import Dataset
from magrathea.evaluate.about import about, write_json
from magrathea.evaluate.drift import CONTROL, IMPOSSIBLE, measure_drift
from magrathea.evaluate.page import cards, heading, number, plot_grid, show, table, write_sections
from magrathea.evaluate.plots import plot_drift
from magrathea.evaluate.recordings import Budget, Lived, Recording, held_out_recordings, open_dataset
from magrathea.evaluate.slots import picture_slot, pictures_of
from magrathea.evaluate.video import write_contact_sheet
from magrathea.progress import Stages
from magrathea.world import World

MOST_DREAMS = 16  # side by side
NUM_SHOWN = 6  # dreams on the contact sheet
UNITS = {CONTROL: "%", IMPOSSIBLE: "%", "pictures that change": "%", "confidence": "%", "commonest action": "%"}
NOTE = (
    "Dreams from held-out moments, by the actions of recordings drawn at random. Each column describes the 50 steps "
    "that lead up to an age; intervals are over dreams. A dream that ends goes back some steps and takes another road. "
    "Controllability: the inverse dynamics names the action that was taken, where the picture changed. Impossible "
    "neighbours: pairs of tokens that no recording of the training shows. Distances are to the tokens of those "
    "recordings; of real pieces, they are what as many of them have by chance."
)


def drift_report(world: str | Path | World, dataset: str | Path | Dataset, out: str | Path, **options: Any) -> str:
    """What is printed of the drift of a world's dreams; the options are those of `evaluate_drift`."""
    measured = evaluate_drift(world, dataset, out, **options)["drift"]
    columns, rows = drift_table(measured)
    lines = [f"| {' | '.join(['', *columns])} |", f"| --- {'| ---: ' * len(columns)}|"]
    for name, values in rows:
        lines.append(f"| {name} | {' | '.join(_text(value, UNITS.get(name, '')) for value in values)} |")
    kept = [f"{item['name']}: {_text(item['figure'], item['unit'])}" for item in drift_headlines(measured)]
    return "\n".join([*lines, "", *kept, f"The report is {Path(out) / 'drift.html'}"])


def evaluate_drift(
    world: str | Path | World,
    dataset: str | Path | Dataset,
    out: str | Path,
    *,
    num_episodes: int = 64,
    num_dreams: int = MOST_DREAMS,
    minutes: float | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> dict[str, Any]:
    """Measure how dreams of 2,000 steps drift; write `drift.json`, `drift.html`, a plot and a contact sheet.

    The arguments are those of `evaluate`; of the dreams there are 16 at most, and with `minutes` they may end earlier.
    Returns what `drift.json` holds: "about", and under "drift" what `measure_drift` measures.
    """
    world = world if isinstance(world, World) else World.from_pretrained(world, device=device)
    source, out, began = open_dataset(dataset), Path(out), time.monotonic()
    with Stages() as stages:
        stages.begin("reading held-out episodes")
        recordings = held_out_recordings(world, source, num_episodes, seed)
        stages.begin("long dreams")
        budget, num_dreams = Budget(None if minutes is None else 60 * minutes), min(num_dreams, MOST_DREAMS)
        measured, dreams = measure_drift(world, source, recordings, budget, num_dreams=num_dreams, seed=seed)
    metrics = {"about": about(world, source, recordings, seed), "drift": measured}
    metrics["about"]["seconds"] = round(time.monotonic() - began, 1)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "drift.json", metrics)
    if measured["ages"]:
        plot_drift(out / "drift.png", measured)
    if picture_slot(world) is not None:
        _write_contact_sheet(out / "long-dreams.png", world, recordings, dreams, [1, *map(int, measured["ages"])])
    page = [heading(metrics["about"], "drift.json"), cards(drift_headlines(measured)), drift_section(measured, out)]
    write_sections(out / "drift.html", f"{metrics['about']['world']}: long dreams", page)
    return metrics


def drift_table(measured: dict[str, Any]) -> tuple[list[str], list[tuple[str, list[Any]]]]:
    """Columns (ages, and the recordings), and rows of figures or plain numbers, None where there is none."""
    sources = {f"step {age}": figures for age, figures in measured["ages"].items()} | {"recordings": measured["real"]}
    names = dict.fromkeys(name for figures in sources.values() for name in figures)
    return list(sources), [(name, [figures.get(name) for figures in sources.values()]) for name in names]


def drift_headlines(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """What is kept from the first age to the last, in the form of the evaluation's headlines."""
    kept = measured["kept"]
    if not kept:
        return []
    names = {CONTROL: "Controllability at step {to} of that at step {from}", IMPOSSIBLE: "More impossible neighbours"}
    ages = [measured["ages"][str(kept[end])] for end in ("from", "to")]
    items = []
    for name, title in names.items():
        early, late, real = (_text(figures[name], "%") for figures in (*ages, measured["real"]))
        beside = f"{early} at step {kept['from']}, {late} at step {kept['to']}, {real} in recordings"
        items.append({"name": title.format(**kept), "figure": kept[name], "unit": "%", "beside": beside})
    return [item for item in items if item["figure"]["value"] is not None]


def drift_section(measured: dict[str, Any], out: Path) -> str:
    """The table with its pictures as HTML, for a page in the folder `out`."""
    columns, rows = drift_table(measured)
    cells = [[escape(name), *(_cell(value, UNITS.get(name, "")) for value in values)] for name, values in rows]
    note = f"{NOTE} The dreams ended {measured['endings in 1,000 steps']:g} times in 1,000 steps."
    pictures = plot_grid(out, "drift.png", "long-dreams.png")
    return f"<h2>Long dreams</h2><p>{escape(note)}</p>{pictures}<br>{table(['', *columns], cells)}"


def _cell(value: Any, unit: str) -> str:
    return show(value, unit) if isinstance(value, dict) else _text(value, unit)


def _text(value: Any, unit: str) -> str:
    """A figure with its interval, a number, or a dash."""
    if not isinstance(value, dict):
        return "–" if value is None else number(value, unit if isinstance(value, float) else "")
    if value["value"] is None:
        return "–"
    interval = "" if value["low"] is None else f" ({number(value['low'], unit)} … {number(value['high'], unit)})"
    return number(value["value"], unit) + interval


def _write_contact_sheet(
    path: Path, world: World, recordings: list[Recording], dreams: list[Lived], ages: list[int]
) -> None:
    """Dreams at some ages, and above them moments of recordings."""
    slot, window = picture_slot(world), world.config.model.window
    assert slot is not None
    longest = sorted(recordings, key=lambda recording: -len(recording.tokens))[: len(ages)]
    real = [recording.tokens[len(recording.tokens) // 2] for recording in longest]
    rows = [("real", list(pictures_of(world, slot, np.stack(real))))]
    for index, dream in enumerate(dreams[:NUM_SHOWN]):
        steps = [dream.tokens[window + age - 1] for age in ages if window + age <= len(dream.tokens)]
        if steps:
            rows.append((f"dream {index + 1}", list(pictures_of(world, slot, np.stack(steps)))))
    write_contact_sheet(path, [f"step {age}" for age in ages], rows)
