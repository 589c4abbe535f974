"""The whole evaluation of a world: measures, plots, videos and a page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from magrathea.data import Dataset
from magrathea.evaluate.about import about, write_json
from magrathea.evaluate.card import write_card
from magrathea.evaluate.dreams import measure_control, measure_pictures, measure_tokens, real_pictures
from magrathea.evaluate.drift import measure_drift
from magrathea.evaluate.drift_report import drift_section
from magrathea.evaluate.headlines import headlines
from magrathea.evaluate.next_step import measure_next_step
from magrathea.evaluate.page import write_page
from magrathea.evaluate.plots import plot_actions, plot_drift, plot_horizon, plot_reliability
from magrathea.evaluate.recordings import Budget, Recording, held_out_recordings, open_dataset
from magrathea.evaluate.resampled_replay import resampled_replay
from magrathea.evaluate.rollouts import Rollouts, choose_starts, roll_out
from magrathea.evaluate.slots import picture_slot, pictures_of
from magrathea.evaluate.uses import measure_uses
from magrathea.evaluate.video import side_by_side, write_contact_sheet, write_video
from magrathea.progress import Stages
from magrathea.world import World

HORIZON = 64
NUM_VIDEOS = 4
SHOWN_HORIZONS = (1, 2, 4, 8, 16, 32, 64)
DRIFT_AGES = (50, 100, 200, 500)
# of the time that is left when each begins
SHARES = {"next step": 0.3, "dreams": 0.25, "reality again": 0.5, "uses": 0.5, "drift": 0.9}


def evaluate(
    world: str | Path | World,
    dataset: str | Path | Dataset,
    out: str | Path,
    *,
    num_episodes: int = 64,
    num_dreams: int = 64,
    minutes: float | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a world on held-out episodes and write `metrics.json`, plots, videos and `index.html` into a folder.

    Args:
        world: a world, its folder, the name of a shipped one, or a hub id.
        dataset: the one that it was trained on (only its held-out episodes are used), or another of the same spaces.
        out: folder of the report; files in it are replaced.
        num_episodes: most episodes to measure on.
        num_dreams: most dreams of 64 steps.
        minutes: about how long it may take; each part then measures as much as it has time for, at least one batch.
        device: "cpu", "cuda", or "auto".
        seed: of the choice of episodes and of the dreams.

    Returns:
        what `metrics.json` holds: every figure as {"value", "low", "high", "episodes", "count"}, low and high being its
        95% bootstrap interval over episodes.

    Raises:
        MagratheaError: for a dataset of other spaces, or one without episodes that the world was not trained on.
    """
    world = world if isinstance(world, World) else World.from_pretrained(world, device=device)
    source = open_dataset(dataset)
    began, time_left = time.monotonic(), Budget(None if minutes is None else 60 * minutes)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with Stages() as stages:
        stages.begin("reading held-out episodes")
        recordings = held_out_recordings(world, source, num_episodes, seed)
        metrics: dict[str, Any] = {"about": about(world, source, recordings, seed)}
        stages.begin("next steps")
        metrics["next step"] = measure_next_step(world, recordings, time_left.part(SHARES["next step"]))
        stages.begin("dreams")
        starts = choose_starts(recordings, world.config.model.window, HORIZON, num_dreams, seed)
        dream_time = time_left.part(SHARES["dreams"])
        rollouts = roll_out(world, recordings, starts, HORIZON, budget=dream_time, seed=seed)
        stages.begin("reality again")
        again = resampled_replay(world, source, recordings, rollouts, time_left.part(SHARES["reality again"]), seed)
        metrics |= _measure_dreams(world, recordings, rollouts, again, out)
        stages.begin("uses")
        metrics["uses"] = measure_uses(world, recordings, time_left.part(SHARES["uses"]), seed)
        stages.begin("long dreams")
        drift_time = time_left.part(SHARES["drift"])
        metrics["drift"], _ = measure_drift(world, source, recordings, drift_time, ages=DRIFT_AGES, seed=seed)
    metrics["about"]["seconds"] = round(time.monotonic() - began, 1)
    metrics["headlines"] = headlines(metrics)
    _plot(metrics, out)
    write_json(out / "metrics.json", metrics)
    write_page(out, metrics, [drift_section(metrics["drift"], out)])
    write_card(out, world, metrics)
    return metrics


def _measure_dreams(
    world: World, recordings: list[Recording], rollouts: Rollouts, again: Rollouts | None, out: Path
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "tokens over the horizon": measure_tokens(world, recordings, rollouts),
        "control": measure_control(world, recordings, rollouts, again),
        "passes": float(rollouts.num_passes[rollouts.valid].mean()),
    }
    slot = picture_slot(world)
    if slot is not None:
        result["pictures"] = measure_pictures(world, recordings, rollouts, slot, again)
        result["videos"] = _write_videos(world, recordings, rollouts, out)
    return result


def _write_videos(world: World, recordings: list[Recording], rollouts: Rollouts, out: Path) -> list[str]:
    """Real beside dream, of the first rollouts that reach the end of the horizon (or the longest, if none does)."""
    slot = picture_slot(world)
    assert slot is not None
    lengths = rollouts.valid.sum(axis=1)
    chosen = np.argsort(-lengths, kind="stable")[:NUM_VIDEOS]
    fps, names, rows = float(world.metadata.get("fps") or 10), [], []
    for index, row in enumerate(chosen):
        length = int(lengths[row])
        frames = real_pictures(recordings, rollouts, slot, int(row))[1 : length + 1]
        dream = pictures_of(world, slot, rollouts.dreamt[row, :length])
        names.append(f"dream-{index}.mp4")
        write_video(out / names[-1], side_by_side(frames, dream), fps)
        shown = [horizon - 1 for horizon in SHOWN_HORIZONS if horizon <= length]
        rows.append((f"ep. {recordings[rollouts.episodes[row]].number}\nreal", [frames[step] for step in shown]))
        rows.append(("dream", [dream[step] for step in shown]))
    write_contact_sheet(out / "dreams.png", [f"step {horizon}" for horizon in SHOWN_HORIZONS], rows)
    return names


def _plot(metrics: dict[str, Any], out: Path) -> None:
    pictures = metrics.get("pictures")
    if pictures:
        for condition, curves in pictures["psnr"].items():
            where = "" if condition == "all" else f", {condition} only"
            plot_horizon(out / f"psnr-{condition}.png", curves, f"PSNR over the horizon{where}", "dB")
        plot_horizon(out / "ssim-all.png", pictures["ssim"]["all"], "SSIM over the horizon", "SSIM")
    plot_horizon(out / "tokens.png", metrics["tokens over the horizon"], "Tokens equal to the recording's", "share")
    plot_reliability(out / "calibration.png", metrics["next step"]["calibration"])
    plot_actions(out / "actions.png", metrics["control"]["by action"])
    if metrics["drift"]["ages"]:
        plot_drift(out / "drift.png", metrics["drift"])
