"""Open-loop dreams of 64 steps: PSNR and SSIM over the horizon, and whether they follow the actions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from magrathea import masks
from magrathea.evaluate.cells import VisibleTiles
from magrathea.evaluate.environment_hooks import describe_cells, visible_tiles
from magrathea.evaluate.images import psnr, side_by_side, ssim, write_contact_sheet, write_video
from magrathea.evaluate.recordings import Recording
from magrathea.evaluate.results import ImageQuality, Sources
from magrathea.evaluate.rollouts import Rollouts
from magrathea.evaluate.slots import action_scores, leaf_of, pictures_of
from magrathea.evaluate.statistics import Tally, figure, ratio_of_ratios
from magrathea.layout import Slot
from magrathea.world import World

HORIZON = 64
HORIZONS = (1, 2, 4, 8, 16, 32, 48, 64)
BATCH_SIZE = 8
NUM_VIDEOS = 4
REPLAY = "resampled replay"


def real_pictures(recordings: list[Recording], rollouts: Rollouts, slot: Slot, index: int) -> np.ndarray:
    """(1 + H, rows, columns, channels) of a rollout: the last real frame, and the frames that the dream stands for;
    the recording's last one repeats beyond its end."""
    frames = leaf_of(recordings[rollouts.episodes[index]].episode.observation, slot)
    start = int(rollouts.starts[index])
    return frames[np.minimum(np.arange(start, start + rollouts.horizon + 1), len(frames) - 1)]


def measure_images(
    world: World, recordings: list[Recording], rollouts: Rollouts, slot: Slot, replay: Rollouts | None = None
) -> ImageQuality:
    """PSNR and SSIM at each horizon, for all frames and under the conditions on frames that the environment's plug-in
    knows (such as daylight), which have to hold from the start up to the frame."""
    tally, env_id, layout = Tally(len(recordings)), world.metadata.get("env_id", ""), world.layout
    tiles = [visible_tiles(env_id, recording, layout, slot) for recording in recordings]
    window = world.config.model.window
    conditions = [describe_cells(env_id, recording, layout, slot, window).frame_conditions for recording in recordings]
    horizons = np.array([horizon for horizon in HORIZONS if horizon <= rollouts.horizon])
    for index, episode in enumerate(rollouts.episodes):
        frames = real_pictures(recordings, rollouts, slot, index)
        sources = {
            "dream": pictures_of(world, slot, rollouts.dreamt[index]),
            "repeat": np.broadcast_to(frames[:1], frames[1:].shape),
            "reconstruction": pictures_of(world, slot, rollouts.recorded[index]),
        }
        if replay is not None:
            sources[REPLAY] = pictures_of(world, slot, replay.dreamt[index])
        known = tiles[episode]
        if known is not None:
            recorded = leaf_of(recordings[episode].episode.observation, slot)
            sources["oracle bound"] = oracle_bound(recorded, known, int(rollouts.starts[index]), rollouts.horizon)
        real = frames[horizons]
        repeated = psnr(sources["repeat"][horizons - 1], real)
        for source, pictures in sources.items():
            shown = pictures[horizons - 1]
            values = {"psnr": psnr(shown, real), "ssim": ssim(shown, real)}
            values["gain"] = values["psnr"] - repeated
            valid = (replay if replay is not None and source == REPLAY else rollouts).valid[index]
            for condition, where in _holding(conditions[episode], int(rollouts.starts[index]), valid).items():
                for position in np.flatnonzero(where[horizons - 1]):
                    for metric, of_metric in values.items():
                        name = f"{metric}/{condition}/{source}/{horizons[position]}"
                        tally.add_mean(name, [episode], [of_metric[position]])
    psnr_curves, gain, ssim_curves = (tally.nested(f"{metric}/") for metric in ("psnr", "gain", "ssim"))
    return ImageQuality(psnr=psnr_curves, psnr_gain=gain, ssim=ssim_curves)


def _holding(conditions: dict[str, np.ndarray], start: int, valid: np.ndarray) -> dict[str, np.ndarray]:
    """Conditions on frames (T + 1,) -> on dreamt steps (H,) of a rollout: valid ones, up to which they always held."""
    result = {"all": valid}
    for name, holds in conditions.items():
        along = holds[np.minimum(np.arange(start, start + len(valid) + 1), len(holds) - 1)]
        result[name] = valid & np.logical_and.accumulate(along)[1:]
    return result


def oracle_bound(frames: np.ndarray, tiles: VisibleTiles, start: int, horizon: int) -> np.ndarray:
    """The H frames after `start` of an episode, with the mean tile at every location that no frame 0…start showed: the
    smallest error possible without knowledge of locations never seen.

    frames (T + 1, height, width, channels); the last one repeats beyond the end. Returns (H, height, width, channels).
    """
    pictures = tiles.view.tile_pictures(frames)
    mean_tile = pictures[tiles.shown].mean(axis=0) if tiles.shown.any() else np.zeros(())
    steps = np.minimum(start + 1 + np.arange(horizon), len(frames) - 1)
    locations = tiles.view.locations(tiles.poses)
    seen = {tuple(location) for location in locations[: start + 1][tiles.shown[: start + 1]].tolist()}
    known = np.array([tuple(location) in seen for location in locations[steps].reshape(-1, 2).tolist()], dtype=bool)
    unknown = tiles.shown[steps] & ~known.reshape(tiles.shown[steps].shape)
    result = frames[steps].copy()
    tiles.view.tile_pictures(result)[unknown] = mean_tile.round().astype(result.dtype)
    return result


def measure_controllability(
    world: World, rollouts: Rollouts, num_episodes: int, replay: Rollouts | None = None
) -> dict[str, dict[str, Sources]]:
    """The inverse dynamics' accuracy at naming the commanded action from the dream's frames, and that on the
    recording's ("real") and on the resampled replay's; and their ratios, on the same steps.

    "picture changed" keeps the steps in which the recording's picture changed: actions without effect look alike.
    """
    tally, seen = Tally(num_episodes), world.layout.role_span("observation")
    before = rollouts.real[:, -rollouts.horizon - 1 : -1, seen]
    changed = (rollouts.recorded[..., seen] != before).any(axis=-1)
    sources = {"dream": rollouts, "real": replace(rollouts, dream=rollouts.real)}
    if replay is not None:
        sources[REPLAY] = replay
    correct = {source: _actions_named(world, rolled) for source, rolled in sources.items()}
    result: dict = {}
    for condition, holds in (("all steps", True), ("picture changed", changed)):
        for band, steps in ((f"1…{HORIZON}", slice(None)), ("1", slice(0, 1))):
            figures = result.setdefault(condition, {}).setdefault(band, {})
            for source, rolled in sources.items():
                where = (rolled.valid & holds)[:, steps]
                for other in dict.fromkeys((source, "real")):
                    name = f"{condition}/{band}/{source}/{other}"
                    tally.add_mean(name, rollouts.episodes, correct[other][:, steps], where)
                name = f"{condition}/{band}/{source}"
                figures[source] = tally.figure(f"{name}/{source}")
                if source != "real":
                    pair = tally.statistics(f"{name}/{source}", f"{name}/real")
                    figures[f"{source} / real"] = figure(pair, ratio_of_ratios)
    return result


def _actions_named(world: World, rollouts: Rollouts) -> np.ndarray:
    """(R, H) whether the inverse dynamics name the action of each step from the dream's pictures."""
    window = rollouts.real.shape[1] - rollouts.horizon
    named = []
    for part in torch.from_numpy(rollouts.dream).split(BATCH_SIZE):
        logits = world.predict_segment(part, masks.inverse_dynamics(world.layout), window)
        named.append(action_scores(world.layout, logits, part[:, window:]))
    return np.concatenate(named)


def write_videos(world: World, recordings: list[Recording], rollouts: Rollouts, slot: Slot, out: Path) -> list[str]:
    """Write videos and a contact sheet of real frames and dreams, of the longest rollouts; returns their names."""
    lengths = rollouts.valid.sum(axis=1)
    chosen = np.argsort(-lengths, kind="stable")[:NUM_VIDEOS]
    fps, names, rows = float(world.metadata.get("fps") or 10), [], []
    for number, index in enumerate(chosen.tolist()):
        length = int(lengths[index])
        frames = real_pictures(recordings, rollouts, slot, index)[1 : length + 1]
        dream = pictures_of(world, slot, rollouts.dreamt[index, :length])
        names.append(f"dream-{number}.mp4")
        write_video(out / names[-1], side_by_side(frames, dream), fps)
        shown = [horizon - 1 for horizon in HORIZONS if horizon <= length]
        rows.append((f"ep. {recordings[rollouts.episodes[index]].number}\nreal", [frames[step] for step in shown]))
        rows.append(("dream", [dream[step] for step in shown]))
    write_contact_sheet(out / "dreams.png", [f"step {horizon}" for horizon in HORIZONS], rows)
    return names
