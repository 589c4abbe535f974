"""The commands that make worlds: collect, train, and make, which runs both and the evaluation."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from magrathea.cli.evaluate import Measuring, evaluate
from magrathea.cli.options import (
    DatasetFolders,
    Device,
    EnvId,
    EnvKwargs,
    Folder,
    Info,
    MaxEpisodeSteps,
    MeasuringMinutes,
    OnError,
    OptionalCount,
    OptionalFloat,
    OptionalSeed,
    OptionalSize,
    OptionalText,
    OwnEnvId,
    Pixels,
    Policy,
    Recipe,
    TrainingMinutes,
    TrainingSteps,
    json_object,
    name_environment,
)
from magrathea.errors import MagratheaError
from magrathea.settings import Count, Positive, Range, Seed

COLLECT_SHARE = 0.2
"""Share of the minutes of ``make`` after which it records no more."""
REPORT_SHARE = 0.12
"""Share of the minutes of ``make`` that are left for the report."""
PLOT_SECONDS = 6.0
"""Of those, what plots and videos take, besides the measurements."""
NumProcesses = Annotated[int, Range(1, 1024)]
NumCodes = Annotated[int, Range(0, 64)]


def collect(
    env_id: EnvId,
    *,
    out: Folder,
    steps: Count = 20_000,
    policy: Policy = "explore",
    num_processes: NumProcesses = 2,
    seed: Seed = 0,
    max_episode_steps: MaxEpisodeSteps = None,
    on_error: OnError = "stop",
    info: Info = None,
    pixels: Pixels = False,
    env_kwargs: EnvKwargs = "{}",
) -> None:
    """Record a Gymnasium environment into a Minari dataset. Run it again to resume after an interruption.

    Args:
        out: folder of the dataset.
        steps: number of environment steps to record.
        num_processes: number of processes that record in parallel.
        seed: the same seed records the same dataset.
    """
    keywords = json_object(env_kwargs, "--env-kwargs")
    from magrathea.data import collect as record

    record(
        env_id,
        steps,
        out,
        policy=policy,
        num_processes=num_processes,
        seed=seed,
        max_episode_steps=max_episode_steps,
        env_kwargs=keywords,
        on_error=on_error,
        info=info,
        pixels=pixels,
    )


def import_recordings(
    source: Annotated[Positional[Path], arg(metavar="FOLDER")],
    *,
    out: Folder,
    fps: OptionalFloat = None,
    height: OptionalCount = None,
    width: OptionalCount = None,
    cut: Annotated[float, Range(0, 1, above=True)] = 0.4,
    max_episode_steps: Count = 500,
    actions: NumCodes = 0,
    labels: Annotated[Path | None, arg(metavar="FILE")] = None,
    camera: OptionalText = None,
) -> None:
    """Make a dataset of a folder of videos (mp4, webm, gif, …) or numbered pictures, to train a world without actions;
    of .npz episodes; or of a LeRobot dataset. Files that cannot be read are named and left out.

    Args:
        source: folder of the recordings, with folders in it.
        out: folder of the dataset.
        fps: frames per second that are kept; 10, or the videos' own rate where that is lower.
        height: height of the pictures in pixels, given together with the width; if not given, the videos' shape with
            about 9,600 pixels.
        width: width of the pictures in pixels; videos of another shape are cropped around their middle.
        cut: share of the colors that change at a cut, where a new episode begins; 1 for no cuts.
        max_episode_steps: longer scenes are parted.
        actions: highest number of codes that are learned from how pictures move, and become the actions of recordings
            without, so that keys steer the world; 0 for none. 8 is a good number.
        labels: CSV file with the columns file, seconds and action of a few moments, some of each action, from which
            those of all others are inferred; in place of --actions.
        camera: camera of a LeRobot dataset that is used; its first one, if not given.
    """
    from magrathea.data import import_folder
    from magrathea.data.foreign import ImportOptions

    options = ImportOptions(
        fps=fps,
        height=height,
        width=width,
        cut=cut,
        max_episode_steps=max_episode_steps,
        actions=actions,
        labels=labels,
        camera=camera,
    )
    dataset = import_folder(source, out, options)
    print(f"{out} has {len(dataset)} episodes of {dataset.num_steps:,} steps; train on it with: magrathea train {out}")


def train(
    datasets: DatasetFolders,
    *,
    out: Folder,
    prompts: Annotated[tuple[str, ...], arg(metavar="TEXT [TEXT ...]")] = (),
    size: OptionalSize = None,
    minutes: TrainingMinutes = None,
    steps: TrainingSteps = None,
    recipe: Recipe = None,
    device: Device = "auto",
    seed: OptionalSeed = None,
    init_from: OptionalText = None,
    actions: NumCodes = 0,
    report: bool = True,
    report_minutes: MeasuringMinutes = None,
    env_id: OwnEnvId = None,
) -> None:
    """Train a world on a dataset, or worlds that share their weights on several, and measure them on held-out episodes.
    Run it again to resume after an interruption.

    Several processes train together under "torchrun --nproc-per-node=2 -m magrathea train ...".

    Args:
        datasets: folder of a Minari dataset, made by "magrathea collect" or by Minari itself; or of videos, numbered
            pictures, .npz episodes or a LeRobot dataset, which are imported into the folder "OUT-dataset" ("magrathea
            import" has options for that). Worlds of several are called like their datasets' folders.
        out: folder of the world; its report goes into the folder "report" inside it, and its figures into its card. Of
            several worlds, the folder that holds theirs.
        prompts: of several datasets, for each a text in quotes that tells its world from the others; if not given, its
            names, description and actions, and what its environment says of itself.
        seed: seed of everything random; the recipe's, or 0.
        init_from: a world whose tokenizers and weights to start from.
        actions: of a folder of videos: highest number of codes that are learned from how pictures move, and become its
            actions (8 is a good number), so that keys steer the world; 0 for none.
        report: evaluate the world when it is trained.
    """
    name_environment(env_id)
    from magrathea.train import load_settings, train_many
    from magrathea.train import train as run_training
    from magrathea.train.distributed import process_group
    from magrathea.train.many import folder_name

    settings = load_settings(recipe, size=size, minutes=minutes, steps=steps, seed=seed, init_from=init_from)
    if len(datasets) < 2 and (not datasets or prompts):
        raise MagratheaError("Give a DATASET to train on; --prompts tell the worlds of several of them apart.")
    home = f"{out.name}-dataset" if len(datasets) == 1 else f"{out.name}-datasets/{{}}"
    sources = [_imported(each, out.parent / home.format(folder_name(each)), actions) for each in datasets]
    with process_group(device) as (rank, own_device):
        if len(sources) > 1:
            trained = [out / name for name in train_many(sources, out, settings, prompts=prompts, device=own_device)]
        else:
            run_training(sources[0], out, settings, device=own_device)
            trained = [out]
    if report and rank == 0:
        for world, source in zip(trained, sources, strict=True):
            measuring = Measuring(out=world / "report", minutes=report_minutes, device=device)
            evaluate(str(world), source, measuring, card=True)


def _imported(source: Path, dataset: Path, num_codes: int) -> Path:
    """The dataset that a folder holds, or the one that it is imported into."""
    from magrathea.data.foreign import ImportOptions
    from magrathea.data.importing import KINDS, import_folder, kind_of

    if kind_of(source) not in KINDS:
        if num_codes:
            raise MagratheaError(f"Option --actions is for folders of videos, and '{source}' is none; leave it out.")
        return source
    import_folder(source, dataset, ImportOptions(actions=num_codes))
    return dataset


def make(
    env_id: EnvId,
    *,
    out: Folder,
    minutes: Positive = 10.0,
    steps: Count = 20_000,
    size: OptionalSize = None,
    recipe: OptionalText = None,
    policy: Policy = "explore",
    max_episode_steps: MaxEpisodeSteps = None,
    on_error: OnError = "stop",
    info: Info = None,
    pixels: Pixels = False,
    env_kwargs: EnvKwargs = "{}",
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Turn an environment into a playable world: collect, train and eval in one command, within a time budget.

    Args:
        out: folder of the world; its dataset goes into the folder "…-dataset" next to it.
        minutes: time that all of it takes, the report included.
        steps: number of environment steps to record, or as many as there is time for.
        recipe: name of a recipe or path of a .toml file; its model is trained for as long as the minutes allow.
        seed: seed of everything random.
    """
    start = time.monotonic()
    from magrathea.data import collect as record
    from magrathea.pretrained import folder_to_write
    from magrathea.train import load_settings
    from magrathea.train import train as run_training

    folder_to_write(out)
    settings = load_settings(recipe, size=size, minutes=minutes, seed=seed)
    dataset, end = out.with_name(f"{out.name}-dataset"), start + 60 * minutes
    record(
        env_id,
        steps,
        dataset,
        policy=policy,
        seed=seed,
        max_episode_steps=max_episode_steps,
        env_kwargs=json_object(env_kwargs, "--env-kwargs"),
        on_error=on_error,
        info=info,
        pixels=pixels,
        max_seconds=COLLECT_SHARE * 60 * minutes,
    )
    deadline = end - REPORT_SHARE * 60 * minutes - PLOT_SECONDS
    if time.monotonic() >= deadline:
        raise MagratheaError(
            f"Recording took {(time.monotonic() - start) / 60:.1f} of {minutes:g} minutes, which leaves none to train "
            "in; run the same command again with more --minutes."
        )
    run_training(dataset, out, settings, device=device, deadline=deadline)
    report_minutes = max(0.01, (end - PLOT_SECONDS - time.monotonic()) / 60)
    evaluate(str(out), dataset, Measuring(out=out / "report", minutes=report_minutes, device=device), card=True)
    print(f"{out} was made in {(time.monotonic() - start) / 60:.1f} minutes; play it with: magrathea play {out}")
