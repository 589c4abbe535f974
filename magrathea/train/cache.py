"""The token cache: a dataset as tokens and memory readouts, made once and read as memory-mapped files."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from tokenize import TokenError
from typing import Annotated

import msgspec
import numpy as np
import torch
from torch import Generator, Tensor

from magrathea.data import Dataset, Episode
from magrathea.data.policies import PIXEL_NOISE
from magrathea.files import atomic_write, read_json, unreadable
from magrathea.layout import Layout
from magrathea.memory import MemoryReadout
from magrathea.progress import Stages
from magrathea.sampler import EVENTS
from magrathea.world import World

EPISODES_FILE = "episodes.json"
ENCODING_SHARE = 0.5  # of the time up to a deadline
MIN_ENCODED = 1024  # steps that are encoded however late it is
MOST_EVENT_WEIGHT = 20.0  # of a rare reward or ending, times that of the most frequent
RETURN_STEPS = 64  # number of steps that a return sums the rewards of


@dataclass(frozen=True)
class Segments:
    """Segments of B episodes.

    Attributes:
        tokens: (B, T, N) int64, absent past an episode's end.
        earlier: (B, E, N) the steps before, absent before an episode's beginning.
        returns: (B, T) tokens of the return after each step.
        readout: (B, T, 2, ...) of the memory, without and with each step's action.
    """

    tokens: Tensor
    earlier: Tensor
    returns: Tensor
    readout: MemoryReadout

    def first(self, num_steps: int) -> Segments:
        """The first steps of every segment."""
        readout = self.readout.map(lambda part: part[:, :num_steps])
        return Segments(self.tokens[:, :num_steps], self.earlier, self.returns[:, :num_steps], readout)


class _Episodes(msgspec.Struct):
    """The file EPISODES_FILE."""

    ends: Annotated[list[int], msgspec.Meta(min_length=1)]

    def __post_init__(self) -> None:
        if any(end - begin < 1 for begin, end in pairwise([0, *self.ends])):
            raise ValueError("ends of episodes that do not rise")


@dataclass(frozen=True)
class TokenCache:
    """The tokens of some episodes, concatenated.

    Attributes:
        tokens: (S, N without values) of the dtype that holds them (`token_dtype`), memory-mapped.
        values: (S, Q) uint8 or uint16, the entries of steps that are values, memory-mapped.
        returns: (S,) likewise, token of the return after each step: the sum of the next RETURN_STEPS rewards.
        ends: (E,) index just past the last step of each episode.
        predicted: by slot name (S, 2, tokens of the slot), likewise, memory-mapped, the memory's prediction of each
            step without and with its action.
        sources: (S, 2, K) int64, indices of the past steps that the memory gives to attend to, -1 for none; or None.
        features: (S, 2, F) float32 of the memory; or None.
        effects: (S,) float32, how often a step is drawn where its action is known, by what that action changes.
        layout: of the N tokens.
    """

    tokens: np.ndarray
    values: np.ndarray
    effects: np.ndarray
    returns: np.ndarray
    ends: np.ndarray
    predicted: dict[str, np.ndarray]
    sources: np.ndarray | None
    features: np.ndarray | None
    layout: Layout

    @classmethod
    def open(cls, folder: Path, layout: Layout) -> TokenCache:
        """Map the files of a cache that `build` wrote; raises MagratheaError where they are damaged."""
        ends = np.array(read_json(folder / EPISODES_FILE, _Episodes, _remedy(folder)).ends)
        num_values = int(layout.values_mask.sum())
        tokens = _read_array(folder / "tokens.npy", (layout.num_tokens - num_values,), ends)
        values = _read_array(folder / "values.npy", (num_values,), ends)
        effects = np.array(_read_array(folder / "effects.npy", (), ends))
        returns = np.array(_read_array(folder / "returns.npy", (), ends))
        predicted = {
            slot.name: _read_array(file, (2, slot.num_tokens), ends)
            for slot in layout.slots
            if (file := _predicted_file(folder, slot.name)).exists()
        }
        sources, features = (
            _read_array(file, (2, None), ends) if (file := folder / f"{name}.npy").exists() else None
            for name in ("sources", "features")
        )
        return cls(tokens, values, effects, returns, ends, predicted, sources, features, layout)

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Whether the folder holds a complete cache."""
        return (folder / EPISODES_FILE).exists()

    @classmethod
    def build(cls, encoded: Iterable[tuple[np.ndarray, np.ndarray]], world: World, folder: Path) -> TokenCache:
        """Write the cache of episodes of tokens (T + 1, N) and rewards (T,), with the readouts of the memory."""
        folder.mkdir(parents=True, exist_ok=True)
        tokens, values, returns = [], [], []
        arrays: dict[Path, list[np.ndarray]] = defaultdict(list)
        num_steps, dtype, is_value = 0, token_dtype(world.layout), world.layout.values_mask.numpy()
        for compact, reward in encoded:
            tokens.append(np.ascontiguousarray(compact[:, ~is_value]))  # or a step is read from all over the file
            values.append(np.ascontiguousarray(compact[:, is_value].astype(_values_dtype(world.layout))))
            steps = torch.from_numpy(compact.astype(np.int64))
            returns.append(_return_tokens(reward, world).astype(dtype))
            readout = world.read_episode(steps)
            for name, predicted in readout.predicted_tokens.items():
                arrays[_predicted_file(folder, name)].append(predicted.numpy().astype(dtype))
            if readout.sources is not None:
                sources = readout.sources.numpy()
                arrays[folder / "sources.npy"].append(np.where(sources < 0, -1, sources + num_steps))
            if readout.features is not None:
                arrays[folder / "features.npy"].append(readout.features.numpy())
            num_steps += len(steps)
        np.save(folder / "tokens.npy", np.concatenate(tokens))
        np.save(folder / "values.npy", np.concatenate(values))
        np.save(folder / "effects.npy", effects_of_actions(tokens, values, world.layout))
        np.save(folder / "returns.npy", np.concatenate(returns))
        for file, parts in arrays.items():
            np.save(file, np.concatenate(parts))
        with atomic_write(folder / EPISODES_FILE) as file:
            file.write_text(json.dumps({"ends": np.cumsum([len(part) for part in tokens]).tolist()}))
        return cls.open(folder, world.layout)

    def segments(
        self,
        num: int,
        num_steps: int,
        num_earlier: int,
        generator: Generator,
        by_effect: Tensor | None = None,
        num_context: int = 1,
    ) -> Segments:
        """Random segments of num_steps, and num_earlier steps before each; where by_effect (num,) is True, drawn by the
        effects of their last steps.

        The step after the first num_context ones may be any but an episode's first, which is repeated where a segment
        begins before it.
        """
        begins = np.concatenate([[0], self.ends[:-1]])
        lengths = self.ends - begins
        drawn = torch.randint(int((lengths - 1).sum()), (num,), generator=generator).numpy()
        if by_effect is not None:
            drawn = np.where(by_effect.numpy(), self._drawn_by_effect(num, num_steps - num_context, generator), drawn)
        episode = np.searchsorted(np.cumsum(lengths - 1), drawn, side="right")
        first = drawn + episode - (num_context - 1)  # no context ends with the last step of an episode
        index = np.maximum(first[:, None] + np.arange(num_steps), begins[episode][:, None])
        inside = np.minimum(index, self.ends[episode][:, None] - 1)
        before = first[:, None] - np.arange(num_earlier, 0, -1)
        return Segments(
            self._steps(index, index == inside),
            self._steps(before, before >= begins[episode][:, None]),
            torch.from_numpy(self.returns[inside].astype(np.int64)),
            self._readout(inside),
        )

    def event_weights(self) -> dict[str, Tensor]:
        """For the names of rewards and endings how much each token (V,) weighs in training: the less often it was
        recorded, the more. Rewards of many values, each of which is rare, weigh alike. None weighs more where there are
        pictures, whose worlds then expect endings too seldom, or texts, which were not measured."""
        found: dict[str, Tensor] = {}
        if not self.layout.is_one_row:
            return found
        end = 0
        for slot in self.layout.token_slots:
            begin, end = end, end + slot.num_tokens
            if slot.role in EVENTS and slot.smoothing is None:
                recorded = np.asarray(self.tokens[:, begin:end])
                counts = np.bincount(recorded[recorded < slot.vocab_size], minlength=slot.vocab_size).clip(min=1)
                weights = np.sqrt(counts.max() / counts).clip(max=MOST_EVENT_WEIGHT)
                found[slot.name] = torch.from_numpy(weights).float()
        return found

    def _drawn_by_effect(self, num: int, num_later: int, generator: Generator) -> np.ndarray:
        """(num,) last steps of the contexts of segments that go on for num_later steps, counted without the episodes'
        last steps."""
        if num_later not in self._sums:
            begins = np.concatenate([[0], self.ends[:-1]])
            last = [np.minimum(np.arange(a, b - 1) + num_later, b - 1) for a, b in zip(begins, self.ends, strict=True)]
            self._sums[num_later] = np.cumsum(self.effects[np.concatenate(last)], dtype=np.float64)
        sums = self._sums[num_later]
        return np.searchsorted(sums, torch.rand(num, generator=generator, dtype=torch.float64).numpy() * sums[-1])

    @cached_property
    def _sums(self) -> dict[int, np.ndarray]:
        """By number of steps after the context, running sums of the effects of the last steps of all segments."""
        return {}

    def _steps(self, index: np.ndarray, exists: np.ndarray) -> Tensor:
        """Tokens (..., N) of the steps at indices (...), absent tokens where no step exists."""
        chosen = np.where(exists, index, 0)
        steps = np.empty((*index.shape, self.layout.num_tokens), np.int64)
        for array, slots in ((self.tokens, self.layout.token_slots), (self.values, self.layout.values_slots.values())):
            read, end = np.asarray(array)[chosen], 0
            for slot in slots:
                begin, end = end, end + slot.num_tokens
                steps[..., self.layout.span(slot.name)] = read[..., begin:end]
        tokens = torch.from_numpy(steps)
        if exists.all():
            return tokens
        return torch.where(torch.from_numpy(exists)[..., None], tokens, self.layout.absent_tokens)

    def _readout(self, index: np.ndarray) -> MemoryReadout:
        """The memory's readout (..., 2, ...) at the steps with indices (...)."""
        predicted = {name: torch.from_numpy(array[index].astype(np.int64)) for name, array in self.predicted.items()}
        features = None if self.features is None else torch.from_numpy(self.features[index])
        sources = None if self.sources is None else self.sources[index]
        steps = None if sources is None else self._steps(sources, sources >= 0)
        return MemoryReadout(predicted, steps, features=features)

    def segments_with_goals(
        self, num: int, num_steps: int, num_earlier: int, max_ahead: int, generator: Generator
    ) -> tuple[Segments, Tensor, Tensor]:
        """Random segments, a later step of each one's episode (num, N), and that step's index from the segment's first
        (num,): in half of them within the segment, in the others at most `max_ahead` steps after its end."""
        longer = self.segments(num, num_steps + max_ahead, num_earlier, generator)
        lengths = (longer.tokens != self.layout.absent_tokens).any(-1).sum(-1)
        is_within = torch.rand(num, generator=generator) < 0.5
        fraction = torch.rand(num, generator=generator)
        index = 1 + (fraction * torch.where(is_within, num_steps - 1, num_steps + max_ahead - 1)).long()
        index = index.minimum(lengths - 1)
        return longer.first(num_steps), longer.tokens[torch.arange(num), index], index


def token_dtype(layout: Layout) -> np.dtype:
    """The smallest dtype of the cache that holds every token of a layout, those that mean "absent" included."""
    largest = max(layout.absent_tokens.max().item(), max(slot.vocab_size for slot in layout.slots))
    return np.min_scalar_type(largest) if largest > np.iinfo(np.uint16).max else np.dtype(np.uint16)


def effects_of_actions(tokens: list[np.ndarray], values: list[np.ndarray], layout: Layout) -> np.ndarray:
    """How often each step (S,) of episodes of tokens (T, N without values) and values (T, Q) is drawn: half of the
    draws even, half by the median share of values that its action changes. Even where an action has several tokens.

    That changes nothing of what is predicted given the action, but more of the predictions are about what the actions
    do.
    """
    span = layout.role_span("action")
    actions = np.concatenate([episode[:, span.start] for episode in tokens])
    if span.stop - span.start > 1 or not layout.values_slots:
        return np.ones(len(actions), np.float32)
    noise = PIXEL_NOISE if values[0].dtype == np.uint8 else 0
    changed = [
        np.concatenate([[0], (np.abs(np.diff(episode.astype(np.int32), axis=0)) > noise).mean(1)]) for episode in values
    ]
    shares, effects = np.concatenate(changed), np.zeros(len(actions))
    for action in np.unique(actions):
        effects[actions == action] = np.median(shares[actions == action])
    mean = effects.mean()
    return (0.5 + 0.5 * effects / mean if mean > 0 else np.ones(len(actions))).astype(np.float32)


def _values_dtype(layout: Layout) -> np.dtype:
    """The smallest dtype that holds every value of a step that is there."""
    return np.min_scalar_type(max((slot.vocab_size - 1 for slot in layout.values_slots.values()), default=0))


def _read_array(path: Path, shape: tuple[int | None, ...], ends: np.ndarray) -> np.ndarray:
    """Map an array (steps of all episodes, *shape), of which None is any number."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        num_steps, *rest = array.shape or (0,)
        fits = len(rest) == len(shape) and all(size in (None, found) for size, found in zip(shape, rest, strict=True))
        if num_steps != ends[-1] or not fits or array.dtype.kind not in "iuf":
            raise ValueError(f"{array.dtype} of shape {array.shape} and not {(int(ends[-1]), *shape)}")
        return array
    except (OSError, ValueError, EOFError, TokenError) as error:  # the last of a header in another syntax
        raise unreadable(path, error, _remedy(path.parent)) from error


def _remedy(folder: Path) -> str:
    return f"remove the folder '{folder}' and run the same command again"


def _predicted_file(folder: Path, slot: str) -> Path:
    return folder / f"predicted_{slot.replace('/', '.')}.npy"


def encode_episode(episode: Episode, world: World) -> Tensor:
    """The tokens (T + 1, N) of a recorded episode."""
    return world.encode_episode(episode.observation, episode.action, episode.reward, episode.terminated)


def encode_dataset(
    dataset: Dataset, episodes: Sequence[int], world: World, stages: Stages, deadline: float | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The tokens (T + 1, N), of the cache's dtype, and the rewards (T,) of every given episode, or of as many as are
    encoded in ENCODING_SHARE of the time up to a moment of `time.monotonic`, at least MIN_ENCODED steps."""
    stages.begin("encoding")
    end = None if deadline is None else time.monotonic() + ENCODING_SHARE * (deadline - time.monotonic())
    num_steps = 0
    encoded = []
    for number, index in enumerate(episodes, start=1):
        episode = dataset.episode(index)
        encoded.append((encode_episode(episode, world).numpy().astype(token_dtype(world.layout)), episode.reward))
        stages.update(number / len(episodes), f"episode {number} of {len(episodes)}")
        num_steps += len(episode)
        is_late = end is not None and time.monotonic() > end and num_steps >= MIN_ENCODED
        if is_late and number < len(episodes):
            stages.note(f"Note: {number:,} of {len(episodes):,} episodes were encoded in the time for it.")
            break
    return encoded


def _return_tokens(reward: np.ndarray, world: World) -> np.ndarray:
    """(T,) rewards -> (T + 1,) tokens of the return after each step, the episode's first included."""
    sums = np.concatenate([[0.0], np.cumsum(reward, dtype=np.float64)])
    last = np.minimum(np.arange(len(sums)) + RETURN_STEPS, len(reward))
    return world.tokenizers["reward"].encode((sums[last] - sums).astype(np.float32))[:, 0]
