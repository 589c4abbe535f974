"""The evaluation of a world's memory, and the comparison of several."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from magrathea.data import Dataset
from magrathea.errors import MagratheaError
from magrathea.evaluate.about import about, write_json
from magrathea.evaluate.memory.measure import measure_memory
from magrathea.evaluate.memory.plots import plot_comparison, plot_memory, plot_trips
from magrathea.evaluate.memory.report import STRETCHES, TRIP, as_text, tables, write_memory_page
from magrathea.evaluate.recordings import Budget, held_out_recordings, open_dataset
from magrathea.memory import memory_class, of_size
from magrathea.progress import Stages
from magrathea.world import World

MOST_DREAMS = 16  # that travel side by side


def memory_report(
    worlds: Sequence[str], dataset: str | Path, out: str | Path, sizes: Sequence[int] = (), **options: Any
) -> str:
    """What is printed of the memory of a world, or of several compared, or of one with its memory of several sizes; the
    options are those of `evaluate_memory`."""
    if sizes or len(worlds) > 1:
        table = (
            compare_sizes(worlds[0], dataset, out, sizes, **options)
            if sizes
            else compare_memories(worlds, dataset, out, **options)
        )
        return f"{table}\nThe table and the figure are in {out}"
    measured = evaluate_memory(worlds[0], dataset, out, **options)["memory"]
    return "\n".join([*(table.markdown() for table in tables(measured)), f"The report is {Path(out) / 'memory.html'}"])


def evaluate_memory(
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
    """Measure what a world remembers on held-out episodes; write `memory.json`, `memory.html` and plots into a folder.

    The arguments are those of `evaluate`; of the dreams, which travel, there are 16 at most. Returns what `memory.json`
    holds: "about", and under "memory" what `measure_memory` returns. Raises MagratheaError for a dataset that does not
    say which place its pictures show.
    """
    world = world if isinstance(world, World) else World.from_pretrained(world, device=device)
    source, out, began = open_dataset(dataset), Path(out), time.monotonic()
    with Stages() as stages:
        stages.begin("reading held-out episodes")
        recordings = held_out_recordings(world, source, num_episodes, seed)
        stages.begin("remembering")
        budget, num_dreams = Budget(None if minutes is None else 60 * minutes), min(num_dreams, MOST_DREAMS)
        measured = measure_memory(world, source, recordings, num_dreams=num_dreams, budget=budget, seed=seed)
    metrics = {"about": about(world, source, recordings, seed), "memory": measured}
    metrics["about"]["seconds"] = round(time.monotonic() - began, 1)
    out.mkdir(parents=True, exist_ok=True)
    if "recall" in measured:
        plot_memory(out / "memory.png", measured)
    if any(measured.get("trips", {}).values()):
        plot_trips(out / "trips.png", measured["trips"])
    write_json(out / "memory.json", metrics)
    write_memory_page(out, metrics)
    return metrics


def compare_memories(
    worlds: Sequence[str | Path], dataset: str | Path | Dataset, out: str | Path, **options: Any
) -> str:
    """Measure several worlds on the same episodes; a Markdown table of them all.

    Writes `comparison.json`, `comparison.png` and `comparison.md` into a folder, and each world's own report into a
    folder in it. `minutes` of the options (those of `evaluate_memory`) are shared out evenly. Raises MagratheaError for
    worlds of one name.
    """
    names = [Path(world).name for world in worlds]
    if len(set(names)) < len(names):
        raise MagratheaError(f"Worlds to compare need names of their own, but these are {names}; rename a folder.")
    return _compare(dict(zip(names, worlds, strict=True)), dataset, out, options)


def compare_sizes(
    world: str | Path | World, dataset: str | Path | Dataset, out: str | Path, sizes: Sequence[int], **options: Any
) -> str:
    """What a world remembers with its memory of several sizes, without learning anew: recall by bytes. Writes and
    returns what `compare_memories` does; no dreams are measured. Raises MagratheaError where the memory has no size, or
    one that has to be learned."""
    if not isinstance(world, World):
        world = World.from_pretrained(world, device=options.get("device", "cpu"))
    worlds = {f"size {size}": _of_size(world, size) for size in sizes}
    return _compare(worlds, dataset, out, options | {"num_dreams": 0})


def _of_size(world: World, size: int) -> World:
    """The same world, whose memory has at most that size."""
    name = of_size(world.config.model.memory, size)
    config = replace(world.config, model=replace(world.config.model, memory=name))
    memory = memory_class(name).from_tensors(world.layout, world.memory.tensors())
    return World(world.tokenizers, config, world.starts, world.model, memory)


def _compare(
    worlds: Mapping[str, str | Path | World], dataset: str | Path | Dataset, out: str | Path, options: dict[str, Any]
) -> str:
    if options.get("minutes") is not None:
        options["minutes"] /= len(worlds)
    source, out, compared = open_dataset(dataset), Path(out), {}
    for name, world in worlds.items():
        compared[name] = evaluate_memory(world, source, out / name, **options)["memory"]
    return write_comparison(compared, out)


def write_comparison(compared: dict[str, dict[str, Any]], out: Path) -> str:
    """Write `comparison.json`, `.png` and `.md`, of what was measured of worlds by their names; returns the table."""
    write_json(out / "comparison.json", compared)
    if all("recall" in measured for measured in compared.values()):
        plot_comparison(out / "comparison.png", compared)
    text = comparison_table(compared)
    (out / "comparison.md").write_text(text)
    return text


def comparison_table(compared: dict[str, dict[str, Any]]) -> str:
    """What worlds remember, what it costs, and what it does to the next step: a row for each."""
    rows = []
    for name, measured in compared.items():
        row = {"world": name, "memory": measured["memory"]}
        row |= {key: f"{measured[key]:,.4g}" for key in ("seeds", "updates", "steps per second") if key in measured}
        row |= {"bytes": f"{measured['bytes']:,}", "bytes a step": f"{measured['bytes per step']:,.0f}"}
        row["next step"] = as_text(measured["next step"])
        if "recall" in measured:
            curves = next(iter(measured["recall"].values()))
            row |= {f"recall {stretch}": as_text(curves[stretch]["model"]) for stretch in STRETCHES}
            row["never seen"] = as_text(curves["new"]["model"])
        trip = measured.get("trips", {}).get("dream", {}).get(TRIP)
        if trip:
            row |= {f"home after {TRIP}": as_text(trip["at home"]), "landmarks": as_text(trip["way back, landmarks"])}
        if "dreams" in measured:
            row["dream steps/s"] = f"{measured['dreams']['steps per second']:,.4g}"
        if "revisited - new" in measured.get("poses", {}):
            row["revisited - new"] = as_text(measured["poses"]["revisited - new"]["model"], "dB")
        rows.append(row)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [f"| {' | '.join(columns)} |", f"| --- {'| ---: ' * (len(columns) - 1)}|"]
    lines += [f"| {' | '.join(row.get(column, '–') for column in columns)} |" for row in rows]
    return "\n".join(lines) + "\n"
