"""The measures of dreams, on dreams whose values are known beforehand."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from magrathea.evaluate.dreams import measure_choices, measure_events, measure_numbers, measure_pictures
from magrathea.evaluate.obedience import share_right
from magrathea.evaluate.report import TRY, verdict
from magrathea.evaluate.results import DreamMeasures, Figure
from magrathea.evaluate.rollouts import Rollouts, Steps
from magrathea.evaluate.slots import CHOICES, NUMBERS, PICTURE, by_kind
from magrathea.evaluate.statistics import MAX_GAIN, wilson

NUM_ROLLOUTS, HORIZON = 6, 20


def rollouts(horizon: int = HORIZON, real: dict | None = None, dream: dict | None = None) -> Rollouts:
    """Rollouts of three episodes, of which all steps are valid, with these rewards and endings."""

    def steps(given: dict | None) -> Steps:
        nothing = np.zeros((NUM_ROLLOUTS, horizon))
        values = {"reward": nothing, "terminated": nothing > 0} | (given or {})
        return Steps([], values["reward"], values["terminated"])

    starts = [(index % 3, 10 + index) for index in range(NUM_ROLLOUTS)]
    return Rollouts(starts, steps(real), steps(dream), np.ones((NUM_ROLLOUTS, horizon), dtype=bool))


def moving_square(seed: int = 0) -> np.ndarray:
    """(R, 1 + H, 24, 24, 1) a square of 4 pixels that goes to the right by a pixel a step, on noise that stays."""
    frames = np.random.default_rng(seed).integers(0, 50, (NUM_ROLLOUTS, 1, 24, 24, 1), dtype=np.uint8)
    frames = frames.repeat(1 + HORIZON, axis=1)
    for step in range(1 + HORIZON):
        frames[:, step, 10:14, step : step + 4] = 255
    return frames


def test_a_perfect_dream_is_perfect() -> None:
    real = moving_square()
    measured = measure_pictures(rollouts(), real, real, 3)
    assert {figure.value for figure in measured["gain"]["dream"].values()} == {MAX_GAIN}
    assert set(measured["gain"]["dream"]) == {"1", "2", "4", "8", "16"}
    for name in ("changed", "changed in the dream"):
        assert {figure.value for figure in measured["changed_pixels"][name].values()} == {1.0}
    assert measured["motion_energy"].value == 1


def test_a_dream_that_repeats_gains_nothing_and_does_not_move() -> None:
    real = moving_square()
    measured = measure_pictures(rollouts(), real, real[:, :1].repeat(1 + HORIZON, axis=1), 3)
    assert {figure.value for figure in measured["gain"]["dream"].values()} == {0.0}
    assert {figure.value for figure in measured["changed_pixels"]["changed"].values()} == {0.0}
    assert measured["changed_pixels"]["changed in the dream"]["4"].value is None
    assert measured["motion_energy"].value == 0


def test_gain_is_pooled_over_all_starts() -> None:
    """A start in which little happens counts by its errors, not by its decibels."""
    real = np.zeros((NUM_ROLLOUTS, 1 + HORIZON, 16, 16, 3), np.uint8)
    real[:3, 1:] = 100
    real[3:, 1:] = 1
    dream = real.copy()
    dream[:3, 1:] = 90  # an error of 10 instead of 100
    dream[3:, 1:] = 11  # and of 10 instead of 1
    gain = measure_pictures(rollouts(), real, dream, 3)["gain"]["dream"]["4"]
    assert gain.value == pytest.approx(10 * np.log10((100**2 + 1**2) / (10**2 + 10**2)), abs=1e-4)
    assert gain.low is not None and gain.low <= gain.value <= gain.high and gain.count == NUM_ROLLOUTS


def test_another_environment_run_is_compared_only_where_it_is_there() -> None:
    real, there = moving_square(), np.zeros((NUM_ROLLOUTS, HORIZON), dtype=bool)
    there[0] = True
    gain = measure_pictures(rollouts(), real, 255 - real, 3, (real, there))["gain"]
    assert gain["resampled replay"]["4"] == Figure(MAX_GAIN, None, None, 1, 1)
    assert gain["dream"]["4"].value < 0


def test_steps_beyond_the_recording_are_not_counted() -> None:
    real, short = moving_square(), rollouts()
    short.valid[:, 4:] = False
    measured = measure_pictures(short, real, real, 3)
    assert set(measured["gain"]["dream"]) == {"1", "2", "4"} and measured["motion_energy"] == Figure()


def test_numbers_are_compared_with_repeating_and_with_going_on() -> None:
    time = np.arange(1 + HORIZON, dtype=float)[None, :, None]
    real = np.concatenate([time * 2, time * 0], axis=-1).repeat(NUM_ROLLOUTS, axis=0)
    before, scale = real[:, 0] - [2, 0], np.array([4.0, 0.0])
    error = measure_numbers(rollouts(), real, real + np.array([1, 7]), before, scale, 3)
    assert error["dream"]["10"].value == 0.25 and error["linear"]["10"].value == 0
    assert error["repeat"]["10"].value == 20 / 4
    assert error["dream over repeat"]["10"].value == pytest.approx(1 / 20)
    assert error["dream over linear"]["10"].value is None


def test_choices_are_compared_with_repeating() -> None:
    real = np.zeros((NUM_ROLLOUTS, 1 + HORIZON, 2), int)
    real[:, 4:, 0] = 1
    right = measure_choices(rollouts(), real, real, 3)
    assert right["dream"]["4"].value == 1 and right["repeat"]["4"].value == 0.5 and right["repeat"]["2"].value == 1
    assert right["dream − repeat"]["4"].value == 0.5


def test_events_of_a_dream_count_until_it_ends() -> None:
    reward, ends = np.zeros((NUM_ROLLOUTS, 10)), np.zeros((NUM_ROLLOUTS, 10), dtype=bool)
    reward[:, ::2] = 1
    ends[:, 3] = True
    events = measure_events(rollouts(10, {"reward": reward}, {"reward": reward, "terminated": ends}), 3)
    assert events["positive reward"]["reality"].value == 0.5 and events["positive reward"]["dream"].count == 24
    assert events["ending"]["dream"].value == 0.25 and events["ending"]["reality"].value == 0


def test_events_that_pictures_show_are_counted_where_they_tell() -> None:
    happens = np.zeros((NUM_ROLLOUTS, 10))
    happens[:, :2], happens[:, 5:] = 1, np.nan
    never = np.zeros((NUM_ROLLOUTS, 10))
    seen = {"dream": {"damage": never, "nothing": never}, "reality": {"damage": happens, "nothing": never}}
    events = measure_events(rollouts(10), 3, seen)
    assert events["damage"]["reality"].value == pytest.approx(0.4) and events["damage"]["dream"].value == 0
    assert "nothing" not in events


@pytest.mark.parametrize("kind", [PICTURE, NUMBERS, CHOICES])
def test_obedience_tells_dreams_by_where_the_realities_differ(kind: str) -> None:
    rng, scale = np.random.default_rng(0), np.array([2.0, 1.0, 0.0])
    shape = (16, 16, 3) if kind == PICTURE else (3,)
    one = rng.integers(0, 5, shape).astype(np.uint8 if kind == PICTURE else float)
    other = one.copy()
    other[0] += 40
    wrong = (one * 0 + 200, one * 0 + 200)
    assert share_right(kind, (one, other), (one, other), scale) == 1
    assert share_right(kind, (one, other), (other, one), scale) == 0
    assert share_right(kind, (one, other), (one, one), scale) == 0.5  # it ignores the actions
    assert share_right(kind, (one, other), wrong, scale) == 0.5
    assert share_right(kind, (one, one), (one, other), scale) is None
    elsewhere = other.copy()
    elsewhere[1] += 90  # an error where the realities agree does not count
    assert share_right(kind, (one, other), (one, elsewhere), scale) == 1


def test_numbers_of_no_spread_tell_nothing() -> None:
    one, other = np.array([1.0, 5.0]), np.array([1.0, 6.0])
    assert share_right(NUMBERS, (one, other), (one, other), np.array([1.0, 0.0])) is None


def test_wilsons_interval_has_a_width_where_all_are_right() -> None:
    sure = wilson(Figure(1.0, 1.0, 1.0, 5, 20))
    assert sure.low == pytest.approx(0.8389, abs=1e-3) and sure.high == 1
    wide = Figure(0.5, 0.1, 0.9, 5, 400)
    assert wilson(wide) == wide


def test_observations_are_sorted_by_kind() -> None:
    space = spaces.Dict(
        {
            "view": spaces.Box(0, 255, (20, 20, 3), np.uint8),
            "speed": spaces.Box(-1, 1, (2,), np.float32),
            "where": spaces.Tuple([spaces.Discrete(5), spaces.MultiBinary(3)]),
            "map": spaces.Box(0, 255, (7, 7, 3), np.uint8),
        }
    )
    batch = gymnasium.vector.utils.batch_space(space, 4).sample()
    leaves = [np.asarray(leaf)[:, None] for leaf in (batch["map"], batch["speed"], batch["view"], *batch["where"])]
    found = by_kind(space, leaves, 2)
    assert found[PICTURE].shape == (4, 1, 20, 20, 3) and np.array_equal(found[PICTURE][:, 0], batch["view"])
    assert found[NUMBERS].shape == (4, 1, 2) and found[CHOICES].shape == (4, 1, 7 * 7 * 3 + 1 + 3)
    grey = spaces.Box(0, 255, (20, 20), np.uint8)
    assert by_kind(grey, [np.zeros((4, 3, 20, 20), np.uint8)], 2)[PICTURE].shape == (4, 3, 20, 20, 1)


def test_the_verdict_says_where_a_world_is_no_better_than_repeating() -> None:
    good = DreamMeasures(
        gain={"dream": {"1": Figure(5.0, 4.0, 6.0), "4": Figure(3.0, 2.0, 4.0)}},
        obedience={"picture": {"obedience": {"4": Figure(0.9, 0.8, 1.0, 5, 40)}}},
    )
    (sentence,) = verdict(good)
    assert sentence.startswith("Better than repeating the last picture after 1 and 4 steps") and "90.0%" in sentence
    weak = DreamMeasures(
        gain={"dream": {"1": Figure(5.0, 4.0, 6.0), "4": Figure(0.5, -0.1, 1.0)}},
        obedience={"picture": {"obedience": {"4": Figure(0.6, 0.45, 0.7, 5, 40)}}},
    )
    first, second, advice = verdict(weak, num_pixels=96 * 96)
    assert first.startswith("No better than repeating the last picture after 4 steps: 0.50 dB")
    assert second.startswith("It may not follow the actions (picture): obedience after 4 steps 60.0%")
    assert advice.startswith(TRY) and "smaller size" in advice and verdict(weak, num_pixels=64 * 64)[-1] == TRY
    numbers = DreamMeasures(error={"dream over repeat": {"1": Figure(1.2, 1.1, 1.3)}})
    assert verdict(numbers)[0].startswith("No better than repeating the last numbers after 1 step: 1.20")
    assert verdict(numbers)[-1] == TRY
    same = {"1": Figure(1.0, 1.0, 1.0), "4": Figure(0.9, 0.8, 1.0)}
    even = {"1": Figure(0.0, 0.0, 0.0), "4": Figure(0.1, 0.05, 0.2)}
    choices = DreamMeasures(right={"dream": same, "repeat": same, "dream − repeat": even})
    assert verdict(choices) == ["Better than repeating the last choices after 4 steps."]
    assert "too little" in verdict(DreamMeasures())[0]
