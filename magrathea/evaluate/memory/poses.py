"""Worlds without tiles whose pose is known: are places that are seen again drawn better than new ones?

The dataset gives `infos["pose"]` (T + 1, 3): x, y in the environment's units, and the angle in degrees. A visit lasts
until the body is elsewhere. A frame is *revisited* if one of an earlier visit, longer ago than the window, was taken
from nearly the same pose. It is *new* if there was an earlier visit, all frames of earlier visits were taken from
elsewhere, and none of this visit before the window's from nearly the same pose.
"""

from __future__ import annotations

import numpy as np

from magrathea.evaluate.memory.recall import ranges
from magrathea.evaluate.pictures import mean_squared_error, psnr
from magrathea.evaluate.recordings import Recording
from magrathea.evaluate.slots import leaf_of, pictures_of
from magrathea.evaluate.statistics import Tally, figure, ratio
from magrathea.layout import Slot
from magrathea.world import World

NEAR = (2.0, 10.0)  # median steps of the body, and degrees, within which two poses show the same
FAR = 4.0  # times as much apart is elsewhere


def revisits(pose: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """pose (T + 1, 3) -> age (T + 1,), steps since a revisited frame's place was last seen, 0 for frames that are no
    revisit; and new (T + 1,)."""
    steps = np.linalg.norm(np.diff(pose[:, :2], axis=0), axis=1)
    unit = float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0
    age, new = np.zeros(len(pose), dtype=np.int64), np.zeros(len(pose), dtype=bool)
    for now in range(1, len(pose)):
        distance = np.linalg.norm(pose[:now, :2] - pose[now, :2], axis=1) / (NEAR[0] * unit)
        turn = np.abs((pose[:now, 2] - pose[now, 2] + 180) % 360 - 180) / NEAR[1]
        apart = np.maximum(distance, turn)
        away = np.flatnonzero(apart > FAR)
        before = np.flatnonzero(apart[: away[-1]] <= 1) if len(away) else away
        if len(before) and now - before[-1] > window:
            age[now] = now - before[-1]
        seen_lately = (apart[: max(0, now - window)] <= 1).any()
        new[now] = len(away) > 0 and not seen_lately and not (apart[: away[-1]] <= FAR).any()
    return age, new


def measure_poses(world: World, slot: Slot, recordings: list[Recording], predicted: list[np.ndarray]) -> dict:
    """PSNR in dB of predicted next frames, at revisited poses by how long ago they were seen, and at new ones.

    predicted: for each recording tokens (T + 1, N), -1 at steps that were not predicted.
    Returns {"new", "revisited", "revisited - new", stretch of ages, …: {source: figure}}.
    """
    window, tally = world.config.model.window, Tally(len(recordings))
    for index, (recording, tokens) in enumerate(zip(recordings, predicted, strict=True)):
        age, new = revisits(np.asarray(recording.episode.infos["pose"], dtype=np.float64), window)
        moments = np.flatnonzero((tokens[:, 0] >= 0) & ((age > 0) | new))
        frames = leaf_of(recording.episode.observation, slot)
        for moment in moments:
            shown = {
                "model": pictures_of(world, slot, tokens[moment]),
                "repeat": frames[moment - 1],
                "reconstruction": pictures_of(world, slot, recording.tokens[moment]),
            }
            names = ["new"] if new[moment] else ["revisited"]
            names += [name for name, (low, high) in ranges(window).items() if low <= age[moment] <= high]
            for source, picture in shown.items():
                value = psnr(mean_squared_error(picture, frames[moment]))
                for name in names:
                    tally.add_mean(f"{name}/{source}", [index], [value])
    result: dict = {}
    for name in ("new", "revisited", *ranges(window)):
        result[name] = {source: tally.figure(f"{name}/{source}") for source in ("model", "repeat", "reconstruction")}
    if "new/model" in tally and "revisited/model" in tally:
        both = np.concatenate([tally.statistics("revisited/model"), tally.statistics("new/model")], axis=1)
        result["revisited - new"] = {"model": figure(both, lambda sums: ratio(sums[..., :2]) - ratio(sums[..., 2:]))}
    return result
