"""The orders of filling compared: what each costs in passes, and what it gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Generator

from magrathea.data import Dataset
from magrathea.evaluate.dreams import real_pictures
from magrathea.evaluate.forcing import fill_batch, segment_batches
from magrathea.evaluate.pictures import histogram, mean_squared_error, psnr, total_variation
from magrathea.evaluate.recordings import Budget, Recording, held_out_recordings, open_dataset
from magrathea.evaluate.rollouts import Rollouts, choose_starts, roll_out
from magrathea.evaluate.slots import picture_slot, pictures_of, role_span
from magrathea.evaluate.statistics import Tally
from magrathea.sampler import FillSettings
from magrathea.world import World

HORIZON = 16


def order_settings(settings: FillSettings) -> dict[str, FillSettings]:
    """The settings that are compared, by name; all but order and passes are the world's own."""
    return {
        "one-shot": replace(settings, order="one_shot"),
        "MaskGIT, 4 passes": replace(settings, order="maskgit", max_passes=4),
        "MaskGIT, 8 passes": replace(settings, order="maskgit", max_passes=8),
        "adaptive, 2 passes at most": replace(settings, order="adaptive", max_passes=2),
        "adaptive, 4 passes at most": replace(settings, order="adaptive", max_passes=4),
        "adaptive, 8 passes at most": replace(settings, order="adaptive", max_passes=8),
        "autoregressive": replace(settings, order="autoregressive"),
        "adaptive (the world's own)": settings,
    }


def compare_orders(
    world: str | Path | World,
    dataset: str | Path | Dataset,
    *,
    num_episodes: int = 32,
    num_steps: int = 256,
    num_dreams: int = 32,
    device: str = "cpu",
    minutes: float | None = None,
    seed: int = 0,
) -> str:
    """A Markdown table of the orders of filling, on held-out episodes.

    For each: passes and positions filled per step; the next step's tokens right, drawn as a dream draws them, over all
    and where they change; steps right in all tokens; PSNR after 16 dreamt steps; and how far the dreamt frames' token
    histogram lies from the real frames' (total variation; the real frames' own halves give the floor).
    """
    world = world if isinstance(world, World) else World.from_pretrained(world, device=device)
    recordings = held_out_recordings(world, open_dataset(dataset), num_episodes, seed)
    compared = order_settings(world.config.fill)
    share = None if minutes is None else 60 * minutes / len(compared)
    rows = []
    for name, settings in compared.items():
        budget, tally = Budget(share), Tally(len(recordings))
        _next_steps(tally, world, recordings, settings, num_steps, budget, seed)
        starts = choose_starts(recordings, world.config.model.window, HORIZON, num_dreams, seed)
        rollouts = roll_out(world, recordings, starts, HORIZON, budget=budget, settings=settings, seed=seed)
        rows.append(_row(name, tally, world, recordings, rollouts))
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "| --- " + "| ---: " * (len(columns) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row[column] for column in columns) + " |" for row in rows]) + "\n"


def _next_steps(
    tally: Tally,
    world: World,
    recordings: list[Recording],
    settings: FillSettings,
    num_steps: int,
    budget: Budget,
    seed: int,
) -> None:
    """Fill single steps, given the real ones before, with the order that is measured."""
    span, done = role_span(world.layout, "observation"), 0
    generators = [Generator().manual_seed(seed + row) for row in range(32)]
    for batch in segment_batches(recordings, world.config.model.window, batch_size=32, chunk=1, seed=seed):
        filled = fill_batch(world, batch, settings, generators[: len(batch.episodes)])
        right = (filled.tokens == batch.targets[:, 0])[:, span].numpy()
        changed = (batch.targets[:, 0] != batch.previous[:, 0])[:, span].numpy()
        tally.add_mean("right", batch.episodes, right)
        tally.add_mean("right where changed", batch.episodes, right, changed)
        tally.add_mean("exact", batch.episodes, right.all(axis=1))
        tally.add_mean("passes", batch.episodes, filled.num_passes.numpy())
        done += len(right)
        if done >= num_steps or budget.spent():
            return


def _row(name: str, tally: Tally, world: World, recordings: list[Recording], rollouts: Rollouts) -> dict[str, str]:
    slot = picture_slot(world) or world.layout.of_role("observation")[0]
    span = world.layout.span(slot.name)
    dreamt, real = (
        histogram(tokens[..., span][rollouts.valid], slot.vocab_size) for tokens in (rollouts.dreamt, rollouts.recorded)
    )
    row = {
        "order": name,
        "passes a step": f"{tally.figure('passes')['value']:.2f}",
        "passes a step, dreaming": f"{rollouts.num_passes[rollouts.valid].mean():.2f}",
        "tokens right": _percent(tally.figure("right")),
        "right where changed": _percent(tally.figure("right where changed")),
        "steps all right": _percent(tally.figure("exact")),
        "histogram distance": f"{total_variation(dreamt, real):.3f}",
    }
    if picture_slot(world) is not None:
        row[f"PSNR at {HORIZON}, dB"] = _psnr_at_end(world, recordings, rollouts, slot)
    return row


def _psnr_at_end(world: World, recordings: list[Recording], rollouts: Rollouts, slot: Any) -> str:
    tally = Tally(len(recordings))
    for row in np.flatnonzero(rollouts.valid[:, -1]):
        picture = pictures_of(world, slot, rollouts.dreamt[row, -1])
        error = mean_squared_error(picture, real_pictures(recordings, rollouts, slot, int(row))[-1])
        tally.add_mean("psnr", rollouts.episodes[[row]], [psnr(error)])
    figure = tally.figure("psnr")
    return "–" if figure["value"] is None else f"{figure['value']:.2f}{_interval(figure, '.2f')}"


def _percent(figure: dict) -> str:
    return "–" if figure["value"] is None else f"{figure['value']:.1%}{_interval(figure, '.1%')}"


def _interval(figure: dict, style: str) -> str:
    return "" if figure["low"] is None else f" ({figure['low']:{style}}–{figure['high']:{style}})"
