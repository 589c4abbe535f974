"""A dataset of episodes: a folder in Minari's format."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import msgspec
import numpy as np

from magrathea.data.episode import Episode, merge_episodes
from magrathea.errors import MagratheaError, one_line
from magrathea.files import read_json
from magrathea.sounds import SOUND_RATES, with_sounds
from magrathea.spaces import checked_batch, map_leaves

if TYPE_CHECKING:
    from minari import MinariDataset  # optional; imported when a dataset is opened

METADATA_FILE_NAME = "metadata.json"  # of Minari, in the folder of the data
EPISODES_FILE_NAME = "main_data.hdf5"  # likewise
OWN_METADATA = "magrathea"  # key of ours in Minari's metadata: env_id, env_kwargs, fps, action_names, key_map, …


REWARD = gymnasium.spaces.Box(-np.inf, np.inf, (), np.float32)
FLAG = gymnasium.spaces.Box(0, 1, (), np.uint8)


class Dataset:
    """Episodes on disk, read one at a time.

    Attributes:
        env_id: Gymnasium id of the environment that they come from, "" if not known.
        observation_space, action_space: of that environment.
        metadata: env_id, env_kwargs, and what the environment says of itself: fps, action_names, key_map, sound_rates.
    """

    def __init__(self, minari: MinariDataset, folder: Path) -> None:
        self._minari, self.folder = minari, folder
        raw = _read_metadata(Path(minari.storage.data_path))
        self.metadata: dict[str, Any] = raw.get(OWN_METADATA) or {}
        spec = json.loads(raw.get("env_spec") or "{}")
        self.env_id: str = str(self.metadata.get("env_id") or spec.get("id", ""))
        self.fingerprint = hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()[:16]

    @classmethod
    def open(cls, folder: str | Path) -> Dataset:
        """Open a dataset's folder; raises MagratheaError where there is none or it is damaged."""
        folder = Path(folder)
        places = [place for place in (folder / "data", folder) if (place / METADATA_FILE_NAME).exists()]
        if not places:
            begun = (folder / ".collecting").exists()
            what = f"The recording of '{folder}' is not finished" if begun else f"No dataset in '{folder}'"
            how = "go on with the same 'magrathea collect'" if begun else "record one with 'magrathea collect'"
            raise MagratheaError(f"{what}; {how}.")
        try:
            from minari import MinariDataset
        except ImportError as error:
            raise MagratheaError(
                f"Reading datasets needs the package '{error.name}'; install it with 'pip install magrathea[train]'."
            ) from error
        _read_metadata(places[0])
        try:
            return cls(MinariDataset(places[0]), folder)
        except MagratheaError:
            raise
        except Exception as error:  # of Minari and h5py, which raise anything for files that they did not write
            raise MagratheaError(
                f"Dataset '{folder}' is damaged or foreign ({one_line(error)}); record it again."
            ) from error

    @cached_property
    def observation_space(self) -> gymnasium.Space:
        rates = self.metadata.get(SOUND_RATES)
        return with_sounds(self._minari.observation_space, rates, f"The metadata of dataset '{self.folder}'")

    @property
    def action_space(self) -> gymnasium.Space:
        return self._minari.action_space

    @property
    def num_steps(self) -> int:
        return int(self._minari.total_steps)

    def __len__(self) -> int:
        """Number of episodes."""
        return int(self._minari.total_episodes)

    @cached_property
    def _about(self) -> list[tuple[int, int]]:
        """(seed, number of steps) of every episode."""
        try:
            found = self._minari.storage.get_episode_metadata(range(len(self)))
            return [(int(each.get("seed") or 0), int(each["total_steps"])) for each in found]
        except Exception as error:  # of Minari and h5py, as above
            raise MagratheaError(f"'{self.folder}' is damaged ({one_line(error)}); record it again.") from error

    @property
    def lengths(self) -> list[int]:
        """The number of steps of every episode."""
        return [length for _, length in self._about]

    def episode(self, index: int) -> Episode:
        """Read one episode; raises IndexError beyond the last, MagratheaError if its data are damaged or not in their
        spaces."""
        if not 0 <= index < len(self):
            raise IndexError(f"Dataset '{self.folder}' has {len(self)} episodes, no number {index}.")
        try:
            data = self._minari[int(index)]
            seed, _ = self._about[index]
        except Exception as error:  # of Minari and h5py, as above
            raise MagratheaError(
                f"Episode {index} of '{self.folder}' is damaged ({one_line(error)}); record it again."
            ) from error
        length, what = np.size(data.rewards), f"Episode {index} of '{self.folder}'"
        if not length:
            raise MagratheaError(f"{what} has no steps; record it again.")
        return Episode(
            observation=_checked(self.observation_space, data.observations, length + 1, f"{what}, observation"),
            action=_checked(self.action_space, data.actions, length, f"{what}, action"),
            reward=_checked(REWARD, data.rewards, length, f"{what}, reward"),
            terminated=_checked(FLAG, data.terminations, length, f"{what}, termination").astype(bool),
            truncated=_checked(FLAG, data.truncations, length, f"{what}, truncation").astype(bool),
            infos=dict(data.infos or {}),
            seed=seed,
        )

    def split(self, held_out: float = 0.05, seed: int = 0) -> tuple[list[int], list[int]]:
        """Indices of the episodes to train on, of which there is at least one, and of those held out; at least one of
        them too, unless `held_out` is 0."""
        num_held_out = max(1, round(held_out * len(self))) if held_out else 0
        if num_held_out >= len(self):
            raise MagratheaError(
                f"Dataset '{self.folder}' has {len(self)} episodes, and {num_held_out} of them would be held out; "
                "record more."
            )
        order = np.random.default_rng(seed).permutation(len(self))
        return sorted(order[num_held_out:].tolist()), sorted(order[:num_held_out].tolist())


def _checked(space: gymnasium.Space, values: Any, length: int, what: str) -> Any:
    return map_leaves(lambda leaf, part: checked_batch(leaf, part, length, what), space, values, what)


class _Metadata(msgspec.Struct):
    """What is read of Minari's metadata, which may hold more."""

    magrathea: dict[str, Any] | None = None
    env_spec: str | None = None


def _read_metadata(data: Path) -> dict[str, Any]:
    """The metadata of a dataset; raises MagratheaError where the file is damaged."""
    remedy = "copy the dataset again, or record it again"
    read_json(data / METADATA_FILE_NAME, _Metadata, remedy)
    return read_json(data / METADATA_FILE_NAME, dict[str, Any], remedy)


def write_dataset(
    folder: Path,
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    paths: list[Path],
    dataset_id: str,
    metadata: dict[str, Any],
) -> int:
    """Write a Minari dataset into an empty folder; returns the number of steps.

    Args:
        paths: of its episodes, see `merge_episodes`.
        dataset_id: "name/of-what-v0", of which all but letters, digits and "/" becomes "-".
        metadata: of ours; "steps" is set where it is missing.
    """
    import minari
    from minari.dataset.minari_storage import MinariStorage

    storage = MinariStorage.new(folder, observation_space, action_space, jpeg_encoding=False)
    num_episodes, num_steps = merge_episodes(paths, folder / EPISODES_FILE_NAME)
    name = "/".join(_plain(part) or "data" for part in dataset_id.split("/"))
    storage.update_metadata(
        {
            "dataset_id": name,
            "minari_version": minari.__version__,
            "total_episodes": num_episodes,
            "total_steps": num_steps,
            "dataset_size": float(storage.get_size()),
            OWN_METADATA: {"steps": num_steps} | metadata,
        }
    )
    return num_steps


def _plain(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text.lower()).strip("-")


def merge_datasets(folders: Sequence[str | Path], out: str | Path) -> Dataset:
    """Write the episodes of several datasets of one environment, in their order, as one dataset, atomically; one that
    is there already stays as it is. Its metadata are those of the first, with the number of steps of all."""
    out, parts = Path(out), [Dataset.open(folder) for folder in folders]
    if not (out / "data" / METADATA_FILE_NAME).exists():
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".merging-", dir=out) as work:
            paths = [part.folder / "data" / EPISODES_FILE_NAME for part in parts]
            first, fresh = parts[0], Path(work) / "data"
            fresh.mkdir()
            about = {**first.metadata, "steps": sum(part.num_steps for part in parts)}
            name = f"{first.env_id.replace('/', '-')}/merged-v0"
            write_dataset(fresh, first.observation_space, first.action_space, paths, name, about)
            fresh.replace(out / "data")
    return Dataset.open(out)
