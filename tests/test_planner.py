"""The planner on worlds whose best actions are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from exact_worlds import GAMMA, Corridor, OneChoice
from gymnasium import spaces
from session_worlds import play_board, wild_world

from magrathea.agents import ActorCritic, Agent, LearnerSettings, Planner, PlannerSettings
from magrathea.errors import MagratheaError


def agent_of(world: Any) -> Any:
    """An agent that has learned nothing: its policy is even, its value is 0."""
    torch.manual_seed(0)
    network = ActorCritic(1, world.features.shape[-1], world.action_space, 16)
    return SimpleNamespace(network=network, settings=LearnerSettings(discount=GAMMA))


def planned(agent: Any, world: Any, **settings: Any) -> list[float]:
    planner = Planner.__new__(Planner)  # without a player, which is for real environments
    planner.agent, planner.settings = agent, PlannerSettings(**settings)
    planner._generator = np.random.default_rng(0)
    return planner.plan(world).flatten().tolist()


def corridor(state: int) -> Corridor:
    world = Corridor(1)
    world.state[:] = state
    return world


@pytest.mark.parametrize("iterations", [1, 2])
@pytest.mark.parametrize("policy_share", [0.0, 0.3])
def test_it_finds_the_exit_of_the_corridor(iterations: int, policy_share: float) -> None:
    for state in range(Corridor.num_states):
        world = corridor(state)
        found = planned(
            agent_of(world), world, num_plans=256, horizon=5, iterations=iterations, policy_share=policy_share
        )
        assert found == [1]


def test_what_follows_the_last_step_is_judged_by_the_value() -> None:
    agent = agent_of(corridor(0))
    assert planned(agent, corridor(0), num_plans=64, horizon=2) == [0], "without a value only what comes soon counts"
    agent.network.value = lambda features: Corridor.values()[features.flatten(1).argmax(1)]
    assert planned(agent, corridor(0), num_plans=64, horizon=2) == [1]


@pytest.mark.parametrize(
    ("space", "best"),
    [
        (spaces.MultiDiscrete([3, 4]), [2, 1]),
        (spaces.Box(-2.0, 2.0, (2,), np.float32), [1.0, -0.5]),
    ],
)
def test_it_plans_actions_of_every_kind(space: spaces.Space, best: list[float]) -> None:
    world = OneChoice(1, space, best)
    agent = agent_of(world)
    found = planned(agent, world, num_plans=128, horizon=1, iterations=4)
    action = agent.network.action_map.to_space(torch.tensor([found]))[0]
    assert np.abs(action - np.array(best)).max() < 0.2


def test_it_acts_for_observations_of_a_real_environment() -> None:
    world = wild_world("motion:window")
    planners = [Planner(Agent(world), PlannerSettings(num_plans=8, horizon=2), seed=3) for _ in range(2)]
    observations, *_ = play_board(4)
    actions = [[int(planner.act(each)) for each in observations] for planner in planners]
    assert actions[0] == actions[1] and all(world.action_space.contains(action) for action in actions[0])


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(MagratheaError, match="num_plans is 1"):
        PlannerSettings(num_plans=1)
