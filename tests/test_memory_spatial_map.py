"""The spatial map and its odometry, on maps with known positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.layout import Layout, Slot
from magrathea.memory import SpatialMapSpec, memory_class
from magrathea.memory.spatial_map.fit import StepPairs, fit_odometry
from magrathea.memory.spatial_map.odometry import Odometry, find_source_cells

VIEW, MAP, NUM_TOKENS = 5, 24, 12
MOVES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
TURNS = ("wait", "forward", "left", "right")


def layout_of(num_actions: int, rows: int = VIEW) -> Layout:
    return Layout(
        (
            Slot(name="action", role="action", vocab_size=num_actions),
            Slot(name="observation", role="observation", vocab_size=NUM_TOKENS, grid=(rows, VIEW)),
            Slot(name="reward", role="reward", vocab_size=2),
            Slot(name="terminated", role="terminated", vocab_size=2),
        )
    )


def as_steps(layout: Layout, actions: list[int], pictures: list[np.ndarray]) -> Tensor:
    tokens = torch.zeros(len(pictures), layout.num_tokens, dtype=torch.long)
    tokens[:, 0] = torch.tensor([layout.slots[0].absent, *actions])
    tokens[:, layout.span("observation")] = torch.from_numpy(np.stack(pictures)).flatten(1)
    return tokens


def walk(rng: np.random.Generator, num_steps: int) -> tuple[Tensor, np.ndarray]:
    """Steps of a walk over a random map with walls that stop it, seen from above, with a row of other things below
    the view; and its positions."""
    world, layout = rng.integers(1, 8, (MAP, MAP)), layout_of(len(MOVES), VIEW + 1)
    walls = rng.random((MAP, MAP)) < 0.2
    place, pictures, actions, places, action = np.array([MAP // 2, MAP // 2]), [], [], [], 0
    for step in range(num_steps + 1):
        if step:
            action = int(rng.integers(len(MOVES))) if rng.random() < 0.3 else action
            actions.append(action)
            there = np.clip(place + MOVES[action], 2, MAP - 3)
            place = place if walls[tuple(there)] else there
        view = world[place[0] - 2 : place[0] + 3, place[1] - 2 : place[1] + 3].copy()
        view[2, 2] = 11  # the walker
        pictures.append(np.concatenate([view, rng.integers(8, 10, (1, VIEW))]))
        places.append(place)
    return as_steps(layout, actions, pictures), np.array(places)


def roam(rng: np.random.Generator, num_steps: int) -> Tensor:
    """Steps of an agent that turns, seen by itself: ahead is up, it stands in the middle of the last row."""
    world, layout = rng.integers(1, 9, (MAP, MAP)), layout_of(len(TURNS))
    place, heading, pictures, actions = np.array([MAP // 2, MAP // 2]), 0, [], []
    for step in range(num_steps + 1):
        if step:
            action = int(rng.choice(len(TURNS), p=(0.1, 0.5, 0.2, 0.2)))
            actions.append(action)
            heading = (heading + {2: 1, 3: -1}.get(action, 0)) % 4
            ahead = np.array([(-1, 0), (0, -1), (1, 0), (0, 1)][heading])
            place = np.clip(place + ahead, 5, MAP - 6) if action == 1 else place
        around = np.rot90(world[place[0] - 4 : place[0] + 5, place[1] - 4 : place[1] + 5], -heading)
        pictures.append(around[:5, 2:7].copy())
    return as_steps(layout, actions, pictures)


def fitted_odometry(pictures: np.ndarray, actions: np.ndarray, num_actions: int, grid: tuple[int, int]) -> Odometry:
    """Fitted to pictures (T, C) with actions (T - 1,) between them."""
    return fit_odometry(StepPairs(pictures[:-1], pictures[1:], actions), grid, NUM_TOKENS, num_actions)


def test_motions_are_found_from_pictures() -> None:
    tokens, _ = walk(np.random.default_rng(0), 1500)
    layout = layout_of(len(MOVES), VIEW + 1)
    pictures = tokens[:, layout.span("observation")].numpy()
    odometry = fitted_odometry(pictures, tokens[1:, 0].numpy(), len(MOVES), (VIEW + 1, VIEW))
    assert sorted(odometry.motions.tolist()) == sorted([0, *move] for move in MOVES)
    assert not odometry.region[-VIEW:].any() and odometry.region.sum() >= VIEW * VIEW - 1
    assert odometry.motions[odometry.intended_motions[:-1]].tolist() == [[0, *move] for move in MOVES]
    other, where = walk(np.random.default_rng(1), 400)
    seen = other[:, layout.span("observation")].numpy()
    found = odometry.motions[odometry.infer_motions(seen[:-1], seen[1:], other[1:, 0].numpy())][:, 1:]
    assert (found == np.diff(where, axis=0)).all()


def test_obstacles_predict_whether_an_action_moves() -> None:
    rng, layout = np.random.default_rng(0), layout_of(len(MOVES))
    world = np.where(rng.random((MAP, MAP)) < 0.3, 9, 5)  # walls on uniform ground: hardly anything is seen to move
    place, pictures, actions, places = np.array([MAP // 2, MAP // 2]), [], [], []
    for step in range(3001):
        if step:
            actions.append(int(rng.integers(len(MOVES))))
            there = np.clip(place + MOVES[actions[-1]], 2, MAP - 3)
            place = place if world[tuple(there)] == 9 else there
        pictures.append(world[place[0] - 2 : place[0] + 3, place[1] - 2 : place[1] + 3].copy())
        places.append(place)
    seen = as_steps(layout, actions, pictures)[:, layout.span("observation")].numpy()
    odometry = fitted_odometry(seen, np.array(actions), len(MOVES), (VIEW, VIEW))
    center = 2 * VIEW + 2
    assert odometry.predictor_cells[1:5, 0].tolist() == [center + row * VIEW + column for row, column in MOVES[1:]]
    predicted = odometry.motions[odometry.predict_motions(seen[:-1], np.array(actions))][:, 1:]
    there = np.array(places[:-1]) + np.array(MOVES)[actions]
    inside = (there.clip(2, MAP - 3) == there).all(axis=1)
    assert (predicted == np.diff(places, axis=0))[inside].all()


def test_sleep_predicts_no_motion_and_a_dark_rim_is_no_evidence() -> None:
    """The rim of the picture is dark at night and stays with the picture; actions have no effect in sleep."""
    rng, layout, asleep, awake, dark = np.random.default_rng(0), layout_of(len(MOVES)), 8, 7, 11
    world = np.where(rng.random((MAP, MAP)) < 0.3, 9, 5)
    rim = np.ones((VIEW, VIEW), bool)
    rim[1:-1, 1:-1] = False
    place, pictures, actions, places = np.array([MAP // 2, MAP // 2]), [], [], []
    for step in range(6001):
        night, sleeps, slept = step % 200 >= 160, step % 50 >= 40, step % 50 > 40 or step % 50 == 0
        if step:
            actions.append(int(rng.integers(len(MOVES))))
            there = np.clip(place + MOVES[actions[-1]], 2, MAP - 3)
            place = place if world[tuple(there)] == 9 or slept else there
        picture = world[place[0] - 2 : place[0] + 3, place[1] - 2 : place[1] + 3].copy()
        picture[2, 2] = asleep if sleeps else awake
        picture[rim & night] = dark
        pictures.append(picture)
        places.append(place)
    seen = as_steps(layout, actions, pictures)[:, layout.span("observation")].numpy()
    odometry = fitted_odometry(seen, np.array(actions), len(MOVES), (VIEW, VIEW))
    center = 2 * VIEW + 2
    ahead = [center + row * VIEW + column for row, column in MOVES[1:]]
    assert odometry.predictor_cells[1:5].tolist() == [[cell, center] for cell in ahead]
    found = odometry.motions[odometry.infer_motions(seen[:-1], seen[1:], np.array(actions))][:, 1:]
    there = np.array(places[:-1]) + np.array(MOVES)[actions]
    inside = (there.clip(2, MAP - 3) == there).all(axis=1)
    assert (found == np.diff(places, axis=0)).all(axis=1)[inside].mean() > 0.99


def test_turns_are_found() -> None:
    layout = layout_of(len(TURNS))
    tokens = roam(np.random.default_rng(0), 2500)
    spec = SpatialMapSpec.fit(layout, [tokens])
    assert sorted(spec.odometry.motions[:, 0].tolist()) == [0, 0, 1, 3]
    other_map = roam(np.random.default_rng(1), 10)
    pictures = spec.read_episode(other_map).predicted_tokens["observation"]
    assert pictures.shape == (11, 2, VIEW * VIEW)


@pytest.mark.parametrize("play", [lambda seed, num: walk(np.random.default_rng(seed), num)[0],
                                  lambda seed, num: roam(np.random.default_rng(seed), num)])  # fmt: skip
def test_what_was_seen_is_predicted_as_it_was(play) -> None:
    tokens = play(0, 2500)
    layout = layout_of(int(tokens[0, 0]), VIEW + 1 if tokens.shape[1] > VIEW * VIEW + 3 else VIEW)
    spec, other = SpatialMapSpec.fit(layout, [tokens]), play(1, 600)
    pictures = spec.read_episode(other).predicted_tokens["observation"][:, 1].numpy()
    seen = other[:, layout.span("observation")].numpy()
    odometry = spec.odometry
    moved = np.array([0, *odometry.infer_motions(seen[:-1], seen[1:], other[1:, 0].numpy())])
    as_predicted = moved == np.array([0, *odometry.predict_motions(seen[:-1], other[1:, 0].numpy())])
    known = (pictures != layout.picture.absent) & as_predicted[:, None] & (seen != 11)
    assert known[100:].sum() > 5000
    assert (pictures == seen)[known].mean() > 0.99


def test_pictures_that_do_not_move_by_whole_tokens_are_refused() -> None:
    """As in a 3D view: all tokens change, and no shift or rotation explains how."""
    rng, layout = np.random.default_rng(0), layout_of(len(MOVES))
    pictures = list(rng.integers(0, 8, (400, VIEW, VIEW)))
    actions = rng.integers(len(MOVES), size=399).tolist()
    with pytest.raises(MagratheaError, match="choose the memory 'window'"):
        SpatialMapSpec.fit(layout, [as_steps(layout, actions, pictures)])


def test_the_walker_is_a_transient_token() -> None:
    tokens, _ = walk(np.random.default_rng(0), 2500)
    spec = SpatialMapSpec.fit(layout_of(len(MOVES), VIEW + 1), [tokens])
    walker = 2 * VIEW + 2  # its cell of the picture
    assert spec.transient[11] or not spec.odometry.region[walker]
    assert not spec.transient[1:8].any()


def test_a_restored_state_continues_as_without() -> None:
    tokens, _ = walk(np.random.default_rng(0), 800)
    spec = SpatialMapSpec.fit(layout_of(len(MOVES), VIEW + 1), [tokens])
    again = SpatialMapSpec.from_tensors(spec.layout, spec.tensors())
    one, other = spec.new(2), again.new(2)
    encodings, holes = torch.zeros(1, 1, 1), torch.zeros(1, tokens.shape[1], dtype=torch.bool)
    for index in range(50):
        one.write(tokens[index : index + 1], encodings, [1])
    other.load_state_dict(1, one.state_dict(1))
    for index in range(50, 80):
        for memory in (one, other):
            memory.write(tokens[index : index + 1], encodings, [1])
        step = tokens[index + 1 : index + 2]
        assert torch.equal(
            one.read(step, holes, [1]).predicted_tokens["observation"],
            other.read(step, holes, [1]).predicted_tokens["observation"],
        )
    one.reset(torch.tensor([False, True]))
    assert (one.read(tokens[:1], holes, [1]).predicted_tokens["observation"] == spec.layout.picture.absent).all()


def test_without_the_action_the_present_location_is_predicted() -> None:
    tokens, _ = walk(np.random.default_rng(0), 800)
    spec = SpatialMapSpec.fit(layout_of(len(MOVES), VIEW + 1), [tokens])
    memory, holes = spec.new(1), torch.zeros(1, tokens.shape[1], dtype=torch.bool)
    memory.write(tokens[:1], torch.zeros(1, 1, 1), [0])
    holes[0, 0] = True
    picture = memory.read(tokens[1:2], holes, [0]).predicted_tokens["observation"][0].numpy()
    region = spec.odometry.region
    assert (picture[region] == tokens[0, spec.layout.span("observation")].numpy()[region]).all()


def test_source_cells_of_a_quarter_turn() -> None:
    sources = find_source_cells(np.array([[0, 0, 0], [0, 0, 1], [1, 2, 0]]), (3, 3), np.ones(9, bool))
    assert sources[0].tolist() == list(range(9))
    assert sources[1].tolist() == [1, 2, -1, 4, 5, -1, 7, 8, -1]
    assert sources[2].tolist() == [6, 3, 0, 7, 4, 1, 8, 5, 2]


def test_unknown_names_and_layouts_without_a_picture_are_refused() -> None:
    with pytest.raises(MagratheaError, match="Unknown memory 'nothing'"):
        memory_class("nothing")
    small = Layout((Slot(name="action", role="action", vocab_size=3), Slot(name="o", role="observation", vocab_size=4)))
    with pytest.raises(MagratheaError, match="no picture"):
        SpatialMapSpec.fit(small, [])
