"""Commands that measure worlds: eval, bench and compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from magrathea.cli.options import DatasetFolder, Folder, Minutes, Name, Names, Number, Size, WorldName, numbers


def evaluate(
    world: WorldName,
    dataset: DatasetFolder,
    *,
    out: Folder = Path("report"),
    num_episodes: int = 64,
    num_dreams: int = 64,
    minutes: Minutes = None,
    orders: bool = False,
    memory: bool = False,
    drift: bool = False,
    memory_sizes: str = "",
    beside: Names = (),
    device: str = "auto",
    seed: int = 0,
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
        memory_sizes: numbers such as 100,300,1000: measure instead what it remembers with a memory of at most so many
            places or entries, beside the bytes of each.
        beside: further worlds, whose memories are compared with this one's.
        device: "auto", "cpu" or "cuda".
        seed: seed of the choice of episodes and of the dreams.
    """
    from magrathea.evaluate import compare_orders, drift_report, memory_report
    from magrathea.evaluate import evaluate as measure

    options: dict[str, Any] = {"num_episodes": num_episodes, "num_dreams": num_dreams, "minutes": minutes}
    options |= {"device": device, "seed": seed}
    if memory or beside or memory_sizes:
        sizes = numbers(memory_sizes, "--memory-sizes", "100,300,1000", 10_000_000) if memory_sizes else ()
        print(memory_report([world, *beside], dataset, out, sizes, **options))
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


def bench(
    world: WorldName,
    *,
    batch_sizes: tuple[int, ...] = (1, 8, 32, 128),
    seconds: float = 5.0,
    device: str = "auto",
    seed: int = 0,
    profile: bool = False,
    players: str = "",
    history: str = "",
) -> None:
    """Measure how fast a world dreams and learns on this machine; prints JSON. Leave the machine alone meanwhile.

    Args:
        world: folder of a world, name of a shipped one, or its id on the Hugging Face hub.
        batch_sizes: numbers of dreams in lockstep; the batch of 1 is the one player.
        seconds: seconds that each measurement takes.
        device: "auto", "cpu" or "cuda".
        seed: seed of starts, actions and dice.
        profile: print the operations that one player's steps spend their time in, and nothing else.
        players: numbers such as 1,4,16,32: measure only how one server serves so many players at once.
        history: numbers such as 100,10000,100000: measure only what a step costs after so many.
    """
    from magrathea.bench import bench as measure
    from magrathea.bench import measure_history, profile_steps
    from magrathea.world import World

    if profile:
        print(profile_steps(World.from_pretrained(world, device=device)))
    elif history:
        lengths = numbers(history, "--history", "100,10000,100000", 10_000_000)
        print(json.dumps(measure_history(World.from_pretrained(world, device=device), lengths, seed), indent=1))
    elif players:
        from magrathea.server.load_test import measure_players

        counts, world_here = (
            numbers(players, "--players", "1,4,16,32", 1024),
            World.from_pretrained(world, device=device),
        )
        print(json.dumps(measure_players(world_here, counts, seconds, seed), indent=1))
    else:
        print(json.dumps(measure(world, batch_sizes, seconds=seconds, device=device, seed=seed), indent=1))


def compare(
    dataset: DatasetFolder,
    *,
    out: Folder,
    memories: str = "window,places,retrieval,recurrent,places+recurrent",
    seeds: str = "1",
    minutes: Minutes = None,
    steps: Number = None,
    size: Annotated[Size | None, arg(metavar="{debug,tiny,small,base}")] = None,
    recipe: Name = None,
    report_minutes: Minutes = None,
    num_episodes: int = 64,
    device: str = "auto",
) -> None:
    """Train the same world with several memories and compare what they remember. Run it again to go on after a kill.

    Args:
        dataset: folder of a dataset that says which place its pictures show, as Crafter's and MiniGrid's do.
        out: folder of the worlds, the table (Markdown and JSON) and the figure.
        memories: their names, with commas between them; "retrieval:256" is one of that size.
        seeds: how many seeds each is trained from: a number, or one for some of them, as in "window:3,places:3".
        minutes: how long each model learns: 10 minutes, if neither this nor steps is given.
        steps: number of updates of each model.
        size: size of the models: tiny, unless a recipe says otherwise.
        recipe: name of a shipped recipe, or a .toml file; what is given here besides wins over it.
        report_minutes: about how long measuring one world may take; without it, everything is measured in full.
        num_episodes: most held-out episodes to measure on.
        device: "auto", "cpu" or "cuda".
    """
    from magrathea.bench.memories import compare as run
    from magrathea.bench.memories import parse_memories

    training: dict[str, Any] = {"minutes": minutes, "steps": steps, "size": size, "recipe": recipe}
    measuring: dict[str, Any] = {"report_minutes": report_minutes, "num_episodes": num_episodes, "device": device}
    print(run(dataset, out, memories=parse_memories(memories, seeds), **measuring, **training))
    print(f"The table and the figure are in {out}")
