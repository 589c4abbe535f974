"""Drift of long dreams: what stays as it was is not said to drift, and what rots is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from board import Board

from magrathea.data import Dataset
from magrathea.evaluate import drift_report
from magrathea.evaluate.drift import CONTROL, IMPOSSIBLE, Known, describe_drift
from magrathea.evaluate.long_dreams import PATIENCE, dream_on, pieces_of
from magrathea.evaluate.recordings import Budget, Lived, Recording, held_out_recordings, other_episodes
from magrathea.evaluate.rollouts import choose_starts
from magrathea.session import Session
from magrathea.world import World

AGES = (50, 100, 200)


@pytest.fixture(scope="module")
def recordings(debug_world: World, debug_dataset: Dataset) -> list[Recording]:
    return held_out_recordings(debug_world, debug_dataset, 8)


@pytest.fixture(scope="module")
def known(debug_world: World, debug_dataset: Dataset, recordings: list[Recording]) -> Known:
    numbers = other_episodes(debug_world, debug_dataset, recordings)
    return Known.of(debug_world, debug_dataset, numbers, Budget())


def real_life(world: World, seed: int) -> np.ndarray:
    """The tokens of a long walk that never steps on the corner, as a dream without any fault would show it."""
    env, dice = Board(), np.random.default_rng(seed)
    frames, actions = [env.reset(seed=seed)[0]], []
    while len(actions) < world.config.model.window + max(AGES):
        before, action = env.place, int(dice.integers(5))
        frame, _, won, _, _ = env.step(action)
        if won:
            env.place = before
            continue
        frames.append(frame)
        actions.append(action)
    nothing = np.zeros(len(actions), np.float32)
    return world.encode_episode(np.stack(frames), np.array(actions), nothing, nothing.astype(bool)).numpy()[1:]


def rotten(world: World, tokens: np.ndarray, seed: int) -> np.ndarray:
    """The same walk; from step 60 on its picture is the more at random the older it is."""
    dice, span = np.random.default_rng(seed), world.layout.span("observation")
    seen = tokens[:, span]
    share = np.linspace(-0.3, 0.7, len(tokens))[:, None]
    noise = dice.integers(0, seen.max() + 1, seen.shape)
    result = tokens.copy()
    result[:, span] = np.where(dice.random(seen.shape) < share, noise, seen)
    return result


def test_what_stays_real_does_not_drift_and_what_rots_does(
    debug_world: World, recordings: list[Recording], known: Known
) -> None:
    walks = [real_life(debug_world, seed) for seed in range(24)]
    sound = [Lived.of(debug_world, walk) for walk in walks]
    rotting = [Lived.of(debug_world, rotten(debug_world, walk, seed)) for seed, walk in enumerate(walks)]
    well, ill = (describe_drift(debug_world, recordings, lives, known, AGES) for lives in (sound, rotting))
    assert abs(well["kept"][CONTROL]["value"] - 1) < 0.1 and well["kept"][CONTROL]["high"] > 1
    assert ill["kept"][CONTROL]["high"] < 1
    assert well["kept"][IMPOSSIBLE]["value"] == 0 and ill["kept"][IMPOSSIBLE]["low"] > 0.05
    for name, grows in (("histogram distance", 1), ("divergence, bits", 1), ("confidence", -1)):
        first, last = (ill["ages"][age][name] for age in ("50", "200"))
        first, last = (value["value"] if isinstance(value, dict) else value for value in (first, last))
        assert (last - first) * grows > 0.02, name
    assert well["ages"]["200"]["dreams"] == len(walks) and well["real"][IMPOSSIBLE]["value"] < 0.01


def test_neighbours_are_impossible_only_side_by_side(
    debug_world: World, known: Known, recordings: list[Recording]
) -> None:
    picture = recordings[0].tokens[:1, debug_world.layout.span("observation")]
    assert not known.impossible(picture).any()
    body = next(token for token in np.unique(picture) if (picture == token).sum() == 1)
    twice = picture.copy()
    twice[0, :2] = body
    assert known.impossible(twice)[0, 0] and known.impossible(twice).sum() < 8


def test_a_dream_that_ends_takes_another_road(debug_world: World, recordings: list[Recording]) -> None:
    starts = choose_starts(recordings, debug_world.config.model.window, 50, 4)
    lives, num_endings = dream_on(debug_world, recordings, starts, 50, Budget(), seed=1)
    again, _ = dream_on(debug_world, recordings, starts, 50, Budget(), seed=1)
    window = debug_world.config.model.window
    for life, same, (index, step) in zip(lives, again, starts, strict=True):
        assert np.array_equal(life.tokens, same.tokens) and len(life.tokens) <= window + 50
        assert np.array_equal(life.tokens[:window], recordings[index].tokens[step - window + 1 : step + 1])
        assert not debug_world.decode_terminated(torch.from_numpy(life.tokens)).any()
    assert num_endings > 0


def test_a_dream_that_always_ends_is_given_up(
    debug_world: World, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, ended = Session.step, np.ones(2, dtype=bool)
    monkeypatch.setattr(Session, "step", lambda *given: replace(step(*given), terminated=ended))
    starts = choose_starts(recordings, debug_world.config.model.window, 50, 2)
    lives, num_endings = dream_on(debug_world, recordings, starts, 50, Budget(), seed=1)
    assert num_endings == 2 * 50 * PATIENCE > 2 * 64  # more often than a number can be doubled
    assert all(len(life.tokens) == debug_world.config.model.window for life in lives)


def test_pieces_show_what_was_before_them(debug_world: World, recordings: list[Recording]) -> None:
    window, length = debug_world.config.model.window, len(recordings[0].tokens)
    pieces = pieces_of(debug_world, recordings, [(0, window), (0, length - 3)], length=5)
    assert np.array_equal(pieces.tokens[0], recordings[0].tokens[1 : window + 6][: window + 5])
    assert pieces.valid[1].tolist() == [True, True, False, False, False]


def test_report(debug_world: World, debug_dataset: Dataset, tmp_path: Path) -> None:
    text = drift_report(debug_world, debug_dataset.folder, tmp_path, num_dreams=8, minutes=0.03)
    written = json.loads((tmp_path / "drift.json").read_text())["drift"]
    assert set(written["ages"]) and f"| {CONTROL} |" in text and "recordings" in text.splitlines()[0]
    page = (tmp_path / "drift.html").read_text()
    assert IMPOSSIBLE in page
    for name in ("drift.png", "long-dreams.png"):
        assert name in page and (tmp_path / name).stat().st_size > 500
