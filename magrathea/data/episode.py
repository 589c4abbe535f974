"""An episode: what was seen, done and given, as arrays; and as a file of its own while a dataset is being recorded."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from magrathea.errors import MagratheaError


@dataclass(frozen=True)
class Episode:
    """T steps of an environment.

    Attributes:
        observation: (T + 1, *shape); a dict or tuple of such for composite spaces.
        action: (T, *shape); likewise.
        reward: (T,) float32.
        terminated, truncated: (T,) bool.
        infos: privileged state by name, (T + 1, …); for evaluation only.
        seed: of the reset and of the policy.
    """

    observation: Any
    action: Any
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    infos: dict[str, np.ndarray] = field(default_factory=dict)
    seed: int = 0

    def __len__(self) -> int:
        return len(self.reward)


def stack(values: list[Any]) -> Any:
    """A list of values of a space -> arrays with the list as their first dimension."""
    first = values[0]
    if isinstance(first, Mapping):
        return {key: stack([value[key] for value in values]) for key in first}
    if isinstance(first, tuple):
        return tuple(stack([value[place] for value in values]) for place in range(len(first)))
    return np.stack([np.asarray(value) for value in values])


def flatten(values: Any, prefix: str) -> dict[str, np.ndarray]:
    """Nested arrays -> flat names; a tuple's places are written as #0, #1, …"""
    if isinstance(values, Mapping):
        parts = [(f"{prefix}/{key}", value) for key, value in values.items()]
    elif isinstance(values, tuple):
        parts = [(f"{prefix}/#{place}", value) for place, value in enumerate(values)]
    else:
        return {prefix: np.asarray(values)}
    return {name: array for path, value in parts for name, array in flatten(value, path).items()}


def unflatten(arrays: Mapping[str, np.ndarray], prefix: str) -> Any:
    """The inverse of `flatten`."""
    if prefix in arrays:
        return arrays[prefix]
    depth = len(prefix) + 1
    keys = dict.fromkeys(name[depth:].split("/")[0] for name in arrays if name.startswith(prefix + "/"))
    parts = {key: unflatten(arrays, f"{prefix}/{key}") for key in keys}
    return tuple(parts.values()) if keys and all(key.startswith("#") for key in keys) else parts


def save_episode(episode: Episode, path: Path) -> None:
    """Write the episode's file in one step, so that it is either whole or not there."""
    arrays = flatten(episode.observation, "observation") | flatten(episode.action, "action")
    arrays |= flatten(episode.infos, "infos")
    arrays |= {"reward": episode.reward, "terminated": episode.terminated, "truncated": episode.truncated}
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, seed=np.int64(episode.seed), **arrays)  # type: ignore[arg-type]
    os.replace(partial, path)


def load_episode(path: Path) -> Episode:
    """Read what `save_episode` wrote; raises MagratheaError if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        infos = unflatten(arrays, "infos")
        return Episode(
            unflatten(arrays, "observation"),
            unflatten(arrays, "action"),
            *(arrays[name] for name in ("reward", "terminated", "truncated")),
            infos=infos,
            seed=int(arrays["seed"]),
        )
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise MagratheaError(f"Recorded episode '{path}' is damaged ({error}); remove it and collect again.") from error
