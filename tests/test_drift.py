"""Drift of long dreams: it is found in episodes that decay, and not in real ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from board import Board

from magrathea.data import Dataset
from magrathea.evaluate.drift import (
    CHANGE,
    DISTANCE,
    IMPOSSIBLE,
    MAX_EXTRA,
    KnownTokens,
    describe_drift,
    dream_on,
    evaluate_drift,
)
from magrathea.evaluate.recordings import Budget, Options, Recording, Subject, held_out_recordings
from magrathea.evaluate.rollouts import choose_starts
from magrathea.session import Session
from magrathea.world import World

AGES = (50, 100, 200)


@pytest.fixture(scope="module")
def recordings(debug_world: World, debug_dataset: Dataset) -> list[Recording]:
    return held_out_recordings(debug_world, debug_dataset, 8)


@pytest.fixture(scope="module")
def known(debug_world: World, debug_dataset: Dataset, recordings: list[Recording]) -> KnownTokens:
    subject = Subject(debug_world, debug_dataset, Options(num_episodes=8))
    assert [each.number for each in subject.recordings] == [each.number for each in recordings]
    return KnownTokens.of(subject, Budget())


def real_episode(world: World, seed: int) -> np.ndarray:
    """The tokens of a long walk that never steps on the corner, as a dream without any fault would show it."""
    env, rng = Board(), np.random.default_rng(seed)
    frames, actions = [env.reset(seed=seed)[0]], []
    while len(actions) < world.config.model.window + max(AGES):
        before, action = env.place, int(rng.integers(5))
        frame, _, won, _, _ = env.step(action)
        if won:
            env.place = before
            continue
        frames.append(frame)
        actions.append(action)
    nothing = np.zeros(len(actions), np.float32)
    return world.encode_episode(np.stack(frames), np.array(actions), nothing, nothing.astype(bool)).numpy()[1:]


def decaying(world: World, tokens: np.ndarray, seed: int) -> np.ndarray:
    """The same walk; from step 60 on its picture becomes more and more random."""
    rng, span = np.random.default_rng(seed), world.layout.span("observation")
    seen = tokens[:, span]
    share = np.linspace(-0.3, 0.7, len(tokens))[:, None]
    noise = rng.integers(0, seen.max() + 1, seen.shape)
    result = tokens.copy()
    result[:, span] = np.where(rng.random(seen.shape) < share, noise, seen)
    return result


def test_drift_is_found_where_it_is(debug_world: World, recordings: list[Recording], known: KnownTokens) -> None:
    walks = [real_episode(debug_world, seed) for seed in range(24)]
    decayed = [decaying(debug_world, walk, seed) for seed, walk in enumerate(walks)]
    well, ill = (describe_drift(debug_world, recordings, dreams, known, AGES) for dreams in (walks, decayed))
    assert well.change[CHANGE].low < 1 < well.change[CHANGE].high
    assert well.change[IMPOSSIBLE].value == 0 and ill.change[IMPOSSIBLE].low > 0.05
    assert ill.ages["200"][DISTANCE].value - ill.ages["50"][DISTANCE].value > 0.02
    assert well.dreams["200"] == len(walks) and well.recordings[IMPOSSIBLE].value < 0.01


def test_neighbours_are_impossible_only_side_by_side(
    debug_world: World, known: KnownTokens, recordings: list[Recording]
) -> None:
    picture = recordings[0].tokens[:1, debug_world.layout.span("observation")]
    assert not known.impossible(picture).any()
    body = next(token for token in np.unique(picture) if (picture == token).sum() == 1)
    twice = picture.copy()
    twice[0, :2] = body
    assert known.impossible(twice)[0, 0] and known.impossible(twice).sum() < 8


def test_a_dream_that_ends_is_rewound_and_continues(debug_world: World, recordings: list[Recording]) -> None:
    starts = choose_starts(recordings, debug_world.config.model.window, 50, 4)
    dreams, num_endings = dream_on(debug_world, recordings, starts, 50, Budget(), seed=1)
    again, _ = dream_on(debug_world, recordings, starts, 50, Budget(), seed=1)
    window = debug_world.config.model.window
    for dream, same, (index, step) in zip(dreams, again, starts, strict=True):
        assert np.array_equal(dream, same) and len(dream) <= window + 50
        assert np.array_equal(dream[:window], recordings[index].tokens[step - window + 1 : step + 1])
        assert not debug_world.decode_terminated(torch.from_numpy(dream)).any()
    assert num_endings > 0


def test_a_dream_that_always_ends_is_abandoned(
    debug_world: World, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, ended = Session.step, np.ones(2, dtype=bool)
    monkeypatch.setattr(Session, "step", lambda *given: replace(step(*given), terminated=ended))
    starts = choose_starts(recordings, debug_world.config.model.window, 50, 2)
    dreams, num_endings = dream_on(debug_world, recordings, starts, 50, Budget(), seed=1)
    assert num_endings == 2 * 50 * MAX_EXTRA > 2 * 64  # more often than the rewind can be doubled
    assert all(len(dream) == debug_world.config.model.window for dream in dreams)


def test_report(debug_world: World, debug_dataset: Dataset, tmp_path: Path) -> None:
    result = evaluate_drift(debug_world, debug_dataset.folder, tmp_path, Options(num_dreams=8, minutes=0.03))
    written = json.loads((tmp_path / "drift.json").read_text())["drift"]
    assert list(written["ages"]) == list(result.drift.ages) and "50" in written["ages"]
    page = (tmp_path / "drift.html").read_text()
    assert IMPOSSIBLE in page and "recordings" in page
    assert "long-dreams.png" in page and (tmp_path / "long-dreams.png").stat().st_size > 500
