"""An episode: what was seen, done and given, as arrays; and its place in a file of Minari's HDF5 format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from magrathea.files import atomic_write

if TYPE_CHECKING:
    import h5py  # imported when a file is written: playing beside reality needs none

CHUNK_BYTES = 1 << 18
FEW_BYTES = 1 << 14  # arrays of less are not worth compressing


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
    infos: dict[str, Any] = field(default_factory=dict)
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


def save_episode(episode: Episode, path: Path) -> None:
    """Write an episode's own file in one step, so that it is either whole or not there."""
    import h5py

    with atomic_write(path) as fresh, h5py.File(fresh, "w") as file:
        group = file.create_group("episode")
        group.attrs.update({"seed": episode.seed, "total_steps": len(episode)})
        _write(group, "observations", episode.observation)
        _write(group, "actions", episode.action)
        _write(group, "rewards", episode.reward)
        _write(group, "terminations", episode.terminated)
        _write(group, "truncations", episode.truncated)
        _write(group, "infos", episode.infos)


def episode_length(path: Path) -> int | None:
    """The number of steps in an episode's own file; None if it is damaged."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return int(file["episode"].attrs["total_steps"])
    except (OSError, KeyError):
        return None


def merge_episodes(paths: list[Path], target: Path) -> int:
    """Copy episodes' own files, compressed as they are, into one file of Minari's; returns the number of steps."""
    import h5py

    num_steps = 0
    with h5py.File(target, "w", track_order=True) as merged:
        for index, path in enumerate(paths):
            with h5py.File(path, "r") as file:
                file.copy("episode", merged, name=f"episode_{index}")
            attributes = merged[f"episode_{index}"].attrs
            attributes["id"] = index
            num_steps += int(attributes["total_steps"])
    return num_steps


def _write(group: h5py.Group, name: str, values: Any) -> None:
    """Nested arrays -> groups and compressed arrays, named as Minari names them; lossless."""
    if isinstance(values, Mapping):
        parts = values.items()
    elif isinstance(values, tuple):
        parts = ((f"_index_{place}", value) for place, value in enumerate(values))
    elif values.nbytes < FEW_BYTES:
        group.create_dataset(name, data=values)
        return
    else:
        num_rows = max(1, min(len(values), CHUNK_BYTES * len(values) // values.nbytes))
        chunks = (num_rows, *values.shape[1:])
        group.create_dataset(name, data=values, chunks=chunks, compression="gzip", compression_opts=1)
        return
    subgroup = group.create_group(name)
    for key, value in parts:
        _write(subgroup, key, value)
