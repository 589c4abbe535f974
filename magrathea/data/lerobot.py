"""LeRobot datasets (format v3) on disk: steps in parquet files, cameras in mp4 files or in the steps."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from gymnasium import spaces
from PIL import Image

from magrathea.data.arrays import ActionPart, ObservationPart, Seen, joined, joined_space
from magrathea.data.episode import Episode
from magrathea.data.foreign import DEFAULT_FPS, Reader, Report
from magrathea.errors import MagratheaError, one_line
from magrathea.files import read_json
from magrathea.spaces import is_name

INFO = Path("meta") / "info.json"
OBSERVATION, ACTION = "observation.", "action"
REWARD, DONE = "next.reward", "next.done"
CAMERAS = ("video", "image")
Row = Mapping[str, Any]


class _Feature(msgspec.Struct):
    dtype: str
    shape: list[int]


class _Info(msgspec.Struct):
    """What is read of meta/info.json, which holds more."""

    codebase_version: str
    fps: float
    features: dict[str, _Feature]


def is_lerobot(folder: Path) -> bool:
    """Whether a folder holds a LeRobot dataset, of any version."""
    return (folder / INFO).is_file()


@dataclass
class LeRobotReader(Reader):
    """The episodes of a LeRobot dataset: one camera, and the other observations that are numbers.

    Of the options the rate, the size of pictures and the camera are used; the first camera, if none is named.
    """

    info: _Info = field(init=False)
    can_part = False

    def __post_init__(self) -> None:
        self.info = read_json(self.folder / INFO, _Info, "copy the dataset again")
        if not self.info.codebase_version.startswith("v3") or not 0 < self.info.fps <= 1000:
            raise MagratheaError(
                f"'{self.folder}' is a LeRobot dataset of format {self.info.codebase_version[:20]!r} at "
                f"{self.info.fps:g} frames a second; convert it to v3.0 with LeRobot's own script."
            )
        self._camera = self._chosen_camera()
        self._every = max(1, round(self.info.fps / (self.options.fps or min(DEFAULT_FPS, self.info.fps))))
        self._episodes = self._read_all("meta/episodes")
        self._tables: dict[Path, dict[str, list[Any]]] = {}
        self._look_at_steps()

    def _chosen_camera(self) -> str | None:
        cameras = [name for name, each in self.info.features.items() if each.dtype in CAMERAS and is_name(name)]
        asked = self.options.camera
        fitting = [name for name in cameras if asked is None or asked in (name, name.rpartition(".")[2])]
        if asked is not None and not fitting:
            known = ", ".join(name.rpartition(".")[2] for name in cameras) or "none"
            raise MagratheaError(f"'{self.folder}' has no camera '{asked}'; it has {known}.")
        others = [name for name in cameras if name != fitting[0]] if fitting else []
        if others:
            self.note(f"Of the cameras {fitting[0]} is used, and not {', '.join(others)}; --camera names another.")
        return fitting[0] if fitting else None

    def _look_at_steps(self) -> None:
        """Find the parts of an episode, and what values they have in all."""
        seen: dict[str, Seen] = {}
        numbers = [
            name
            for name, each in self.info.features.items()
            if (name.startswith(OBSERVATION) or name == ACTION) and each.dtype not in (*CAMERAS, "string")
        ]
        for row in self._episodes:
            steps = self._steps(row)
            for name in numbers:
                found = Seen.of(_array(steps, name), f"'{name}' of '{self.folder}'")
                if name in seen:
                    seen[name].add(found, f"'{name}' of '{self.folder}'")
                else:
                    seen[name] = found
        if not self._episodes:
            raise MagratheaError(f"'{self.folder}' has no episodes; copy the dataset again.")
        if self._camera is not None:
            first = next(self._pictures(self._episodes[0], np.zeros(1)))
            seen[self._camera] = Seen.of(first[None], f"'{self._camera}'")
        self._parts = {name: ObservationPart(each, self.asked_size) for name, each in seen.items() if name != ACTION}
        if not self._parts:
            raise MagratheaError(f"'{self.folder}' has no observations that are pictures or numbers.")
        self._action = ActionPart(seen.get(ACTION))

    # -- the dataset --------------------------------------------------------------------------------------------------
    @property
    def observation_space(self) -> spaces.Space:
        return joined_space({self._key(name): part.space for name, part in self._parts.items()})

    def _key(self, name: str) -> str:
        return "image" if name == self._camera else name.removeprefix(OBSERVATION)

    @property
    def action_space(self) -> spaces.Space:
        return self._action.space

    @property
    def metadata(self) -> dict[str, Any]:
        fps = round(self.info.fps / self._every, 2)
        about = f"Episodes of the LeRobot dataset '{self.folder.name}'."
        names = ["noop"] if self._action.space == spaces.Discrete(1) else []
        return {"fps": fps, "action_names": names, "key_map": {}, "description": about}

    def episodes(self, report: Report) -> Iterator[Episode]:
        """Every step-th frame of each episode; rewards between are added up, and the action is that of the frame."""
        for number, row in enumerate(self._episodes):
            report(number / len(self._episodes), f"episode {number} of {len(self._episodes)}")
            try:
                yield self._episode(row)
            except MagratheaError as error:
                self.note(f"Episode {row.get('episode_index', number)} is left out: {error}")

    def _episode(self, row: Row) -> Episode:
        steps = self._steps(row)
        times = _array(steps, "timestamp").astype(np.float64).reshape(-1)
        kept = np.arange(0, len(times), self._every)
        num_steps = len(kept) - 1
        if num_steps < 1:
            raise MagratheaError(f"it has {len(times)} frames.")
        parts = {}
        for name, part in self._parts.items():
            if name == self._camera:
                values = np.stack([part.convert(frame[None], name)[0] for frame in self._pictures(row, times[kept])])
            else:
                values = part.convert(_array(steps, name)[kept], name)
            parts[self._key(name)] = values
        action = _array(steps, ACTION)[kept[:-1]] if ACTION in steps else None
        reward = np.zeros(num_steps, np.float32)
        if REWARD in steps:
            given = _array(steps, REWARD).astype(np.float32).reshape(-1)
            reward = np.add.reduceat(given[: kept[-1]], kept[:-1]).astype(np.float32)
        is_done = DONE in steps and bool(_array(steps, DONE).reshape(-1)[-1]) and REWARD in steps
        terminated = (np.arange(num_steps) == num_steps - 1) & is_done
        return Episode(
            observation=joined(parts),
            action=self._action.convert(action, num_steps),
            reward=reward,
            terminated=terminated,
            truncated=(np.arange(num_steps) == num_steps - 1) & ~terminated,
        )

    # -- files --------------------------------------------------------------------------------------------------------
    def _steps(self, row: Row) -> dict[str, list[Any]]:
        """The columns of the steps of an episode."""
        path = self.folder / "data" / _file(row, "data", ".parquet")
        if path not in self._tables:
            self._tables = {path: _columns(path)}  # episodes are in order, so one file at a time is kept
        table = self._tables[path]
        own = [index for index, episode in enumerate(table["episode_index"]) if episode == row["episode_index"]]
        if not own:
            raise MagratheaError(f"'{path}' holds no steps of episode {row['episode_index']}; copy the dataset again.")
        return {name: values[own[0] : own[-1] + 1] for name, values in table.items()}

    def _read_all(self, folder: str) -> list[Row]:
        rows = []
        for path in sorted((self.folder / folder).rglob("*.parquet")):
            table = _columns(path)
            rows += [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
        return rows

    def _pictures(self, row: Row, times: np.ndarray) -> Iterator[np.ndarray]:
        """The frames (height, width, 3) of the camera at some moments of an episode."""
        camera = self._camera
        assert camera is not None
        if self.info.features[camera].dtype == "image":
            steps = self._steps(row)
            moments = _array(steps, "timestamp").reshape(-1)
            for time in times:
                yield _decoded(steps[camera][int(np.abs(moments - time).argmin())])
            return
        path = self.folder / "videos" / camera / _file(row, f"videos/{camera}", ".mp4")
        yield from _frames_at(path, times + float(row[f"videos/{camera}/from_timestamp"]), 1 / self.info.fps)


def _file(row: Row, prefix: str, ending: str) -> str:
    """The path of a file that an episode is in, below its folder."""
    try:
        chunk, file = (int(row[f"{prefix}/{name}_index"]) for name in ("chunk", "file"))
    except (KeyError, TypeError, ValueError) as error:
        raise MagratheaError(
            f"An episode does not say which file of {prefix} it is in; copy the dataset again."
        ) from error
    return f"chunk-{chunk:03d}/file-{file:03d}{ending}"


def _columns(path: Path) -> dict[str, list[Any]]:
    """The columns of a parquet file as lists; raises MagratheaError where it cannot be read."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MagratheaError(
            "Reading LeRobot datasets needs the package 'pyarrow'; install it with 'pip install magrathea[lerobot]'."
        ) from error
    try:
        return pyarrow.parquet.read_table(path).to_pydict()
    except (OSError, pyarrow.ArrowException, ValueError) as error:
        raise MagratheaError(f"'{path}' cannot be read ({one_line(error, 200)}); copy the dataset again.") from error


def _array(steps: Row, name: str) -> np.ndarray:
    """A column as an array (T, …)."""
    try:
        return np.asarray(steps[name])
    except (KeyError, ValueError) as error:
        raise MagratheaError(f"The steps have no column '{name}' of one shape; copy the dataset again.") from error


def _decoded(value: Any) -> np.ndarray:
    """A picture that stands in a step as a file's bytes."""
    try:
        with Image.open(io.BytesIO(value["bytes"])) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, TypeError, KeyError, SyntaxError, Image.DecompressionBombError) as error:
        raise MagratheaError("a picture in its steps cannot be read.") from error


def _frames_at(path: Path, times: np.ndarray, interval: float) -> Iterator[np.ndarray]:
    """The frames of a video nearest to rising times, in seconds; raises MagratheaError where there are none."""
    import av
    from av.error import FFmpegError

    left = list(times)
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            if stream.time_base is not None and left[0] > 0:
                container.seek(int(left[0] / stream.time_base), stream=stream)  # to the key frame before
            for frame in container.decode(stream):
                while left and (frame.time or 0.0) >= left[0] - interval / 2:
                    yield frame.to_ndarray(format="rgb24")
                    left.pop(0)
                if not left:
                    return
    except (FFmpegError, OSError, IndexError) as error:
        raise MagratheaError(f"'{path}' cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    raise MagratheaError(f"'{path}' ends before the episode's frame at {left[0]:.2f} seconds.")
