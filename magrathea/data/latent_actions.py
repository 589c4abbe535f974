"""Actions that nobody recorded: a few codes for how pictures move, found by clustering the motion between frames.

They stand where a latent action model does (LAPO, Schmidt and Jiang 2024; Genie, Bruce et al. 2024), with statistics
instead of a network: what moves by which offset is told by the correlation of a frame's change with the frame before.
"""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from magrathea.data.pictures import MOST_PIXELS
from magrathea.errors import MagratheaError, one_line

REACH = 0.13  # of the shorter side, up to which offsets are looked at
LEAST_REACH, MOST_REACH = 4, 10  # pixels
FITTED = 8000  # steps to which codes are fitted
RESTARTS, ITERATIONS = 6, 30
BATCH = 64  # frames
DAMPING = 0.1  # of the median length of features, which keeps those of next to no motion short
STILL = 0.25  # of the median length, below which a code stands still
CHANGED, BLOCK = 12, 8  # grey levels of a changed pixel, and pixels of a side of a block
CAMERA = 0.35  # share of blocks with changes, from which the whole picture moves
NOOP = "noop"
_WHERE = ("infos/clip", "infos/seconds")  # in the file of an episode: where its frames were


def label_files(paths: Sequence[Path], num_codes: int) -> list[str]:
    """Write codes into the files of episodes whose observations are pictures, as their actions; returns their names.

    Raises whatever h5py raises.
    """
    import h5py

    features, shares = [], []
    for path in paths:
        with h5py.File(path, "r") as file:
            frames: Any = file["episode/observations"]
            features.append(motion_features(frames[:]))
            shares.append(changed_share(frames[:]))
    codes, names = fit_codes(np.concatenate(features), np.concatenate(shares), num_codes)
    ends = np.cumsum([len(each) for each in features])[:-1]
    for path, own in zip(paths, np.split(codes, ends), strict=True):
        with h5py.File(path, "r+") as file:
            file["episode/actions"][...] = own  # type: ignore[index]
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
    paths: Sequence[Path], names: list[str], labels: Sequence[Label], clip_names: Sequence[str]
) -> list[str]:
    """Give codes in the files of episodes the real actions that labels say most often of them; returns the names of the
    actions, by how often they are labelled, and of the codes that no label is about.

    Raises:
        MagratheaError: for labels of other files, or of no moment that is there.
    """
    import h5py

    foreign = sorted({label.file for label in labels} - {*clip_names})
    if foreign:
        raise MagratheaError(f"Labels name '{foreign[0]}', and there are {one_line(', '.join(clip_names), 300)}.")
    wanted: dict[int, list[Label]] = {}
    for label in labels:
        wanted.setdefault(clip_names.index(label.file), []).append(label)
    votes: list[Counter[str]] = [Counter() for _ in names]
    for path in paths:
        with h5py.File(path, "r") as file:
            codes, clip, seconds = (np.asarray(file[f"episode/{name}"]) for name in ("actions", *_WHERE))
            for label in wanted.get(int(clip[0]), []):
                step = int(np.searchsorted(seconds, label.seconds + 1e-6, side="right")) - 1
                if 0 <= step < len(codes):
                    votes[codes[step]][label.action] += 1
    found = [vote.most_common(1)[0][0] if vote else name for name, vote in zip(names, votes, strict=True)]
    weight = Counter({name: sum(vote[name] for vote in votes) for name in found})
    actions = [name for name, _ in weight.most_common()]
    if not any(votes):
        raise MagratheaError("Labels are of no moment that is there; give seconds from the beginning of a video.")
    of_code = np.array([actions.index(name) for name in found], np.int64)
    for path in paths:
        with h5py.File(path, "r+") as file:
            file["episode/actions"][...] = of_code[file["episode/actions"][:]]  # type: ignore[index]
    return actions


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


def fit_codes(features: np.ndarray, shares: np.ndarray, num_codes: int) -> tuple[np.ndarray, list[str]]:
    """Codes (T,) int64 of features (T, D), and a name for each by what it moves; the one with the least motion is
    first, the others by how often they occur. There may be fewer than `num_codes`, since motions may be fewer."""
    lengths = np.linalg.norm(features, axis=1)
    usual = float(np.median(lengths[lengths > 0])) if (lengths > 0).any() else 1.0
    scaled = features / (lengths[:, None] + DAMPING * usual)
    chosen = np.random.default_rng(0).permutation(len(scaled))[:FITTED]
    centers = _cluster(scaled[chosen], num_codes)
    codes = _nearest(scaled, centers)
    used = np.unique(codes)
    motion = [float(lengths[codes == code].mean()) for code in used]
    still = int(np.argmin(motion))
    order = sorted(range(len(used)), key=lambda index: (index != still, -(codes == used[index]).sum()))
    names: list[str] = []
    for place, index in enumerate(order):
        is_camera = float(np.median(shares[codes == used[index]])) > CAMERA
        name = NOOP if place == 0 else _name(centers[used[index]], motion[index] < STILL * usual, is_camera)
        num = sum(re.sub(r" \d+$", "", each) == name for each in names)
        names.append(f"{name} {num + 1}" if num else name)
    place_of = {int(used[index]): place for place, index in enumerate(order)}
    return np.array([place_of[int(code)] for code in codes], np.int64), names


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


def _cluster(points: np.ndarray, num: int) -> np.ndarray:
    """The centers (num or fewer, D) of points (M, D), by k-means++ (Arthur and Vassilvitskii 2007) and Lloyd's steps,
    the best of several starts."""
    best, least = points[:1], np.inf
    for seed in range(RESTARTS):
        rng = np.random.default_rng(seed)
        centers = points[rng.integers(len(points))][None]
        while len(centers) < num:
            distance = _distances(points, centers).min(axis=1)
            if distance.sum() <= 1e-9 * len(points):  # there are no more different points
                break
            centers = np.concatenate([centers, points[rng.choice(len(points), p=distance / distance.sum())][None]])
        for _ in range(ITERATIONS):
            own = _nearest(points, centers)
            centers = np.stack(
                [points[own == k].mean(axis=0) if (own == k).any() else centers[k] for k in range(len(centers))]
            )
        cost = float(_distances(points, centers).min(axis=1).mean())
        if cost < least:
            best, least = centers, cost
    return best


def _distances(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """(M, K) squared."""
    squares = (points**2).sum(axis=1)[:, None] + (centers**2).sum(axis=1) - 2 * points @ centers.T
    return np.maximum(squares, 0).astype(np.float64)


def _nearest(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    return _distances(points, centers).argmin(axis=1)
