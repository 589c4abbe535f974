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
from magrathea.evaluate import obedience
from magrathea.evaluate.evaluation import evaluate
from magrathea.evaluate.obedience import Counterfactuals, counterfactuals, measure_obedience
from magrathea.evaluate.recordings import Budget, Options, Recording, held_out_recordings, unseen_episodes
from magrathea.evaluate.rollouts import Replay, Rollouts, Steps, choose_starts, roll_out
from magrathea.evaluate.slots import PICTURE
from magrathea.spaces import index_batch
from magrathea.world import World, WorldConfig

HORIZON = 16


def with_metadata(world: World, **changes: object) -> World:
    """The same world with other metadata of its training."""
    config = WorldConfig(world.config.model, world.config.fill, metadata=world.metadata | changes)
    return World(world.tokenizers, config, world.starts, world.model)


@pytest.fixture(scope="module")
def recordings(debug_world: World, debug_dataset: Dataset) -> list[Recording]:
    return held_out_recordings(debug_world, debug_dataset, 8)


@pytest.fixture(scope="module")
def rollouts(debug_world: World, recordings: list[Recording]) -> Rollouts:
    starts = choose_starts(recordings, debug_world.config.model.window, HORIZON, 12, apart=3)
    return roll_out(debug_world, recordings, starts, HORIZON, budget=Budget())


@pytest.fixture(scope="module")
def others(debug_dataset: Dataset, recordings: list[Recording], rollouts: Rollouts) -> Counterfactuals:
    replay = Replay(debug_dataset)
    found = counterfactuals(replay, recordings, rollouts, Budget())
    replay.close()
    return found


def test_report(debug_world: World, debug_dataset: Dataset, tmp_path: Path) -> None:
    options = Options(num_episodes=6, num_dreams=8, minutes=0.2)
    result = evaluate(debug_world, debug_dataset.folder, tmp_path, options)
    assert json.loads((tmp_path / "metrics.json").read_text()) == json.loads(json.dumps(asdict(result)))
    page = (tmp_path / "index.html").read_text()
    linked = [part.split('"')[0] for part in page.split('src="')[1:]]
    assert {"gain.png", "dreams.png", "dream-0.mp4"} <= set(linked)
    assert all((tmp_path / name).stat().st_size > 500 for name in linked)
    assert all(item.name in page for item in result.headlines)
    assert page.index(result.verdict[0].split(":")[0]) < page.index('class="cards"')
    groups = result.next_step.tokens_correct["observation"]["all"]
    assert groups["unchanged"]["model"].value > 0.9 and groups["unchanged"]["repeat"].value == 1
    assert groups["changed"]["repeat"].value == 0
    assert set(result.next_step.events) == {"positive reward", "negative reward", "terminated"}
    assert result.dreams.gain["dream"]["1"].value > 3 and "resampled replay" in result.dreams.gain
    assert result.dreams.obedience[PICTURE]["obedience"]["1"].value > 0.8
    assert result.about.num_steps > 0


def test_one_command_writes_the_card_of_a_world(
    debug_world: World, debug_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizers = {
        "tiles": {"psnr": 31.5, "codebook_used": 0.5},
        "text": {"exact": 1.0},
        "image": {"psnr": 40.0, "repeat_psnr": 22.0, "grid": [24, 24], "group": [3, 3], "codebook_used": 0.9},
    }
    described = World.from_pretrained(debug_world.save_pretrained(tmp_path / "world"))
    described.metadata["training"] = {**described.metadata["training"], "tokenizer": tokenizers}
    world = str(described.save_pretrained(tmp_path / "world"))
    asked = ["eval", world, str(debug_dataset.folder), "--num-episodes", "4", "--num-dreams", "8", "--minutes", "0.1"]
    assert cli.main([*asked, "--out", str(tmp_path / "report")]) == 0
    first = capsys.readouterr().out.splitlines()
    assert any("repeating the last picture" in line for line in first)
    assert "Measured" not in (tmp_path / "world" / "README.md").read_text()
    assert cli.main([*asked, "--out", str(tmp_path / "report"), "--card"]) == 0
    card = (tmp_path / "world" / "README.md").read_text()
    assert "| Obedience (picture), after 4 steps |" in card and "held out of the training" in card
    assert "repeating the last picture" in card.partition("## Measured")[0]
    assert "`image`: 24 × 24 cells, 3 × 3 of them share a position" in card and "40.0 dB" in card
    assert "`text`: 100.0% of held-out texts are exact" in card and "`tiles`: 31.5 dB" in card
    assert "README.md" in capsys.readouterr().out


def test_only_held_out_episodes_are_used(debug_world: World, debug_dataset: Dataset) -> None:
    trained, held_out = debug_dataset.split(debug_world.metadata["held_out"], debug_world.metadata["split_seed"])
    assert unseen_episodes(debug_world, debug_dataset) == held_out
    recordings = held_out_recordings(debug_world, debug_dataset, 1000)
    assert not {recording.number for recording in recordings} & set(trained)
    other = with_metadata(debug_world, dataset_id="another", seed=1)
    assert unseen_episodes(other, debug_dataset) == list(range(len(debug_dataset)))


def test_fewer_episodes_are_read_in_little_time(debug_world: World, debug_dataset: Dataset) -> None:
    other = with_metadata(debug_world, dataset_id="another", seed=1)
    assert len(held_out_recordings(other, debug_dataset, 20, budget=Budget(0))) == 4


def test_long_episodes_are_cut_in_little_time(
    debug_world: World, debug_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magrathea.evaluate.recordings.MIN_STEPS", 3)
    whole = held_out_recordings(debug_world, debug_dataset, 4, budget=Budget(100), may_cut=True)
    cut = held_out_recordings(debug_world, debug_dataset, 4, budget=Budget(0), may_cut=True)
    for one, other in zip(whole, cut, strict=True):
        assert len(one.episode) == debug_dataset.lengths[one.number] and len(other.episode) == 3
        np.testing.assert_array_equal(one.tokens[:4], other.tokens)
        assert len(other.episode.observation) == 4 and len(other.episode.action) == 3


def test_a_world_without_its_split_is_refused(debug_world: World, debug_dataset: Dataset) -> None:
    with pytest.raises(MagratheaError, match="does not say which episodes"):
        unseen_episodes(with_metadata(debug_world, held_out=None), debug_dataset)


def test_a_dataset_of_other_spaces_is_refused(debug_world: World, debug_dataset: Dataset, tmp_path: Path) -> None:
    other = collect("CartPole-v1", 30, tmp_path / "cart", num_processes=1)
    with pytest.raises(MagratheaError, match="has other spaces"):
        evaluate(debug_world, other, tmp_path / "report", Options())


def test_dreams_start_from_real_steps_and_stand_for_what_was_recorded(
    recordings: list[Recording], rollouts: Rollouts
) -> None:
    for index, (episode, step) in enumerate(rollouts.starts):
        recorded, length = recordings[episode].episode, int(rollouts.valid[index].sum())
        assert length == min(HORIZON, len(recorded) - step) and length >= 8
        real = recorded.observation[step : step + 1 + length]
        assert np.array_equal(rollouts.real.observation[0][index, : 1 + length], real)
        assert np.array_equal(rollouts.real.reward[index, :length], recorded.reward[step : step + length])
        assert np.array_equal(rollouts.dream.observation[0][index, 0], real[0])


def test_the_environment_goes_on_from_a_recorded_step(debug_dataset: Dataset, recordings: list[Recording]) -> None:
    replay, episode = Replay(debug_dataset), recordings[0].episode
    (frames,) = replay.go_on(episode, 5, index_batch(episode.action, slice(5, 9))) or ()
    assert np.array_equal(frames, episode.observation[5:10])
    foreign = replace(episode, observation=255 - episode.observation)
    assert replay.go_on(foreign, 5, index_batch(episode.action, slice(5, 9))) is None
    replay.close()


def test_other_futures_begin_with_another_action(
    recordings: list[Recording], rollouts: Rollouts, others: Counterfactuals
) -> None:
    assert sorted(others.rollouts) == list(range(len(rollouts.starts)))
    for index, actions, (frames,) in zip(others.rollouts, others.actions, others.real, strict=True):
        episode, step = rollouts.starts[index]
        assert len(actions) == 8 and actions[0] != recordings[episode].episode.action[step]
        assert np.array_equal(frames[0], recordings[episode].episode.observation[step])


def test_obedience_of_perfect_dreams_and_of_dreams_that_ignore_the_actions(
    debug_world: World,
    recordings: list[Recording],
    rollouts: Rollouts,
    others: Counterfactuals,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half of the dreams that ignore the actions are nearer to their own reality, by chance."""
    real = {rollouts.starts[index]: leaves[0] for index, leaves in zip(others.rollouts, others.real, strict=True)}

    def perfect(world: World, recordings: object, starts: list, actions: object, seeds: object) -> Steps:
        frames = [np.concatenate([real[start], real[start][-1:].repeat(9, axis=0)])[:9] for start in starts]
        return Steps([np.stack(frames)], np.zeros(0), np.zeros(0))

    def deaf(world: World, recordings: object, starts: list, actions: object, seeds: object) -> Steps:
        chosen = [rollouts.starts.index(start) for start in starts]
        return Steps([rollouts.real.observation[0][chosen, :9]], np.zeros(0), np.zeros(0))

    known = replace(rollouts, dream=rollouts.real)
    monkeypatch.setattr(obedience, "dream", perfect)
    right = measure_obedience(debug_world, recordings, known, others)[PICTURE]
    assert {figure.value for figure in right["obedience"].values()} == {1.0} and right["obedience"]["4"].low < 1
    same = right["no difference"]["4"]
    assert right["obedience"]["4"].count == round(same.count * (1 - same.value))
    monkeypatch.setattr(obedience, "dream", deaf)
    half = measure_obedience(debug_world, recordings, known, others)[PICTURE]["obedience"]
    assert {figure.value for figure in half.values()} == {0.5} and half["4"].low < 0.5 < half["4"].high


def test_an_environment_that_does_not_repeat_itself_is_told(
    debug_world: World, debug_dataset: Dataset, recordings: list[Recording], rollouts: Rollouts
) -> None:
    episodes = [replace(each.episode, observation=255 - each.episode.observation) for each in recordings]
    foreign = [replace(each, episode=episode) for each, episode in zip(recordings, episodes, strict=True)]
    replay = Replay(debug_dataset)
    with pytest.raises(MagratheaError, match="does not repeat itself"):
        counterfactuals(replay, foreign, rollouts, Budget())
    with pytest.raises(MagratheaError, match="no time"):
        counterfactuals(replay, recordings, rollouts, Budget(0))
    replay.close()
