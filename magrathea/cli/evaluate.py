"""The commands that measure how well a world predicts: eval, eval memory, eval drift, eval episodes, eval text, eval
sound, eval any-to-any; and how well actions are inferred that nobody recorded: eval actions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from magrathea.cli.options import (
    DatasetFolder,
    Device,
    Folder,
    MeasuringMinutes,
    OwnEnvId,
    WorldName,
    name_environment,
)
from magrathea.errors import MagratheaError
from magrathea.files import claim_folder
from magrathea.settings import Count, Range, Seed

if TYPE_CHECKING:
    from magrathea.evaluate.recordings import Options


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """What is measured, for how long, and where the report goes: the options of every evaluation.

    Attributes:
        out: folder of the report.
        num_episodes: highest number of episodes to measure on.
        num_dreams: highest number of dreams: of 64 steps, or at most 16 long ones of "eval memory" and "eval drift".
        seed: seed of the choice of episodes and of the dreams.
    """

    out: Folder = Path("report")
    num_episodes: Count = 64
    num_dreams: Count = 64
    minutes: MeasuringMinutes = None
    device: Device = "auto"
    seed: Seed = 0

    def options(self) -> Options:
        """The same as the options of the package's own functions."""
        from magrathea.evaluate.recordings import Options

        return Options(**{name: value for name, value in vars(self).items() if name != "out"})


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Work in the folder of a report as the only process; raises MagratheaError for one that cannot be its own."""
    from magrathea.pretrained import folder_to_write

    folder = folder_to_write(out)
    if (folder / "index.html").exists() and not (folder / "metrics.json").exists():
        raise MagratheaError(f"'{out}' holds an index.html that is no report; give another --out.")
    with claim_folder(folder, WRITING):
        yield


LabelledShare = Annotated[float, Range(0, 0.5, above=True)]
MeasuringOptions = Annotated[Measuring, arg(name="")]
WRITING = "writing a report into"


def evaluate(
    world: WorldName,
    dataset: DatasetFolder,
    measuring: MeasuringOptions = Measuring(),
    *,
    card: bool = False,
    env_id: OwnEnvId = None,
) -> None:
    """Measure a world on held-out episodes: JSON, plots, videos and a page that shows them.

    Args:
        dataset: folder of the dataset that the world was trained on, or of another one of the same environment.
        card: also write the model card, README.md, into the world's folder.
    """
    name_environment(env_id)
    from magrathea.evaluate.evaluation import evaluate as measure
    from magrathea.evaluate.recordings import world_of_dataset
    from magrathea.evaluate.report import write_card
    from magrathea.world import World

    folder = world_of_dataset(world, dataset)
    with claim_folder(folder.resolve(), "training into") if card else nullcontext():
        loaded = World.from_pretrained(folder, device=measuring.device)
        with claimed(measuring.out):
            result = measure(loaded, dataset, measuring.out, measuring.options())
        _print_report(result, measuring.out / "index.html")
        if card:
            print(f"The model card is {write_card(folder, loaded, result)}")


def evaluate_memory(world: WorldName, dataset: DatasetFolder, measuring: MeasuringOptions = Measuring()) -> None:
    """Measure what a world remembers beyond its attention window: JSON, a plot and a page that shows them.

    Args:
        dataset: folder of a dataset that records which location its pictures show, as Crafter's and MiniGrid's do.
    """
    from magrathea.evaluate.memory import evaluate_memory as measure

    with claimed(measuring.out):
        _print_report(measure(world, dataset, measuring.out, measuring.options()), measuring.out / "memory.html")


def evaluate_drift(world: WorldName, dataset: DatasetFolder, measuring: MeasuringOptions = Measuring()) -> None:
    """Measure how dreams of 2,000 steps drift from recordings: JSON, pictures and a page that shows them.

    Args:
        dataset: folder of the dataset that the world was trained on, or of another one of the same environment.
    """
    from magrathea.evaluate.drift import evaluate_drift as measure

    with claimed(measuring.out):
        _print_report(measure(world, dataset, measuring.out, measuring.options()), measuring.out / "drift.html")


def evaluate_episodes(
    world: WorldName, dataset: DatasetFolder, measuring: MeasuringOptions = Measuring(), *, num_steps: Count = 200
) -> None:
    """Measure whole episodes in dreams against recorded ones: how long they last, what they return, and how often what
    happens in them. Prints a table, and writes episodes.json.

    Args:
        dataset: folder of the dataset that the world was trained on, or of another one of the same environment.
        num_steps: most steps that an episode is followed for.
    """
    from magrathea.evaluate.episodes import episodes_table
    from magrathea.evaluate.episodes import evaluate_episodes as measure

    with claimed(measuring.out):
        result = measure(world, dataset, measuring.options(), num_steps)
        _write_tables("episodes", [episodes_table(result)], [result], measuring.out)


def evaluate_text(
    world: WorldName,
    dataset: DatasetFolder,
    measuring: MeasuringOptions = Measuring(),
    *,
    pattern: Annotated[str | None, arg(metavar="REGEX")] = None,
) -> None:
    """Measure the texts that a world observes: bits per byte against a 5-gram and copying, which are exactly right by
    the order of filling, and whether dreams agree with what happened. Prints tables and writes text.json.

    Args:
        dataset: folder of the dataset that the world was trained on, or of another one of the same environment.
        pattern: regular expression; texts in which it is found are also counted by themselves.
    """
    from magrathea.evaluate.texts import evaluate_texts, text_table

    with claimed(measuring.out):
        results = evaluate_texts(world, dataset, measuring.options(), pattern)
        _write_tables("text", [text_table(result) for result in results], results, measuring.out)


def evaluate_sound(world: WorldName, dataset: DatasetFolder, measuring: MeasuringOptions = Measuring()) -> None:
    """Measure the sounds that a world observes: the codec against mu-law at equal bits, dreams against silence and
    repeating, sound and sight together, one from the other. Prints tables and writes sound.json.

    Args:
        dataset: folder of the dataset that the world was trained on, or of another one of the same environment.
    """
    from magrathea.evaluate.sounds import evaluate_sounds, sound_table

    with claimed(measuring.out):
        results = evaluate_sounds(world, dataset, measuring.options())
        _write_tables("sound", [sound_table(result) for result in results], results, measuring.out)


def evaluate_any_to_any(world: WorldName, dataset: DatasetFolder, measuring: MeasuringOptions = Measuring()) -> None:
    """Measure each part of a world's observations from each other one of the same step, all else unknown, against the
    mean and the nearest neighbour of the training's data. Prints a table; writes any-to-any.json and any-to-any.png.

    Args:
        dataset: folder of the dataset that the world was trained on, or of another one of the same environment.
    """
    from magrathea.evaluate.any_to_any import any_to_any_table
    from magrathea.evaluate.any_to_any import evaluate_any_to_any as measure

    with claimed(measuring.out):
        result = measure(world, dataset, measuring.options(), picture=measuring.out / "any-to-any.png")
        _write_tables("any-to-any", [any_to_any_table(result)], [result], measuring.out)


def evaluate_actions(
    dataset: DatasetFolder,
    *,
    codes: Annotated[int, Range(0, 12)] = 8,
    labels: tuple[LabelledShare, ...] = (0.01, 0.03),
    num_steps: Count = 500,
    out: Folder = Path("report"),
    seed: Seed = 0,
    env_id: OwnEnvId = None,
) -> None:
    """Measure how many of a recording's actions are inferred from its frames, as --actions and --labels of "magrathea
    import" do: in steps in which the real environment shows that other actions lead elsewhere. Prints a table, and
    writes actions.json.

    Args:
        dataset: folder of a dataset whose observations are pictures and whose actions are choices.
        codes: number of codes that are learned from the frames alone; 0 for none.
        labels: shares of the steps that are labelled, one after the other.
        num_steps: number of steps at which every action is tried.
        out: folder of the figures.
        seed: seed of everything random.
    """
    name_environment(env_id)
    from magrathea.evaluate.latent_actions import actions_table, results_to_json
    from magrathea.evaluate.latent_actions import evaluate_actions as measure

    with claimed(out):
        what, results = measure(dataset, codes, labels, num_steps, seed)
        _write_figures("actions", f"{what}\n\n{actions_table(results)}", results_to_json(what, results), out)


def _write_tables(name: str, tables: list[str], results: list[Any], out: Path) -> None:
    """Print tables, and write what was measured into a file of JSON."""
    _write_figures(name, "\n\n".join(tables), [result.to_json() for result in results], out)


def _write_figures(name: str, text: str, content: Any, out: Path) -> None:
    """Print a text, and write the content of a file of JSON."""
    from magrathea.files import atomic_write

    print(text, end="\n\n")
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{name}.json"
    with atomic_write(file) as fresh:
        fresh.write_text(json.dumps(content, indent=1))
    print(f"The figures are in {file}")


def _print_report(result: Any, page: Path) -> None:
    """Print the headlines of a result, and where its page is."""
    from magrathea.evaluate.report import headline_text

    for sentence in getattr(result, "verdict", []):
        print(sentence)
    for item in result.headlines:
        print(headline_text(item))
    for sentence in getattr(result, "not_measured", []):
        print(f"Not measured: {sentence}")
    print(f"The report is {page}")
