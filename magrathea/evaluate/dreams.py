"""Open-loop dreams against what was recorded: pictures, numbers, choices and events, under the same actions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from magrathea.evaluate.environment_hooks import picture_events
from magrathea.evaluate.images import side_by_side, squared_error, write_contact_sheet, write_video
from magrathea.evaluate.recordings import Recording
from magrathea.evaluate.results import Curves, DreamMeasures, Figure, Sources
from magrathea.evaluate.rollouts import Rollouts, Steps
from magrathea.evaluate.slots import CHOICES, NUMBERS, PICTURE
from magrathea.evaluate.statistics import (
    Tally,
    difference_of_ratios,
    figure,
    gain,
    root_of_ratio,
)
from magrathea.spaces import COUNTERS

HORIZON = 64
HORIZONS = {
    PICTURE: (1, 2, 4, 8, 16, 32, 64),
    NUMBERS: (1, 2, 5, 10, 20, 50),
    CHOICES: (1, 2, 4, 8, 16, 32, 64),
}
SHOWN = (0, 1, 2, 4, 8, 16, 32)  # steps of the filmstrips
TOLERANCE = 12  # grey levels up to which a pixel is unchanged, or right
ENERGY_STEPS = range(8, 17)  # in which motion is measured
NUM_VIDEOS = 4
NUM_STRIPS = 6
REPLAY = "resampled replay"

Values = dict[str, np.ndarray]  # kind -> (R, 1 + H, …), as `by_kind` returns them


def measure_dreams(
    recordings: list[Recording],
    rollouts: Rollouts,
    real: Values,
    dream: Values,
    replay: tuple[Values, np.ndarray] | None = None,
    before: np.ndarray | None = None,
    scale: np.ndarray | None = None,
    counters: Sequence[str] = (),
    env_id: str = "",
) -> DreamMeasures:
    """Compare dreams with what was recorded, at the same steps of the same starts as repeating the last real step.

    Args:
        real, dream: what followed, by kind.
        replay: the same of the real environment with other random choices, and (R, H) where there is it.
        before: (R, Q) the numbers one step before the last real one.
        scale: (Q,) the standard deviations of the numbers; those without one are left out.
        counters: names of the K counters.
        env_id: whose plug-in may read events from pictures.
    """
    num_episodes, measured = len(recordings), {}
    if PICTURE in real:
        replayed = None if replay is None else (replay[0][PICTURE], replay[1])
        measured |= measure_pictures(rollouts, real[PICTURE], dream[PICTURE], num_episodes, replayed)
    if NUMBERS in real and before is not None and scale is not None and (scale > 0).any():
        measured["error"] = measure_numbers(rollouts, real[NUMBERS], dream[NUMBERS], before, scale, num_episodes)
    if CHOICES in real:
        measured["right"] = measure_choices(rollouts, real[CHOICES], dream[CHOICES], num_episodes)
    seen = {source: seen_events(values, counters, env_id) for source, values in (("dream", dream), ("reality", real))}
    return DreamMeasures(**measured, events=measure_events(rollouts, num_episodes, seen))


def measure_pictures(
    rollouts: Rollouts,
    real: np.ndarray,
    dream: np.ndarray,
    num_episodes: int,
    replay: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, Curves | Sources | Figure]:
    """The fields of `DreamMeasures` for pictures (R, 1 + H, rows, columns, channels)."""
    tally = Tally(num_episodes)
    for index, (episode, _) in enumerate(rollouts.starts):
        sources = {"dream": (dream[index], rollouts.valid[index])}
        if replay is not None:
            sources[REPLAY] = replay[0][index], replay[1][index] & rollouts.valid[index]
        repeated = squared_error(real[index, :1], real[index])
        for source, (frames, valid) in sources.items():
            errors = squared_error(frames, real[index])
            for step in _valid_steps(PICTURE, valid):
                tally.add(f"gain/{source}/{step}", [episode], repeated[[step]], errors[[step]], [1])
        for step in _valid_steps(PICTURE, rollouts.valid[index]):
            _tally_changed(tally, episode, step, real[index], dream[index])
        steps = [step for step in ENERGY_STEPS if step <= rollouts.valid[index].sum()]
        if steps:
            energy = [_motion(frames, steps) for frames in (dream[index], real[index])]
            tally.add("motion energy", [episode], [energy[0]], [energy[1]], [len(steps)])
    return {
        "gain": tally.nested("gain/", gain),
        "changed_pixels": tally.nested("pixels/"),
        "motion_energy": tally.figure("motion energy"),
    }


def _valid_steps(kind: str, valid: np.ndarray) -> list[int]:
    """The horizons at which a rollout, valid (H,), can be compared."""
    return [step for step in HORIZONS[kind] if step <= valid.sum()]


def _motion(frames: np.ndarray, steps: list[int]) -> float:
    """The sum over steps of the mean absolute difference from the frame before."""
    now, before = (frames[np.array(steps) - shift].astype(np.float32) for shift in (0, 1))
    return float(np.abs(now - before).reshape(len(steps), -1).mean(axis=1).sum())


def _tally_changed(tally: Tally, episode: int, step: int, real: np.ndarray, dream: np.ndarray) -> None:
    """Count the pixels that are no longer those of the last real frame in reality or in the dream, and which of them
    the dream has right."""

    def differs(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.abs(one.astype(np.int16) - other).max(axis=-1) > TOLERANCE

    right, changed = ~differs(dream[step], real[step]), differs(real[step], real[0])
    for name, where in (("changed", changed), ("changed in the dream", differs(dream[step], real[0]))):
        tally.add(f"pixels/{name}/{step}", [episode], [(right & where).sum()], [where.sum()])
    tally.add_mean(f"pixels/share changed/{step}", [episode], changed[None])


def measure_numbers(
    rollouts: Rollouts,
    real: np.ndarray,
    dream: np.ndarray,
    before: np.ndarray,
    scale: np.ndarray,
    num_episodes: int,
) -> Curves:
    """Root mean squared errors of numbers (R, 1 + H, Q) in standard deviations, by source and horizon, and the ratios
    of the dream's to those of repeating the last real step and of going on as it changed."""
    tally, used = Tally(num_episodes), scale > 0
    for index, (episode, _) in enumerate(rollouts.starts):
        last = real[index, 0]
        for step in _valid_steps(NUMBERS, rollouts.valid[index]):
            guesses = {"dream": dream[index, step], "repeat": last, "linear": last + step * (last - before[index])}
            squares = {
                source: np.square((guess - real[index, step])[used] / scale[used]).sum()
                for source, guess in guesses.items()
            }
            for source, square in squares.items():
                tally.add(f"{source}/{step}", [episode], [square], [used.sum()])
                if source != "dream":
                    tally.add(f"dream over {source}/{step}", [episode], [squares["dream"]], [square], [used.sum()])
    return tally.nested(statistic=root_of_ratio)


def measure_choices(rollouts: Rollouts, real: np.ndarray, dream: np.ndarray, num_episodes: int) -> Curves:
    """Shares of choices (R, 1 + H, Q) that are right, by source and horizon, and how much more often the dream's are
    than those of the last real step."""
    tally = Tally(num_episodes)
    for index, (episode, _) in enumerate(rollouts.starts):
        for step in _valid_steps(CHOICES, rollouts.valid[index]):
            for source, guess in (("dream", dream[index, step]), ("repeat", real[index, 0])):
                tally.add_mean(f"{source}/{step}", [episode], (guess == real[index, step])[None])
    curves = tally.nested()
    curves["dream − repeat"] = {
        step: figure(tally.statistics(f"dream/{step}", f"repeat/{step}"), difference_of_ratios)
        for step in curves.get("dream", {})
    }
    return curves


def counted_events(numbers: np.ndarray | None, counters: Sequence[str]) -> dict[str, np.ndarray]:
    """In which steps each of K counters (R, 1 + H, K) rises, and in which it falls: (R, H) by name."""
    if numbers is None:
        return {}
    rises = np.diff(numbers, axis=1)
    return {
        f"{change} of {name}": sign * rises[..., index] > 0
        for index, name in enumerate(counters)
        for change, sign in (("rise", 1), ("fall", -1))
    }


def seen_events(values: Values, counters: Sequence[str], env_id: str) -> dict[str, np.ndarray]:
    """What happens in the steps of values by kind: counters that rise or fall, and what the environment's plug-in reads
    from pictures. (R, H) by name, NaN where the pictures do not tell."""
    events, pictures = counted_events(values.get(COUNTERS), counters), values.get(PICTURE)
    if pictures is not None:
        read = [picture_events(env_id, frames) for frames in pictures]
        events |= {name: np.stack([each[name] for each in read]) for name in read[0]}
    return events


def before_ending(dreams: Steps) -> np.ndarray:
    """Which steps (R, H) of dreams come before their ending, or are it."""
    return np.cumsum(dreams.terminated, axis=1) - dreams.terminated == 0


def measure_events(
    rollouts: Rollouts,
    num_episodes: int,
    seen: dict[str, dict[str, np.ndarray]] | None = None,
    dreamt: np.ndarray | None = None,
) -> dict[str, Sources]:
    """Shares of steps with a positive or negative reward, an ending, or another event, if it ever happens, in dreams
    and in what was recorded.

    Args:
        seen: for the "dream" and for "reality" further events (R, H) by name; NaN where it is not known.
        dreamt: (R, H) the dreams' steps that count; if not given, those up to an ending, of those that were recorded.
    """
    tally, seen = Tally(num_episodes), seen or {}
    dreamt = rollouts.valid & before_ending(rollouts.dream) if dreamt is None else dreamt
    happens = {name for events in seen.values() for name, where in events.items() if np.nansum(where) > 0}
    for source, steps, where in (
        ("dream", rollouts.dream, dreamt),
        ("reality", rollouts.real, rollouts.valid),
    ):
        events = {"positive reward": steps.reward > 0, "negative reward": steps.reward < 0, "ending": steps.terminated}
        events |= {name: each for name, each in seen.get(source, {}).items() if name in happens}
        for name, happened in events.items():
            known = ~np.isnan(happened.astype(np.float32))
            tally.add_mean(f"{name}/{source}", rollouts.episodes, happened, where & known)
    return tally.nested()


def write_filmstrips(
    recordings: list[Recording], rollouts: Rollouts, real: np.ndarray, dream: np.ndarray, out: Path, fps: float
) -> list[str]:
    """Write videos of real frames and dreams side by side, of the longest rollouts, and `dreams.png`, a sheet of their
    frames at some steps; returns the names of the videos."""
    lengths = rollouts.valid.sum(axis=1)
    chosen, names, rows = np.argsort(-lengths, kind="stable")[:NUM_STRIPS].tolist(), [], []
    for number, index in enumerate(chosen):
        length = int(lengths[index])
        if number < NUM_VIDEOS:
            names.append(f"dream-{number}.mp4")
            pair = (frames[index, 1 : length + 1] for frames in (real, dream))
            write_video(out / names[-1], side_by_side(*pair), fps)
        shown = [step for step in SHOWN if step <= length]
        number_of_episode = recordings[rollouts.starts[index][0]].number
        rows.append((f"ep. {number_of_episode}\nreal", [real[index, step] for step in shown]))
        rows.append(("dream", [dream[index, step] for step in shown]))
    write_contact_sheet(out / "dreams.png", [f"step {step}" for step in SHOWN], rows)
    return names
