"""Evaluation's measures against values worked out by hand."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_f1_score

from magrathea.evaluate.cells import changed_cells
from magrathea.evaluate.drift import histogram
from magrathea.evaluate.images import (
    PSNR_CAP,
    psnr,
    side_by_side,
    squared_error,
    write_contact_sheet,
    write_video,
)
from magrathea.evaluate.recordings import EncodedEpisode
from magrathea.evaluate.results import Figure
from magrathea.evaluate.segments import segment_batches
from magrathea.evaluate.statistics import (
    Tally,
    difference_of_ratios,
    figure,
    ratio,
    ratio_of_ratios,
)
from magrathea.memory import EpisodeReadout


def test_ratio_of_sums() -> None:
    assert ratio(np.array([3.0, 4.0])) == 0.75
    assert np.isnan(ratio(np.array([0.0, 0.0])))
    assert ratio_of_ratios(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(2 / 3)
    assert difference_of_ratios(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(-1 / 4)


def test_f1_is_that_of_torchmetrics() -> None:
    rng, tally = np.random.default_rng(0), Tally(2)
    predicted, actual = rng.random((2, 200)) < 0.3, rng.random((2, 200)) < 0.4
    for episode in range(2):
        tally.add_f1("end", episode, predicted[episode], actual[episode])
    expected = binary_f1_score(torch.from_numpy(predicted).long().ravel(), torch.from_numpy(actual).long().ravel())
    assert tally.figure("end/f1").value == pytest.approx(float(expected), abs=1e-6)
    assert tally.figure("end/f1").count == actual.sum()


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(0), 0
    for trial in range(200):
        lengths = rng.integers(20, 60, 40)
        right = rng.binomial(lengths, rng.beta(8, 2, 40))
        measured = figure(np.stack([right, lengths], axis=1), seed=trial)
        hits += measured.low <= 0.8 <= measured.high
    assert 0.88 <= hits / 200 <= 0.99


def test_one_episode_has_no_interval() -> None:
    measured = figure(np.array([[3.0, 4.0], [0.0, 0.0]]))
    assert asdict(measured) == {"value": 0.75, "low": None, "high": None, "episodes": 1, "count": 4}


def test_an_f1_without_positives_is_undefined() -> None:
    tally = Tally(2)
    tally.add_f1("end", 0, np.array([True, False]), np.array([False, False]))
    assert tally.figure("end/f1").value is None
    assert tally.figure("other") == Figure()


def test_means_count_only_what_is_asked() -> None:
    tally = Tally(3)
    tally.add_mean("share", [2, 2, 0], [[1, 0], [1, 1], [0, 1]], [[True, True], [False, True], [True, False]])
    assert tally.statistics("share").tolist() == [[0, 1], [0, 0], [2, 3]]


def test_squared_error_and_psnr() -> None:
    grey = np.full((2, 16, 16, 3), 100, np.uint8)
    assert psnr(grey, grey).tolist() == pytest.approx([PSNR_CAP] * 2)
    assert psnr(grey, grey + 10) == pytest.approx(10 * np.log10(255**2 / 100), abs=1e-4)
    assert squared_error(grey, grey + 51).tolist() == pytest.approx([0.04] * 2)


def test_histograms() -> None:
    assert histogram(np.array([0, 0, 1, 1]), 2).tolist() == [0.5, 0.5, 0.0]


def test_changed_cells() -> None:
    cells = changed_cells(np.array([[1, 2], [1, 3], [4, 3]]))
    assert cells.groups["unchanged"].tolist() == [[True, False], [False, True]]
    assert (cells.groups["changed"] ^ cells.groups["unchanged"]).all()


def test_segments_predict_every_step_once() -> None:
    tokens = [np.arange(length)[:, None].repeat(2, 1) + 1000 * index for index, length in enumerate((40, 3, 17, 2))]
    recordings = [
        EncodedEpisode(tokens=steps, absent=np.full(steps.shape[1], -1), readout=EpisodeReadout()) for steps in tokens
    ]
    for window, chunk in ((4, 16), (3, 1), (1, 5)):
        asked = []
        for batch in segment_batches(recordings, window, chunk=chunk):
            assert batch.tokens.shape[1] == batch.first + batch.steps.shape[1] and batch.first <= window
            for row, episode in enumerate(batch.episodes):
                for place in np.flatnonzero(batch.valid[row]):
                    step = batch.steps[row, place]
                    asked.append((episode, step))
                    assert batch.tokens[row, batch.first + place, 0] == 1000 * episode + step
                    assert batch.tokens[row, batch.first + place - 1, 0] == 1000 * episode + step - 1
        assert sorted(asked) == [(index, step) for index, part in enumerate(tokens) for step in range(1, len(part))]


def test_videos_can_be_played(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (5, 63, 63, 3), dtype=np.uint8)
    both = side_by_side(frames, frames)
    with av.open(str(write_video(tmp_path / "a.mp4", both, 10))) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(decoded) == 5 and decoded[0].shape == both.shape[1:]
    assert write_contact_sheet(tmp_path / "a.png", ["1", "4"], [("one", list(frames[:2]))]).stat().st_size > 1000
