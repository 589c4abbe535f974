"""The measures of remembering, where the truth is known by hand: a map that scrolls, with memories of every length."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scroller import AROUND, BEFORE, KINDS, NUM_KINDS, STEPS, TURNS, free_pose, journeys, random_map, record, travel

from magrathea import masks
from magrathea.cli import main as cli
from magrathea.data import Dataset, collect, make_env
from magrathea.errors import MagratheaError
from magrathea.evaluate import compare_memories, evaluate_memory
from magrathea.evaluate.cells import last_sights
from magrathea.evaluate.memory.forced import predict_recordings, state_bytes
from magrathea.evaluate.memory.journeys import measure_trips, measure_wandering
from magrathea.evaluate.memory.poses import measure_poses, revisits, step_length
from magrathea.evaluate.memory.recall import summarize_ages, tally_recall
from magrathea.evaluate.memory.report import tables
from magrathea.evaluate.memory.tracking import Journey, Tracker, travel_of
from magrathea.evaluate.memory.trips import compare_return, way_back
from magrathea.evaluate.memory.views import Sights, TileView, kinds_of_tokens, motion_between, move, opposite
from magrathea.evaluate.recordings import Budget, Recording, held_out_recordings
from magrathea.evaluate.slots import picture_slot, role_span
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
def test_a_turned_picture_shows_the_body_at_its_place(pose: np.ndarray, turn: int) -> None:
    pose[2] = turn
    places = BEFORE.places(pose)
    assert (places[BEFORE.body] == pose[:2]).all()
    ahead = move(pose, np.array((-1, 0, 0)))
    assert (places[BEFORE.body[0] - 1, BEFORE.body[1]] == ahead[:2]).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_last_sights_are_those_that_a_search_finds(seed: int) -> None:
    dice = np.random.default_rng(seed)
    corners = dice.integers(0, 3, (8, 1, 1, 2))
    places = corners + np.stack(np.meshgrid(np.arange(2), np.arange(3), indexing="ij"), axis=-1)
    shown = dice.random((8, 2, 3)) < 0.7
    last, cell = last_sights(places, shown)
    for now, row, column in np.ndindex(last.shape):
        same = (places[:now] == places[now, row, column]).all(axis=-1) & shown[:now]
        found = np.flatnonzero(same.any(axis=(1, 2)))
        assert last[now, row, column] == (found[-1] if len(found) else -1)
        if len(found):
            assert same[found[-1]].ravel()[cell[now, row, column]]


def test_crafters_tiles_are_where_the_map_has_them() -> None:
    pytest.importorskip("crafter")
    env = make_env("magrathea/Crafter-v0")
    _, info = env.reset(seed=5)
    view = TileView((9, 9), (7, 9), (3, 4))
    for action in (1, 1, 3, 3, 3, 2, 4, 4):
        info = env.step(action)[4]
        places = view.places(np.array([*info["position"][::-1], 0]))
        materials, creatures = env.unwrapped.world._mat_map, env.unwrapped.world._obj_map
        for tile, (row, column) in zip(info["semantic"].ravel(), places.reshape(-1, 2), strict=True):
            if min(row, column) >= 0 and max(row, column) < 64 and not creatures[column, row]:
                assert tile == materials[column, row]


def test_minigrids_tiles_are_where_the_environment_says() -> None:
    pytest.importorskip("minigrid")
    env, view = make_env("magrathea/MiniGrid-v0"), TileView((7, 7), (7, 7), (6, 3), turns=True)
    _, info = env.reset(seed=0)
    for action in (0, 2, 1, 1, 2, 0, 0, 0, 2):
        pose = np.array([*info["position"][::-1].tolist(), (int(info["direction"]) - 3) % 4])
        assert (view.places(pose)[..., ::-1] == info["cells"]).all()
        info = env.step(action)[4]


# -- recall -----------------------------------------------------------------------------------------------------------
def recall(view: TileView, sights: Sights, predicted: np.ndarray) -> dict:
    tally = Tally(1)
    tally_recall(tally, 0, view, sights, predicted, KINDS, WINDOW)
    return summarize_ages(tally, "same token", WINDOW)


@VIEWS
def test_a_perfect_memory_is_right_and_a_window_guesses(view: TileView) -> None:
    sights, _ = record(view, random_map(1), 1000)
    perfect = recall(view, sights, sights.tokens)
    dice = np.random.default_rng(2)
    last, cell = last_sights(view.places(sights.poses), sights.shown)
    age = np.arange(len(last))[:, None, None] - last
    copied = sights.tokens.reshape(len(last), -1)[last, cell]
    guess = dice.integers(2, NUM_KINDS + 1, copied.shape)
    guessed = recall(view, sights, np.where((last >= 0) & (age <= WINDOW), copied, guess))
    for stretch in ("in the window", "beyond the window"):
        assert perfect[stretch]["model"]["value"] == perfect[stretch]["perfect memory"]["value"] == 1
    assert guessed["in the window"]["model"]["value"] == 1
    for stretch in ("beyond the window", "new"):
        assert guessed[stretch]["model"]["value"] < 1.3 * CHANCE
    counted = sum(bucket["model"]["count"] for bucket in perfect["curve"])
    assert counted == perfect["in the window"]["model"]["count"] + perfect["beyond the window"]["model"]["count"]


def test_recall_by_hand() -> None:
    """A strip of three cells is seen, left for two steps, and seen again, with one cell changed and one covered."""
    view = TileView((1, 3), (1, 3), (0, 1))
    positions = np.array([0, 10, 20, 0])
    sights = Sights(
        poses=np.stack([np.zeros(4, int), positions, np.zeros(4, int)], axis=1),
        tokens=np.array([[[3, 0, 4]], [[5, 5, 5]], [[5, 5, 5]], [[3, 2, 6]]]),
        shown=np.array([[[True, False, True]], [[True] * 3], [[True] * 3], [[True, True, True]]]),
        content=np.array([[[2, 0, 3]], [[4, 4, 4]], [[4, 4, 4]], [[2, 1, 5]]]),
        clear=np.array([True, True, True, True]),
    )
    predicted = np.array([[[-1] * 3], [[5, 5, 1]], [[5, 1, 1]], [[3, 2, 6]]])
    tally = Tally(1)
    tally_recall(tally, 0, view, sights, predicted, KINDS, window=2)
    measured = summarize_ages(tally, "same kind", 2)
    beyond = measured["beyond the window"]["model"]
    assert (beyond["value"], beyond["count"]) == (1, 1)
    assert measured["in the window"]["model"]["count"] == 0
    assert measured["curve"][2]["from"] == 3 and measured["curve"][2]["model"]["count"] == 1
    assert measured["new"]["model"]["count"] == 7 and measured["new"]["model"]["value"] == pytest.approx(4 / 7)


def test_the_dark_is_left_out_where_kinds_are_told() -> None:
    sights, _ = record(AROUND, random_map(1), 60)
    dark = Sights(sights.poses, sights.tokens, sights.shown, sights.tokens - 1, np.arange(61) < 30)
    tally = Tally(1)
    tally_recall(tally, 0, AROUND, dark, dark.tokens, KINDS, WINDOW)
    lit, any_light = (summarize_ages(tally, name, WINDOW) for name in ("same kind", "same token, any light"))
    assert lit["in the window"]["model"]["count"] < 0.6 * any_light["in the window"]["model"]["count"]


def test_tokens_stand_for_what_they_mostly_show() -> None:
    tokens = np.array([[[0, 1, 1, 2]], [[0, 1, 2, 2]]])
    content = np.array([[[4, 6, 6, 5]], [[4, 5, 5, 5]]])
    shown = np.array([[[True, True, True, False]], [[True, True, False, False]]])
    sights = Sights(np.zeros((2, 3), int), tokens, shown, content, np.ones(2, bool))
    kinds = kinds_of_tokens([sights], vocab_size=3)
    assert kinds.of_token.tolist() == [4, 6, -1, -1]
    assert (kinds.frequent_kind, kinds.frequent_token) == (4, 1)


# -- pose -------------------------------------------------------------------------------------------------------------
@VIEWS
def test_pictures_tell_the_pose(view: TileView) -> None:
    sights, actions = record(view, random_map(3), 400)
    assert travel_of([(sights.poses, actions)]) == travel(view)
    tracker = Tracker(view, KINDS, travel(view))
    assert np.all(tracker.accuracy(sights, actions))
    blind = Tracker(view, KINDS, {})
    assert blind.accuracy(sights, actions)[0].all(), "the map alone tells the pose where it is rich enough"


def test_where_all_looks_alike_the_action_tells() -> None:
    plain = np.full((3, *AROUND.shape), 2)
    tracker = Tracker(AROUND, KINDS, STEPS)
    found, agreement, decided = tracker.motion(plain, plain, np.array([2, 3, 0]))
    assert found.tolist() == [[0, 1, 0], [-1, 0, 0], [0, 0, 0]] and (agreement == 1).all() and decided.all()


def test_in_the_dark_the_action_is_a_guess() -> None:
    dark = np.zeros((3, *AROUND.shape), np.int64)  # shows no kind of thing
    found, _, decided = Tracker(AROUND, KINDS, STEPS).motion(dark, dark, np.array([2, 3, 0]))
    assert found.tolist() == [[0, 1, 0], [-1, 0, 0], [0, 0, 0]] and decided.tolist() == [False, False, True]
    journey = Journey(Tracker(AROUND, KINDS, STEPS), lambda actions: dark, dark)
    for _ in range(2):
        journey.go(np.array([2, 3, 0]))
    assert journey.guesses[-1].tolist() == [2, 2, 0]


def test_a_body_that_is_lost_begins_a_new_map() -> None:
    dice = np.random.default_rng(0)
    noise = [dice.integers(2, NUM_KINDS + 1, (2, *AROUND.shape)) for _ in range(3)]
    journey = Journey(Tracker(AROUND, KINDS, STEPS), lambda actions: noise.pop(), noise.pop())
    journey.go(np.array([1, 2]))
    assert journey.lost.all() and (np.abs(journey.poses[1][:, 0]) > 1000).all()


# -- dreams and trips -------------------------------------------------------------------------------------------------
@VIEWS
def test_dreams_that_remember_agree_with_themselves(view: TileView) -> None:
    tracker = Tracker(view, KINDS, travel(view))
    perfect = measure_wandering(journeys(view, 3), tracker, WINDOW, Budget(), 250)
    assert perfect["all"]["beyond the window"]["dream"]["value"] == 1
    assert perfect["all"]["beyond the window"]["dream"]["count"] > 200 and perfect["dreams that lose their way"] == 0
    short = measure_wandering(journeys(view, 3, remembered=WINDOW), tracker, WINDOW, Budget(), 250)
    assert short["all"]["in the window"]["dream"]["value"] == 1
    assert short["all"]["beyond the window"]["dream"]["value"] < 0.6  # only walls stay


@VIEWS
def test_leave_and_return(view: TileView) -> None:
    tracker = Tracker(view, KINDS, travel(view))
    perfect = measure_trips(journeys(view, 6), tracker, WINDOW, Budget(), (16, 40))
    forgetful = measure_trips(journeys(view, 6, remembered=WINDOW), tracker, WINDOW, Budget(), (16, 40))
    for steps in ("16", "40"):
        assert perfect[steps]["came back"]["value"] == 1
        assert perfect[steps]["at home"]["value"] == perfect[steps]["way back"]["value"] == 1
        assert perfect[steps]["at home"]["count"] > 20
        assert forgetful[steps]["at home"]["value"] < 0.6


def test_what_stayed_in_sight_is_not_asked_for() -> None:
    dice, kinds = np.random.default_rng(0), random_map(0)
    pose = free_pose(kinds, dice)
    places = np.repeat(pose[None], 12, axis=0)
    shown = np.broadcast_to(AROUND.beside_body, (12, *AROUND.shape)).copy()
    same = np.ones(shown.shape, dtype=int)
    assert not len(compare_return(AROUND, places, shown, same, 6, WINDOW).now)
    shown[5:11, 0, 0] = False  # out of sight for six steps
    same[11, 0, 0] = 3
    returned = compare_return(AROUND, places, shown, same, 6, WINDOW)
    assert (returned.now.tolist(), returned.then.tolist(), returned.at_home.tolist()) == ([3], [1], [True])


@settings(max_examples=50)
@given(st.data())
def test_the_way_back_ends_at_home(data: st.DataObject) -> None:
    actions = data.draw(st.sampled_from([STEPS, TURNS]))
    way = data.draw(st.lists(st.sampled_from(list(actions.values())), max_size=12))
    home = pose = np.array([3, 4, data.draw(st.integers(0, 3)) if actions is TURNS else 0])
    for motion in way:
        pose = move(pose, np.array(motion))
    back = way_back(way, actions)
    assert back is not None
    for action, motion in back:
        assert actions[action] == motion
        pose = move(pose, np.array(motion))
    assert (pose == home).all()


def test_actions_that_cannot_be_undone_make_no_trips() -> None:
    assert way_back([(-1, 0, 0)], {0: (-1, 0, 0)}) is None
    tracker = Tracker(AROUND, KINDS, {3: (-1, 0, 0)})
    assert measure_trips(journeys(AROUND, 1), tracker, WINDOW, Budget()) == {}


# -- poses ------------------------------------------------------------------------------------------------------------
def test_revisits_by_hand() -> None:
    out = np.stack([np.arange(20.0), np.zeros(20), np.zeros(20)], axis=1)
    there_and_back = revisits(np.concatenate([out, out[-2::-1]]), window=3)
    assert not there_and_back.new[:5].any() and there_and_back.new[10:20].all() and not there_and_back.new[23:].any()
    assert not there_and_back.age[:22].any()
    assert there_and_back.age[38] == 38 - 1 and there_and_back.twin[38] == 0, "last seen a step further, best seen here"
    assert there_and_back.age[30] == 30 - 9 and there_and_back.twin[30] == 8
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


def test_poses_of_a_perfect_prediction(debug_world: World, back_and_forth: list[Recording]) -> None:
    slot = picture_slot(debug_world)
    assert slot is not None
    measured = measure_poses(debug_world, slot, back_and_forth, [recording.tokens for recording in back_and_forth])
    for frames in ("new", "revisited"):
        assert measured[frames]["model"] == measured[frames]["reconstruction"]
        assert measured[frames]["model"]["count"] > 0
    assert measured["revisited - new"]["model"] == measured["revisited - new"]["reconstruction"]


def test_poses_of_what_only_knows_old_places(debug_world: World, back_and_forth: list[Recording]) -> None:
    """Where new places are predicted to look like the first frame, only their PSNR falls; and the table shows both."""
    slot = picture_slot(debug_world)
    assert slot is not None
    predicted = []
    for recording in back_and_forth:
        new = revisits(recording.episode.infos["pose"], debug_world.config.model.window).new
        predicted.append(np.where(new[:, None], recording.tokens[0], recording.tokens))
    measured = measure_poses(debug_world, slot, back_and_forth, predicted)
    assert measured["revisited"]["model"] == measured["revisited"]["reconstruction"]
    assert measured["new"]["model"]["value"] < measured["new"]["reconstruction"]["value"] - 3
    gap, ceiling = (measured["revisited - new"][source]["value"] for source in ("model", "reconstruction"))
    assert gap > ceiling + 3
    (table,) = tables({"poses": measured})
    assert "| revisited - new |" in table.markdown() and "dB" in table.html()


# -- through a session ------------------------------------------------------------------------------------------------
def test_forced_predictions_are_the_models(debug_world: World, debug_dataset: Dataset) -> None:
    """More recordings than rows, of different lengths: every step is predicted, as the model predicts a segment."""
    recordings = held_out_recordings(debug_world, debug_dataset, 7)
    forced = predict_recordings(debug_world, recordings, Budget(), batch_size=2)
    seen = role_span(debug_world.layout, "observation")
    for recording, predicted in zip(recordings, forced.predicted, strict=True):
        assert (predicted[0] == -1).all() and (predicted[1:] >= 0).all()
        steps = torch.from_numpy(recording.tokens)[None]
        logits = debug_world.predict_segment(steps, masks.forward_dynamics(debug_world.layout), first=1)
        likeliest = logits["observation"].argmax(-1)[0].numpy()
        assert (predicted[1:, seen] == likeliest).mean() > 0.99
    assert forced.memory_bytes == state_bytes(Session(debug_world), 0) == 0


def test_a_dataset_without_places_is_refused(debug_world: World, debug_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(MagratheaError, match="does not say which place"):
        evaluate_memory(debug_world, debug_dataset, tmp_path)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A small dataset of MiniGrid, and two worlds that have barely looked at it."""
    pytest.importorskip("minigrid")
    folder = tmp_path_factory.mktemp("rooms")
    policy = "explorer"
    collect("magrathea/MiniGrid-v0", 200, folder / "data", policy=policy, num_processes=1, max_episode_steps=40)
    recipe = folder / "rooms.toml"
    recipe.write_text('size = "debug"\nsteps = 3\nheld_out = 0.4\n[tokenizer]\npatch = [9, 9]\n')
    for name, memory in {"one": "window", "two": "spatial_map"}.items():
        train(folder / "data", folder / name, load_settings(recipe, memory=memory))
    return folder / "data", [folder / "one", folder / "two"]


def test_report(rooms: tuple[Path, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset, (world, _) = rooms
    asked = ["eval", str(world), str(dataset), "--memory", "--out", str(tmp_path), "--num-dreams", "2"]
    assert cli.main([*asked, "--minutes", "0.1", "--num-episodes", "2"]) == 0
    printed = capsys.readouterr().out
    assert "Recall, same token" in printed and "beyond the window" in printed and "memory.html" in printed
    page = (tmp_path / "memory.html").read_text()
    linked = [part.split('"')[0] for part in page.split('src="')[1:]]
    assert "memory.png" in linked and all((tmp_path / name).stat().st_size > 500 for name in linked)
    assert (tmp_path / "memory.json").exists()


def test_comparison(rooms: tuple[Path, list[Path]], tmp_path: Path) -> None:
    dataset, worlds = rooms
    table = compare_memories(worlds, dataset, tmp_path, num_episodes=2, num_dreams=2, minutes=0.1)
    lines = table.strip().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| one", "| two"]
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    assert (tmp_path / "comparison.png").stat().st_size > 500 and (tmp_path / "one" / "memory.html").exists()
    with pytest.raises(MagratheaError, match="names of their own"):
        compare_memories([worlds[0], worlds[0]], dataset, tmp_path)


def test_a_smaller_memory_is_measured_without_learning_anew(
    rooms: tuple[Path, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, worlds = rooms
    asked = ["--memory-sizes", "10", "1000", "--num-episodes", "2", "--out", str(tmp_path)]
    assert cli.main(["eval", str(worlds[1]), str(dataset), *asked]) == 0
    assert "spatial_map:10 " in capsys.readouterr().out
    compared = json.loads((tmp_path / "comparison.json").read_text())
    few, many = compared["size 10"], compared["size 1000"]
    assert few["bytes"] < many["bytes"] and "dreams" not in many
    copied = [each["recall"]["same token"]["beyond the window"]["model"]["count"] for each in (few, many)]
    assert copied[0] == copied[1]  # the same cells are asked for
    assert cli.main(["eval", str(worlds[0]), str(dataset), *asked]) == 2
    assert "no size that could be changed" in capsys.readouterr().err
