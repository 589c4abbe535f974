"""Whole episodes in dreams against recorded ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from magrathea.cli.main import main
from magrathea.data import Dataset
from magrathea.evaluate.dreams import before_ending, measure_events
from magrathea.evaluate.episodes import evaluate_episodes, measure_outcomes
from magrathea.evaluate.recordings import Options
from magrathea.evaluate.rollouts import Rollouts, Steps
from magrathea.world import World


def two_episodes() -> Rollouts:
    """Real ones of 4 steps that end and of 6 that do not; dreams of 6 steps and of 3, of which the second ends."""
    valid = np.array([[True] * 4 + [False] * 2, [True] * 6])
    real_ends, dream_ends = np.zeros((2, 6), bool), np.zeros((2, 6), bool)
    real_ends[0, 3:] = True  # what was recorded last repeats
    dream_ends[1, 2] = dream_ends[1, 5] = True
    real, dream = Steps([], np.ones((2, 6)), real_ends), Steps([], np.full((2, 6), 2.0), dream_ends)
    return Rollouts([(0, 0), (1, 0)], real, dream, valid)


def test_outcomes_count_the_steps_up_to_an_ending() -> None:
    episodes = two_episodes()
    outcomes = measure_outcomes(episodes, before_ending(episodes.dream), 2)
    assert outcomes["length, steps"]["reality"].value == 5 and outcomes["length, steps"]["dream"].value == 4.5
    assert outcomes["return"]["reality"].value == 5 and outcomes["return"]["dream"].value == 9
    assert outcomes["episodes that end"]["reality"].value == outcomes["episodes that end"]["dream"].value == 0.5


def test_dreams_that_outlive_the_recording_are_counted_too() -> None:
    episodes = two_episodes()
    events = measure_events(episodes, 2, dreamt=before_ending(episodes.dream))
    assert events["positive reward"]["dream"].count == 9 and events["positive reward"]["reality"].count == 10
    assert events["ending"]["dream"].value == pytest.approx(1 / 9)
    assert events["ending"]["reality"].value == pytest.approx(1 / 10)


def test_the_command_prints_a_table(
    debug_world: World, debug_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Options(num_episodes=2, seed=3)
    result = evaluate_episodes(debug_world, debug_dataset, options, num_steps=12)
    assert result.outcomes["length, steps"]["dream"].count == 2
    assert evaluate_episodes(debug_world, debug_dataset, options, num_steps=12).outcomes == result.outcomes
    folder = tmp_path / "world"
    debug_world.save_pretrained(folder)
    arguments = [str(folder), str(debug_dataset.folder), "--num-steps", "12", "--num-episodes", "2"]
    assert main(["eval", "episodes", *arguments, "--seed", "3", "--out", str(tmp_path / "out")]) == 0
    assert "| up to 12 steps | reality | dreams |" in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "episodes.json").read_text())
    assert written[0]["outcomes"]["return"]["dream"]["value"] == result.outcomes["return"]["dream"].value
