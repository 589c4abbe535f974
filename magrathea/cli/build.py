"""The commands that make worlds: collect, train, and make, which runs both and the evaluation."""

from __future__ import annotations

import time
from typing import Annotated, Any

from magrathea.cli.evaluate import evaluate
from magrathea.cli.options import (
    DatasetFolder,
    Device,
    EnvId,
    Folder,
    OnError,
    OptionalCount,
    OptionalFloat,
    OptionalSeed,
    OptionalSize,
    OptionalText,
    json_object,
    name_environment,
)
from magrathea.errors import MagratheaError
from magrathea.settings import Count, Positive, Range, Seed

REPORT_SHARE = 0.08
"""Share of the minutes of ``make`` that the evaluation gets."""
OVERHEAD_SHARE = 0.18
"""Share of the minutes of ``make`` for all but recording and learning: the evaluation, its plots and the tokenizers."""
NumProcesses = Annotated[int, Range(1, 1024)]


def collect(
    env_id: EnvId,
    *,
    out: Folder,
    steps: Count = 20_000,
    policy: str = "sticky",
    num_processes: NumProcesses = 2,
    seed: Seed = 0,
    max_episode_steps: OptionalCount = None,
    on_error: OnError = "stop",
    env_kwargs: str = "{}",
) -> None:
    """Record a Gymnasium environment into a Minari dataset. Run it again to resume after an interruption.

    Args:
        env_id: a Gymnasium id, or "module:id" to import the module that registers it first.
        out: folder of the dataset.
        steps: number of environment steps to record.
        policy: "random", "sticky" (repeats each action for a while, so that it travels),
            the "explorer" of the ready-made environments, or "module:function".
        num_processes: number of processes that record in parallel.
        seed: the same seed records the same dataset.
        max_episode_steps: episodes are truncated after so many steps; where an environment has no time limit of its
            own, after 1000.
        on_error: whether an episode that fails stops the recording, or is left out.
        env_kwargs: JSON object of keyword arguments for gymnasium.make; "size": [height, width] resizes pictures.
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
    )


def train(
    dataset: DatasetFolder,
    *,
    out: Folder,
    size: OptionalSize = None,
    minutes: OptionalFloat = None,
    steps: OptionalCount = None,
    recipe: OptionalText = None,
    device: Device = "auto",
    seed: OptionalSeed = None,
    init_from: OptionalText = None,
    report: bool = True,
    report_minutes: OptionalFloat = None,
    env_id: OptionalText = None,
) -> None:
    """Train a world on a dataset and measure it on held-out episodes. Run it again to resume after an interruption.

    Several processes train together under "torchrun --nproc-per-node=2 -m magrathea train ...".

    Args:
        dataset: folder of a Minari dataset, made by "magrathea collect" or by Minari itself.
        out: folder of the world; its report goes into the folder "report" inside it, and its figures into its card.
        size: size of the model; the recipe's, or tiny.
        minutes: training time of the model; 10 minutes if neither this nor steps is given.
        steps: number of updates of the model.
        recipe: name of a recipe or path of a .toml file; the options given here override it.
        device: "auto", "cpu", "cuda" or "cuda:N".
        seed: seed of everything random; the recipe's, or 0.
        init_from: a world whose tokenizers and weights to start from.
        report: evaluate the world when it is trained.
        report_minutes: approximate time of the evaluation; without it, everything is measured in full.
        env_id: the id of the dataset's environment, where no installed package offers it: "module:id" imports the
            module. A world or a dataset alone never does.
    """
    name_environment(env_id)
    from magrathea.train import load_settings
    from magrathea.train import train as run_training
    from magrathea.train.distributed import process_group

    settings = load_settings(recipe, size=size, minutes=minutes, steps=steps, seed=seed, init_from=init_from)
    with process_group(device) as (rank, own_device):
        run_training(dataset, out, settings, device=own_device)
    if report and rank == 0:
        evaluate(str(out), dataset, out=out / "report", minutes=report_minutes, card=True, device=device)


def make(
    env_id: EnvId,
    *,
    out: Folder,
    minutes: Positive = 10.0,
    steps: Count = 20_000,
    size: OptionalSize = None,
    recipe: OptionalText = None,
    policy: str = "sticky",
    max_episode_steps: OptionalCount = None,
    on_error: OnError = "stop",
    env_kwargs: str = "{}",
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Turn an environment into a playable world: collect, train and eval in one command, within a time budget.

    Args:
        env_id: a Gymnasium id, or "module:id" to import the module that registers it first.
        out: folder of the world; its dataset goes into the folder "…-dataset" next to it.
        minutes: time that all of it may take.
        steps: number of environment steps to record.
        size: size of the model; the recipe's, or tiny.
        recipe: name of a recipe or path of a .toml file; its model is trained for as long as the minutes allow.
        policy: "random", "sticky" (repeats each action for a while, so that it travels),
            the "explorer" of the ready-made environments, or "module:function".
        max_episode_steps: episodes are truncated after so many steps; where an environment has no time limit of its
            own, after 1000.
        on_error: whether an episode that fails stops the recording, or is left out.
        env_kwargs: JSON object of keyword arguments for gymnasium.make; "size": [height, width] resizes pictures.
        device: "auto", "cpu", "cuda" or "cuda:N".
        seed: seed of everything random.
    """
    from magrathea.pretrained import folder_to_write

    folder_to_write(out)
    start = time.monotonic()
    dataset = out.with_name(f"{out.name}-dataset")
    collect(
        env_id,
        out=dataset,
        steps=steps,
        policy=policy,
        seed=seed,
        max_episode_steps=max_episode_steps,
        on_error=on_error,
        env_kwargs=env_kwargs,
    )
    remaining = minutes - (time.monotonic() - start) / 60
    training = remaining - OVERHEAD_SHARE * minutes
    if training <= 0:
        raise MagratheaError(
            f"Recording took {minutes - remaining:.1f} of {minutes:g} minutes, which leaves none to train in; "
            "give more --minutes or fewer --steps."
        )
    options: dict[str, Any] = {"size": size, "recipe": recipe, "minutes": training, "device": device, "seed": seed}
    train(dataset, out=out, **options, report_minutes=REPORT_SHARE * minutes)
    print(f"{out} was made in {(time.monotonic() - start) / 60:.1f} minutes; play it with: magrathea play {out}")
