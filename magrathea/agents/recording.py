"""The real steps of the rounds of learning: who plays them, and how many."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from magrathea.agents.agent import Agent
from magrathea.agents.reality import agent_acting
from magrathea.data import Dataset, collect, merge_datasets
from magrathea.progress import Stages
from magrathea.world import World

if TYPE_CHECKING:
    from magrathea.agents.learn import LearnSettings

ROUND_SEEDS = 10_000  # of the episodes of a round; the second half is of those that the agent plays
EXPLORED_SHARE = 0.5  # of a round's steps, while the agent is no better than the policy that explores


def record_round(
    env_id: str, settings: LearnSettings, work: Path, number: int, last_return: float | None, stages: Stages
) -> Dataset:
    """Record a round's share of the real steps into a folder of `work`; what was recorded before stays.

    The first round is played by the policy of the settings, the others by the agent of the round before. Where that
    returned no more than the policy did, the policy plays half of the steps again: an agent that has not found what is
    rewarded does not find it by its own.

    Args:
        last_return: real return of the agent of the round before; None in the first.

    Returns:
        The steps of all rounds so far as one dataset.
    """
    until = [settings.real_steps * each // settings.num_rounds for each in (number, number + 1)]
    num_steps, seed, kwargs = until[1] - until[0], settings.seed + ROUND_SEEDS * number, _env_kwargs(settings, work)
    num_explored = num_steps
    if last_return is not None:
        is_behind = last_return <= _mean_return(Dataset.open(_folder(work, "explored", 0)))
        num_explored = int(EXPLORED_SHARE * num_steps) if is_behind else 0

    def record(kind: str, steps: int, policy: str, acting: Any = None) -> None:
        if not steps:
            return
        collect(
            env_id,
            steps,
            _folder(work, kind, number),
            policy=policy,
            num_processes=1,
            seed=seed + (ROUND_SEEDS // 2 if acting is not None else 0),
            max_episode_steps=settings.max_episode_steps,
            env_kwargs=kwargs,
            exact=True,
            acting=acting,
            stages=stages,
        )

    record("explored", num_explored, settings.policy)
    if num_explored < num_steps:
        folder = str(work / f"agent-{number - 1}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed + number)
            record("acted", num_steps - num_explored, folder, agent_acting(Agent.from_pretrained(folder)))
    folders = [_folder(work, kind, each) for each in range(number + 1) for kind in ("explored", "acted")]
    return merge_datasets([folder for folder in folders if folder.exists()], work / f"dataset-{number}")


def recorded_env_kwargs(work: Path) -> dict[str, Any]:
    """The arguments of the environment as it was recorded, with the size of pictures."""
    return Dataset.open(_folder(work, "explored", 0)).metadata["env_kwargs"]


def _folder(work: Path, kind: str, number: int) -> Path:
    return work / f"{kind}-{number}"


def _env_kwargs(settings: LearnSettings, work: Path) -> dict[str, Any]:
    if (_folder(work, "explored", 0) / "data").exists():
        return recorded_env_kwargs(work)
    if settings.world is not None and not settings.env_kwargs:
        return World.from_pretrained(settings.world).metadata.get("env_kwargs", {})
    return dict(settings.env_kwargs)


def _mean_return(dataset: Dataset) -> float:
    """Of its episodes, of which the last may have been cut."""
    return float(np.mean([dataset.episode(index).reward.sum() for index in range(len(dataset))]))
