"""Worlds without tiles whose pose is known: are locations that are seen again drawn better than new ones?

The dataset gives `infos["pose"]` (T + 1, 3): x, y in the environment's units, and the angle in degrees. A visit lasts
until the agent is elsewhere. A frame is *revisited* if one of an earlier visit, longer ago than the window, was taken
from nearly the same pose. It is *new* if there was an earlier visit, all frames of earlier visits were taken from
elsewhere, and none of this visit before the window's from nearly the same pose. The model is compared with the last
frame repeated, the tokenizer's reconstruction (the upper bound), and a *copy* of the earlier frame from the nearest
pose.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from magrathea.evaluate.images import psnr
from magrathea.evaluate.recordings import Recording
from magrathea.evaluate.results import Sources
from magrathea.evaluate.slots import leaf_of, pictures_of
from magrathea.evaluate.statistics import Tally, difference_of_ratios, figure
from magrathea.layout import Slot
from magrathea.world import World

NEAR = (1.0, 10.0)  # steps of a walking agent, and degrees, within which two poses show the same
FAR = 4.0  # times as much apart is elsewhere
WALKS = 0.25  # of the longest steps' length; shorter ones slide or push against a wall
SOURCES = ("model", "repeat", "copy", "reconstruction")
GAP = "revisited - new"


class Revisits(NamedTuple):
    """Of the frames of an episode, all (T + 1,).

    Attributes:
        age: steps since a revisited frame's location was last seen, 0 for frames that are no revisit.
        nearest: index of the frame of an earlier visit with the nearest pose; undefined where age is 0.
        new: whether the frame shows a location for the first time.
    """

    age: np.ndarray
    nearest: np.ndarray
    new: np.ndarray


def revisits(pose: np.ndarray, window: int) -> Revisits:
    """Sort the frames of an episode with poses (T + 1, 3)."""
    unit = step_length(pose)
    age, nearest = np.zeros(len(pose), dtype=np.int64), np.zeros(len(pose), dtype=np.int64)
    new = np.zeros(len(pose), dtype=bool)
    for now in range(1, len(pose)):
        distance = np.linalg.norm(pose[:now, :2] - pose[now, :2], axis=1) / (NEAR[0] * unit)
        turn = np.abs((pose[:now, 2] - pose[now, 2] + 180) % 360 - 180) / NEAR[1]
        apart = np.maximum(distance, turn)
        away = np.flatnonzero(apart > FAR)
        earlier = apart[: away[-1]] if len(away) else apart[:0]
        before = np.flatnonzero(earlier <= 1)
        if len(before) and now - before[-1] > window:
            age[now], nearest[now] = now - before[-1], (distance + turn)[: len(earlier)].argmin()
        seen_lately = (apart[: max(0, now - window)] <= 1).any()
        new[now] = len(away) > 0 and not seen_lately and not (earlier <= FAR).any()
    return Revisits(age, nearest, new)


def step_length(pose: np.ndarray) -> float:
    """The distance of a step in which the agent walks, and neither slides nor is held up; 1 if it never moves."""
    steps = np.linalg.norm(np.diff(pose[:, :2], axis=0), axis=1)
    walked = steps[steps > WALKS * np.quantile(steps, 0.95)] if len(steps) else steps
    return float(np.median(walked)) if len(walked) else 1.0


def measure_revisits(
    world: World, slot: Slot, recordings: list[Recording], predicted: list[np.ndarray]
) -> dict[str, Sources]:
    """PSNR in dB of predicted next frames at revisited poses and at new ones.

    predicted: for each recording tokens (T + 1, N), -1 at steps that were not predicted.
    Returns {"new", "revisited", "revisited - new": {source: figure}}, of what there was.
    """
    window, tally = world.config.model.window, Tally(len(recordings))
    for index, (recording, tokens) in enumerate(zip(recordings, predicted, strict=True)):
        seen = revisits(np.asarray(recording.episode.infos["pose"], dtype=np.float64), window)
        moments = np.flatnonzero((tokens[:, 0] >= 0) & ((seen.age > 0) | seen.new))
        new, frames = seen.new[moments], leaf_of(recording.episode.observation, slot)
        pictures_by_source = {
            "model": pictures_of(world, slot, tokens[moments]),
            "repeat": frames[moments - 1],
            "copy": frames[seen.nearest[moments]],
            "reconstruction": pictures_of(world, slot, recording.tokens[moments]),
        }
        for source, pictures in pictures_by_source.items():
            values = psnr(pictures, frames[moments])[None]
            for name, where in (("new", new), ("revisited", ~new)):
                if where.any() and (source, name) != ("copy", "new"):
                    tally.add_mean(f"{name}/{source}", [index], values, where[None])
    names = [name for name in ("new", "revisited") if f"{name}/model" in tally]
    result = {name: {source: tally.figure(f"{name}/{source}") for source in SOURCES} for name in names}
    if {"new", "revisited"} <= set(names):
        pairs = {name: tally.statistics(f"revisited/{name}", f"new/{name}") for name in SOURCES if name != "copy"}
        result[GAP] = {source: figure(pair, difference_of_ratios) for source, pair in pairs.items()}
    return result
