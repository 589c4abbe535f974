"""What dreams of 64 steps are worth: PSNR and SSIM over the horizon, tokens right, and whether they obey."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from magrathea import masks
from magrathea.evaluate.cells import DAYLIGHT
from magrathea.evaluate.oracle_bound import oracle_bound_of
from magrathea.evaluate.pictures import mean_squared_error, psnr, ssim
from magrathea.evaluate.recordings import Recording
from magrathea.evaluate.rollouts import Rollouts
from magrathea.evaluate.slots import action_scores, leaf_of, pictures_of, role_span
from magrathea.evaluate.statistics import Tally, figure, pooled_psnr, ratio
from magrathea.layout import Slot
from magrathea.world import World

SSIM_HORIZONS = (1, 2, 4, 8, 16, 32, 48, 64)
CONTROL_HORIZONS = (1, 16, 64)
AGAIN = "reality again"


def real_pictures(recordings: list[Recording], rollouts: Rollouts, slot: Slot, row: int) -> np.ndarray:
    """(1 + H, rows, columns, channels) of a rollout: the last real frame, and the frames that the dream stands for;
    the recording's last one repeats beyond its end."""
    frames = leaf_of(recordings[rollouts.episodes[row]].episode.observation, slot)
    start = int(rollouts.starts[row])
    return frames[np.minimum(np.arange(start, start + rollouts.horizon + 1), len(frames) - 1)]


def measure_pictures(
    world: World, recordings: list[Recording], rollouts: Rollouts, slot: Slot, again: Rollouts | None = None
) -> dict:
    """PSNR and SSIM at each horizon of the dream, of repeating the last real frame, of the tokenizer's reconstruction,
    of reality lived again (see `live_again`) and, where the privileged state tells, of knowing all but the places that
    were never seen; for all frames and, where the recording knows its light, for frames in daylight."""
    tally = Tally(len(recordings))
    foresights = [oracle_bound_of(world, recording, slot) for recording in recordings]
    horizons = np.array([horizon for horizon in SSIM_HORIZONS if horizon <= rollouts.horizon])
    for row, episode in enumerate(rollouts.episodes):
        frames = real_pictures(recordings, rollouts, slot, row)
        sources = {
            "dream": pictures_of(world, slot, rollouts.dreamt[row]),
            "repeat": np.broadcast_to(frames[:1], frames[1:].shape),
            "reconstruction": pictures_of(world, slot, rollouts.recorded[row]),
        }
        foresight = foresights[episode]
        if again is not None:
            sources[AGAIN] = pictures_of(world, slot, again.dreamt[row])
        if foresight is not None:
            sources["foreseeable"] = foresight.pictures(int(rollouts.starts[row]), rollouts.horizon)
        for name, pictures in sources.items():
            error = mean_squared_error(pictures, frames[1:])
            structure = np.zeros(rollouts.horizon)
            structure[horizons - 1] = ssim(pictures[horizons - 1], frames[horizons])
            lived = again if again is not None and name == AGAIN else rollouts
            for condition, where in _conditions(recordings[episode], lived, row).items():
                for horizon in np.flatnonzero(where) + 1:
                    value = error[horizon - 1]
                    tally.add_mean(f"psnr/{condition}/{name}/{horizon}", [episode], [psnr(value)])
                    tally.add_mean(f"pooled/{condition}/{name}/{horizon}", [episode], [value])
                    if horizon in horizons:
                        tally.add_mean(f"ssim/{condition}/{name}/{horizon}", [episode], [structure[horizon - 1]])
                    if name == "repeat":
                        continue
                    gain = psnr(value) - psnr(mean_squared_error(frames[:1], frames[horizon : horizon + 1])[0])
                    tally.add_mean(f"gain/{condition}/{name}/{horizon}", [episode], [gain])
    return _nested(tally, {"pooled": pooled_psnr})


def _conditions(recording: Recording, rollouts: Rollouts, row: int) -> dict[str, np.ndarray]:
    """Conditions (H,) on the dreamt steps: all that were recorded, and daylight from the start up to this step."""
    conditions = {"all": rollouts.valid[row]}
    daylight = recording.episode.infos.get("daylight")
    if daylight is not None:
        start = int(rollouts.starts[row])
        light = daylight[np.minimum(np.arange(start, start + rollouts.horizon + 1), len(daylight) - 1)] >= DAYLIGHT
        conditions["daylight"] = rollouts.valid[row] & np.logical_and.accumulate(light)[1:]
    return conditions


def _nested(tally: Tally, statistics: dict) -> dict:
    """Figures of "metric/condition/source/horizon" names as nested dictionaries."""
    result: dict = {}
    for name in sorted(tally.names(), key=lambda name: (name.rsplit("/", 1)[0], int(name.rsplit("/", 1)[1]))):
        metric, condition, source, horizon = name.split("/")
        figure = tally.figure(name, statistics[metric]) if metric in statistics else tally.figure(name)
        result.setdefault(metric, {}).setdefault(condition, {}).setdefault(source, {})[horizon] = figure
    return result


def measure_tokens(world: World, recordings: list[Recording], rollouts: Rollouts) -> dict:
    """Share of the observation's tokens that equal the recording's at each horizon, of dreams and of repeating."""
    span = role_span(world.layout, "observation")
    tally = Tally(len(recordings))
    recorded = rollouts.recorded[..., span]
    last = rollouts.real[:, -rollouts.horizon - 1, span][:, None]
    for source, tokens in (("dream", rollouts.dreamt[..., span]), ("repeat", last)):
        right = (tokens == recorded).mean(axis=-1)
        for horizon in range(1, rollouts.horizon + 1):
            where = rollouts.valid[:, horizon - 1]
            tally.add_mean(f"tokens/all/{source}/{horizon}", rollouts.episodes, right[:, horizon - 1], where)
    return _nested(tally, {})["tokens"]["all"]


def measure_control(
    world: World, recordings: list[Recording], rollouts: Rollouts, again: Rollouts | None = None
) -> dict:
    """Does the dream obey? The inverse dynamics' accuracy at naming the commanded action from the dream's frames,
    beside the same on the recording's, and on reality lived again (see `live_again`); and their ratios. Also by action,
    over all horizons.

    "picture changed" keeps the steps in which the recording's picture changed: actions without effect look alike.
    """
    tally = Tally(len(recordings))
    seen, span = role_span(world.layout, "observation"), role_span(world.layout, "action")
    before = rollouts.real[:, -rollouts.horizon - 1 : -1, seen]
    changed = (rollouts.recorded[..., seen] != before).any(axis=-1)
    taken = rollouts.recorded[..., span]
    lives = {"dream": rollouts, "real": replace(rollouts, dream=rollouts.real)}
    if again is not None:
        lives[AGAIN] = again
    right = {source: _actions_named(world, life) for source, life in lives.items()}
    bands = {"1…64": slice(None)} | {str(horizon): slice(horizon - 1, horizon) for horizon in CONTROL_HORIZONS}
    for source, life in lives.items():
        for condition, holds in (("all steps", life.valid), ("picture changed", life.valid & changed)):
            for name, band in bands.items():
                for whose in dict.fromkeys((source, "real")):  # on the same steps
                    named = right[whose][:, band]
                    tally.add_mean(f"{condition}/{name}/{source}/{whose}", rollouts.episodes, named, holds[:, band])
        for action in np.unique(taken[rollouts.valid], axis=0):
            where, name = life.valid & (taken == action).all(axis=-1), _name(world, action)
            tally.add_mean(f"by action/{name}/{source}/{source}", rollouts.episodes, right[source], where)
    result: dict = {}
    for name in tally.names():
        condition, band, source, whose = name.split("/")
        figures = result.setdefault(condition, {}).setdefault(band, {})
        if whose == source:
            figures[source] = tally.figure(name)
        else:
            figures[f"{source} / real"] = _quotient(tally, f"{condition}/{band}/{source}", source)
    return result


def _actions_named(world: World, life: Rollouts) -> np.ndarray:
    """(R, H) whether the inverse dynamics name the action of each step from the pictures of a life."""
    window = life.real.shape[1] - life.horizon
    named = []
    for part in torch.from_numpy(life.dream).split(8):
        logits = world.predict_segment(part, masks.inverse_dynamics(world.layout), window)
        named.append(action_scores(world.layout, logits, part[:, window:])[0])
    return np.concatenate(named)


def _name(world: World, action: np.ndarray) -> str:
    names = world.metadata.get("action_names") or ()
    return str(names[action[0]]) if len(action) == 1 and action[0] < len(names) else " ".join(map(str, action.tolist()))


def _quotient(tally: Tally, name: str, source: str) -> dict:
    """A source's accuracy over the real frames'."""
    statistics = np.concatenate([tally.statistics(f"{name}/{source}"), tally.statistics(f"{name}/real")], axis=1)

    def quotient(sums: np.ndarray) -> np.ndarray:
        return ratio(np.stack([ratio(sums[..., :2]), ratio(sums[..., 2:])], axis=-1))

    return figure(statistics, quotient)
