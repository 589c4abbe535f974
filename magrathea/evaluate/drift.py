"""Do long dreams stay themselves? 500 steps under the data's actions, compared with the data, piece by piece."""

from __future__ import annotations

import numpy as np
import torch

from magrathea.evaluate.pictures import histogram, jensen_shannon, perplexity, sharpness, total_variation
from magrathea.evaluate.recordings import Budget, Recording
from magrathea.evaluate.rollouts import choose_starts, mean_uncertainty
from magrathea.evaluate.slots import picture_slot, pictures_of, role_span
from magrathea.evaluate.statistics import figure
from magrathea.session import Session
from magrathea.world import World

NUM_STEPS = 500
PIECE = 50


def measure_drift(
    world: World,
    recordings: list[Recording],
    budget: Budget,
    *,
    num_dreams: int = 16,
    num_steps: int = NUM_STEPS,
    seed: int = 0,
) -> dict:
    """Dream on under recorded actions and describe every piece of 50 steps.

    A dream that ends itself is counted until then. Each figure's interval is over dreams; the histogram distances are
    of all living dreams together, beside that of as many real pieces, which is what chance alone makes of it.
    """
    starts = choose_starts(recordings, world.config.model.window, PIECE, num_dreams, seed)
    actions = _long_actions(recordings, starts, num_steps)
    session = _session(world, recordings, starts, seed)
    tokens, unsure, ended = [], [], []
    for step in range(num_steps):
        result = session.step(world.decode_action(actions[:, step]))
        tokens.append(result.tokens.numpy())
        unsure.append(mean_uncertainty(result.uncertainty))
        ended.append(result.terminated)
        if budget.spent() and (step + 1) % PIECE == 0:
            break
    alive = ~np.logical_or.accumulate(np.stack(ended, axis=1), axis=1)
    return _describe(world, recordings, np.stack(tokens, axis=1), np.stack(unsure, axis=1), alive, seed)


def _session(world: World, recordings: list[Recording], starts: list[tuple[int, int]], seed: int) -> Session:
    window = world.config.model.window
    past = np.stack([recordings[index].tokens[step - window + 1 : step + 1] for index, step in starts])
    return Session(world, batch_size=len(starts), seed=seed, start=torch.from_numpy(past))


def _long_actions(recordings: list[Recording], starts: list[tuple[int, int]], num_steps: int) -> torch.Tensor:
    """(R, num_steps, N) each start's recording from there on, then the following recordings, for their actions."""
    rows = []
    for index, step in starts:
        parts = [recordings[index].tokens[step + 1 :]]
        while sum(map(len, parts)) < num_steps:
            index = (index + 1) % len(recordings)
            parts.append(recordings[index].tokens[1:])
        rows.append(np.concatenate(parts)[:num_steps])
    return torch.from_numpy(np.stack(rows))


def _describe(
    world: World, recordings: list[Recording], tokens: np.ndarray, unsure: np.ndarray, alive: np.ndarray, seed: int
) -> dict:
    """tokens (R, S, N), unsure and alive (R, S) -> figures for every piece."""
    slot = picture_slot(world) or world.layout.of_role("observation")[0]
    span = world.layout.span(slot.name)
    real = np.concatenate([recording.tokens[:, span] for recording in recordings])
    real_histogram = histogram(real, slot.vocab_size)
    pieces = []
    for begin in range(0, tokens.shape[1], PIECE):
        here = alive[:, begin : begin + PIECE]
        dreamt = tokens[:, begin : begin + PIECE, span]
        used = dreamt[here]
        if not len(used):
            break
        now = histogram(used, slot.vocab_size)
        chance = histogram(_real_sample(recordings, span, int(here.any(axis=1).sum()), seed + begin), slot.vocab_size)
        moved = (np.diff(tokens[:, max(0, begin - 1) : begin + PIECE, span], axis=1) != 0).any(axis=-1)
        piece = {
            "first step": begin + 1,
            "last step": begin + here.shape[1],
            "dreams": int(here.any(axis=1).sum()),
            "histogram distance": total_variation(now, real_histogram),
            "distance of as much real": total_variation(chance, real_histogram),
            "divergence, bits": jensen_shannon(now, real_histogram),
            "codes in use": perplexity(now),
            "uncertainty": _mean_over_dreams(unsure[:, begin : begin + PIECE], here),
            "pictures that change": _mean_over_dreams(moved, here[:, -moved.shape[1] :]),
        }
        if picture_slot(world) is not None:
            piece["sharpness"] = _mean_over_dreams(
                sharpness(pictures_of(world, slot, tokens[:, begin : begin + PIECE : 10])), here[:, ::10]
            )
        pieces.append(piece)
    return {"slot": slot.name, "real": _real_figures(world, recordings, real_histogram), "pieces": pieces}


def _mean_over_dreams(values: np.ndarray, where: np.ndarray) -> dict:
    return figure(np.stack([np.where(where, values, 0).sum(axis=1), where.sum(axis=1)], axis=1))


def _real_sample(recordings: list[Recording], span: slice, num_pieces: int, seed: int) -> np.ndarray:
    """Tokens of as many pieces of 50 real steps, at random places."""
    rng = np.random.default_rng(seed)
    pieces = []
    for _ in range(num_pieces):
        tokens = recordings[int(rng.integers(len(recordings)))].tokens
        begin = int(rng.integers(max(1, len(tokens) - PIECE)))
        pieces.append(tokens[begin : begin + PIECE, span])
    return np.concatenate(pieces)


def _real_figures(world: World, recordings: list[Recording], real_histogram: np.ndarray) -> dict:
    span, slot = role_span(world.layout, "observation"), picture_slot(world)
    moved = [(np.diff(recording.tokens[:, span], axis=0) != 0).any(axis=-1) for recording in recordings]
    result = {
        "codes in use": perplexity(real_histogram),
        "pictures that change": figure(np.array([[steps.sum(), len(steps)] for steps in moved], dtype=np.float64)),
    }
    if slot is not None:
        sharp = [sharpness(pictures_of(world, slot, recording.tokens[::10])) for recording in recordings]
        result["sharpness"] = figure(np.array([[values.sum(), len(values)] for values in sharp]))
    return result
