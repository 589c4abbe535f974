"""Every action space is played with buttons and sliders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from magrathea.action_keys import default_keys, noop_index
from magrathea.errors import MagratheaError
from magrathea.server.action_inputs import ActionInputs
from magrathea.server.controls import Controls
from magrathea.server.protocol import ProtocolError

STEER = {"action_names": ["steering", "gas", "brake"]}
CAR = spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))
NESTED = spaces.Dict({"arm": spaces.Box(-2, 2, (2,)), "grip": spaces.Discrete(2), "tool": spaces.MultiBinary(1)})


def keys_of(inputs: ActionInputs) -> dict[str, str]:
    return {key: button.name for button in inputs.buttons_info() for key in button.keys}


def held(inputs: ActionInputs, *keys: str) -> Any:
    """The action while these keys are held, the last one pressed last."""
    of_key = {key: button.index for button in inputs.buttons_info() for key in button.keys}
    return inputs.action(inputs.compatible(of_key[key] for key in reversed(keys)))


@pytest.mark.parametrize(
    ("space", "metadata"),
    [
        (spaces.Discrete(4), {}), (spaces.Discrete(3, start=-1), {}), (spaces.MultiDiscrete([5, 2]), {}),
        (spaces.MultiDiscrete([[2, 3], [4, 2]]), {}), (spaces.MultiDiscrete([3, 3], start=[1, -1]), {}),
        (spaces.MultiBinary(4), {}), (spaces.MultiBinary([2, 2]), {}), (CAR, STEER), (NESTED, {}),
        (spaces.Box(np.array([0, -1], np.float32), np.array([0, 1], np.float32)), {}),  # the first is always 0
        (spaces.Box(-np.inf, np.inf, (3,)), {}), (spaces.Box(2, 5, (1,), np.float64), {}),
        (spaces.Box(-3, 3, (2, 2), np.int16), {}), (spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, ()))), {}),
    ],
)  # fmt: skip
def test_every_button_and_slider_gives_an_action_of_the_space(space: spaces.Space, metadata: dict) -> None:
    inputs = ActionInputs(space, metadata)
    buttons = range(len(inputs.buttons))
    assert buttons and all(space.contains(inputs.action((button,))) for button in buttons)
    assert space.contains(inputs.action(inputs.compatible(buttons)))
    for axis in inputs.axes_info():
        for value in (axis.low, axis.high, -1e9, 1e9):
            assert space.contains(inputs.action((), {axis.index: value}))
    if inputs.has_noop:
        assert space.contains(inputs.action(()))
    keys = [key for button in inputs.buttons_info() for key in button.keys]
    assert len(keys) == len(set(keys)) > 0


def test_texts_are_written_beside_what_is_held() -> None:
    words = spaces.Text(9, min_length=2, charset="abc ")
    inputs = ActionInputs(spaces.Dict({"move": spaces.Discrete(3), "say": words, "shout": words}), {})
    assert [(part.index, part.name) for part in inputs.texts_info()] == [(0, "say"), (1, "shout")]
    assert not inputs.has_noop and inputs.space.contains(inputs.action(()))
    assert inputs.action((1,), texts={1: "abba"}) == {"move": 2, "say": "  ", "shout": "abba"}
    with pytest.raises(MagratheaError, match="What you wrote is 'x'"):
        inputs.check_text(0, "x")


def test_what_is_written_makes_a_step_each() -> None:
    controls = Controls(1000, ActionInputs(spaces.Text(9, charset="abc"), {}))
    assert controls.seconds_until_step(0.0, True) == float("inf")
    controls.say(0, "a")
    controls.say(0, "b")
    assert [controls.take_step(0.0) is not None and controls.texts for _ in range(3)] == [{0: "a"}, {0: "b"}, False]
    with pytest.raises(ProtocolError, match="write what to do"):
        controls.single_step(None)


def test_keys_of_several_components_are_held_together() -> None:
    car = ActionInputs(CAR, STEER)
    assert held(car).tolist() == [0, 0, 0]
    assert held(car, "ArrowLeft", "ArrowUp").tolist() == [-1, 1, 0]
    assert held(car, "ArrowLeft", "ArrowRight").tolist() == [1, 0, 0]  # the last one pressed wins
    assert car.action((), {0: 0.25}).tolist() == [0.25, 0, 0]
    shooter = ActionInputs(spaces.MultiDiscrete([5, 2]), {})
    assert held(shooter, "3", " ").tolist() == [3, 1] and held(shooter).tolist() == [0, 0]


def test_a_key_map_may_name_whole_actions() -> None:
    keys = {"w": [0, 0.7, 0], "a": [-1, 0, 0], "s": [0, 0, 9], "x": [1, 2]}  # one too large, one of another length
    car = ActionInputs(CAR, STEER | {"key_map": keys})
    assert held(car, "w", "a").tolist() == pytest.approx([-1, 0.7, 0]) and held(car, "s").tolist() == [0, 0, 1]
    assert set(keys_of(car)) == {"w", "a", "s"}


def test_keys_held_together_make_one_step_and_those_that_exclude_each_other_two() -> None:
    inputs = ActionInputs(spaces.MultiDiscrete([3, 2]), {})  # buttons: first = 1, first = 2, second = 1
    controls = Controls(10, inputs)
    for button in (0, 2):
        controls.press(button, 0.0)
        controls.release(button)
    assert controls.take_step(0.1) == (0, 2) and controls.take_step(0.2) == ()
    for button in (0, 1):
        controls.press(button, 0.3)
    controls.release(1)
    assert [controls.take_step(0.4), controls.take_step(0.5), controls.take_step(0.6)] == [(0,), (1,), (0,)]


def test_keys_of_actions_that_are_joined_in_another_are_held_together() -> None:
    names = ["noop", "fire", "up", "right", "left", "up right", "right fire", "up right fire"]
    inputs = ActionInputs(spaces.Discrete(len(names), start=2), {"action_names": names})
    pressed = {" ": "fire", "ArrowUp": "up", "ArrowRight": "right", "ArrowLeft": "left"}
    for keys, name in {
        (" ", "ArrowRight"): "right fire",
        ("ArrowRight", " "): "right fire",
        ("ArrowUp", "ArrowRight", " "): "up right fire",
        ("ArrowRight", "ArrowLeft"): "left",
        ("ArrowLeft", " "): "fire",
        ("ArrowLeft", "ArrowRight", " "): "right fire",
        ("ArrowUp",): pressed["ArrowUp"],
    }.items():
        assert held(inputs, *keys) == 2 + names.index(name), keys
    controls = Controls(10, inputs)
    for button in (names.index("right"), names.index("fire")):
        controls.press(button, 0.0)
    taken = controls.take_step(0.1)
    assert taken is not None and inputs.action(taken) == 2 + names.index("right fire")


def test_a_slider_keeps_a_world_that_waits_going() -> None:
    controls = Controls(1000, ActionInputs(CAR, STEER))
    controls.set_realtime(False)
    assert controls.take_step(0.0) is None
    controls.set_axis(1, 0.5)
    assert controls.take_step(0.0) == () and controls.inputs.action((), controls.axes).tolist() == [0, 0.5, 0]
    controls.set_axis(1, None)
    assert controls.take_step(0.0) is None


def test_default_keys_follow_the_names_of_actions() -> None:
    names = ["NOOP", "move_left", "move_right", "up", "do", "place stone"]
    assert noop_index(names) == 0
    assert default_keys(names) == {
        "ArrowUp": 3, "ArrowLeft": 1, "ArrowRight": 2, "w": 3, "a": 1, "d": 2, " ": 4, "1": 5,
    }  # fmt: skip
