"""What a reader of other programs' recordings provides, and how they become a dataset."""

from __future__ import annotations

import hashlib
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from gymnasium import spaces

from magrathea.data.dataset import METADATA_FILE_NAME, Dataset, write_dataset
from magrathea.data.episode import Episode, save_episode
from magrathea.data.latent_actions import apply_labels, find_actions, read_labels
from magrathea.errors import MagratheaError, exit_on_sigterm
from magrathea.files import claim_folder
from magrathea.progress import Stages
from magrathea.settings import Count, Positive, Range, check
from magrathea.spaces import check_space, index_batch, is_image

WORK_FOLDER = ".importing"
IMPORTED = "imported"  # in the metadata of a dataset: what it was made of
MIN_EPISODES = 4  # two to train on, and two held out
WANTED_EPISODES = 16  # of one that may be parted
LEAST_STEPS = 32  # of a part

DEFAULT_FPS = 10.0
LEAST_SIDE, MOST_SIDE = 16, 1024  # pixels
MOST_CODES = 64

Note = Callable[[str], None]
Report = Callable[[float, str], None]  # of a share 0…1 that is done


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """How recordings become episodes.

    Attributes:
        fps: frames per second that are kept; 10 if not given, or the videos' own rate where that is lower.
        height, width: of the pictures in pixels; if not given, the videos' shape with at most 9,600 pixels.
        cut: from which share of the colors that change between two frames a new scene begins; 1 for no cuts.
        max_episode_steps: longer scenes are parted.
        actions: number of codes that become the actions of recordings without, learned from their frames; 0 for none.
        labels: file of the real actions of some moments of videos, from which the others are inferred; see
            `read_labels`.
        camera: name of the camera of a LeRobot dataset; its first one, if not given.
    """

    fps: Positive | None = None
    height: Annotated[int, Range(LEAST_SIDE, MOST_SIDE)] | None = None
    width: Annotated[int, Range(LEAST_SIDE, MOST_SIDE)] | None = None
    cut: Annotated[float, Range(0, 1, above=True)] = 0.4
    max_episode_steps: Count = 500
    actions: Annotated[int, Range(0, MOST_CODES)] = 0
    labels: Path | None = None
    camera: str | None = None

    def __post_init__(self) -> None:
        check(self)
        if (self.height is None) != (self.width is None):
            raise MagratheaError("A size of pictures is a height and a width; give both, or none.")
        if self.labels is not None and self.actions:
            raise MagratheaError("Labels say which actions there are; leave out --actions, or --labels.")

    @property
    def finds_actions(self) -> bool:
        """Whether actions are inferred that nobody recorded."""
        return self.labels is not None or self.actions > 0


@dataclass
class Reader(ABC):
    """Reads recordings of another kind, and raises MagratheaError where there are none that can be read.

    Attributes:
        folder: that holds them.
        options: see `ImportOptions`; some kinds have no use for all of them.
        note: called with what is left out, and why.
        can_part: whether long episodes may be parted where there are few.
    """

    can_part: ClassVar[bool] = True

    folder: Path
    options: ImportOptions
    note: Note

    @property
    def asked_size(self) -> tuple[int, int] | None:
        """Height and width of pictures that were asked for."""
        height, width = self.options.height, self.options.width
        return None if height is None or width is None else (height, width)

    @property
    def clip_names(self) -> Sequence[str]:
        """Names of files, to which the "clip" of the episodes' infos are indices; with "seconds" they say where a frame
        was."""
        return ()

    @property
    @abstractmethod
    def observation_space(self) -> spaces.Space: ...

    @property
    @abstractmethod
    def action_space(self) -> spaces.Space: ...

    @property
    @abstractmethod
    def metadata(self) -> dict[str, Any]:
        """fps, action_names, key_map and description of the dataset."""

    @abstractmethod
    def episodes(self, report: Report) -> Iterator[Episode]:
        """The episodes one after another."""


def action_free(frames: np.ndarray, infos: dict[str, Any] | None = None) -> Episode:
    """An episode of frames (T + 1, …) whose only action is 0, with infos (T + 1, …)."""
    num_steps = len(frames) - 1
    return Episode(
        observation=frames,
        action=np.zeros(num_steps, np.int64),
        reward=np.zeros(num_steps, np.float32),
        terminated=np.zeros(num_steps, bool),
        truncated=np.arange(num_steps) == num_steps - 1,
        infos=infos or {},
    )


def import_recordings(
    source: Path, out: Path, make_reader: Callable[[Note], Reader], settings: dict[str, Any], options: ImportOptions
) -> Dataset:
    """Write what a reader reads into a dataset, or open the one that was made of the same files with the same settings.

    Raises:
        MagratheaError: where the folder holds something else, for recordings of too few episodes, and for codes where
            there are actions, or no pictures alone.
    """
    settings = {"source": str(source.resolve()), "files": _fingerprint(source), **settings}
    labels = None if options.labels is None else read_labels(options.labels)
    if labels is not None:
        settings["labels"] = hashlib.sha256(repr(labels).encode()).hexdigest()[:16]
    if _is_done(out, settings):
        return Dataset.open(out)
    with claim_folder(out, "importing into"), exit_on_sigterm(), Stages() as stages:
        stages.begin("looking through files")
        reader = make_reader(lambda text: stages.note(f"Note: {text}"))
        for name, space in (("observation", reader.observation_space), ("action", reader.action_space)):
            check_space(space, f"'{source}', {name}")
        if options.finds_actions:
            _check_can_code(reader, source)
        work = out / WORK_FOLDER
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            stages.begin("importing")
            paths = _save(reader, work, source, stages.update)
            about, actions = reader.metadata | {IMPORTED: settings}, reader.action_space
            if options.finds_actions:
                stages.begin("finding actions")
                if labels is not None:
                    about["action_names"] = apply_labels(paths, labels, reader.clip_names, stages.update)
                else:
                    about["action_names"] = find_actions(paths, options.actions, stages.update)
                actions = spaces.Discrete(len(about["action_names"]))
                stages.note(f"Note: actions that were found: {', '.join(about['action_names'])}.")
            fresh = work / "data"
            fresh.mkdir()
            write_dataset(fresh, reader.observation_space, actions, paths, f"{source.name}/imported-v0", about)
            fresh.replace(out / "data")
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return Dataset.open(out)


def _check_can_code(reader: Reader, source: Path) -> None:
    if reader.action_space != spaces.Discrete(1):
        raise MagratheaError(f"'{source}' has actions of its own; leave out --actions and --labels.")
    if not is_image(reader.observation_space):
        raise MagratheaError(f"'{source}' has observations that are no pictures; leave out --actions and --labels.")


def _is_done(out: Path, settings: dict[str, Any]) -> bool:
    """Whether a folder holds the dataset of these settings; raises MagratheaError where it holds something else."""
    if not (out / "data" / METADATA_FILE_NAME).exists():
        if out.exists() and (not out.is_dir() or any(path.name != WORK_FOLDER for path in out.iterdir())):
            raise MagratheaError(f"'{out}' exists and is not a dataset; give another --out.")
        return False
    if Dataset.open(out).metadata.get(IMPORTED) != settings:
        raise MagratheaError(
            f"'{out}' holds a dataset of other files, or of other settings; give another --out, or remove it."
        )
    return True


def _fingerprint(source: Path) -> str:
    """Of the names, sizes and times of all files."""
    digest = hashlib.sha256()
    for path in sorted(source.rglob("*")):
        if path.is_file():
            about = path.stat()
            digest.update(f"{path.relative_to(source)}|{about.st_size}|{about.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _save(reader: Reader, work: Path, source: Path, report: Report) -> list[Path]:
    """Write the episodes into files; the first ones wait, since they are parted where no more than they come."""
    waiting: list[Episode] = []
    paths: list[Path] = []

    def save(episode: Episode) -> None:
        paths.append(work / f"episode_{len(paths):06d}.hdf5")
        save_episode(replace(episode, seed=len(paths) - 1), paths[-1])

    for episode in reader.episodes(report):
        if len(paths) + len(waiting) < WANTED_EPISODES and not paths:
            waiting.append(episode)
            continue
        while waiting:
            save(waiting.pop(0))
        save(episode)
    for episode in _parted(waiting) if reader.can_part else waiting:
        save(episode)
    if len(paths) < MIN_EPISODES:
        raise MagratheaError(
            f"'{source}' gives {len(paths)} episodes, and it takes at least {MIN_EPISODES}; add longer or more "
            "recordings."
        )
    return paths


def _parted(episodes: list[Episode]) -> list[Episode]:
    """Episodes of which the longest are halved until there are enough, or all are short."""
    parts = list(episodes)
    while parts and len(parts) < WANTED_EPISODES:
        longest = max(range(len(parts)), key=lambda index: len(parts[index]))
        length = len(parts[longest])
        if length < 2 * LEAST_STEPS:
            break
        parts[longest : longest + 1] = _halves(parts[longest], length // 2)
    return parts


def _halves(episode: Episode, middle: int) -> list[Episode]:
    later = Episode(
        observation=index_batch(episode.observation, slice(middle, None)),
        action=index_batch(episode.action, slice(middle, None)),
        reward=episode.reward[middle:],
        terminated=episode.terminated[middle:],
        truncated=episode.truncated[middle:],
        infos=index_batch(episode.infos, slice(middle, None)),
    )
    first = episode.first(middle)
    truncated = first.truncated.copy()
    truncated[-1] = True
    return [replace(first, truncated=truncated), later]
