"""Actions that nobody recorded, which an inverse model infers from frames (`latent_model`): learned from labels of a
few moments, or from the frames alone, as codes that are named by what moves."""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from magrathea.data.pictures import MOST_PIXELS
from magrathea.errors import MagratheaError, one_line

if TYPE_CHECKING:
    from magrathea.data.latent_model import InverseModel, Report  # needs PyTorch, which takes long to import

REACH = 0.13  # of the shorter side, up to which offsets are looked at
LEAST_REACH, MOST_REACH = 4, 10  # pixels
FITTED = 8000  # steps from which codes are learned
BATCH = 64  # frames
DAMPING = 0.1  # of the median length of features, which keeps those of next to no motion short
STILL = 0.25  # of the median length, below which a code stands still
CHANGED, BLOCK = 12, 8  # grey levels of a changed pixel, and pixels of a side of a block
CAMERA = 0.35  # share of blocks with changes, from which the whole picture moves
NOOP = "noop"
_WHERE = ("infos/clip", "infos/seconds")  # in the file of an episode: where its frames were


def find_actions(paths: Sequence[Path], num_codes: int, report: Report) -> list[str]:
    """Write codes into the files of episodes whose observations are pictures, as their actions; returns their names.

    The inverse model is learned from `FITTED` steps of them. Raises whatever h5py raises.
    """
    from magrathea.data.latent_model import learn_codes

    model = learn_codes(_some_episodes(paths), num_codes, report)
    codes = [_codes_of(path, model) for path in paths]
    features, shares = [], []
    for path in paths:
        frames = _frames(path)
        features.append(motion_features(frames))
        shares.append(changed_share(frames))
    order, names = named_codes(np.concatenate(codes), np.concatenate(features), np.concatenate(shares))
    for path, own in zip(paths, codes, strict=True):
        _write_actions(path, order[own])
    return names


@dataclass(frozen=True)
class Label:
    """A real action: the one taken at a moment of a video, whose path is the one below the folder."""

    file: str
    seconds: float
    action: str


def read_labels(path: Path) -> list[Label]:
    """The labels of a CSV file with the columns file, seconds and action; raises MagratheaError for another one."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        labels = [Label(row["file"].strip(), float(row["seconds"]), row["action"].strip()) for row in rows]
    except (OSError, UnicodeError, csv.Error, KeyError, TypeError, ValueError, AttributeError) as error:
        raise MagratheaError(
            f"Labels '{path}' cannot be read ({one_line(repr(error), 200)}); give a CSV file with the columns file, "
            "seconds and action."
        ) from error
    if not labels or not all(label.action and math.isfinite(label.seconds) for label in labels):
        raise MagratheaError(f"Labels '{path}' hold no rows, or one without an action; give file, seconds and action.")
    return labels


def apply_labels(
    paths: Sequence[Path], labels: Sequence[Label], clip_names: Sequence[str], report: Report
) -> list[str]:
    """Write actions into the files of episodes, as an inverse model infers them that is learned from labels; returns
    their names, by how often they are labelled.

    Raises:
        MagratheaError: for labels of other files, or of no moment that is there.
    """
    from magrathea.data.latent_model import learn_labels

    pairs, found = _labelled_steps(paths, labels, clip_names)
    names = [name for name, _ in Counter(found).most_common()]
    model = learn_labels(pairs, np.array([names.index(name) for name in found]), report)
    for path in paths:
        _write_actions(path, _codes_of(path, model))
    return names


def _labelled_steps(
    paths: Sequence[Path], labels: Sequence[Label], clip_names: Sequence[str]
) -> tuple[np.ndarray, list[str]]:
    """Both frames (M, 2, height, width, C) of the steps that labels are of, and their actions."""
    import h5py

    foreign = sorted({label.file for label in labels} - {*clip_names})
    if foreign:
        raise MagratheaError(f"Labels name '{foreign[0]}', and there are {one_line(', '.join(clip_names), 300)}.")
    wanted: dict[int, list[Label]] = {}
    for label in labels:
        wanted.setdefault(clip_names.index(label.file), []).append(label)
    pairs, actions = [], []
    for path in paths:
        with h5py.File(path, "r") as file:
            clip, seconds = (np.asarray(file[f"episode/{name}"]) for name in _WHERE)
            frames: Any = file["episode/observations"]
            for label in wanted.get(int(clip[0]), []):
                step = int(np.searchsorted(seconds, label.seconds + 1e-6, side="right")) - 1
                if 0 <= step < len(seconds) - 1:
                    pairs.append(frames[step : step + 2])
                    actions.append(label.action)
    if not pairs:
        raise MagratheaError("Labels are of no moment that is there; give seconds from the beginning of a video.")
    return np.stack(pairs), actions


# -- files of episodes ------------------------------------------------------------------------------------------------
def _frames(path: Path) -> np.ndarray:
    """(T + 1, height, width, C) uint8."""
    import h5py

    with h5py.File(path, "r") as file:
        frames: Any = file["episode/observations"]
        return frames[:]


def _some_episodes(paths: Sequence[Path]) -> list[np.ndarray]:
    """The frames of episodes in random order, as many as have `FITTED` steps."""
    episodes, num_steps = [], 0
    for index in np.random.default_rng(0).permutation(len(paths)):
        episodes.append(_frames(paths[index])[: FITTED - num_steps + 1])
        num_steps += len(episodes[-1]) - 1
        if num_steps >= FITTED:
            break
    return episodes


def _codes_of(path: Path, model: InverseModel) -> np.ndarray:
    from magrathea.data.latent_model import Steps

    return model.codes(Steps([_frames(path)])).numpy()


def _write_actions(path: Path, actions: np.ndarray) -> None:
    import h5py

    with h5py.File(path, "r+") as file:
        file["episode/actions"][...] = actions  # type: ignore[index]


# -- names ------------------------------------------------------------------------------------------------------------
def motion_features(frames: np.ndarray) -> np.ndarray:
    """Frames (T + 1, height, width, channels) uint8 -> (T, D) float32: for every offset up to the reach how much better
    the next frame is told by moving what is there than by keeping it, in the order of rows and columns."""
    stride = int(np.ceil((frames.shape[1] * frames.shape[2] / MOST_PIXELS) ** 0.5))
    small = frames[:, ::stride, ::stride]
    reach = reach_of(small.shape[1], small.shape[2])
    size = (small.shape[1] + 2 * reach, small.shape[2] + 2 * reach)
    parts = []
    for begin in range(0, len(small) - 1, BATCH):
        batch = small[begin : begin + BATCH + 1].astype(np.float32) / 255
        now, change = batch[:-1], np.diff(batch, axis=0)
        now = now - now.mean(axis=(1, 2), keepdims=True)
        spectrum = np.fft.rfft2(change, size, axes=(1, 2)) * np.fft.rfft2(now, size, axes=(1, 2)).conj()
        moved = np.fft.irfft2(spectrum.sum(axis=-1), size, axes=(1, 2))
        near = np.roll(moved, (reach, reach), axis=(1, 2))[:, : 2 * reach + 1, : 2 * reach + 1]
        parts.append((near - near[:, reach : reach + 1, reach : reach + 1]).reshape(len(near), -1).astype(np.float32))
    return np.concatenate(parts)


def reach_of(height: int, width: int) -> int:
    return int(np.clip(round(REACH * min(height, width)), LEAST_REACH, MOST_REACH))


def changed_share(frames: np.ndarray) -> np.ndarray:
    """Frames (T + 1, height, width, channels) uint8 -> (T,) the share of blocks of pixels in which any changes."""
    rows, columns = (side // BLOCK for side in frames.shape[1:3])
    shares = []
    for then, now in itertools.pairwise(frames[:, : rows * BLOCK, : columns * BLOCK]):
        changed = np.abs(now.astype(np.int16) - then).max(axis=-1) > CHANGED
        shares.append(changed.reshape(rows, BLOCK, columns, BLOCK).any(axis=(1, 3)).mean())
    return np.array(shares)


def named_codes(codes: np.ndarray, features: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The place of each code in a new order, and a name for each place, by what moves with codes (T,) more than with
    others: by features (T, D) and changed shares (T,). The code with the least motion is first, then the frequent ones.
    """
    lengths = np.linalg.norm(features, axis=1)
    usual = float(np.median(lengths[lengths > 0])) if (lengths > 0).any() else 1.0
    scaled = features / (lengths[:, None] + DAMPING * usual)
    used = np.unique(codes)
    motion = [float(lengths[codes == code].mean()) for code in used]
    still = int(np.argmin(motion))
    order = sorted(range(len(used)), key=lambda index: (index != still, -(codes == used[index]).sum()))
    places, names = np.zeros(int(used.max()) + 1, np.int64), []
    for place, index in enumerate(order):
        is_own = codes == used[index]
        places[used[index]] = place
        is_camera = float(np.median(shares[is_own])) > CAMERA
        own = scaled[is_own].mean(axis=0) - scaled.mean(axis=0)
        name = NOOP if place == 0 else _name(own, motion[index] < STILL * usual, is_camera)
        num = sum(re.sub(r" \d+$", "", each) == name for each in names)
        names.append(f"{name} {num + 1}" if num else name)
    return places, names


def _name(center: np.ndarray, is_still: bool, is_camera: bool) -> str:
    """What a code does, by the offset by which most moves; where the whole picture moves, the camera goes the other
    way."""
    side = int(len(center) ** 0.5)
    row, column = (int(each) - side // 2 for each in np.unravel_index(int(center.argmax()), (side, side)))
    if is_still or (row == 0 and column == 0):
        return "change"
    if is_camera:
        row, column = -row, -column
    vertical = "" if abs(row) * 2 < abs(column) else "down" if row > 0 else "up"
    horizontal = "" if abs(column) * 2 < abs(row) else "right" if column > 0 else "left"
    return " ".join(filter(None, ("look" if is_camera else "move", vertical, horizontal)))
