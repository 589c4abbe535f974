"""A dataset as tokens: made once, then read as memory-mapped files, so that the disk never holds training back."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from magrathea.data import Dataset
from magrathea.layout import Layout
from magrathea.world import World, absent_step

RETURN_STEPS = 64  # a prompt's return is the reward of so many steps to come


@dataclass(frozen=True)
class Segments:
    """tokens (B, T, N) int64, absent past an episode's end; returns (B, T); recalled (B, T, 2, C) or None."""

    tokens: Tensor
    returns: Tensor
    recalled: Tensor | None


@dataclass(frozen=True)
class TokenCache:
    """The tokens of some episodes, end to end.

    Attributes:
        tokens: (S, N) uint16, memory-mapped.
        returns: (S,) uint16, the token of the reward still to come within RETURN_STEPS after each step.
        ends: (E,) index just past the last step of each episode.
        recalled: (S, 2, C) uint16, memory-mapped, the pictures that the world's memory recalls at each step without
            and with its action; or None.
        layout: of the N tokens.
    """

    tokens: np.ndarray
    returns: np.ndarray
    ends: np.ndarray
    recalled: np.ndarray | None
    layout: Layout

    @classmethod
    def open(cls, folder: Path, layout: Layout) -> TokenCache:
        tokens = np.load(folder / "tokens.npy", mmap_mode="r")
        ends = np.array(json.loads((folder / "episodes.json").read_text())["ends"])
        recalled = folder / "recalled.npy"
        pictures = np.load(recalled, mmap_mode="r") if recalled.exists() else None
        return cls(tokens, np.load(folder / "returns.npy"), ends, pictures, layout)

    @classmethod
    def build(cls, dataset: Dataset, episodes: Sequence[int], world: World, folder: Path) -> TokenCache:
        """Encode these episodes into `folder`, unless it holds them already."""
        if not (folder / "episodes.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            tokens, returns, recalled = [], [], []
            for index in episodes:
                episode = dataset.episode(index)
                encoded = world.encode_episode(episode.observation, episode.action, episode.reward, episode.terminated)
                tokens.append(encoded.numpy().astype(np.uint16))
                returns.append(_return_tokens(episode.reward, world))
                pictures = world.memory.recall_episode(encoded)
                recalled += [] if pictures is None else [pictures.numpy().astype(np.uint16)]
            np.save(folder / "tokens.npy", np.concatenate(tokens))
            np.save(folder / "returns.npy", np.concatenate(returns))
            if recalled:
                np.save(folder / "recalled.npy", np.concatenate(recalled))
            ends = np.cumsum([len(part) for part in tokens]).tolist()
            partial = folder / "episodes.json.partial"
            partial.write_text(json.dumps({"ends": ends, "episodes": [int(index) for index in episodes]}))
            os.replace(partial, folder / "episodes.json")
        return cls.open(folder, world.layout)

    def segments(self, num: int, num_steps: int, generator: Generator) -> Segments:
        """Random segments of num_steps."""
        starts_of = np.concatenate([[0], self.ends[:-1]])
        lengths = self.ends - starts_of
        places = torch.randint(int((lengths - 1).sum()), (num,), generator=generator).numpy()
        episode = np.searchsorted(np.cumsum(lengths - 1), places, side="right")
        first = places + episode  # each episode before has one step that is no place to start
        index = first[:, None] + np.arange(num_steps)
        past_end = index >= self.ends[episode][:, None]
        index = np.minimum(index, self.ends[episode][:, None] - 1)
        tokens = torch.from_numpy(self.tokens[index].astype(np.int64))
        tokens[torch.from_numpy(past_end)] = absent_step(self.layout)
        recalled = None if self.recalled is None else torch.from_numpy(self.recalled[index].astype(np.int64))
        return Segments(tokens, torch.from_numpy(self.returns[index].astype(np.int64)), recalled)

    def later(self, num: int, num_steps: int, most_ahead: int, generator: Generator) -> tuple[Segments, Tensor]:
        """Segments, and for each a step (num, N) that came 1…most_ahead steps after its last one."""
        longer = self.segments(num, num_steps + most_ahead, generator)
        ahead = torch.randint(1, most_ahead + 1, (num,), generator=generator)
        goals = longer.tokens[torch.arange(num), num_steps - 1 + ahead]
        recalled = None if longer.recalled is None else longer.recalled[:, :num_steps]
        return Segments(longer.tokens[:, :num_steps], longer.returns[:, :num_steps], recalled), goals


def _return_tokens(reward: np.ndarray, world: World) -> np.ndarray:
    """(T,) rewards -> (T + 1,) tokens of the reward still to come at each step, the episode's first included."""
    sums = np.concatenate([[0.0], np.cumsum(reward, dtype=np.float64)])
    last = np.minimum(np.arange(len(sums)) + RETURN_STEPS, len(reward))
    return world.tokenizers["reward"].encode((sums[last] - sums).astype(np.float32))[:, 0].astype(np.uint16)
