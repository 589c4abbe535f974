"""The commands that measure how well a world predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from magrathea.cli.options import (
    DatasetFolder,
    Device,
    Folder,
    OptionalFloat,
    OptionalText,
    WorldName,
    WorldNames,
    name_environment,
)
from magrathea.settings import Count, Range, Seed

MemorySize = Annotated[int, Range(1, 10_000_000)]


def evaluate(
    world: WorldName,
    dataset: DatasetFolder,
    *,
    out: Folder = Path("report"),
    num_episodes: Count = 64,
    num_dreams: Count = 64,
    minutes: OptionalFloat = None,
    orders: bool = False,
    memory: bool = False,
    drift: bool = False,
    memory_sizes: tuple[MemorySize, ...] = (),
    beside: WorldNames = (),
    device: Device = "auto",
    seed: Seed = 0,
    env_id: OptionalText = None,
) -> None:
    """Measure a world on held-out episodes: JSON, plots, videos and a page that shows them.

    Args:
        world: folder of a world, name of a shipped one, or its id on the Hugging Face hub.
        dataset: folder of the dataset that the world was trained on, or of another one of the same environment.
        out: folder of the report.
        num_episodes: most episodes to measure on.
        num_dreams: most dreams of 64 steps; with --memory or --drift at most 16, long ones.
        minutes: about how long it may take; without it, everything is measured in full.
        orders: compare the orders of filling instead, and print a Markdown table.
        memory: measure instead what the world remembers beyond its attention window.
        drift: measure instead how dreams of 2,000 steps drift from what is real.
        memory_sizes: measure instead what it remembers with a memory of at most so many places or entries, beside the
            bytes of each.
        beside: further worlds, whose memories are compared with this one's.
        device: "auto", "cpu" or "cuda".
        seed: seed of the choice of episodes and of the dreams.
        env_id: the id of the world's environment, where no installed package offers it: "module:id" imports the
            module. A world or a dataset alone never does.
    """
    name_environment(env_id)
    from magrathea.evaluate import compare_orders, drift_report, memory_report
    from magrathea.evaluate import evaluate as measure

    options: dict[str, Any] = {"num_episodes": num_episodes, "num_dreams": num_dreams, "minutes": minutes}
    options |= {"device": device, "seed": seed}
    if memory or beside or memory_sizes:
        print(memory_report([world, *beside], dataset, out, memory_sizes, **options))
        return
    if drift:
        print(drift_report(world, dataset, out, **options))
        return
    if orders:
        print(compare_orders(world, dataset, minutes=minutes, device=device, seed=seed))
        return
    metrics = measure(world, dataset, out, **options)
    for item in metrics["headlines"]:
        print(f"{item['name']}: {_figure(item)}" + (f" ({item['beside']})" if item["beside"] else ""))
    print(f"The report is {out / 'index.html'}")


def _figure(item: dict[str, Any]) -> str:
    """A headline's value as text, in percent or decibel."""
    value = item["figure"]["value"]
    return f"{100 * value:.1f}%" if item["unit"] == "%" else f"{value:.2f} {item['unit']}".strip()
