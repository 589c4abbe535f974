"""The held-out episodes of a dataset, as a world's tokens."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from magrathea.data import Dataset, Episode
from magrathea.errors import MagratheaError
from magrathea.memory import EpisodeReadout, MemoryReadout
from magrathea.world import World


@dataclass(kw_only=True)
class Lived:
    """Steps that were lived, really or in a dream: their tokens (T + 1, N) int64, those (N,) of a step that is not
    there, and what the world's memory recalls at each of them."""

    tokens: np.ndarray
    absent: np.ndarray
    recalled: EpisodeReadout

    @classmethod
    def of(cls, world: World, tokens: np.ndarray) -> Lived:
        """Of steps (T + 1, N)."""
        recalled = world.read_episode(torch.from_numpy(tokens))
        return cls(tokens=tokens, absent=world.layout.absent_tokens.numpy(), recalled=recalled)

    def recall(self, steps: np.ndarray) -> MemoryReadout:
        """What is recalled at some steps (C,), without and with the action: (C, 2, ...)."""
        read = self.recalled
        predicted = {name: part[steps] for name, part in read.predicted_tokens.items()}
        sources = None if read.sources is None else torch.from_numpy(self._steps(read.sources[steps].numpy()))
        return MemoryReadout(predicted, sources, features=None if read.features is None else read.features[steps])

    def before(self, step: int, num_steps: int) -> np.ndarray:
        """The tokens (num_steps, N) of so many steps before one."""
        return self._steps(np.arange(step - num_steps, step))

    def _steps(self, index: np.ndarray) -> np.ndarray:
        """Tokens (..., N) of steps (...), absent where the index is less than 0."""
        return np.where(index[..., None] < 0, self.absent, self.tokens[np.maximum(index, 0)])


@dataclass(kw_only=True)
class Recording(Lived):
    """A held-out episode: its number in the dataset, and what was recorded."""

    number: int
    episode: Episode


class Budget:
    """The time that an evaluation, or a part of it, may take; without a number of seconds, there is no end."""

    def __init__(self, seconds: float | None = None) -> None:
        self.end = None if seconds is None else time.monotonic() + seconds

    def spent(self) -> bool:
        """Whether the time is over."""
        return self.end is not None and time.monotonic() >= self.end

    def part(self, share: float) -> Budget:
        """A share of the time that is left from now on."""
        return Budget(None if self.end is None else max(0.0, self.end - time.monotonic()) * share)


def open_dataset(dataset: str | Path | Dataset) -> Dataset:
    """A dataset from its folder, or the dataset itself."""
    return Dataset.open(dataset) if isinstance(dataset, (str, Path)) else dataset


def is_training_dataset(world: World, dataset: Dataset) -> bool:
    """Whether the world was trained on episodes of this very dataset."""
    return world.metadata.get("dataset_id") == dataset.fingerprint


def unseen_episodes(world: World, dataset: Dataset) -> list[int]:
    """Numbers of the episodes that the world was not trained on: those held out of its own dataset, by the split that
    training wrote into the world, or all of another dataset.

    Raises MagratheaError where the world does not say what was held out, where nothing was, or where the dataset is of
    other spaces.
    """
    metadata, name = world.metadata, world.metadata.get("name", "?")
    if dataset.observation_space != world.observation_space or dataset.action_space != world.action_space:
        raise MagratheaError(
            f"Dataset of '{dataset.env_id}' has other spaces than world '{name}' of '{metadata.get('env_id')}'; "
            "give a dataset of the world's own environment."
        )
    if any(metadata.get(key) is None for key in ("dataset_id", "held_out", "split_seed")):
        raise MagratheaError(
            f"World '{name}' does not say which episodes it was trained on; train it with 'magrathea train'."
        )
    if not is_training_dataset(world, dataset):
        return list(range(len(dataset)))
    _, held_out = dataset.split(held_out=float(metadata["held_out"]), seed=int(metadata["split_seed"]))
    if not len(held_out):
        raise MagratheaError(
            f"World '{name}' was trained on all episodes of this dataset, so measuring on it would say nothing; "
            "collect another dataset, or train with episodes held out."
        )
    return [int(number) for number in held_out]


def other_episodes(world: World, dataset: Dataset, recordings: list[Recording]) -> list[int]:
    """Numbers of episodes beside those measured on, of the training where the dataset is the training's; the measured
    ones, if there are no others."""
    used = {recording.number for recording in recordings}
    if is_training_dataset(world, dataset):
        used |= set(unseen_episodes(world, dataset))
    return [number for number in range(len(dataset)) if number not in used] or sorted(used)


def held_out_recordings(world: World, dataset: Dataset, num_episodes: int, seed: int = 0) -> list[Recording]:
    """Up to `num_episodes` of the episodes that the world was not trained on, drawn by the seed, encoded."""
    unseen = unseen_episodes(world, dataset)
    chosen = np.random.default_rng(seed).permutation(unseen)[:num_episodes]
    return encode_episodes(world, dataset, sorted(chosen.tolist()))


def encode_episodes(world: World, dataset: Dataset, numbers: list[int]) -> list[Recording]:
    """These episodes of a dataset."""
    recordings = []
    for number in numbers:
        episode = dataset.episode(number)
        tokens = world.encode_episode(episode.observation, episode.action, episode.reward, episode.terminated)
        lived = Lived.of(world, tokens.numpy())
        recordings.append(Recording(**vars(lived), number=number, episode=episode))
    return recordings
