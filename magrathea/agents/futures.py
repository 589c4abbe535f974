"""The futures that an agent imagines: dreams in which its policy acts, and what each returns.

W window of the world, N tokens of a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from magrathea.agents.agent import Agent
from magrathea.agents.planner import DiscountedReturns, Proposal
from magrathea.session import Session
from magrathea.spaces import index_batch

NUM_DREAMS, HORIZON = 6, 12
GROUP = 2  # dreams that are stepped together, so that one call lasts about as long as a step of a session


@dataclass(frozen=True)
class Future:
    """A dream of what may follow a step.

    Attributes:
        tokens: (T + 1, N) the step, and those that follow it up to the episode's end.
        action: the first action.
        total: the discounted rewards, and the value of where it leads.
        ends: whether the episode ends in it.
    """

    tokens: Int[Tensor, "T1 N"]
    action: Any
    total: float
    ends: bool


@torch.no_grad()
def imagine(
    agent: Agent, steps: Int[Tensor, "T N"], seed: int = 0, num_dreams: int = NUM_DREAMS, horizon: int = HORIZON
) -> Iterator[list[Future]]:
    """Dream what may follow the last steps of the agent's world: the policy acts, but half of the dreams begin with an
    action that is drawn evenly. Yields after each step of a few dreams, so that others can run between: the futures
    that are finished by it."""
    base = Session(agent.world, start=agent.world.last_window(steps), seed=seed)
    features = base.features.cpu()
    rng = torch.Generator().manual_seed(seed)
    begun = _first_actions(agent, features, num_dreams, seed)
    yield []
    for begin in range(0, num_dreams, GROUP):
        actions = begun[begin : begin + GROUP]
        seeds = torch.randint(2**31, (len(actions),), generator=rng).tolist()
        yield from _dream(agent, base.fork_batch([0] * len(actions), seeds), actions, horizon)


def _first_actions(agent: Agent, features: Tensor, num_dreams: int, seed: int) -> Tensor:
    """(num_dreams, A): the policy's, and for each of them one that is drawn evenly."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        own = agent.network.policy(features.expand(num_dreams, -1, -1)).sample()
        even = Proposal(agent, 1).sample(num_dreams)[:, 0].to(own.dtype)
    return torch.where(torch.arange(num_dreams)[:, None] % 2 == 0, own, even)


def _dream(agent: Agent, session: Session, actions: Tensor, horizon: int) -> Iterator[list[Future]]:
    """Dream on in a session of a few worlds, whose first actions (B, A) are given."""
    network, to_space = agent.network, agent.network.action_map.to_space
    first = to_space(actions)
    returns, lengths = DiscountedReturns(len(actions), agent.settings.discount), [horizon] * len(actions)
    for step in range(horizon):
        if step:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(session.seeds[0] + step)
                actions = network.policy(session.features.cpu()).sample()
        outcome = session.step(to_space(actions))
        returns.add(outcome.reward, outcome.terminated)
        for index in np.flatnonzero(outcome.terminated):
            lengths[index] = min(lengths[index], step + 1)
        if not returns.is_running.any():
            break
        yield []
    totals = returns.with_value(network.value(session.features.cpu()))
    yield [
        Future(
            session.history_of(index, -(step + 2))[: lengths[index] + 1],
            index_batch(first, index),
            float(totals[index]),
            not returns.is_running[index],
        )
        for index in range(len(totals))
    ]
