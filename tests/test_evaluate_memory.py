"""The measures of remembering, where the truth is known by hand: a map that scrolls, with memories of every length."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scroller import AROUND, BEFORE, KINDS, NUM_KINDS, STEPS, action_motions, random_map, record, start_dreams

from magrathea.bench.memories import compare_sizes
from magrathea.cli import main as cli
from magrathea.data import Dataset, collect
from magrathea.errors import MagratheaError
from magrathea.evaluate.cells import TileView, VisibleTiles, last_seen, motion_between, move, opposite
from magrathea.evaluate.memory import evaluate_memory, state_bytes
from magrathea.evaluate.recall import kinds_of_tokens, summarize_ages, tally_recall
from magrathea.evaluate.recordings import Budget, Options, Recording, held_out_recordings
from magrathea.evaluate.results import Recall
from magrathea.evaluate.revisits import measure_revisits, revisits, step_length
from magrathea.evaluate.segments import predict_steps
from magrathea.evaluate.self_consistency import TrackedDreams, Tracker, measure_self_consistency, motions_of_actions
from magrathea.evaluate.slots import picture_slot
from magrathea.evaluate.statistics import Tally
from magrathea.session import Session
from magrathea.train import load_settings, train
from magrathea.world import World

WINDOW = 4
CHANCE = 1 / (NUM_KINDS - 1)
VIEWS = pytest.mark.parametrize("view", [AROUND, BEFORE], ids=["around", "before"])

poses = st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.integers(0, 3)).map(np.array)
motions = st.tuples(st.integers(-2, 2), st.integers(-2, 2), st.integers(0, 3)).map(np.array)


# -- geometry ---------------------------------------------------------------------------------------------------------
@given(poses, motions)
def test_motions_lead_from_pose_to_pose(pose: np.ndarray, motion: np.ndarray) -> None:
    after = move(pose, motion)
    assert (motion_between(pose, after) == motion).all()
    for only in ((*motion[:2].tolist(), 0), (0, 0, int(motion[2]))):
        assert (move(move(pose, np.array(only)), np.array(opposite(only))) == pose).all()


@given(poses, st.integers(0, 3))
def test_a_rotated_picture_shows_the_agent_at_its_location(pose: np.ndarray, turn: int) -> None:
    pose[2] = turn
    locations = BEFORE.locations(pose)
    assert (locations[BEFORE.agent] == pose[:2]).all()
    ahead = move(pose, np.array((-1, 0, 0)))
    assert (locations[BEFORE.agent[0] - 1, BEFORE.agent[1]] == ahead[:2]).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_last_seen_is_that_that_a_search_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 3, (8, 1, 1, 2))
    locations = corners + np.stack(np.meshgrid(np.arange(2), np.arange(3), indexing="ij"), axis=-1)
    shown = rng.random((8, 2, 3)) < 0.7
    last, cell = last_seen(locations, shown)
    for now, row, column in np.ndindex(last.shape):
        same = (locations[:now] == locations[now, row, column]).all(axis=-1) & shown[:now]
        found = np.flatnonzero(same.any(axis=(1, 2)))
        assert last[now, row, column] == (found[-1] if len(found) else -1)
        if len(found):
            assert same[found[-1]].ravel()[cell[now, row, column]]


# -- recall -----------------------------------------------------------------------------------------------------------
def recall(tiles: VisibleTiles, predicted: np.ndarray) -> Recall:
    tally = Tally(1)
    tally_recall(tally, 0, tiles, predicted, KINDS, WINDOW)
    return summarize_ages(tally, "same token", WINDOW)


@VIEWS
def test_a_perfect_memory_is_right_and_a_window_guesses(view: TileView) -> None:
    tiles, _ = record(view, random_map(1), 1000)
    perfect = recall(tiles, tiles.tokens)
    rng = np.random.default_rng(2)
    last, cell = last_seen(view.locations(tiles.poses), tiles.shown)
    age = np.arange(len(last))[:, None, None] - last
    copied = tiles.tokens.reshape(len(last), -1)[last, cell]
    guess = rng.integers(2, NUM_KINDS + 1, copied.shape)
    guessed = recall(tiles, np.where((last >= 0) & (age <= WINDOW), copied, guess))
    for stretch in ("in the window", "beyond the window"):
        assert perfect.ranges[stretch]["model"].value == perfect.ranges[stretch]["perfect memory"].value == 1
    assert guessed.ranges["in the window"]["model"].value == 1
    for stretch in ("beyond the window", "never seen"):
        assert guessed.ranges[stretch]["model"].value < 1.3 * CHANCE
    counted = sum(figures["model"].count for figures in perfect.by_age.values())
    assert counted == sum(perfect.ranges[name]["model"].count for name in ("in the window", "beyond the window"))


def test_recall_by_hand() -> None:
    """A strip of three cells is seen, left for two steps, and seen again, with one cell changed and one covered."""
    view = TileView((1, 3), (1, 3), (0, 1))
    positions = np.array([0, 10, 20, 0])
    tiles = VisibleTiles(
        view=view,
        poses=np.stack([np.zeros(4, int), positions, np.zeros(4, int)], axis=1),
        tokens=np.array([[[3, 0, 4]], [[5, 5, 5]], [[5, 5, 5]], [[3, 2, 6]]]),
        shown=np.array([[[True, False, True]], [[True] * 3], [[True] * 3], [[True, True, True]]]),
        content=np.array([[[2, 0, 3]], [[4, 4, 4]], [[4, 4, 4]], [[2, 1, 5]]]),
        clear=np.array([True, True, True, True]),
    )
    predicted = np.array([[[-1] * 3], [[5, 5, 1]], [[5, 1, 1]], [[3, 2, 6]]])
    tally = Tally(1)
    tally_recall(tally, 0, tiles, predicted, KINDS, window=2)
    measured = summarize_ages(tally, "same kind", 2)
    beyond = measured.ranges["beyond the window"]["model"]
    assert (beyond.value, beyond.count) == (1, 1)
    assert measured.ranges["in the window"]["model"].count == 0
    assert measured.by_age["3…4"]["model"].count == 1
    new = measured.ranges["never seen"]["model"]
    assert new.count == 7 and new.value == pytest.approx(4 / 7, abs=1e-6)


def test_the_dark_is_counted_apart() -> None:
    tiles, _ = record(AROUND, random_map(1), 60)
    dark = replace(tiles, content=tiles.tokens - 1, clear=np.arange(61) < 30)
    tally = Tally(1)
    tally_recall(tally, 0, dark, dark.tokens, KINDS, WINDOW)
    clear, any_light = (summarize_ages(tally, name, WINDOW).ranges for name in ("same kind", "same token, any light"))
    assert clear["in the window"]["model"].count < 0.6 * any_light["in the window"]["model"].count


def test_tokens_stand_for_what_they_mostly_show() -> None:
    tokens = np.array([[[0, 1, 1, 2]], [[0, 1, 2, 2]]])
    content = np.array([[[4, 6, 6, 5]], [[4, 5, 5, 5]]])
    shown = np.array([[[True, True, True, False]], [[True, True, False, False]]])
    tiles = VisibleTiles(AROUND, np.zeros((2, 3), int), tokens, shown, content, np.ones(2, bool))
    kinds = kinds_of_tokens([tiles], vocab_size=3)
    assert kinds.of_token.tolist() == [4, 6, -1, -1]
    assert (kinds.frequent_kind, kinds.frequent_token) == (4, 1)


# -- pose -------------------------------------------------------------------------------------------------------------
@VIEWS
def test_the_pose_is_inferred_from_the_pictures(view: TileView) -> None:
    tiles, actions = record(view, random_map(3), 400)
    assert motions_of_actions([(tiles.poses, actions)]) == action_motions(view)
    true = motion_between(tiles.poses[:-1], tiles.poses[1:])
    found, _, unambiguous = Tracker(view, KINDS, action_motions(view)).motion(
        tiles.tokens[:-1], tiles.tokens[1:], actions
    )
    assert (found == true).all() and unambiguous.all()
    without_actions = Tracker(view, KINDS, {}).motion(tiles.tokens[:-1], tiles.tokens[1:], actions)[0]
    assert (without_actions == true).all(), "the map alone tells the pose where it is rich enough"


def test_where_all_tiles_are_alike_the_action_decides() -> None:
    plain = np.full((3, *AROUND.shape), 2)
    tracker = Tracker(AROUND, KINDS, STEPS)
    found, agreement, unambiguous = tracker.motion(plain, plain, np.array([2, 3, 0]))
    assert found.tolist() == [[0, 1, 0], [-1, 0, 0], [0, 0, 0]] and (agreement == 1).all() and unambiguous.all()


def test_in_the_dark_a_motion_is_ambiguous() -> None:
    dark = np.zeros((3, *AROUND.shape), np.int64)  # shows no kind of thing
    found, _, unambiguous = Tracker(AROUND, KINDS, STEPS).motion(dark, dark, np.array([2, 3, 0]))
    assert found.tolist() == [[0, 1, 0], [-1, 0, 0], [0, 0, 0]] and unambiguous.tolist() == [False, False, True]
    dreams = TrackedDreams(Tracker(AROUND, KINDS, STEPS), lambda actions: dark, dark)
    for _ in range(2):
        dreams.step(np.array([2, 3, 0]))
    assert dreams.num_ambiguous[-1].tolist() == [2, 2, 0]


def test_after_a_lost_pose_all_locations_are_new() -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(2, NUM_KINDS + 1, (2, *AROUND.shape)) for _ in range(3)]
    dreams = TrackedDreams(Tracker(AROUND, KINDS, STEPS), lambda actions: noise.pop(), noise.pop())
    dreams.step(np.array([1, 2]))
    assert (np.abs(dreams.poses[1][:, 0]) > 1000).all()


# -- dreams -------------------------------------------------------------------------------------------------
@VIEWS
def test_dreams_that_remember_agree_with_themselves(view: TileView) -> None:
    tracker = Tracker(view, KINDS, action_motions(view))
    perfect = measure_self_consistency(start_dreams(view, 3), tracker, WINDOW, Budget(), 250)
    beyond = perfect["all"].ranges["beyond the window"]["dream"]
    assert beyond.value == 1 and beyond.count > 200
    short = measure_self_consistency(start_dreams(view, 3, remembered=WINDOW), tracker, WINDOW, Budget(), 250)
    assert short["all"].ranges["in the window"]["dream"].value == 1
    assert short["all"].ranges["beyond the window"]["dream"].value < 0.6  # only walls stay


# -- revisits ----------------------------------------------------------------------------------------------------------
def test_revisits_by_hand() -> None:
    out = np.stack([np.arange(20.0), np.zeros(20), np.zeros(20)], axis=1)
    there_and_back = revisits(np.concatenate([out, out[-2::-1]]), window=3)
    assert not there_and_back.new[:5].any() and there_and_back.new[10:20].all() and not there_and_back.new[23:].any()
    assert not there_and_back.age[:22].any()
    assert there_and_back.age[38] == 38 - 1 and there_and_back.nearest[38] == 0, (
        "last seen a step further, best seen here"
    )
    assert there_and_back.age[30] == 30 - 9 and there_and_back.nearest[30] == 8
    turned = out[-2::-1] + np.array([0, 0, 180])
    away = revisits(np.concatenate([out, turned]), window=3)
    assert not away.age.any() and away.new[20:].all(), "what is seen in another direction is new"


def test_a_step_is_one_that_walks() -> None:
    """Standing, turning and the slow slide after a walk say nothing of how far a step gets."""
    walks = np.concatenate([np.zeros(30), np.full(20, 8.0), [2.0, 0.5, 0.1], np.full(40, 0.01)])
    x = np.cumsum(walks)
    assert step_length(np.stack([x, 0 * x, 0 * x], axis=1)) == 8
    assert step_length(np.zeros((5, 3))) == step_length(np.zeros((1, 3))) == 1


@pytest.fixture(name="back_and_forth")
def _back_and_forth(debug_world: World, debug_dataset: Dataset) -> list[Recording]:
    """Recordings whose bodies are said to have come in a straight line and gone back."""
    recordings = held_out_recordings(debug_world, debug_dataset, 2)
    for recording in recordings:
        there = np.abs(np.arange(len(recording.tokens)) - len(recording.tokens) // 2) * 9.0
        recording.episode.infos["pose"] = np.stack([there, 0 * there, 0 * there], axis=1)
    return recordings


def test_revisits_of_a_perfect_prediction(debug_world: World, back_and_forth: list[Recording]) -> None:
    slot = picture_slot(debug_world)
    assert slot is not None
    measured = measure_revisits(debug_world, slot, back_and_forth, [recording.tokens for recording in back_and_forth])
    for frames in ("new", "revisited", "revisited - new"):
        assert measured[frames]["model"] == measured[frames]["reconstruction"]
        assert measured[frames]["model"].count > 0


def test_revisits_of_a_prediction_that_only_knows_old_places(
    debug_world: World, back_and_forth: list[Recording]
) -> None:
    """Where new locations are predicted to look like the first frame, only their PSNR falls."""
    slot = picture_slot(debug_world)
    assert slot is not None
    predicted = []
    for recording in back_and_forth:
        new = revisits(recording.episode.infos["pose"], debug_world.config.model.window).new
        predicted.append(np.where(new[:, None], recording.tokens[0], recording.tokens))
    measured = measure_revisits(debug_world, slot, back_and_forth, predicted)
    assert measured["revisited"]["model"] == measured["revisited"]["reconstruction"]
    assert measured["new"]["model"].value < measured["new"]["reconstruction"].value - 3
    gap, bound = (measured["revisited - new"][source].value for source in ("model", "reconstruction"))
    assert gap > bound + 3


# -- through a session ------------------------------------------------------------------------------------------------
def test_predicted_steps_are_those_of_a_session(debug_world: World, debug_dataset: Dataset) -> None:
    """Of recordings of different lengths, every step is predicted as a session that observed the steps before does."""
    recordings = held_out_recordings(debug_world, debug_dataset, 7)
    at_once = replace(debug_world.config.fill, order="one_shot", temperature=0.0)
    num_right = num_steps = 0
    for recording, predicted in zip(recordings, predict_steps(debug_world, recordings, Budget()), strict=True):
        assert (predicted[0] == -1).all() and (predicted[1:] >= 0).all()
        episode, first = recording.episode, torch.from_numpy(recording.tokens[:1].astype(np.int64))
        session = Session(debug_world, start=first, settings=at_once)
        for step, guess in enumerate(predicted[1:]):
            num_right += int((session.peek(episode.action[step : step + 1]).tokens.numpy() == guess).all())
            now = slice(step, step + 1)
            session.observe(episode.action[now], episode.observation[step + 1 : step + 2], episode.reward[now])
        num_steps += len(predicted) - 1
    assert num_right / num_steps > 0.99
    assert state_bytes(debug_world, recordings) == 0


def test_a_dataset_without_places_is_refused(debug_world: World, debug_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(MagratheaError, match="does not tell which location"):
        evaluate_memory(debug_world, debug_dataset, tmp_path, Options())


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A small dataset of MiniGrid, and two worlds that have barely looked at it."""
    pytest.importorskip("minigrid")
    folder = tmp_path_factory.mktemp("rooms")
    policy = "explorer"
    collect("magrathea/MiniGrid-v0", 200, folder / "data", policy=policy, num_processes=1, max_episode_steps=40)
    recipe = folder / "rooms.toml"
    recipe.write_text('size = "debug"\nsteps = 3\nheld_out = 0.4\n[tokenizer]\nimage = "patch"\npatch = [9, 9]\n')
    for name, memory in {"one": "window", "two": "spatial_map"}.items():
        train(folder / "data", folder / name, load_settings(recipe, memory=memory))
    return folder / "data", [folder / "one", folder / "two"]


@pytest.mark.slow
def test_report(rooms: tuple[Path, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset, (world, _) = rooms
    asked = ["eval", "memory", str(world), str(dataset), "--out", str(tmp_path), "--num-dreams", "2"]
    assert cli.main([*asked, "--minutes", "0.1", "--num-episodes", "2"]) == 0
    printed = capsys.readouterr().out
    assert "Recall, beyond the window" in printed and "memory.html" in printed
    page = (tmp_path / "memory.html").read_text()
    linked = [part.split('"')[0] for part in page.split('src="')[1:]]
    assert linked == ["memory.png"] and (tmp_path / "memory.png").stat().st_size > 500
    written = json.loads((tmp_path / "memory.json").read_text())["memory"]
    assert "Same token" in page and "same token" in written["recall"] and "all" in written["self_consistency"]


@pytest.mark.slow
def test_memories_of_several_sizes_are_compared_without_training(
    rooms: tuple[Path, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, worlds = rooms
    asked = [str(dataset), "--sizes", "10", "1000", "--num-episodes", "2", "--out", str(tmp_path)]
    assert cli.main(["bench", "memory-sizes", str(worlds[1]), *asked]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| size 10", "| size 1000"] and ":10 " in lines[2]
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    assert (tmp_path / "comparison.png").stat().st_size > 500 and (tmp_path / "size 10" / "memory.html").exists()
    compared = json.loads((tmp_path / "comparison.json").read_text())
    few, many = (compared[name]["memory"] for name in ("size 10", "size 1000"))
    assert few["state_bytes"] < many["state_bytes"] and not many["self_consistency"]
    counts = [each["recall"]["same token"]["ranges"]["beyond the window"]["model"]["count"] for each in (few, many)]
    assert counts[0] == counts[1]  # the same cells are counted
    with pytest.raises(MagratheaError, match="no size that could be changed"):
        compare_sizes(worlds[0], dataset, tmp_path, [10], Options())
