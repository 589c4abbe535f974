"""A planner: sequences of actions are dreamt as one batch, and the best of them is begun.

Random shooting draws them once; the cross-entropy method draws them again and again from what the best had in common
(Rubinstein 1999; with a categorical for discrete actions). What follows the last step is judged by the agent's value.

K plans, H steps of a plan, A numbers of an action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from magrathea.agents.agent import Agent, Player
from magrathea.agents.learner import Source
from magrathea.session import Session
from magrathea.settings import Count, Range, Share, check
from magrathea.spaces import index_batch

MIN_STD = 0.1  # of continuous actions
REPEATS = 8  # dreams of each of the best plans, of which a single one may have been lucky


@dataclass(frozen=True, kw_only=True)
class PlannerSettings:
    """How plans are searched.

    Attributes:
        num_plans: K.
        horizon: H.
        iterations: how often plans are drawn; 1 is random shooting.
        elite_share: of the plans that the next ones are drawn like.
        policy_share: of the plans that the agent's policy acts out, in every iteration.
    """

    num_plans: Annotated[int, Range(2, 10**6)] = 32
    horizon: Count = 8
    iterations: Count = 2
    elite_share: Annotated[float, Range(0, 1, above=True)] = 0.15
    policy_share: Share = 0.25

    def __post_init__(self) -> None:
        check(self)


class DiscountedReturns:
    """The returns of B dreams, summed while they go on.

    Args:
        num_dreams: B.
        discount: of each step's rewards over those of the step before.

    Attributes:
        is_running: (B,) bool, which dreams have not ended.
    """

    def __init__(self, num_dreams: int, discount: float) -> None:
        self.is_running = torch.ones(num_dreams, dtype=torch.bool)
        self._totals, self._weights, self._discount = torch.zeros(num_dreams), torch.ones(num_dreams), discount

    def add(self, reward: np.ndarray, terminated: np.ndarray) -> None:
        """A step's rewards and endings (B,)."""
        self._totals += self._weights * torch.from_numpy(np.asarray(reward, np.float32))
        self.is_running &= ~torch.from_numpy(np.asarray(terminated, bool))
        self._weights = self._weights * self._discount * self.is_running

    def with_value(self, value: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The returns, with the value of where the dreams are that have not ended."""
        return self._totals + self._weights * value


class Proposal:
    """What actions (K, H, A) are drawn from: for each number of each step a distribution of its own."""

    def __init__(self, agent: Agent, horizon: int) -> None:
        self.sizes = agent.network.action_map.sizes
        num_numbers = len(self.sizes) or agent.network.action_map.num_outputs // 2
        self.probs = [torch.full((horizon, size), 1 / size) for size in self.sizes]
        self.mean, self.std = torch.zeros(horizon, num_numbers), torch.ones(horizon, num_numbers)

    def sample(self, num_plans: int) -> Tensor:
        if self.sizes:
            return torch.stack([torch.multinomial(own, num_plans, True).T for own in self.probs], dim=-1)
        return (self.mean + self.std * torch.randn(num_plans, *self.mean.shape)).clamp(-1, 1)

    def fit(self, elites: Tensor) -> None:
        """Become like the best plans (E, H, A), half way, so that one iteration does not decide."""
        for number, size in enumerate(self.sizes):
            shares = F.one_hot(elites[..., number], size).float().mean(0)
            self.probs[number] = 0.5 * self.probs[number] + 0.5 * shares
        if not self.sizes:
            self.mean, self.std = elites.mean(0), elites.std(0, unbiased=False).clamp(min=MIN_STD)


@torch.no_grad()
def dream_plans(
    source: Source, agent: Agent, plans: Tensor, num_from_policy: int
) -> tuple[Tensor, Float[Tensor, " K"]]:
    """Dream plans (K, H, A), of which the first ones are replaced by what the policy does; returns the plans as they
    were dreamt, and their discounted returns (K,) with the value of where they lead."""
    network, plans, features = agent.network, plans.clone(), source.features
    returns = DiscountedReturns(len(plans), agent.settings.discount)
    for step in range(plans.shape[1]):
        if num_from_policy:
            plans[:num_from_policy, step] = network.policy(features[:num_from_policy]).sample()
        outcome = source.step(network.action_map.to_space(plans[:, step]))
        returns.add(outcome.expected_reward, outcome.terminated)
        features = source.features
    return plans, returns.with_value(network.value(features))


class Planner:
    """Acts in a real environment by dreaming plans at each of its steps.

    Args:
        agent: whose world dreams, whose policy proposes plans and whose value judges where they lead.
        settings: how plans are searched.
        seed: of plans and dreams.
    """

    def __init__(self, agent: Agent, settings: PlannerSettings | None = None, seed: int = 0) -> None:
        self.agent, self.settings = agent, settings or PlannerSettings()
        self._generator = np.random.default_rng(seed)
        self.reset()

    def reset(self) -> None:
        """An episode of the environment begins."""
        self._player, self._is_first = Player(self.agent, 1), True

    def act(self, observation: Any) -> Any:
        """The action for an environment's observation, given those since `reset`."""
        steps = self._player.observe_one(observation, self._is_first)
        self._is_first = False
        action = self.plan(Session(self.agent.world, start=steps, seed=int(self._generator.integers(2**31))))
        return index_batch(self._player.took(action), 0)

    def plan(self, session: Session) -> Tensor:
        """The first action (1, A) of the best plan from where a session of one world is, which stays there."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self._generator.integers(2**31)))
            return self._plan(session)

    def _plan(self, session: Session) -> Tensor:
        settings, num_plans = self.settings, self.settings.num_plans
        num_policy, num_elites = round(settings.policy_share * num_plans), round(settings.elite_share * num_plans)
        proposal, tried, scores = Proposal(self.agent, settings.horizon), [], []
        for _ in range(settings.iterations):
            plans, returns = self._dream(session, proposal.sample(num_plans), num_policy)
            proposal.fit(plans[returns.topk(max(1, num_elites)).indices])
            tried.append(plans)
            scores.append(returns)
        finalists = torch.cat(tried)[torch.cat(scores).topk(-(-num_plans // REPEATS)).indices]
        _, again = self._dream(session, finalists.repeat_interleave(REPEATS, dim=0), 0)
        return finalists[again.unflatten(0, (-1, REPEATS)).mean(1).argmax(), :1]

    def _dream(self, session: Session, plans: Tensor, num_policy: int) -> tuple[Tensor, Tensor]:
        seeds = self._generator.integers(2**31, size=len(plans)).tolist()
        return dream_plans(session.fork_batch([0] * len(plans), seeds), self.agent, plans, num_policy)
