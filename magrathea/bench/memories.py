"""Comparison of memories: the same model, data and training; only the memory differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec

from magrathea.bench.memory_table import ComparedMemory, write_comparison
from magrathea.bench.play import measure_playing
from magrathea.errors import MagratheaError
from magrathea.evaluate.memory import evaluate_memory
from magrathea.evaluate.recordings import Options
from magrathea.evaluate.results import write_result
from magrathea.files import read_json
from magrathea.memory import memory_class, of_size
from magrathea.train import TrainSettings, train
from magrathea.world import World

PLAYED_SECONDS = 5.0


def compare(
    dataset: str | Path,
    out: str | Path,
    settings: TrainSettings,
    *,
    memories: Mapping[str, int],
    report_minutes: float | None = None,
    num_episodes: int = 64,
    device: str = "auto",
) -> str:
    """Train a world with each memory and seed, and measure what it remembers; returns a Markdown table.

    Worlds that are trained and measured already are kept, so that an interrupted comparison is resumed. Writes
    `comparison.md`, `comparison.json` and `comparison.png`, whose figures are means over seeds, and a folder for each
    world with its own report.

    Args:
        dataset: folder of a Minari dataset.
        out: folder of all that is written.
        settings: of every world, apart from its memory and its seed.
        memories: names of memories, and the number of seeds that each is trained from.
        report_minutes: approximate time to measure one world.
        num_episodes: highest number of held-out episodes to measure on.
        device: "cpu", "cuda", "cuda:N" or "auto".
    """
    for memory in memories:
        memory_class(memory)  # raises MagratheaError now, not hours later
    out, compared = Path(out), {}
    options = Options(num_episodes=num_episodes, num_dreams=16, minutes=report_minutes, device=device)
    for memory, num_seeds in memories.items():
        measured = []
        for seed in range(num_seeds):
            folder = out / f"{memory.replace(':', '-')}-{seed}"
            path = folder / "measured.json"
            if not path.exists():
                model = replace(settings.model, memory=memory)
                world = train(dataset, folder, replace(settings, model=model, seed=seed), device=device)
                write_result(path, _measure(world, dataset, folder / "report", options))
            measured.append(asdict(read_json(path, ComparedMemory, "remove it and run the same command again")))
        mean = msgspec.convert(pooled(measured), ComparedMemory)
        compared[memory] = replace(mean, columns={"seeds": num_seeds} | mean.columns)
    return write_comparison(compared, out)


def _measure(world: World, dataset: str | Path, report: Path, options: Options) -> ComparedMemory:
    result = evaluate_memory(world.to(options.device), dataset, report, options)
    playing = measure_playing(world, 1, PLAYED_SECONDS).to_json()
    updates = world.metadata["training"]["updates"]
    columns = {"updates": updates, "steps per second": playing["environment_steps_per_second"]}
    return ComparedMemory(result.memory, columns)


def compare_sizes(
    world: str | Path | World, dataset: str | Path, out: str | Path, sizes: Sequence[int], options: Options
) -> str:
    """Measure what a world remembers with its memory of several sizes, without training; a Markdown table.

    Writes what `compare` does. No dreams are measured, and the options' `minutes` are shared out evenly. Raises
    MagratheaError where the memory has no size, or one that is trained.
    """
    if not isinstance(world, World):
        world = World.from_pretrained(world, device=options.device)
    minutes = None if options.minutes is None else options.minutes / len(sizes)
    options = replace(options, num_dreams=0, minutes=minutes)
    out, compared = Path(out), {}
    for size in sizes:
        name = f"size {size}"
        compared[name] = ComparedMemory(evaluate_memory(_of_size(world, size), dataset, out / name, options).memory)
    return write_comparison(compared, out)


def _of_size(world: World, size: int) -> World:
    """The same world, whose memory has at most that size."""
    name = of_size(world.config.model.memory, size)
    config = replace(world.config, model=replace(world.config.model, memory=name))
    memory = memory_class(name).from_tensors(world.layout, world.memory.tensors())
    return World(world.tokenizers, config, world.starts, world.model, memory, world.support)


def pooled(measured: list[Any]) -> Any:
    """The mean over seeds of every number in nested results; anything else is the first seed's.

    The interval of a figure is then from the lowest seed to the highest; with one seed, all stays as it was measured.
    """
    first = measured[0]
    if len(measured) == 1:
        return first
    if isinstance(first, dict):
        parts = {
            key: pooled([each[key] for each in measured]) for key in first if all(key in each for each in measured)
        }
        if {"value", "low", "high"} <= first.keys():
            values = [each["value"] for each in measured if each["value"] is not None]
            parts |= {"low": min(values, default=None), "high": max(values, default=None)}
            parts["value"] = sum(values) / len(values) if values else None
        return parts
    if isinstance(first, list):
        return [pooled(list(parts)) for parts in zip(*measured, strict=True)]
    if all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in measured):
        return type(first)(sum(measured) / len(measured))
    return first


def parse_memories(text: str, seeds: str) -> dict[str, int]:
    """The number of seeds of each memory, from texts such as "window,retrieval" and "3", or "window:3,retrieval:1".

    In the second form a memory's own colon stays: "retrieval:256:3" is three seeds of "retrieval:256". Raises
    MagratheaError for anything else."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    try:
        if seeds.isdecimal():
            given = dict.fromkeys(names, int(seeds))
        else:
            pairs = (part.strip().rpartition(":") for part in seeds.split(","))
            given = dict.fromkeys(names, 1) | {name: int(number) for name, _, number in pairs}
    except ValueError:
        given = {}
    if not names or set(given) != set(names) or min(given.values(), default=0) < 1:
        raise MagratheaError(
            f"Memories '{text}' with seeds '{seeds}' cannot be compared; "
            "give window,retrieval and 3, or window:3,retrieval:1."
        )
    return given
