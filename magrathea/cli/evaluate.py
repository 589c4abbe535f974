"""The commands that measure how well a world predicts: eval, eval memory, eval drift."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from magrathea.cli.options import (
    DatasetFolder,
    Device,
    Folder,
    MeasuringMinutes,
    OwnEnvId,
    WorldName,
    name_environment,
)
from magrathea.settings import Count, Seed


def evaluate(
    world: WorldName,
    dataset: DatasetFolder,
    *,
    out: Folder = Path("report"),
    num_episodes: Count = 64,
    num_dreams: Count = 64,
    minutes: MeasuringMinutes = None,
    card: bool = False,
    device: Device = "auto",
    seed: Seed = 0,
    env_id: OwnEnvId = None,
) -> None:
    """Measure a world on held-out episodes: JSON, plots, videos and a page that shows them.

    Args:
        dataset: folder of the dataset that the world was trained on, or of another one of the same environment.
        out: folder of the report.
        num_episodes: highest number of episodes to measure on.
        num_dreams: highest number of dreams of 64 steps.
        card: also write the model card, README.md, into the world's folder.
        seed: seed of the choice of episodes and of the dreams.
    """
    name_environment(env_id)
    from magrathea.evaluate.evaluation import evaluate as measure
    from magrathea.evaluate.recordings import Options
    from magrathea.evaluate.report import write_card
    from magrathea.pretrained import find_world
    from magrathea.world import World

    loaded = World.from_pretrained(world, device=device)
    options = Options(num_episodes=num_episodes, num_dreams=num_dreams, minutes=minutes, seed=seed)
    result = measure(loaded, dataset, out, options)
    _print_report(result, out / "index.html")
    if card:
        print(f"The model card is {write_card(find_world(world), loaded, result)}")


def evaluate_memory(
    world: WorldName,
    dataset: DatasetFolder,
    *,
    out: Folder = Path("report"),
    num_episodes: Count = 64,
    num_dreams: Count = 16,
    minutes: MeasuringMinutes = None,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Measure what a world remembers beyond its attention window: JSON, a plot and a page that shows them.

    Args:
        dataset: folder of a dataset that records which location its pictures show, as Crafter's and MiniGrid's do.
        out: folder of the report.
        num_episodes: highest number of episodes to measure on.
        num_dreams: number of dreams that are explored, at most 16.
        seed: seed of the choice of episodes.
    """
    from magrathea.evaluate.memory import evaluate_memory as measure
    from magrathea.evaluate.recordings import Options

    options = Options(num_episodes=num_episodes, num_dreams=num_dreams, minutes=minutes, device=device, seed=seed)
    _print_report(measure(world, dataset, out, options), out / "memory.html")


def evaluate_drift(
    world: WorldName,
    dataset: DatasetFolder,
    *,
    out: Folder = Path("report"),
    num_episodes: Count = 64,
    num_dreams: Count = 16,
    minutes: MeasuringMinutes = None,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Measure how dreams of 2,000 steps drift from recordings: JSON, pictures and a page that shows them.

    Args:
        dataset: folder of the dataset that the world was trained on, or of another one of the same environment.
        out: folder of the report.
        num_episodes: highest number of recorded episodes to start from and to compare with.
        num_dreams: number of dreams, at most 16.
        seed: seed of the choice of episodes and of the dreams.
    """
    from magrathea.evaluate.drift import evaluate_drift as measure
    from magrathea.evaluate.recordings import Options

    options = Options(num_episodes=num_episodes, num_dreams=num_dreams, minutes=minutes, device=device, seed=seed)
    _print_report(measure(world, dataset, out, options), out / "drift.html")


def _print_report(result: Any, page: Path) -> None:
    """Print the headlines of a result, and where its page is."""
    from magrathea.evaluate.report import headline_text

    for item in result.headlines:
        print(headline_text(item))
    print(f"The report is {page}")
