"""The whole evaluation, on a world that was trained on a real, recorded dataset within the test."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from magrathea.cli import main as cli
from magrathea.data import Dataset, collect
from magrathea.errors import MagratheaError
from magrathea.evaluate.dreams import measure_controllability, measure_images
from magrathea.evaluate.evaluation import evaluate
from magrathea.evaluate.recordings import Budget, Options, Recording, held_out_recordings, unseen_episodes
from magrathea.evaluate.rollouts import Rollouts, choose_starts, resampled_replay, roll_out
from magrathea.evaluate.slots import picture_slot
from magrathea.world import World, WorldConfig


def with_metadata(world: World, **changes: object) -> World:
    """The same world with other metadata of its training."""
    config = WorldConfig(world.config.model, world.config.fill, metadata=world.metadata | changes)
    return World(world.tokenizers, config, world.starts, world.model)


@pytest.fixture(scope="module")
def recordings(debug_world: World, debug_dataset: Dataset) -> list[Recording]:
    return held_out_recordings(debug_world, debug_dataset, 8)


@pytest.fixture(scope="module")
def rollouts(debug_world: World, recordings: list[Recording]) -> Rollouts:
    starts = choose_starts(recordings, debug_world.config.model.window, 16, 6)
    return roll_out(debug_world, recordings, starts, 16, budget=Budget())


def test_report(debug_world: World, debug_dataset: Dataset, tmp_path: Path) -> None:
    options = Options(num_episodes=6, num_dreams=4, minutes=0.05)
    result = evaluate(debug_world, debug_dataset.folder, tmp_path, options)
    assert json.loads((tmp_path / "metrics.json").read_text()) == json.loads(json.dumps(asdict(result)))
    page = (tmp_path / "index.html").read_text()
    linked = [part.split('"')[0] for part in page.split('src="')[1:]]
    assert {"psnr-all.png", "ssim-all.png", "dreams.png", "dream-0.mp4"} <= set(linked)
    assert all((tmp_path / name).stat().st_size > 500 for name in linked)
    assert all(item.name in page for item in result.headlines)
    groups = result.next_step.tokens_correct["observation"]["all"]
    assert groups["unchanged"]["model"].value > 0.9 and groups["unchanged"]["repeat"].value == 1
    assert groups["changed"]["repeat"].value == 0
    assert set(result.next_step.events) == {"positive reward", "negative reward", "terminated"}
    assert set(result.goal_accuracy) == {"no prompt", "goal", "wrong goal"}
    assert len(result.headlines) == 6 and result.about.num_steps > 0


def test_one_command_writes_the_card_of_a_world(
    debug_world: World, debug_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = str(debug_world.save_pretrained(tmp_path / "world"))
    asked = ["eval", world, str(debug_dataset.folder), "--num-episodes", "2", "--num-dreams", "2", "--minutes", "0.02"]
    assert cli.main([*asked, "--out", str(tmp_path / "report")]) == 0
    assert "Measured" not in (tmp_path / "world" / "README.md").read_text()
    assert cli.main([*asked, "--out", str(tmp_path / "report"), "--card"]) == 0
    card = (tmp_path / "world" / "README.md").read_text()
    assert "| Controllability of dreams, relative to real frames |" in card and "held out of the training" in card
    assert "README.md" in capsys.readouterr().out


def test_only_held_out_episodes_are_used(debug_world: World, debug_dataset: Dataset) -> None:
    trained, held_out = debug_dataset.split(debug_world.metadata["held_out"], debug_world.metadata["split_seed"])
    assert unseen_episodes(debug_world, debug_dataset) == held_out
    recordings = held_out_recordings(debug_world, debug_dataset, 1000)
    assert not {recording.number for recording in recordings} & set(trained)
    other = with_metadata(debug_world, dataset_id="another", seed=1)
    assert unseen_episodes(other, debug_dataset) == list(range(len(debug_dataset)))


@pytest.mark.parametrize("policy", ["random", "magrathea.data.board:random"])
def test_a_dataset_that_is_recorded_anew_has_the_same_held_out_episodes(
    debug_world: World, debug_dataset: Dataset, policy: str
) -> None:
    """The fingerprint of a dataset also depends on the versions of packages; its settings determine its episodes."""
    recorded_before = with_metadata(debug_world, dataset_id="another", policy=policy)
    assert unseen_episodes(recorded_before, debug_dataset) == unseen_episodes(debug_world, debug_dataset)


def test_a_world_without_its_split_is_refused(debug_world: World, debug_dataset: Dataset) -> None:
    with pytest.raises(MagratheaError, match="does not say which episodes"):
        unseen_episodes(with_metadata(debug_world, held_out=None), debug_dataset)


def test_a_dataset_of_other_spaces_is_refused(debug_world: World, debug_dataset: Dataset, tmp_path: Path) -> None:
    other = collect("CartPole-v1", 30, tmp_path / "cart", num_processes=1)
    with pytest.raises(MagratheaError, match="has other spaces"):
        evaluate(debug_world, other, tmp_path / "report", Options())


def test_dreams_start_from_real_steps_and_take_the_recorded_actions(
    debug_world: World, recordings: list[Recording], rollouts: Rollouts
) -> None:
    window, actions = debug_world.config.model.window, debug_world.layout.span("action")
    assert np.array_equal(rollouts.dream[:, :window], rollouts.real[:, :window])
    assert np.array_equal(rollouts.dreamt[..., actions], rollouts.recorded[..., actions])
    for index, (episode, step) in enumerate(zip(rollouts.episodes, rollouts.starts, strict=True)):
        length = int(rollouts.valid[index].sum())
        assert length == min(16, len(recordings[episode].tokens) - 1 - step) and length >= 8
        real = recordings[episode].tokens[step + 1 : step + 1 + length]
        assert np.array_equal(rollouts.recorded[index, :length], real)


def test_a_perfect_dream_reaches_the_upper_bounds(
    debug_world: World, recordings: list[Recording], rollouts: Rollouts
) -> None:
    perfect, slot = replace(rollouts, dream=rollouts.real), picture_slot(debug_world)
    assert slot is not None
    curves = measure_images(debug_world, recordings, perfect, slot).psnr["all"]
    assert curves["dream"] == curves["reconstruction"]
    assert curves["dream"]["8"].value > curves["repeat"]["8"].value
    figures = measure_controllability(debug_world, perfect, len(recordings))["all steps"]["1…64"]
    assert figures["dream / real"].value == 1 and figures["dream"] == figures["real"]


def test_replay_of_a_deterministic_environment_is_the_recording(
    debug_world: World, debug_dataset: Dataset, recordings: list[Recording], rollouts: Rollouts
) -> None:
    replay = resampled_replay(debug_world, debug_dataset, recordings, rollouts, Budget())
    assert replay is not None and np.array_equal(replay.valid, rollouts.valid)
    assert np.array_equal(replay.dreamt[replay.valid], replay.recorded[replay.valid])
    figures = measure_controllability(debug_world, rollouts, len(recordings), replay)["all steps"]["1…64"]
    assert figures["resampled replay / real"].value == 1
    slot = picture_slot(debug_world)
    assert slot is not None
    curves = measure_images(debug_world, recordings, rollouts, slot, replay).psnr["all"]
    assert curves["resampled replay"] == curves["reconstruction"]
    hurried = resampled_replay(debug_world, debug_dataset, recordings, rollouts, Budget(0))
    assert hurried is not None and not hurried.valid.any()


def test_an_episode_that_cannot_be_reproduced_is_not_replayed(
    debug_world: World, debug_dataset: Dataset, recordings: list[Recording], rollouts: Rollouts
) -> None:
    others = [replace(each, episode=replace(each.episode, seed=each.episode.seed + 1)) for each in recordings]
    assert resampled_replay(debug_world, debug_dataset, others, rollouts, Budget()) is None
