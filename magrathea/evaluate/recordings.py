"""The held-out episodes of a dataset, encoded by a world's tokenizers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from magrathea.data import Dataset, Episode
from magrathea.data.collect import Recording as RecordingSettings
from magrathea.data.policies import current_policy_name
from magrathea.errors import MagratheaError
from magrathea.evaluate.results import About
from magrathea.memory import EpisodeReadout, MemoryReadout
from magrathea.pretrained import read_config, world_folders
from magrathea.space_config import space_to_config
from magrathea.world import World

FIRST_BATCH_SIZE, BATCH_SIZE = 2, 16  # dreams or segments that are computed at a time
MIN_EPISODES = 4  # that are read whatever the time
READING_SHARE = 0.2  # of the time
MIN_STEPS = 256  # of an episode, that are read whatever the time


@dataclass(kw_only=True)
class EncodedEpisode:
    """The steps of a recorded or dreamt episode as tokens.

    Attributes:
        tokens: (T + 1, N) integers; of a type of two bytes where there are values, which may be many.
        absent: (N,) the tokens of a step that is not there.
        readout: what the world's memory reads out before each step.
    """

    tokens: np.ndarray
    absent: np.ndarray
    readout: EpisodeReadout

    @classmethod
    def of(cls, world: World, tokens: np.ndarray) -> EncodedEpisode:
        """Add the memory's readout to steps (T + 1, N)."""
        readout = world.read_episode(torch.from_numpy(tokens))
        absent = world.layout.absent_tokens.numpy()
        if world.layout.values_slots and absent.max() <= np.iinfo(np.int16).max:
            tokens = tokens.astype(np.int16)
        return cls(tokens=tokens, absent=absent, readout=readout)

    def readout_at(self, steps: np.ndarray) -> MemoryReadout:
        """The memory's readout at some steps (C,), without and with the action: (C, 2, ...)."""
        read = self.readout
        predicted = {name: part[steps] for name, part in read.predicted_tokens.items()}
        sources = None if read.sources is None else torch.from_numpy(self._steps(read.sources[steps].numpy()))
        return MemoryReadout(predicted, sources, features=None if read.features is None else read.features[steps])

    def before(self, step: int, num_steps: int) -> np.ndarray:
        """The tokens (num_steps, N) of the steps before a step."""
        return self._steps(np.arange(step - num_steps, step))

    def _steps(self, index: np.ndarray) -> np.ndarray:
        """Tokens (..., N) of steps (...), absent where the index is less than 0."""
        return np.where(index[..., None] < 0, self.absent, self.tokens[np.maximum(index, 0)].astype(np.int64))


@dataclass(kw_only=True)
class Recording(EncodedEpisode):
    """A recorded episode with its number in the dataset and its original values."""

    number: int
    episode: Episode


class Budget:
    """The time that an evaluation, or a part of it, may take: some seconds, or unlimited."""

    def __init__(self, seconds: float | None = None) -> None:
        self.end = None if seconds is None else time.monotonic() + seconds

    def spent(self) -> bool:
        """Whether the time is used up."""
        return self.end is not None and time.monotonic() >= self.end

    def seconds_left(self) -> float:
        """Seconds of a limited budget that are left."""
        return max(0.0, (self.end or 0.0) - time.monotonic())

    def part(self, share: float) -> Budget:
        """A budget of a share of the remaining time."""
        return Budget(None if self.end is None else max(0.0, self.end - time.monotonic()) * share)


def batch_sizes() -> Iterator[int]:
    """How many dreams or segments are computed at a time: few at first, so that a slow world takes little more than a
    budget that is asked after every batch."""
    size = FIRST_BATCH_SIZE
    while True:
        yield size
        size = min(2 * size, BATCH_SIZE)


def is_training_dataset(world: World, dataset: Dataset) -> bool:
    """Whether the world was trained on episodes of this dataset, or of one that was recorded with the same settings."""
    settings = _recording_settings(dataset.metadata)
    same_settings = settings is not None and settings == _recording_settings(world.metadata)
    return same_settings or world.metadata.get("dataset_id") == dataset.fingerprint


def _recording_settings(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings of `collect`, which determine the episodes; None where the metadata are not of a recording."""
    names = [setting.name for setting in fields(RecordingSettings)]
    if not set(names) <= metadata.keys():
        return None
    return {name: metadata[name] for name in names} | {"policy": current_policy_name(str(metadata["policy"]))}


def world_of_dataset(name: str | Path, source: str | Path | Dataset) -> Path:
    """The folder of a world; of several that share their weights, that of the one that was trained on a dataset, or
    else of the only one with its spaces. Raises MagratheaError where there is none."""
    folders = world_folders(name)
    if len(folders) == 1:
        return next(iter(folders.values()))
    dataset = source if isinstance(source, Dataset) else Dataset.open(source)
    configs = {member: read_config(folder) for member, folder in folders.items()}
    trained = [m for m, config in configs.items() if config["metadata"].get("dataset_id") == dataset.fingerprint]
    known = {"observation": dataset.observation_space, "action": dataset.action_space}
    spaces = {role: space_to_config(space) for role, space in known.items()}
    alike = [m for m, config in configs.items() if spaces.items() <= config["spaces"].items()]
    chosen = trained or alike
    if len(chosen) != 1:
        raise MagratheaError(
            f"'{name}' holds the worlds {', '.join(folders)}, of which {len(chosen)} fit dataset '{dataset.folder}'; "
            f"name one, as '{name}/{next(iter(folders))}'."
        )
    return folders[chosen[0]]


def unseen_episodes(world: World, dataset: Dataset) -> list[int]:
    """Numbers of the episodes that the world was not trained on: those held out of its own dataset (also when it was
    recorded anew with the same settings), by the split in the world's metadata, or all of another dataset.

    Raises MagratheaError where the world does not say what was held out, where nothing was, or where the dataset has
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
            f"World '{name}' was trained on all episodes of this dataset, which leaves none to measure on; "
            "collect another dataset, or train with episodes held out."
        )
    return [int(number) for number in held_out]


def other_episodes(world: World, dataset: Dataset, recordings: list[Recording]) -> list[int]:
    """Numbers of episodes that are not measured on: of the training set where the dataset is the training's; the
    measured ones if there are no others."""
    used = {recording.number for recording in recordings}
    if is_training_dataset(world, dataset):
        used |= set(unseen_episodes(world, dataset))
    return [number for number in range(len(dataset)) if number not in used] or sorted(used)


def held_out_recordings(
    world: World,
    dataset: Dataset,
    num_episodes: int,
    seed: int = 0,
    budget: Budget | None = None,
    may_cut: bool = False,
) -> list[Recording]:
    """Up to `num_episodes` of the episodes that the world was not trained on, drawn by the seed, encoded; in their
    order in the dataset."""
    unseen = unseen_episodes(world, dataset)
    chosen = np.random.default_rng(seed).permutation(unseen)[:num_episodes]
    recordings = encode_episodes(world, dataset, chosen.tolist(), budget, may_cut)
    return sorted(recordings, key=lambda recording: recording.number)


def encode_episodes(
    world: World, dataset: Dataset, numbers: list[int], budget: Budget | None = None, may_cut: bool = False
) -> list[Recording]:
    """Read and encode episodes of a dataset; when the budget is spent, no more than there are, but 4 at least, of which
    those that are too long for the time may be cut."""
    recordings, is_cut, seconds_per_step = [], may_cut and budget is not None and budget.end is not None, 0.0
    for number in numbers:
        if budget is not None and budget.spent() and len(recordings) >= MIN_EPISODES:
            break
        episode = dataset.episode(number)
        if is_cut and budget is not None:
            if not seconds_per_step:
                seconds_per_step = _seconds_to_encode(world, episode.first(MIN_STEPS)) / min(MIN_STEPS, len(episode))
            num_left = max(1, min(MIN_EPISODES, len(numbers)) - len(recordings))
            episode = episode.first(max(MIN_STEPS, int(budget.seconds_left() / num_left / seconds_per_step)))
        tokens = _encode(world, episode)
        encoded = EncodedEpisode.of(world, tokens.numpy())
        recordings.append(Recording(**vars(encoded), number=number, episode=episode))
    return recordings


def _encode(world: World, episode: Episode) -> torch.Tensor:
    return world.encode_episode(episode.observation, episode.action, episode.reward, episode.terminated)


def _seconds_to_encode(world: World, episode: Episode) -> float:
    began = time.monotonic()
    _encode(world, episode)
    return max(1e-6, time.monotonic() - began)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of an evaluation.

    Attributes:
        num_episodes: most held-out episodes to measure on.
        num_dreams: most dreams; long ones are at most 16.
        minutes: about how long it may take; each part then measures as much as it has time for, at least one batch.
        device: "cpu", "cuda" or "auto", for a world that is not loaded yet.
        seed: of the choice of episodes and of the dreams.
    """

    num_episodes: int = 64
    num_dreams: int = 64
    minutes: float | None = None
    device: str = "cpu"
    seed: int = 0


def _load(name: str | Path, dataset: Dataset, device: str) -> World:
    return World.from_pretrained(world_of_dataset(name, dataset), device=device)


class Subject:
    """What is evaluated: a world, a dataset with the recordings chosen from it, and the time for it.

    Args:
        world: a world, its folder or one of several that share their weights, the name of a shipped one, or a hub id.
        dataset: the one that it was trained on (only its held-out episodes are used), or another of the same spaces.
        options: see `Options`.
        may_cut: whether only the first steps of episodes are read that are too long for the time.

    Raises MagratheaError for a dataset of other spaces, or one without episodes that the world was not trained on.
    """

    def __init__(
        self, world: str | Path | World, dataset: str | Path | Dataset, options: Options, may_cut: bool = False
    ) -> None:
        self.options, self._began = options, time.monotonic()
        self.budget = Budget(None if options.minutes is None else 60 * options.minutes)
        self.dataset = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)
        self.world = world if isinstance(world, World) else _load(world, self.dataset, options.device)
        time_to_read = self.budget.part(READING_SHARE)
        self.recordings = held_out_recordings(
            self.world, self.dataset, options.num_episodes, options.seed, time_to_read, may_cut
        )

    def about(self) -> About:
        """What was evaluated, and the time that it has taken up to now."""
        same = is_training_dataset(self.world, self.dataset)
        return About(
            world=str(self.world.metadata.get("name")),
            environment=self.dataset.env_id,
            num_parameters=sum(weights.numel() for weights in self.world.model.parameters()),
            window=self.world.config.model.window,
            fill=self.world.config.fill.to_config(),
            episodes=[recording.number for recording in self.recordings],
            num_steps=int(sum(len(recording.tokens) - 1 for recording in self.recordings)),
            data="episodes held out of the training" if same else "another dataset than the training's",
            seed=self.options.seed,
            seconds=round(time.monotonic() - self._began, 1),
        )
