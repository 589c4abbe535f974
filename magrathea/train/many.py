"""From several datasets to one folder of worlds that share their weights."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import gymnasium
from gymnasium.envs.registration import load_env_creator

from magrathea.data import Dataset
from magrathea.errors import FOREIGN_ERRORS, MagratheaError
from magrathea.files import claim_folder
from magrathea.joint import default_prompt, joint_model, save_worlds
from magrathea.pretrained import WORLD_NAME, folder_to_write
from magrathea.progress import Stages
from magrathea.train import distributed
from magrathea.train.cache import TokenCache
from magrathea.train.report import TrainReport
from magrathea.train.settings import TrainSettings
from magrathea.train.train import (
    DEFAULT_MINUTES,
    WORK_FOLDER,
    check_spaces,
    claim,
    fit_tokenizers,
    freeze_all_but,
    held_out_share,
    note_progress,
    prepare,
)
from magrathea.train.trainer import train_model
from magrathea.world import World


@dataclass(frozen=True)
class _Task:
    """One of the worlds that are trained together: its name, its dataset and the settings of its training."""

    name: str
    source: Dataset
    settings: TrainSettings

    def split(self) -> tuple[list[int], list[int]]:
        """The numbers of the episodes that are trained on, and of those that are held out."""
        train, held_out = self.source.split(held_out=self.settings.held_out, seed=self.settings.seed)
        return list(train), list(held_out)

    def spaces(self) -> tuple[gymnasium.Space, gymnasium.Space]:
        return self.source.observation_space, self.source.action_space


def train_many(
    datasets: Sequence[str | Path],
    out: str | Path,
    settings: TrainSettings | None = None,
    *,
    prompts: Sequence[str] = (),
    device: str = "auto",
    stages: Stages | None = None,
) -> dict[str, World]:
    """Train worlds with one set of weights on pooled datasets, and write them into one folder; resumes a training that
    was interrupted.

    Args:
        datasets: folders of Minari datasets; a world is called like the folder of its dataset. Datasets with the same
            spaces have the same tokenizers, fitted to all of them.
        out: folder of the worlds, each of which is a folder in it.
        settings: as for `train`, for all worlds alike. The memory is "window".
        prompts: for each dataset the text that tells the model which world it is; if not given, its names, description
            and actions, and what its environment says of itself.
        device: "cpu", "cuda", "cuda:N", or "auto" for a GPU if there is one.
        stages: display that the progress is shown in; one of its own if not given.

    Returns the worlds by name. Raises MagratheaError as `train` does, for two datasets of one name, for another number
    of prompts, and for settings that are of a single world.
    """
    settings = _checked(settings or TrainSettings())
    real = folder_to_write(out)
    with claim_folder(real, "training into") if distributed.is_first() else nullcontext():
        tasks = _tasks([Dataset.open(folder) for folder in datasets], datasets, prompts, settings)
        return _train(tasks, Path(out), settings, device, stages)


def _checked(settings: TrainSettings) -> TrainSettings:
    for name, value, only in (("init_from", settings.init_from, None), ("memory", settings.model.memory, "window")):
        if value != only:
            raise MagratheaError(f"Several worlds are trained with {name} {value!r}; give {only!r}, or one dataset.")
    if not settings.is_limited:
        return replace(settings, minutes=DEFAULT_MINUTES)
    return settings


def _tasks(
    sources: Sequence[Dataset], folders: Sequence[str | Path], prompts: Sequence[str], settings: TrainSettings
) -> list[_Task]:
    names = [re.sub(r"[^\w.+-]", "-", folder_name(folder)) for folder in folders]
    for name in names:
        if names.count(name) > 1 or not re.fullmatch(WORLD_NAME, name):
            raise MagratheaError(f"Datasets' folders are the names of their worlds, and '{name}' is none, or is twice.")
    if prompts and len(prompts) != len(names):
        raise MagratheaError(f"{len(names)} datasets have {len(prompts)} prompts; give one for each, in their order.")
    tasks = []
    for number, (name, source) in enumerate(zip(names, sources, strict=True)):
        check_spaces(source)
        prompt = prompts[number] if prompts else _prompt(name, source)
        model = replace(settings.model, prompt=prompt)
        share = held_out_share(len(source), settings.held_out)
        tasks.append(_Task(name, source, replace(settings, held_out=share, model=model)))
    return tasks


def folder_name(folder: str | Path) -> str:
    """The name that a folder was given, be it a link, also where it is the working directory."""
    path = Path(folder)
    return path.name if path.name not in ("", "..") else path.resolve().name


def _prompt(name: str, source: Dataset) -> str:
    """What is known of a dataset's world in words."""
    known = default_prompt({"name": name, "env_id": source.env_id} | source.metadata)
    return f"{known} {_about_environment(source.env_id)}".strip()


def _about_environment(env_id: str | None) -> str:
    """What the class of an environment says of it; "" where it is not installed."""
    try:
        made = load_env_creator(str(gymnasium.registry[str(env_id)].entry_point))
    except FOREIGN_ERRORS:
        return ""
    text = inspect.getdoc(made) or ""
    described = re.search(r"## Description\s+(.+?)(?=\n#|\Z)", text, re.DOTALL)
    return " ".join((described[1] if described else text.split("\n\n")[0]).split())


def _train(
    tasks: Sequence[_Task], out: Path, settings: TrainSettings, device: str, stages: Stages | None
) -> dict[str, World]:
    work = out / WORK_FOLDER
    prompts = {task.name: task.settings.model.prompt for task in tasks}
    claim(work, " ".join(task.source.fingerprint for task in tasks), settings.to_config() | {"prompts": prompts})
    report = TrainReport(work, stages)
    if distributed.is_first():
        _prepare_all(tasks, out, report)
    distributed.wait_for_all()
    worlds = {task.name: World.from_pretrained(out / task.name) for task in tasks}
    caches = [TokenCache.open(out / name / WORK_FOLDER / "tokens", world.layout) for name, world in worlds.items()]
    model, parts = joint_model(list(worlds.values()))
    for world in worlds.values():
        world.to(device)
    freeze_all_but(model, settings.trainable)
    report.stages.begin("training")
    progress = train_model(model, caches, settings, work / "checkpoint.safetensors", report.update)
    for world in worlds.values():
        note_progress(world, progress)
    if distributed.is_first():
        save_worlds(worlds, parts, model.weights, out)
    report.close()
    return {name: World.from_pretrained(out / name) for name in worlds}


def _prepare_all(tasks: Sequence[_Task], out: Path, report: TrainReport) -> None:
    """Write the worlds, untrained, and their token caches; those with the same spaces have the same tokenizers."""
    done: list[_Task] = []
    for task in tasks:
        family = [other for other in tasks if other.spaces() == task.spaces()]
        known = next((other for other in done if other in family), None)
        tokenizers = None if known is None else World.from_pretrained(out / known.name).tokenizers
        if tokenizers is None and not (out / task.name / "config.json").exists():
            report.stages.begin("fitting tokenizers")
            tokenizers = fit_tokenizers([(other.source, other.split()[0]) for other in family], task.settings)
        prepare(task.source, *task.split(), task.settings, out / task.name, report, None, tokenizers)
        done.append(task)
