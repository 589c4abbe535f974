"""The worlds of the rounds of learning: for how long one is trained, and whether the next goes on from it."""

from __future__ import annotations

import gymnasium
import numpy as np
import optree

from magrathea.data import Dataset
from magrathea.spaces import is_image, leaf_spaces_of
from magrathea.tokenizers import Tokenizer
from magrathea.world import World

PASSES, LEAST_STEPS = 40, 200_000  # most of a world that could learn its recordings by heart: passes, steps trained
KNOWN_ERROR = 0.05  # of the range of rewards or of a number, up to which a world's tokens tell it
KNOWN = 0.999  # share of the numbers that they must tell


def most_passes(dataset: Dataset) -> float | None:
    """Most passes over its steps that a world is trained for: numbers and choices alone are soon learned by heart."""
    leaves = [leaf for _, leaf in leaf_spaces_of(dataset.observation_space)]
    if any(is_image(leaf) or isinstance(leaf, gymnasium.spaces.Text) for leaf in leaves):
        return None
    return max(PASSES, LEAST_STEPS / dataset.num_steps)


def knows(world: World, dataset: Dataset) -> bool:
    """Whether a world's tokens tell all recorded rewards, and nearly all observed numbers and texts."""
    episodes = [dataset.episode(number) for number in range(len(dataset))]
    rewards, tokenizer = np.unique(np.concatenate([each.reward for each in episodes])), world.tokenizers["reward"]
    if _share_known(tokenizer.decode(tokenizer.encode(rewards)), rewards) < 1:
        return False
    tokenizers = world.tokenizers["observation"].leaves
    for place, (key, leaf) in enumerate(leaf_spaces_of(world.observation_space)):
        if _is_told_apart(leaf):
            recorded = [optree.tree_leaves(each.observation)[place] for each in episodes]
            told = [_as_told(tokenizers[key], values) for values in recorded]
            if _share_known(np.concatenate(told), np.concatenate(recorded)) <= KNOWN:
                return False
    return True


def _as_told(tokenizer: Tokenizer, values: np.ndarray) -> np.ndarray:
    """Values (T, …) of an episode as their tokens tell them, each given the one before."""
    tokens = [tokenizer.encode(values[:1]), tokenizer.encode(values[1:], values[:-1])]
    return tokenizer.decode(np.concatenate(tokens))


def _is_told_apart(leaf: gymnasium.Space) -> bool:
    is_numbers = isinstance(leaf, gymnasium.spaces.Box) and leaf.dtype.kind == "f"
    return is_numbers or isinstance(leaf, gymnasium.spaces.Text)


def _share_known(decoded: np.ndarray, values: np.ndarray) -> float:
    """The share of values (T, …) that are decoded to within a part of their range over time, of texts exactly."""
    if values.dtype == object:
        return float((decoded == values).mean())
    return float((np.abs(decoded - values) <= KNOWN_ERROR * np.ptp(values, axis=0) + 1e-6).mean())
