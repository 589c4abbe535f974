"""Tiny worlds whose values are known exactly, for the learner: a corridor, a bandit of two steps, choices of one step.

Each is stepped as a session is. After an episode's end a world goes on with another, poisoned one, whose features and
rewards would show in the values if they leaked into the episode before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

POISON = 3.0  # reward of every step after an episode's end
GAMMA = 0.9


@dataclass(frozen=True)
class Outcome:
    """What a step brought."""

    expected_reward: np.ndarray
    terminated: np.ndarray


class Corridor:
    """States 0…4 of which the last is the exit. Action 1 goes on, and out of the exit for a reward of 1; action 0 ends
    the episode for 0.3. So the best value of state s is GAMMA ** (4 - s).

    Args:
        batch_size: B.
        order: the feature that each state shows, which differs between versions of the world.
    """

    num_states = 5
    action_space = spaces.Discrete(2)

    def __init__(self, batch_size: int, order: tuple[int, ...] = (0, 1, 2, 3, 4)) -> None:
        self.order = order
        self.state = torch.randint(self.num_states, (batch_size,))
        self.is_over = torch.zeros(batch_size, dtype=torch.bool)

    @classmethod
    def features_of(cls, states: Tensor, order: tuple[int, ...] = (0, 1, 2, 3, 4)) -> Tensor:
        """(…,) states -> (…, 1, 5)"""
        return torch.eye(cls.num_states)[torch.tensor(order)[states]].unsqueeze(-2)

    @classmethod
    def values(cls) -> Tensor:
        return torch.tensor([GAMMA ** (cls.num_states - 1 - state) for state in range(cls.num_states)])

    @property
    def features(self) -> Tensor:
        return self.features_of(self.state, self.order)

    def fork_batch(self, batch_indices: list[int], seeds: list[int]) -> Corridor:
        fork = Corridor(len(batch_indices), self.order)
        fork.state, fork.is_over = self.state[batch_indices], self.is_over[batch_indices]
        return fork

    def step(self, action: Any) -> Outcome:
        goes_on, at_exit = torch.from_numpy(np.asarray(action)) == 1, self.state == self.num_states - 1
        reward = torch.where(goes_on, at_exit.float(), 0.3)
        ends = ~goes_on | at_exit
        reward, terminated = torch.where(self.is_over, POISON, reward), ends & ~self.is_over
        self.state = torch.where(ends | self.is_over, self.num_states - 1, self.state + 1)  # the best state of another
        self.is_over |= terminated
        return Outcome(reward.numpy(), terminated.numpy())


class TwoStepBandit:
    """State 0, where action a leads to state 1 + a; there the second action brings REWARDS[a][b], and the end. A first
    action of 0 brings 0.1 at once, but less later: the best values are GAMMA, 0.5 and 1."""

    REWARDS = ((0.5, 0.2), (0.0, 1.0))
    action_space = spaces.Discrete(2, start=3)

    def __init__(self, batch_size: int) -> None:
        self.state = torch.zeros(batch_size, dtype=torch.long)
        self.is_over = torch.zeros(batch_size, dtype=torch.bool)

    @staticmethod
    def features_of(states: Tensor) -> Tensor:
        return torch.eye(3)[states].unsqueeze(-2)

    @property
    def features(self) -> Tensor:
        return self.features_of(self.state)

    def step(self, action: Any) -> Outcome:
        chosen, is_first = torch.from_numpy(np.asarray(action)) - 3, self.state == 0
        later = torch.tensor(self.REWARDS)[(self.state - 1).clamp(min=0), chosen]
        reward = torch.where(is_first, 0.1 * (chosen == 0), later)
        reward, terminated = torch.where(self.is_over, POISON, reward), ~is_first & ~self.is_over
        self.state = torch.where(is_first & ~self.is_over, 1 + chosen, 2)
        self.is_over |= terminated
        return Outcome(reward.numpy(), terminated.numpy())


class OneChoice:
    """Episodes of one step, whose reward is highest for one action of the space.

    Args:
        batch_size: B.
        space: of the actions.
        best: that action, as numbers.
    """

    def __init__(self, batch_size: int, space: spaces.Space, best: list[float]) -> None:
        self.action_space, self.best, self.batch_size = space, np.array(best), batch_size

    @property
    def features(self) -> Tensor:
        return torch.ones(self.batch_size, 1, 1)

    def fork_batch(self, batch_indices: list[int], seeds: list[int]) -> OneChoice:
        return OneChoice(len(batch_indices), self.action_space, self.best.tolist())

    def step(self, action: Any) -> Outcome:
        errors = np.abs(np.asarray(action, float).reshape(self.batch_size, -1) - self.best)
        return Outcome(-errors.sum(1), np.ones(self.batch_size, bool))


class CorridorEnv(gymnasium.Env):
    """The corridor as a Gymnasium environment, which begins in any state but the last."""

    observation_space, action_space = spaces.Discrete(Corridor.num_states), Corridor.action_space
    num_steps = 0  # that all of them were stepped

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.world = Corridor(1)
        self.world.state[:] = int(self.np_random.integers(Corridor.num_states - 1))
        return int(self.world.state), {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        CorridorEnv.num_steps += 1
        outcome = self.world.step(np.array([action]))
        return int(self.world.state), float(outcome.expected_reward[0]), bool(outcome.terminated[0]), False, {}


class TextActions(CorridorEnv):
    """The corridor with actions that no agent takes."""

    action_space = spaces.Text(5)  # type: ignore[assignment]


gymnasium.register("test/TextActions-v0", entry_point=TextActions)
gymnasium.register("test/Corridor-v0", entry_point=CorridorEnv, max_episode_steps=20)
