"""An episode as arrays, and its file in Minari's HDF5 format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optree

from magrathea.files import atomic_write, require_space, unreadable

if TYPE_CHECKING:
    import h5py  # optional; imported when a file is written

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

    def first(self, num_steps: int) -> Episode:
        """The first steps, all of them where there are no more."""
        cut = slice(num_steps + 1)
        infos: Any = self.infos
        return replace(
            self,
            observation=optree.tree_map(lambda part: part[cut], self.observation),
            action=optree.tree_map(lambda part: part[:num_steps], self.action),
            reward=self.reward[:num_steps],
            terminated=self.terminated[:num_steps],
            truncated=self.truncated[:num_steps],
            infos=optree.tree_map(lambda part: part[cut], infos),
        )


def save_episode(episode: Episode, path: Path) -> None:
    """Write one episode into a file, atomically: first in memory, since HDF5 reports a full disk many times."""
    import h5py

    with atomic_write(path) as fresh, h5py.File(fresh, "w", driver="core", backing_store=False) as file:
        group = file.create_group("episode")
        group.attrs.update({"seed": episode.seed, "total_steps": len(episode)})
        _write(group, "observations", episode.observation)
        _write(group, "actions", episode.action)
        _write(group, "rewards", episode.reward)
        _write(group, "terminations", episode.terminated)
        _write(group, "truncations", episode.truncated)
        _write(group, "infos", episode.infos)
        file.flush()
        fresh.write_bytes(file.id.get_file_image())


def episode_length(path: Path) -> int | None:
    """The number of steps in the file of one episode; None if it is damaged."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            length = int(file["episode"].attrs["total_steps"])
            return length if file["episode/rewards"].shape == (length,) else None
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError):
        return None


def merge_episodes(paths: list[Path], target: Path) -> tuple[int, int]:
    """Copy the episodes of files, still compressed, into one of Minari's; returns the numbers of episodes and of steps.

    Args:
        paths: of files of single episodes, or of the episodes of a dataset.

    Raises MagratheaError where the disk has too little space.
    """
    import h5py

    num_episodes = num_steps = 0
    require_space(target, sum(path.stat().st_size for path in paths))
    with h5py.File(target, "w", track_order=True) as merged:
        for path in paths:
            try:
                with h5py.File(path, "r") as file:
                    for name in sorted(file, key=lambda name: int(name.partition("_")[2] or 0)):
                        copied = f"episode_{num_episodes}"
                        file.copy(name, merged, name=copied)
                        merged[copied].attrs["id"] = num_episodes
                        num_episodes += 1
                        num_steps += int(merged[copied].attrs["total_steps"])
            except (OSError, KeyError, ValueError, RuntimeError) as error:
                raise unreadable(
                    path, error, "remove it and run the same command again, which plays it anew"
                ) from error
    return num_episodes, num_steps


def _write(group: h5py.Group, name: str, values: Any) -> None:
    """Write arrays, or dicts and tuples of such, without loss, under the names that Minari gives them."""
    if isinstance(values, Mapping | tuple):
        group.create_group(name)
    tree: Any = values
    paths, arrays, _ = optree.tree_flatten_with_path(tree)
    for path, array in zip(paths, arrays, strict=True):
        parts = [f"_index_{key}" if isinstance(key, int) else str(key) for key in path]
        _write_array(group, "/".join([name, *parts]), array)


def _write_array(group: h5py.Group, name: str, array: np.ndarray) -> None:
    import h5py

    if array.dtype == object:  # texts
        group.create_dataset(name, data=array, dtype=h5py.string_dtype())
        return
    if array.nbytes < FEW_BYTES:
        group.create_dataset(name, data=array)
        return
    num_steps = max(1, min(len(array), CHUNK_BYTES * len(array) // array.nbytes))
    chunks = (num_steps, *array.shape[1:])
    group.create_dataset(name, data=array, chunks=chunks, compression="gzip", compression_opts=1)
