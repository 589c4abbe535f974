"""Videos and numbered pictures as episodes without actions, read by PyAV and Pillow."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from gymnasium import spaces
from PIL import Image

from magrathea.data.episode import Episode
from magrathea.data.foreign import DEFAULT_FPS, LEAST_SIDE, Reader, Report, action_free
from magrathea.data.pictures import MOST_PIXELS
from magrathea.errors import MagratheaError, one_line
from magrathea.patch_sizes import padded_size

VIDEOS = (".mp4", ".webm", ".gif", ".mkv", ".mov", ".avi", ".m4v")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
LEAST_FRAMES = 8  # of a scene
SAME_SHAPE = 0.1  # difference of the logarithms of height over width, up to which pictures are of one shape
BINS = 16  # of the histogram of a color
USUAL_CHANGES = 8  # last ones, of whose median a cut is a multiple
CUT_FACTOR, CUT_CHANGE = 3.0, 0.03  # of that median, and mean change of pixels in 0…1, that a cut has at least
Moment = tuple[np.ndarray, float]  # a frame, and its seconds from the beginning
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Clip:
    """A file of a video, or the files of numbered pictures in their order.

    Attributes:
        sides: (height, width) of its pictures.
        fps: its own rate, None for pictures.
    """

    files: tuple[Path, ...]
    sides: tuple[int, int]
    fps: float | None

    @property
    def num_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)


def has_videos(folder: Path) -> bool:
    """Whether a folder holds videos or pictures, at any depth."""
    return any(path.suffix.lower() in VIDEOS + PICTURES for path in folder.rglob("*"))


@dataclass
class VideoReader(Reader):
    """The episodes of a folder of videos and numbered pictures, at any depth, in the order of their names."""

    clips: list[Clip] = field(init=False)

    def __post_init__(self) -> None:
        self.clips = list(self._find_clips())
        if not self.clips:
            raise MagratheaError(
                f"'{self.folder}' holds no video or picture that can be read; give a folder of {', '.join(VIDEOS)} "
                f"or of numbered pictures ({', '.join(PICTURES)})."
            )
        sides = Counter(clip.sides for clip in self.clips).most_common(1)[0][0]
        self.size = self.asked_size or _fitting(*sides)
        self.padded = padded_size(*self.size)
        rates = [clip.fps for clip in self.clips if clip.fps]
        own = median(rates) if rates else DEFAULT_FPS
        self.fps = self.options.fps or round(min(DEFAULT_FPS, own), 2)
        self.note(f"Pictures are {self.size[0]}x{self.size[1]} pixels, {self.fps:g} a second (--help has the options).")
        shape = self.size[0] / self.size[1]
        others = [
            clip.files[0].name for clip in self.clips if abs(math.log(clip.sides[0] / clip.sides[1] / shape)) > 0.1
        ]
        if others:
            self.note(f"Of other shapes, and cropped: {', '.join(others[:5])}{' …' if len(others) > 5 else ''}.")

    @property
    def observation_space(self) -> spaces.Space:
        return spaces.Box(0, 255, (*self.padded, 3), np.uint8)

    @property
    def action_space(self) -> spaces.Space:
        return spaces.Discrete(1)

    @property
    def metadata(self) -> dict[str, Any]:
        inferred = "with actions that were inferred from their frames."
        actions = inferred if self.options.finds_actions else "without actions: the world goes on as they do."
        return {
            "fps": self.fps,
            "action_names": ["noop"],
            "key_map": {},
            "description": f"Videos of '{self.folder.name}', {actions}",
        }

    def episodes(self, report: Report) -> Iterator[Episode]:
        """Every scene of every clip, in parts of at most `max_episode_steps`, which share the frame between them."""
        total, done, num_short = sum(clip.num_bytes for clip in self.clips), 0, 0
        num_frames = 0
        for number, clip in enumerate(self.clips):
            for scene, seconds in self._scenes(clip):
                num_frames += len(scene)
                report(done / max(1, total), f"{num_frames:,} frames, {clip.files[0].name}")
                if len(scene) < LEAST_FRAMES:
                    num_short += 1
                else:
                    yield action_free(scene, {"clip": np.full(len(scene), number, np.int32), "seconds": seconds})
            done += clip.num_bytes
        if num_short:
            self.note(f"{num_short} scenes of fewer than {LEAST_FRAMES} frames are left out.")

    @property
    def clip_names(self) -> list[str]:
        """The path of each video, or of the folder of pictures, below the folder."""
        places = [clip.files[0] if clip.fps is not None else clip.files[0].parent for clip in self.clips]
        return [place.relative_to(self.folder).as_posix() for place in places]

    # -- files --------------------------------------------------------------------------------------------------------
    def _find_clips(self) -> Iterator[Clip]:
        sequences: dict[tuple[Path, str], list[Path]] = {}
        for path in sorted(self.folder.rglob("*"), key=lambda path: _natural(str(path))):
            kind = path.suffix.lower()
            if any(part.startswith(".") for part in path.relative_to(self.folder).parts):
                continue
            if kind in VIDEOS:
                yield from self._video(path)
            elif kind in PICTURES:
                sequences.setdefault((path.parent, _NUMBER.sub("#", path.stem)), []).append(path)
        for files in sequences.values():
            yield from self._sequence(files)

    def _video(self, path: Path) -> Iterator[Clip]:
        import av
        from av.error import FFmpegError

        try:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                frame = next(container.decode(stream))
                rate = stream.average_rate or stream.guessed_rate
                sides = _upright(frame.to_ndarray(format="gray"), frame).shape
                yield Clip((path,), (sides[0], sides[1]), float(rate) if rate else None)
        except (FFmpegError, OSError, IndexError, StopIteration, ValueError) as error:
            self.note(
                f"'{path}' is left out: it is no video that can be read ({_reason(error)}); convert or remove it."
            )

    def _sequence(self, files: list[Path]) -> Iterator[Clip]:
        for path in files:
            picture = self._picture(path)
            if picture is not None:
                if len(files) < LEAST_FRAMES:
                    self.note(f"'{path}' is left out: {len(files)} pictures of one name are fewer than {LEAST_FRAMES}.")
                else:
                    yield Clip(tuple(files), picture.shape[:2], None)  # type: ignore[arg-type]
                return

    def _picture(self, path: Path) -> np.ndarray | None:
        try:
            with Image.open(path) as picture:
                return np.asarray(picture.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            self.note(f"'{path}' is left out: it is no picture that can be read.")
            return None

    # -- frames -------------------------------------------------------------------------------------------------------
    def _scenes(self, clip: Clip) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Frames (T, height, width, 3) of each scene, in parts, and their moments (T,) in seconds."""
        cuts, scene = Cuts(self.options.cut), []
        for moment in self._decoded(clip) if clip.fps is not None else self._pictures(clip):
            if cuts.is_cut(moment[0]) and scene:
                yield _stacked(scene)
                scene = []
            scene.append(moment)
            if len(scene) > self.options.max_episode_steps:
                yield _stacked(scene)
                scene = scene[-1:]
        if len(scene) > 1:
            yield _stacked(scene)

    def _pictures(self, clip: Clip) -> Iterator[Moment]:
        for number, path in enumerate(clip.files):
            picture = self._picture(path)
            if picture is not None:
                yield self._sized(Image.fromarray(picture)), number / self.fps

    def _decoded(self, clip: Clip) -> Iterator[Moment]:
        """The frames nearest to moments `1 / fps` apart; of a slower video all of them."""
        import av
        from av.error import FFmpegError

        (path,), moment, num_frames = clip.files, 0.0, 0
        interval = max(1 / self.fps, 1 / (clip.fps or self.fps))
        try:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                stream.thread_type = "AUTO"
                first = None
                for index, frame in enumerate(container.decode(stream)):
                    time = index / (clip.fps or self.fps) if frame.time is None else frame.time
                    first = time if first is None else first
                    if time - first >= moment - interval / 4:
                        moment = max(moment + interval, time - first + interval / 2)
                        num_frames += 1
                        upright = _upright(frame.to_ndarray(format="rgb24"), frame)
                        yield self._sized(Image.fromarray(upright)), time - first
        except (FFmpegError, OSError, ValueError) as error:
            self.note(f"'{path}' is damaged after {num_frames} frames, which are used ({_reason(error)}).")

    def _sized(self, picture: Image.Image) -> np.ndarray:
        """A picture at the size of all, cropped to their shape around its middle, and padded to what patches divide."""
        height, width = self.size
        scale = max(height / picture.height, width / picture.width)
        half_width, half_height = width / scale / 2, height / scale / 2
        middle = picture.width / 2, picture.height / 2
        box = (
            max(0.0, middle[0] - half_width),
            max(0.0, middle[1] - half_height),
            min(float(picture.width), middle[0] + half_width),
            min(float(picture.height), middle[1] + half_height),
        )
        resized = np.asarray(picture.resize((width, height), Image.Resampling.BOX, box=box))
        missing = [(0, padded - side) for padded, side in zip(self.padded, self.size, strict=True)]
        return np.pad(resized, [*missing, (0, 0)], mode="edge")


class Cuts:
    """Says of each frame in turn whether a new scene begins with it: the colors are others, and more of the picture
    changes than usual.

    Args:
        least: share of the colors that change at a cut, 1 for no cuts.
    """

    def __init__(self, least: float) -> None:
        self._least = least
        self._before: np.ndarray | None = None
        self._colors = np.zeros(0)
        self._changes: list[float] = []

    def is_cut(self, frame: np.ndarray) -> bool:
        """A frame (height, width, 3) uint8."""
        before, colors_before = self._before, self._colors
        self._before, self._colors = frame.astype(np.float32) / 255, _colors(frame)
        if before is None or self._least >= 1:
            return False
        change = float(np.abs(self._before - before).mean())
        share = float(np.abs(self._colors - colors_before).sum() / 2)
        usual = median(self._changes) if self._changes else 0.0
        is_cut = share >= self._least and change >= max(CUT_CHANGE, CUT_FACTOR * usual)
        self._changes = [] if is_cut else [*self._changes[1 - USUAL_CHANGES :], change]
        return is_cut


def _stacked(scene: list[Moment]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([frame for frame, _ in scene]), np.array([seconds for _, seconds in scene])


def _colors(frame: np.ndarray) -> np.ndarray:
    """(3 * BINS,) how often each shade of each color occurs, of a sum of 1."""
    counts = [np.bincount(frame[..., color].ravel() // (256 // BINS), minlength=BINS) for color in range(3)]
    return np.concatenate(counts) / frame.size


def _upright(array: np.ndarray, frame: Any) -> np.ndarray:
    """A decoded frame, turned as its file says, as those of telephones do."""
    quarters = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(array, quarters)) if quarters else array


def _reason(error: BaseException) -> str:
    """What an error says, without the name of the file."""
    return one_line(getattr(error, "strerror", None) or error, 200)


def _fitting(height: int, width: int) -> tuple[int, int]:
    """The size with at most `MOST_PIXELS` and about the same shape; multiples of 8, which patches divide, where that
    changes little."""
    scale = min(1.0, (MOST_PIXELS / (height * width)) ** 0.5)
    sides = (max(LEAST_SIDE, height * scale), max(LEAST_SIDE, width * scale))
    if scale == 1.0:
        return round(sides[0]), round(sides[1])
    return tuple(max(LEAST_SIDE, 8 * round(side / 8)) for side in sides)  # type: ignore[return-value]


def _natural(text: str) -> list[tuple[int, int | str]]:
    """A key to sort names by, in which 2 comes before 10."""
    parts = re.split(r"(\d+)", text)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts if part]
