"""Memories compared: the same backbone, data and training; only the memory differs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magrathea.bench.play import measure_playing
from magrathea.errors import MagratheaError
from magrathea.evaluate import evaluate_memory, write_comparison
from magrathea.evaluate.run import write_json
from magrathea.memory import memory_spec
from magrathea.train import train
from magrathea.world import World

PLAYED_SECONDS = 5.0


def compare(
    dataset: str | Path,
    out: str | Path,
    *,
    memories: Mapping[str, int],
    report_minutes: float | None = None,
    num_episodes: int = 64,
    device: str = "auto",
    **training: Any,
) -> str:
    """Train a world with each memory, from each of its seeds, and measure what it remembers; a Markdown table.

    What is there already is not done again, so that an interrupted comparison goes on where it was. Writes
    `comparison.md`, `comparison.json` and `comparison.png`, whose figures are means over seeds, and a folder for each
    world with its own report.

    Args:
        dataset: folder of a Minari dataset.
        out: folder of all that is written.
        memories: names of memories, and how many seeds each is trained from.
        report_minutes: about how long measuring a world may take.
        num_episodes: most held-out episodes to measure on.
        device: "cpu", "cuda" or "auto".
        training: further arguments of `train`: minutes, steps, size, recipe.
    """
    for memory in memories:
        memory_spec(memory)  # raises MagratheaError now, not hours later
    out, compared = Path(out), {}
    options = {"minutes": report_minutes, "num_episodes": num_episodes, "device": device}
    for memory, num_seeds in memories.items():
        measured = []
        for seed in range(num_seeds):
            folder = out / f"{memory.replace(':', '-')}-{seed}"
            result = folder / "measured.json"
            if not result.exists():
                world = train(dataset, folder, memory=memory, seed=seed, device=device, **training)
                write_json(result, _measure(world, dataset, folder / "report", options))
            measured.append(json.loads(result.read_text()))
        compared[memory] = pooled(measured) | {"memory": memory, "seeds": num_seeds}
    return write_comparison(compared, out)


def _measure(world: World, dataset: str | Path, report: Path, options: dict[str, Any]) -> dict[str, Any]:
    measured = evaluate_memory(world.to(options["device"]), dataset, report, **options)["memory"]
    playing = measure_playing(world, 1, PLAYED_SECONDS).to_json()
    training = world.metadata["training"]
    return measured | {
        "steps per second": playing["environment_steps_per_second"],
        "updates": training["updates"],
        "parameters": sum(weights.numel() for weights in world.model.parameters()),
    }


def pooled(measured: list[Any]) -> Any:
    """The mean of what was measured of several seeds, number by number; a figure's interval is then from the lowest
    seed to the highest, and that of one seed stays its own. What is no number is that of the first."""
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
    """ "window,places" and "3", or "window:3,places:1" -> how many seeds each memory is trained from. A memory's own
    colon stays: "retrieval:256:3" is three seeds of "retrieval:256". Raises MagratheaError for anything else."""
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
            f"Memories '{text}' with seeds '{seeds}' make no comparison; "
            "write window,places and 3, or window:3,places:1."
        )
    return given
