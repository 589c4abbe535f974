"""Recorded steps as an agent learns from them: states that dreams branch from, and segments for the critic.

W window of the world, T steps of a segment, N tokens of a step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from magrathea.agents.learner import ActorCritic, Trajectories
from magrathea.data import Dataset
from magrathea.session import Session
from magrathea.world import World

FEATURES_BATCH = 64  # states whose features are computed at once


class Replay:
    """The episodes of a dataset as tokens of one world; another world needs another replay.

    Args:
        world: whose window is its only memory.
        episodes: tokens (T + 1, N) of each, as `World.encode_episode` makes them.
        seed: of what is drawn.
    """

    def __init__(self, world: World, episodes: Sequence[Int[Tensor, "T N"]], seed: int = 0) -> None:
        self.world, self.generator, self.episodes = world, Generator().manual_seed(seed), list(episodes)
        # nothing follows an end
        lengths = [len(tokens) - bool(world.decode_terminated(tokens[-1:])[0]) for tokens in episodes]
        self._states = torch.tensor([(index, step) for index, length in enumerate(lengths) for step in range(length)])

    @classmethod
    def of_dataset(cls, world: World, dataset: Dataset, seed: int = 0) -> Replay:
        """All episodes of a dataset, whichever the world was trained on."""
        recorded = map(dataset.episode, range(len(dataset)))
        return cls(
            world, [world.encode_episode(e.observation, e.action, e.reward, e.terminated) for e in recorded], seed
        )

    def _draw(self, number: int) -> list[tuple[int, int]]:
        chosen = torch.randint(len(self._states), (number,), generator=self.generator)
        return [(index, step) for index, step in self._states[chosen].tolist()]

    def _window(self, index: int, step: int) -> Int[Tensor, "W1 N"]:
        """What leads to a step of an episode, and the step."""
        return self.world.last_window(self.episodes[index][: step + 1])

    def dreams(self, number: int, from_beginnings: bool = False) -> Session:
        """Dreams that branch from random states, or begin as recorded episodes do."""
        starts = [self._window(index, 0 if from_beginnings else step) for index, step in self._draw(number)]
        seed = int(torch.randint(2**31, (), generator=self.generator))
        return Session(self.world, number, seed=seed, start=torch.stack(starts), inference="naive")  # begins sooner

    @torch.no_grad()
    def features(self, number: int) -> Float[Tensor, "n S F"]:
        """The features of random states."""
        states = [self._window(index, step) for index, step in self._draw(number)]
        parts = torch.stack(states).split(FEATURES_BATCH)
        return torch.cat([self.world.features(part)[:, 0] for part in parts])

    @torch.no_grad()
    def segments(self, number: int, num_steps: int, network: ActorCritic) -> Trajectories:
        """Recorded steps from random states on, up to their episode's end."""
        tokens, lengths = [], []
        for index, step in self._draw(number):
            window, rest = self._window(index, step), self.episodes[index][step + 1 : step + 1 + num_steps]
            lengths.append(len(rest))
            tokens.append(torch.cat([window, rest, self.episodes[index][-1:].expand(num_steps - len(rest), -1)]))
        steps = torch.stack(tokens)
        later = steps[:, -num_steps:]
        valid = torch.arange(num_steps) < torch.tensor(lengths)[:, None]
        actions = network.action_map.from_space(self.world.decode_action(later.flatten(0, 1)))
        return Trajectories(
            self.world.features(steps),
            actions.unflatten(0, later.shape[:2]),
            torch.from_numpy(self.world.decode_reward(later.flatten(0, 1))).unflatten(0, later.shape[:2]),
            1
            - torch.from_numpy(self.world.decode_terminated(later.flatten(0, 1))).float().unflatten(0, later.shape[:2]),
            valid,
        )
