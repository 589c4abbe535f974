"""A folder of `.npz` files, an episode in each."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from magrathea.data.arrays import ActionPart, ObservationPart, Seen, joined, joined_space
from magrathea.data.episode import Episode
from magrathea.data.foreign import DEFAULT_FPS, Reader, Report
from magrathea.errors import MagratheaError, one_line
from magrathea.spaces import is_name

OBSERVATIONS = (
    "observations", "observation", "obs", "image", "images", "frames", "pixels", "rgb", "state", "states",
)  # fmt: skip
ACTIONS = ("actions", "action", "act")
REWARDS = ("rewards", "reward", "rew")
ENDINGS = ("terminations", "terminated", "terminals", "terminal", "is_terminal", "dones", "done")
TRUNCATIONS = ("truncations", "truncated", "timeouts")  # which "done" may count too
FIRST = "is_first"  # of Dreamer's files, in which an action stands at the observation that it led to


@dataclass
class _Steps:
    """What a file holds: T + 1 observations, by name, and what came between them."""

    observations: dict[str, np.ndarray]
    action: np.ndarray | None
    reward: np.ndarray
    terminated: np.ndarray


def has_npz(folder: Path) -> bool:
    """Whether a folder holds .npz files, at any depth."""
    return any(folder.rglob("*.npz"))


@dataclass
class NpzReader(Reader):
    """The episodes of a folder of .npz files, at any depth, in the order of their names.

    Of the options the size of pictures and the rate are used.
    """

    files: list[Path] = field(init=False, default_factory=list)
    can_part = False

    def __post_init__(self) -> None:
        seen: dict[str, Seen] = {}
        for path in sorted(self.folder.rglob("*.npz")):
            try:
                self._look_at(path, seen)
                self.files.append(path)
            except MagratheaError as error:
                self.note(f"'{path}' is left out: {error}.")
        if not self.files:
            raise MagratheaError(
                f"'{self.folder}' holds no .npz file that can be read; a file holds an episode, with the arrays "
                "observation, action and, where there are some, reward and terminated."
            )
        self._parts = {name: ObservationPart(each, self.asked_size) for name, each in seen.items() if name != "action"}
        self._action = ActionPart(seen.get("action"))

    def _look_at(self, path: Path, seen: dict[str, Seen]) -> None:
        """Add the values of a file; raises MagratheaError where it does not fit the ones before."""
        steps = _read(path)
        found = {name: Seen.of(values, f"'{name}'") for name, values in steps.observations.items()}
        if steps.action is not None:
            found["action"] = Seen.of(steps.action, "its action")
        if seen and set(found) != set(seen):
            raise MagratheaError(f"it holds {', '.join(sorted(found))} where others hold {', '.join(sorted(seen))}")
        before = {name: Seen(**vars(each)) for name, each in seen.items()}
        try:
            for name, each in found.items():
                if name in seen:
                    seen[name].add(each, f"'{name}'")
                else:
                    seen[name] = each
        except MagratheaError:
            seen.clear()
            seen.update(before)
            raise

    @property
    def observation_space(self) -> spaces.Space:
        return joined_space({name: part.space for name, part in self._parts.items()})

    @property
    def action_space(self) -> spaces.Space:
        return self._action.space

    @property
    def metadata(self) -> dict[str, Any]:
        names = ["noop"] if self._action.space == spaces.Discrete(1) else []
        about = f"Recorded episodes of '{self.folder.name}'."
        return {"fps": self.options.fps or DEFAULT_FPS, "action_names": names, "key_map": {}, "description": about}

    def episodes(self, report: Report) -> Iterator[Episode]:
        for number, path in enumerate(self.files):
            report(number / len(self.files), path.name)
            steps = _read(path)
            parts = {
                name: part.convert(steps.observations[name], f"'{name}' of '{path}'")
                for name, part in self._parts.items()
            }
            length = len(steps.reward)
            yield Episode(
                observation=joined(parts),
                action=self._action.convert(steps.action, length),
                reward=steps.reward,
                terminated=steps.terminated,
                truncated=(np.arange(length) == length - 1) & ~steps.terminated,
            )


def _read(path: Path) -> _Steps:
    """The steps of a file; raises MagratheaError, in words that follow the file's name, where it cannot be read."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, KeyError, TypeError) as error:
        raise MagratheaError(f"it cannot be read ({one_line(error, 200).rstrip('.')})") from error
    observations = _observations(arrays)
    if not observations:
        known = ", ".join(sorted(arrays)) or "nothing"
        raise MagratheaError(f"it holds {known}, and no 'observation' or 'image'")
    return _aligned(observations, arrays)


def _observations(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of observations by name: "observation", or "image" of "image", "observation.image", "obs/image"."""
    found = {}
    for key, array in arrays.items():
        first, _, rest = key.replace("/", ".").partition(".")
        if first in OBSERVATIONS and array.ndim:
            name = rest if rest and first in OBSERVATIONS[:3] else key.replace("/", ".")
            found[name if is_name(name) else f"part {len(found)}"] = array
    return found


def _aligned(observations: dict[str, np.ndarray], arrays: Mapping[str, np.ndarray]) -> _Steps:
    """Observations and what came between them: of T + 1 observations as many actions, of which the last led nowhere, or
    one less."""
    lengths = {name: len(values) for name, values in observations.items()}
    (num, *others) = set(lengths.values())
    if others or num < 2:
        raise MagratheaError(f"its observations have lengths {lengths}; it takes one of 2 or more")
    between: dict[str, np.ndarray | None] = {}
    roles = {"action": ACTIONS, "reward": REWARDS, "ending": ENDINGS, "truncation": TRUNCATIONS}
    for role, names in roles.items():
        array = next((arrays[name] for name in names if name in arrays), None)
        if array is not None and (array.ndim == 0 or len(array) not in (num - 1, num)):
            raise MagratheaError(f"its {role} has shape {array.shape} for {num} observations")
        if array is not None and len(array) == num:
            array = array[1:] if FIRST in arrays else array[:-1]
        between[role] = array
    reward, ending = between["reward"], between["ending"]
    flat = np.zeros(num - 1, np.float32) if reward is None else reward.reshape(num - 1, -1).sum(axis=1)
    ended = np.zeros(num - 1, bool) if ending is None else np.any(ending.reshape(num - 1, -1), axis=1)
    cut = between["truncation"]
    if cut is not None:
        ended = np.logical_and(ended, ~np.any(cut.reshape(num - 1, -1), axis=1))
    if not np.isfinite(flat).all():
        raise MagratheaError("its reward holds NaN or infinite numbers")
    last = np.flatnonzero(ended)
    stop = int(last[0]) + 1 if len(last) else num - 1  # what comes after an ending is another episode
    action = between["action"]
    return _Steps(
        {name: values[: stop + 1] for name, values in observations.items()},
        None if action is None else action[:stop],
        flat[:stop].astype(np.float32),
        ended[:stop],
    )
