"""Evaluation's measures against values worked out by hand."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from magrathea.data import make_env
from magrathea.evaluate.cells import changed_cells, crafter_cells, crafter_noise, describe_cells, shown_tiles
from magrathea.evaluate.forcing import segment_batches
from magrathea.evaluate.memory.views import Sights, TileView
from magrathea.evaluate.oracle_bound import OracleBound
from magrathea.evaluate.pictures import (
    PSNR_CAP,
    histogram,
    jensen_shannon,
    mean_squared_error,
    perplexity,
    psnr,
    sharpness,
    ssim,
    total_variation,
)
from magrathea.evaluate.recordings import Lived
from magrathea.evaluate.statistics import Tally, expected_calibration_error, f1, figure, pooled_psnr, ratio
from magrathea.evaluate.video import side_by_side, write_contact_sheet, write_video
from magrathea.layout import Slot
from magrathea.memory import EpisodeReadout


def test_ratio_and_f1_of_sums() -> None:
    assert ratio(np.array([3.0, 4.0])) == 0.75
    assert np.isnan(ratio(np.array([0.0, 0.0])))
    assert f1(np.array([2.0, 1.0, 1.0])) == pytest.approx(2 / 3)
    assert pooled_psnr(np.array([2 * 65.025, 2.0])) == pytest.approx(30.0)


def test_calibration_error_weighs_the_bins() -> None:
    sums = np.array([10.0, 9.0, 5.0, 10.0, 2.0, 2.0])  # ten at 0.9 of which half right, ten at 0.2 of which 0.2 right
    assert expected_calibration_error(sums) == pytest.approx(0.2)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    dice, hits = np.random.default_rng(0), 0
    for trial in range(200):
        lengths = dice.integers(20, 60, 40)
        right = dice.binomial(lengths, dice.beta(8, 2, 40))
        measured = figure(np.stack([right, lengths], axis=1), seed=trial)
        hits += measured["low"] <= 0.8 <= measured["high"]
    assert 0.88 <= hits / 200 <= 0.99


def test_one_episode_has_no_interval() -> None:
    measured = figure(np.array([[3.0, 4.0], [0.0, 0.0]]))
    assert measured == {"value": 0.75, "low": None, "high": None, "episodes": 1, "count": 4}


def test_no_positive_example_is_said() -> None:
    tally = Tally(2)
    tally.add_hits("end", [0, 1], [[True, False], [False, False]], [[False, False], [False, False]])
    measured = tally.detection("end")
    assert measured["f1"]["value"] is None and measured["f1"]["note"] == "no positive example"
    assert measured["prevalence"]["value"] == 0 and tally.figure("other")["note"] == "not measured"


def test_means_count_only_what_is_asked() -> None:
    tally = Tally(3)
    tally.add_mean("share", [2, 2, 0], [[1, 0], [1, 1], [0, 1]], [[True, True], [False, True], [True, False]])
    assert tally.statistics("share").tolist() == [[0, 1], [0, 0], [2, 3]]


def test_pictures() -> None:
    grey = np.full((2, 16, 16, 3), 100, np.uint8)
    assert mean_squared_error(grey, grey + 10).tolist() == [100.0, 100.0]
    assert psnr(np.array(0.0)) == PSNR_CAP and psnr(np.array(65.025)) == pytest.approx(30.0)
    noise = np.random.default_rng(0).integers(0, 255, grey.shape, dtype=np.uint8)
    assert ssim(noise, noise) == pytest.approx([1.0, 1.0], abs=1e-5) and (ssim(grey, noise) < 0.2).all()
    assert sharpness(grey).tolist() == [0.0, 0.0] and (sharpness(noise) > 20).all()


def test_histograms() -> None:
    first, second = histogram(np.array([0, 0, 1, 1]), 2), histogram(np.array([1, 1, 2, 2]), 2)
    assert first.tolist() == [0.5, 0.5, 0.0]
    assert total_variation(first, second) == 0.5 and total_variation(first, first) == 0
    assert jensen_shannon(first, second) == pytest.approx(0.5) and jensen_shannon(first, first) == 0
    assert perplexity(first) == pytest.approx(2.0)


def test_changed_cells() -> None:
    cells = changed_cells(np.array([[1, 2], [1, 3], [4, 3]]))
    assert cells.groups["unchanged"].tolist() == [[True, False], [False, True]]
    assert (cells.groups["changed"] ^ cells.groups["unchanged"]).all()


def crafter_walk() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Three steps to the right over a map whose every place has a token of its own; a cow walks at the view's edge."""
    island = np.arange(400).reshape(20, 20)
    position = np.array([[8, 8], [9, 8], [10, 8], [10, 8]])
    tokens, semantic = np.full((4, 9, 9), 999), np.full((4, 7, 9), 2)
    for step, (column, row) in enumerate(position):
        tokens[step, :7] = island[row - 3 : row + 4, column - 4 : column + 5]
        semantic[step, 3, 4] = 13
    semantic[2, 0, 0] = semantic[3, 0, 1] = 14
    infos = {"position": position, "semantic": semantic, "daylight": np.array([1.0, 0.8, 0.49, 0.2])}
    return infos, tokens.reshape(4, 81)


def test_crafter_cells_know_the_map() -> None:
    infos, tokens = crafter_walk()
    slot = Slot(name="observation", role="observation", vocab_size=1000, grid=(9, 9))
    cells = describe_cells("magrathea/Crafter-v0", infos, np.zeros((4, 63, 63, 3), np.uint8), tokens, slot, 4)
    new = cells.groups["new"].reshape(3, 9, 9)
    assert new[0, :7, 8].all() and new[1, :7, 8].all() and new.sum() == 14
    still = cells.groups["visible and still"].reshape(3, 9, 9)
    moving = cells.groups["visible, in motion"].reshape(3, 9, 9)
    assert moving[0, 3, 4] and moving[1, 0, 0] and moving[2, 0, 0] and moving[2, 0, 1]
    assert still[2].sum() == 63 - 3 and not still[:, 7:].any()
    assert cells.groups["inventory"].reshape(3, 9, 9)[:, 7:].all() and cells.groups["inventory"].sum() == 3 * 18
    assert cells.conditions["daylight"].tolist() == [True, False, False]
    assert cells.copied is not None
    known = cells.copied >= 0
    assert (cells.copied == tokens[1:])[known].all() and known.sum() == 3 * 63 - 14


def test_a_place_out_of_the_window_is_new_again() -> None:
    infos, tokens = crafter_walk()
    infos["position"] = np.array([[8, 8], [9, 8], [8, 8], [8, 8]])
    long, short = (crafter_cells(infos, tokens, (9, 9), window).groups["new"].reshape(3, 9, 9) for window in (2, 1))
    assert not long[1].any() and short[1, :7, 0].all() and short[1].sum() == 7


def test_the_nights_noise_is_as_strong_as_the_renderer_draws_it() -> None:
    engine = pytest.importorskip("crafter.engine")
    import crafter

    env = crafter.Env(size=(63, 63), seed=0)
    env.reset()
    view = env._local_view
    assert isinstance(view, engine.LocalView)
    env._world.daylight = 0.1
    pictures = np.stack([view(env._player, np.array([7, 7])) for _ in range(40)]).astype(np.float64)
    pictures = pictures.transpose(0, 2, 1, 3)  # rows first
    difference = (pictures[0::2] - pictures[1::2]).reshape(20, 7, 7, 9, 7, 3)
    measured = np.sqrt(np.square(difference).mean(axis=(0, 2, 4, 5)))
    assert np.abs(measured - crafter_noise(np.array([0.1]))[0]).max() < 2.5
    assert crafter_noise(np.array([0.5, 1.0])).max() == 0


def test_minigrid_cells_are_those_that_the_agent_saw() -> None:
    pytest.importorskip("minigrid")
    env, dice = make_env("magrathea/MiniGrid-v0"), np.random.default_rng(0)
    frames, cells, seen = [], [], []
    for step in range(60):
        observation, info = env.reset(seed=3) if step == 0 else env.step(int(dice.choice([0, 1, 2, 2, 2])))[::4]
        frames.append(observation)
        cells.append(info["cells"])
        seen.append(env.unwrapped.gen_obs_grid()[1].T)
    pictures = np.stack(frames)
    assert np.array_equal(shown_tiles(pictures, (7, 7)), np.stack(seen))
    tiles = pictures.reshape(60, 7, 9, 7, 9, 3).swapaxes(2, 3).reshape(-1, 9 * 9 * 3)
    tokens = np.unique(tiles, axis=0, return_inverse=True)[1].reshape(60, 49)
    slot = Slot(name="observation", role="observation", vocab_size=int(tokens.max()) + 1, grid=(7, 7))
    sorted_cells = describe_cells("magrathea/MiniGrid-v0", {"cells": np.stack(cells)}, pictures, tokens, slot, 6)
    assert sorted_cells.copied is not None
    known = (sorted_cells.copied >= 0) & np.stack(seen)[1:].reshape(59, 49)
    not_agent = np.arange(49) != 45
    assert (sorted_cells.copied == tokens[1:])[known & not_agent].mean() > 0.97
    nothing_new = sorted_cells.exact_steps["nothing new"]
    assert 0.2 < nothing_new.mean() < 0.9
    assert not sorted_cells.groups["new"][nothing_new].any() and sorted_cells.groups["new"][~nothing_new].any(1).all()


def test_segments_ask_for_every_step_once() -> None:
    tokens = [np.arange(length)[:, None].repeat(2, 1) + 1000 * index for index, length in enumerate((40, 3, 17, 2))]
    recordings = [
        Lived(tokens=steps, absent=np.full(steps.shape[1], -1), recalled=EpisodeReadout()) for steps in tokens
    ]
    for window, chunk in ((4, 16), (3, 1), (1, 5)):
        asked = []
        for batch in segment_batches(recordings, window, batch_size=3, chunk=chunk):
            assert batch.tokens.shape[1] == batch.first + batch.steps.shape[1] and batch.first <= window
            for row, episode in enumerate(batch.episodes):
                for place in np.flatnonzero(batch.valid[row]):
                    step = batch.steps[row, place]
                    asked.append((episode, step))
                    assert batch.targets[row, place, 0] == 1000 * episode + step
                    assert batch.previous[row, place, 0] == 1000 * episode + step - 1
        assert sorted(asked) == [(index, step) for index, part in enumerate(tokens) for step in range(1, len(part))]


def test_videos_can_be_played(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (5, 63, 63, 3), dtype=np.uint8)
    both = side_by_side(frames, frames)
    with av.open(str(write_video(tmp_path / "a.mp4", both, 10))) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(decoded) == 5 and decoded[0].shape == both.shape[1:]
    assert write_contact_sheet(tmp_path / "a.png", ["1", "4"], [("one", list(frames[:2]))]).stat().st_size > 1000


def test_what_was_never_seen_cannot_be_foretold() -> None:
    view = TileView(grid=(3, 3), shape=(3, 3), body=(1, 1))
    dice, num_steps = np.random.default_rng(0), 8
    world = dice.integers(0, 256, (3, num_steps + 3, 2, 2, 1), dtype=np.uint8)  # one walks to the right over it
    poses = np.array([(1, column, 0) for column in range(1, num_steps + 1)])
    tiles = np.stack([world[:, column : column + 3] for column in range(num_steps)])
    frames = tiles.swapaxes(2, 3).reshape(num_steps, 6, 6, 1)
    everything = np.ones((num_steps, 3, 3), dtype=bool)
    number = everything.astype(int)
    sights = Sights(poses, number, everything, number, everything[:, 0, 0])
    foretold = OracleBound(frames, view, sights).pictures(start=3, horizon=2)
    assert (foretold[0][:, :4] == frames[4][:, :4]).all() and (foretold[1][:, :2] == frames[5][:, :2]).all()
    mean = tiles.mean(axis=(0, 1, 2)).round()[..., 0]
    assert (foretold[0][:2, 4:, 0] == mean).all() and (foretold[1][:2, 2:4, 0] == mean).all()
