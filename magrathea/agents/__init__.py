"""Agents: actors and critics on a world's features, which learn in its dreams and act in real environments."""

from magrathea.agents.agent import Agent, Player
from magrathea.agents.futures import Future, imagine
from magrathea.agents.learner import ActorCritic, Learner, LearnerSettings, Trajectories, lambda_returns, rollout
from magrathea.agents.planner import Planner, PlannerSettings
from magrathea.agents.replay import Replay

__all__ = [
    "ActorCritic",
    "Agent",
    "Future",
    "Learner",
    "LearnerSettings",
    "Planner",
    "PlannerSettings",
    "Player",
    "Replay",
    "Trajectories",
    "imagine",
    "lambda_returns",
    "rollout",
]
