"""Commands that make worlds: collect, train, and make, which does these and the evaluation in one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated, Any

from tyro.conf import arg

from magrathea.cli.measure import evaluate
from magrathea.cli.options import DatasetFolder, EnvId, Folder, Minutes, Name, Number, Size, json_object
from magrathea.errors import MagratheaError

REPORT, OVERHEAD = 0.08, 0.18
"""Shares of the minutes of ``make``: for the evaluation; for it, its plots and the tokenizers together."""


def collect(
    env_id: EnvId,
    *,
    out: Folder,
    steps: int = 20_000,
    policy: str = "sticky",
    num_processes: int = 2,
    seed: int = 0,
    max_episode_steps: Number = None,
    env_kwargs: str = "{}",
) -> None:
    """Record any Gymnasium environment into a Minari dataset. Run it again to go on after an interruption.

    Args:
        env_id: a Gymnasium id, or "module:id" to import the module that registers it first.
        out: folder of the dataset.
        steps: number of environment steps to record.
        policy: "random", "sticky" (holds its actions, so it travels) or "module:function".
        num_processes: number of processes that record at once.
        seed: the same seed records the same dataset.
        max_episode_steps: longer episodes are cut there.
        env_kwargs: JSON object of keyword arguments for gymnasium.make; "size": [height, width] resizes pictures.
    """
    keywords = json_object(env_kwargs)
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
    )


def train(
    dataset: DatasetFolder,
    *,
    out: Folder,
    size: Annotated[Size | None, arg(metavar="{debug,tiny,small,base}")] = None,
    minutes: Minutes = None,
    steps: Number = None,
    recipe: Name = None,
    device: str = "auto",
    seed: Number = None,
    begin_from: Name = None,
    report: bool = True,
    report_minutes: Minutes = None,
) -> None:
    """Learn a world from a dataset and measure it on held-out episodes. Run it again to go on after a kill.

    Several processes learn together under "torchrun --nproc-per-node=2 -m magrathea train ...".

    Args:
        dataset: folder of a Minari dataset, made by "magrathea collect" or by Minari itself.
        out: folder of the world; its report goes into the folder "report" inside it.
        size: size of the model: tiny, unless a recipe says otherwise.
        minutes: how long the model learns: 10 minutes, if neither this nor steps is given.
        steps: number of updates of the model.
        recipe: name of a shipped recipe, or a .toml file; what is given here besides wins over it.
        device: "auto", "cpu" or "cuda".
        seed: seed of everything that is drawn.
        begin_from: a world whose tokenizers and weights to begin with.
        report: evaluate the world when it is learned.
        report_minutes: about how long the evaluation may take; without it, everything is measured in full.
    """
    from magrathea.train import train as learn

    options: dict[str, Any] = {"size": size, "minutes": minutes, "steps": steps, "recipe": recipe, "seed": seed}
    with _joined(device) as (rank, own_device):
        learn(dataset, out, device=own_device, begin_from=begin_from, **options)
    if report and rank == 0:
        evaluate(str(out), dataset, out=out / "report", minutes=report_minutes, device=device)


@contextmanager
def _joined(device: str) -> Iterator[tuple[int, str]]:
    """Under torchrun, together with its processes: the number of this one, from 0, and its own device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0, device
        return
    import torch
    import torch.distributed as dist

    dist.init_process_group(timeout=timedelta(days=1))  # the first one fits the tokenizers, the others wait
    on_gpu = device != "cpu" and torch.cuda.is_available()
    yield dist.get_rank(), f"cuda:{os.environ['LOCAL_RANK']}" if on_gpu else "cpu"
    dist.destroy_process_group()


def make(
    env_id: EnvId,
    *,
    out: Folder,
    minutes: float = 10.0,
    steps: int = 20_000,
    size: Annotated[Size | None, arg(metavar="{debug,tiny,small,base}")] = None,
    recipe: Name = None,
    policy: str = "sticky",
    env_kwargs: str = "{}",
    device: str = "auto",
    seed: int = 0,
) -> None:
    """Turn an environment into a playable world: collect, train and eval in one command, within a time budget.

    Args:
        env_id: a Gymnasium id, or "module:id" to import the module that registers it first.
        out: folder of the world; its dataset goes into a folder beside it, named after it.
        minutes: minutes that all of it may take.
        steps: number of environment steps to record.
        size: size of the model: tiny, unless a recipe says otherwise.
        recipe: name of a shipped recipe, or a .toml file; its model learns for as long as the minutes allow.
        policy: "random", "sticky" (holds its actions, so it travels) or "module:function".
        env_kwargs: JSON object of keyword arguments for gymnasium.make.
        device: "auto", "cpu" or "cuda".
        seed: seed of everything that is drawn.
    """
    began = time.monotonic()
    dataset = out.with_name(f"{out.name}-dataset")
    collect(env_id, out=dataset, steps=steps, policy=policy, seed=seed, env_kwargs=env_kwargs)
    left = minutes - (time.monotonic() - began) / 60
    learning = left - OVERHEAD * minutes
    if learning <= 0:
        raise MagratheaError(
            f"Recording took {minutes - left:.1f} of {minutes:g} minutes, which leaves none to learn in; "
            "give more --minutes or fewer --steps."
        )
    options: dict[str, Any] = {"size": size, "recipe": recipe, "minutes": learning, "device": device, "seed": seed}
    train(dataset, out=out, **options, report_minutes=REPORT * minutes)
    print(f"{out} was made in {(time.monotonic() - began) / 60:.1f} minutes; play it with: magrathea play {out}")
