"""The held-out episodes of a dataset, as a world's tokens."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from magrathea.data import Dataset, Episode
from magrathea.errors import MagratheaError
from magrathea.world import World


@dataclass
class Recording:
    """A held-out episode: its number in the dataset, what was recorded, and its tokens (T + 1, N) int64."""

    number: int
    episode: Episode
    tokens: np.ndarray


class Budget:
    """A share of the time that the evaluation may take; without one, there is no end."""

    def __init__(self, seconds: float | None = None) -> None:
        self.end = None if seconds is None else time.monotonic() + seconds

    def spent(self) -> bool:
        return self.end is not None and time.monotonic() >= self.end


def open_dataset(dataset: str | Path | Dataset) -> Dataset:
    """A dataset from its folder, or the dataset itself."""
    return Dataset.open(dataset) if isinstance(dataset, (str, Path)) else dataset


def held_out_recordings(world: World, dataset: Dataset, num_episodes: int, seed: int = 0) -> list[Recording]:
    """Up to `num_episodes` of the episodes that the world was not trained on, drawn by the seed, encoded.

    The split is the one that training wrote into the world. Raises MagratheaError where the world does not say which
    episodes were held out, where none were, or where the dataset is of other spaces.
    """
    name = world.metadata.get("name", "?")
    if world.metadata.get("held_out") is None or world.metadata.get("split_seed") is None:
        raise MagratheaError(
            f"World '{name}' does not say which episodes were held out of its training; train it with 'magrathea train'"
        )
    if dataset.observation_space != world.observation_space or dataset.action_space != world.action_space:
        raise MagratheaError(
            f"Dataset of '{dataset.env_id}' has other spaces than world '{name}' ({world.metadata.get('env_id')}); "
            "give a dataset of the world's own environment"
        )
    _, held_out = dataset.split(held_out=float(world.metadata["held_out"]), seed=int(world.metadata["split_seed"]))
    chosen = np.random.default_rng(seed).permutation(np.asarray(held_out, dtype=np.int64))[:num_episodes]
    if not len(chosen):
        raise MagratheaError(
            f"No episode of the dataset was held out of the training of world '{name}'; evaluating on training "
            "episodes would say nothing: train with a share held out, or collect another dataset"
        )
    recordings = []
    for number in sorted(chosen.tolist()):
        episode = dataset.episode(number)
        tokens = world.encode_episode(episode.observation, episode.action, episode.reward, episode.terminated)
        recordings.append(Recording(number, episode, tokens.numpy()))
    return recordings
