"""Novelty as a reward: what was recorded often is worth less than what was not; used where rewards say nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from magrathea.agents.novelty import Novelty, says_nothing
from magrathea.data import collect


def test_states_far_from_recorded_ones_are_new() -> None:
    torch.manual_seed(0)
    often, seldom = torch.randn(500, 2, 8), 4 + torch.randn(6, 2, 8)
    novelty = Novelty(torch.cat([often, seldom]))
    usual, rare, never = (
        float(novelty(states).mean()) for states in (torch.randn(50, 2, 8), 4 + torch.randn(50, 2, 8), -9 * seldom)
    )
    assert 0 < usual < rare < never
    assert novelty(torch.randn(3, 4, 2, 8)).shape == (3, 4)


def test_few_recorded_states_are_enough() -> None:
    assert torch.isfinite(Novelty(torch.ones(3, 1, 4))(torch.zeros(2, 1, 4))).all()


@pytest.mark.parametrize(("env_id", "nothing"), [("MountainCar-v0", True), ("CartPole-v1", False)])
def test_equal_rewards_without_an_ending_say_nothing(env_id: str, nothing: bool, tmp_path: Path) -> None:
    assert says_nothing(collect(env_id, 300, tmp_path / "data", num_processes=1)) is nothing
