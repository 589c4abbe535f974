"""An agent of an untrained world of the board, with random networks: what it does changes with what it sees."""

from __future__ import annotations

from typing import Any

import torch
from session_worlds import play_board, wild_world

from magrathea.agents import Agent, LearnerSettings
from magrathea.world import World

ROUNDS = [
    {"real_steps": 400, "dream_return": 1.0, "real_return": -2.0},
    {"real_steps": 800, "dream_return": 3.0, "real_return": 2.0},
]
FIGURES: dict[str, Any] = {
    "env_id": "board",
    "rounds": ROUNDS,
    "real_steps": 800,
    "dream_return": 3.0,
    "returns": {"agent": [1.5, 2.5]},
}


@torch.no_grad()
def board_agent(seed: int = 1, world: World | None = None) -> Agent:
    agent = Agent(world or wild_world(), LearnerSettings(width=16), FIGURES)
    torch.manual_seed(seed)
    actor, critic = agent.network.actor, agent.network.critic
    for network in (actor, critic):
        torch.nn.init.normal_(network.out.weight)
    observation, action, *_ = play_board(60, seed=1)
    features = agent.world.features(agent.world.encode_episode(observation, action)[None])[0]
    actor.out.bias -= actor(features).mean(0)  # so that no action is always the likeliest
    return agent
