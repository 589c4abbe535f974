"""The whole evaluation, on a world that was trained on a real, recorded dataset within the test."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from magrathea import masks
from magrathea.data import Dataset, collect, make_env
from magrathea.errors import MagratheaError
from magrathea.evaluate import compare_orders, evaluate
from magrathea.evaluate.dreams import measure_control, measure_pictures
from magrathea.evaluate.forcing import fill_batch, segment_batches
from magrathea.evaluate.recordings import Budget, held_out_recordings, unseen_episodes
from magrathea.evaluate.resampled_replay import draw_anew, resampled_replay
from magrathea.evaluate.rollouts import choose_starts, roll_out
from magrathea.evaluate.slots import picture_slot
from magrathea.world import World, WorldConfig


def with_metadata(world: World, **changes: object) -> World:
    """The same world, which remembers something else of its training."""
    config = WorldConfig(world.config.model, world.config.fill, metadata=world.metadata | changes)
    return World(world.tokenizers, config, world.starts, world.model)


def test_report(debug_world: World, debug_dataset: Dataset, tmp_path: Path) -> None:
    metrics = evaluate(
        debug_world, debug_dataset.folder, tmp_path / "report", num_episodes=6, num_dreams=4, minutes=0.05
    )
    written = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert written == json.loads(json.dumps(metrics))
    page = (tmp_path / "report" / "index.html").read_text()
    linked = [part.split('"')[0] for part in page.split('src="')[1:]]
    assert {"psnr-all.png", "ssim-all.png", "calibration.png", "actions.png", "dreams.png", "dream-0.mp4"} <= set(
        linked
    )
    assert all((tmp_path / "report" / name).stat().st_size > 500 for name in linked)
    groups = written["next step"]["accuracy"]["observation"]["all"]
    assert groups["unchanged"]["model"]["value"] > 0.9 and groups["unchanged"]["repeat"]["value"] == 1
    assert groups["changed"]["repeat"]["value"] == 0
    assert {"inverse dynamics", "behaviour cloning", "judge", "inpainting", "random holes", "acting toward"} == set(
        written["uses"]
    )
    assert written["headlines"] and "steps" in written["about"]


def test_only_held_out_episodes_are_used(debug_world: World, debug_dataset: Dataset) -> None:
    trained, held_out = debug_dataset.split(debug_world.metadata["held_out"], debug_world.metadata["split_seed"])
    assert unseen_episodes(debug_world, debug_dataset) == held_out
    recordings = held_out_recordings(debug_world, debug_dataset, 1000)
    assert not {recording.number for recording in recordings} & set(trained)
    other = with_metadata(debug_world, dataset_id="another")
    assert unseen_episodes(other, debug_dataset) == list(range(len(debug_dataset)))


def test_a_world_that_does_not_say_what_it_saw_is_refused(debug_world: World, debug_dataset: Dataset) -> None:
    with pytest.raises(MagratheaError, match="does not say which episodes"):
        unseen_episodes(with_metadata(debug_world, held_out=None), debug_dataset)


def test_a_dataset_of_other_spaces_is_refused(debug_world: World, debug_dataset: Dataset, tmp_path: Path) -> None:
    other = collect("CartPole-v1", 30, tmp_path / "cart", num_processes=1)
    with pytest.raises(MagratheaError, match="has other spaces"):
        evaluate(debug_world, other, tmp_path / "report")


def test_dreams_start_from_what_was_real_and_take_its_actions(debug_world: World, debug_dataset: Dataset) -> None:
    recordings, window = held_out_recordings(debug_world, debug_dataset, 8), debug_world.config.model.window
    starts = choose_starts(recordings, window, 16, 6)
    rollouts = roll_out(debug_world, recordings, starts, 16, budget=Budget())
    assert np.array_equal(rollouts.dream[:, :window], rollouts.real[:, :window])
    actions = debug_world.layout.span("action")
    assert np.array_equal(rollouts.dreamt[..., actions], rollouts.recorded[..., actions])
    for row, (index, step) in enumerate(starts):
        length = int(rollouts.valid[row].sum())
        assert length == min(16, len(recordings[index].tokens) - 1 - step) and length >= 8
        real = recordings[index].tokens[step + 1 : step + 1 + length]
        assert np.array_equal(rollouts.recorded[row, :length], real)


def test_a_perfect_dream_has_the_ceilings_figures(debug_world: World, debug_dataset: Dataset) -> None:
    recordings = held_out_recordings(debug_world, debug_dataset, 8)
    starts = choose_starts(recordings, debug_world.config.model.window, 16, 6)
    rollouts = roll_out(debug_world, recordings, starts, 16, budget=Budget())
    perfect = replace(rollouts, dream=rollouts.real)
    slot = picture_slot(debug_world)
    assert slot is not None
    curves = measure_pictures(debug_world, recordings, perfect, slot)["psnr"]["all"]
    assert curves["dream"] == curves["reconstruction"]
    assert curves["dream"]["8"]["value"] > curves["repeat"]["8"]["value"]
    control = measure_control(debug_world, recordings, perfect)["all steps"]["1…64"]
    assert control["dream / real"]["value"] == 1 and control["dream"] == control["real"]


def test_reality_without_chances_lives_the_same_again(debug_world: World, debug_dataset: Dataset) -> None:
    recordings = held_out_recordings(debug_world, debug_dataset, 8)
    starts = choose_starts(recordings, debug_world.config.model.window, 16, 6)
    rollouts = roll_out(debug_world, recordings, starts, 16, budget=Budget())
    again = resampled_replay(debug_world, debug_dataset, recordings, rollouts, Budget())
    assert again is not None and np.array_equal(again.valid, rollouts.valid)
    assert np.array_equal(again.dreamt[again.valid], again.recorded[again.valid])
    control = measure_control(debug_world, recordings, rollouts, again)["all steps"]["1…64"]
    assert control["reality again / real"]["value"] == 1
    slot = picture_slot(debug_world)
    assert slot is not None
    curves = measure_pictures(debug_world, recordings, rollouts, slot, again)["psnr"]["all"]
    assert curves["reality again"] == curves["reconstruction"]
    hurried = resampled_replay(debug_world, debug_dataset, recordings, rollouts, Budget(0))
    assert hurried is not None and not hurried.valid.any()


def test_reality_that_does_not_come_again_is_left_out(debug_world: World, debug_dataset: Dataset) -> None:
    recordings = held_out_recordings(debug_world, debug_dataset, 8)
    starts = choose_starts(recordings, debug_world.config.model.window, 16, 6)
    rollouts = roll_out(debug_world, recordings, starts, 16, budget=Budget())
    others = [replace(each, episode=replace(each.episode, seed=each.episode.seed + 1)) for each in recordings]
    assert resampled_replay(debug_world, debug_dataset, others, rollouts, Budget()) is None


def test_other_chances_lead_elsewhere() -> None:
    pytest.importorskip("crafter")

    def pictures(seed: int | None) -> list[np.ndarray]:
        env = make_env("magrathea/Crafter-v0")
        env.reset(seed=3)
        if seed is not None:
            draw_anew(env, seed)
        return [env.step(1)[0] for _ in range(30)]

    recorded, one, same, other = pictures(None), pictures(1), pictures(1), pictures(2)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, recorded) and not np.array_equal(one, other)


def test_filling_one_step_agrees_with_predicting_it(debug_world: World, debug_dataset: Dataset) -> None:
    recordings = held_out_recordings(debug_world, debug_dataset, 4)
    batch = next(iter(segment_batches(recordings, debug_world.config.model.window, batch_size=4, chunk=1)))
    likeliest = replace(debug_world.config.fill, order="one_shot", temperature=0.0)
    dice = [torch.Generator().manual_seed(row) for row in range(4)]
    filled = fill_batch(debug_world, batch, likeliest, dice)
    logits = debug_world.predict_segment(batch.tokens, masks.forward_dynamics(debug_world.layout), batch.first)
    for slot in debug_world.layout.of_role("observation", "reward", "terminated"):
        assert torch.equal(filled.tokens[:, debug_world.layout.span(slot.name)], logits[slot.name][:, 0].argmax(-1))
    assert (filled.num_passes == 1).all()


def test_orders_table(debug_world: World, debug_dataset: Dataset) -> None:
    table = compare_orders(debug_world, debug_dataset, num_episodes=4, num_steps=16, num_dreams=4)
    lines = table.strip().splitlines()
    assert len(lines) == 10 and all(line.count("|") == lines[0].count("|") for line in lines)
    assert "PSNR at 16" in lines[0] and lines[2].startswith("| one-shot | 1.00 | 1.00 |")
