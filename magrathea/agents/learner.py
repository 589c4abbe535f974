"""The learner: an actor and a critic on the features of states, improved from trajectories of any source.

Dreams, recorded steps and real environments all come as `Trajectories`, and are learned by the same code. λ-returns,
their scale by percentiles, the critic over symlog bins and its slow copy are those of DreamerV3 (Hafner et al. 2023);
the policy's loss is clipped, so that one dream serves several updates (PPO, Schulman et al. 2017).

B trajectories, T steps, S positions of a state, F features of a position, A numbers of an action.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Annotated, Any, Protocol

import gymnasium
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from magrathea.agents.actions import ActionMap, Distribution, ValueBins
from magrathea.settings import Count, Positive, Range, Share, check

MIN_FEATURE_STD = 1e-3  # added to the deviations of features that hardly vary
MOST_DEVIATION = 6.0  # of a standardized feature
LEAST_SCALE = 0.01  # of returns: where they hardly differ, the entropy decides


@dataclass(frozen=True, kw_only=True)
class LearnerSettings:
    """How an agent learns.

    Attributes:
        num_dreams: B, trajectories of an update.
        horizon: T, steps of each.
        discount: γ.
        trace_decay: λ.
        entropy: weight of the policy's entropy, of which the share is used that is of the learning rate.
        learning_rate: of Adam.
        num_epochs: how often each trajectory is learned.
        num_minibatches: parts of a batch of trajectories.
        clip: how far the ratio of probabilities may move from 1.
        slow_rate: share of the critic that its slow copy takes over in each update.
        real_weight: weight of recorded steps in the critic's loss, 0 for none.
        width: of the hidden layers.
    """

    num_dreams: Count = 64
    horizon: Count = 16
    discount: Share = 0.99
    trace_decay: Share = 0.95
    entropy: Annotated[float, Range(0, 10)] = 1e-2
    learning_rate: Annotated[float, Range(0, 1, above=True)] = 1e-3
    num_epochs: Count = 4
    num_minibatches: Count = 4
    clip: Positive = 0.2
    slow_rate: Share = 0.1
    real_weight: Annotated[float, Range(0, 10)] = 0.0
    width: Count = 128

    def __post_init__(self) -> None:
        check(self)

    def to_config(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Trajectories:
    """Steps of B episodes, of which each may end before step T.

    Attributes:
        features: (B, T + 1, S, F) of the state before each step, and of the last.
        actions: (B, T, A) as `ActionMap` has them.
        rewards: (B, T) that each action brought.
        continues: (B, T) the probability that the episode goes on after the step: 0 where it terminated, 1 where it was
            only cut.
        valid: (B, T) False after an episode's end; there all else is arbitrary.
    """

    features: Float[Tensor, "B T1 S F"]
    actions: Tensor
    rewards: Float[Tensor, "B T"]
    continues: Float[Tensor, "B T"]
    valid: Bool[Tensor, "B T"]


def lambda_returns(
    steps: Trajectories, values: Float[Tensor, "B T1"], discount: float, trace_decay: float
) -> Float[Tensor, "B T"]:
    """The λ-return of each step, given the values of the states before each and of the last."""
    returns, after = [], values[:, -1]
    is_last = torch.cat([~steps.valid[:, 1:], torch.ones_like(steps.valid[:, :1])], dim=1)
    for step in reversed(range(steps.rewards.shape[1])):
        following = torch.where(is_last[:, step], values[:, step + 1], after)
        after = steps.rewards[:, step] + discount * steps.continues[:, step] * following
        returns.append(after)
        after = (1 - trace_decay) * values[:, step] + trace_decay * after
    return torch.stack(returns[::-1], dim=1)


class Network(nn.Module):
    """Standardized features (*n, S, F) -> outputs (*n, O)."""

    def __init__(self, num_positions: int, num_features: int, width: int, num_outputs: int) -> None:
        super().__init__()
        each = max(8, min(width, 1024 // num_positions))
        self.positions = nn.Sequential(nn.Linear(num_features, each), nn.SiLU())
        sizes = (each * num_positions, width, width)
        hidden = [
            nn.Sequential(nn.Linear(before, after), nn.LayerNorm(after), nn.SiLU()) for before, after in pairwise(sizes)
        ]
        self.layers = nn.Sequential(*hidden)
        self.out = nn.Linear(width, num_outputs)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Float[Tensor, "*n S F"]) -> Float[Tensor, "*n O"]:
        return self.out(self.layers(self.positions(features).flatten(-2)))


class ActorCritic(nn.Module):
    """The policy and the value of states.

    Args:
        num_positions: S.
        num_features: F.
        action_space: see `ActionMap`.
        width: of the hidden layers.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, num_positions: int, num_features: int, action_space: gymnasium.Space, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_positions, num_features))
        self.register_buffer("std", torch.ones(num_positions, num_features))
        self.action_map, self.bins = ActionMap(action_space), ValueBins()
        self.actor = Network(num_positions, num_features, width, self.action_map.num_outputs)
        self.critic = Network(num_positions, num_features, width, len(self.bins.places))
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)

    def fit_scale(self, features: Float[Tensor, "n S F"]) -> None:
        """Standardize features by the means and deviations of these: what an agent has to tell apart, say small angles,
        may be a small part of what the world knows."""
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0) + MIN_FEATURE_STD)

    def policy(self, features: Float[Tensor, "n S F"]) -> Distribution:
        return self.policy_of(self.standardized(features))

    def policy_of(self, standardized: Float[Tensor, "n S F"]) -> Distribution:
        """The policy at features that are standardized already."""
        return self.action_map.distribution(self.actor(standardized))

    def value(self, features: Float[Tensor, "*n S F"]) -> Float[Tensor, "*n"]:
        return self.bins.value(self.critic(self.standardized(features)))

    def standardized(self, features: Float[Tensor, "*n S F"]) -> Float[Tensor, "*n S F"]:
        return ((features - self.mean) / self.std).clamp(-MOST_DEVIATION, MOST_DEVIATION)


class Learner:
    """Improves an actor and a critic.

    Attributes:
        network: that learns, in place.
        scale: how far the returns spread, a moving average.
    """

    def __init__(self, network: ActorCritic, settings: LearnerSettings) -> None:
        self.network, self.settings, self.scale = network, settings, 0.0
        self._num_updates = 0
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=settings.learning_rate, eps=1e-5, fused=True)

    def update(self, dreams: Trajectories, real: Trajectories | None = None, rate: float = 1.0) -> dict[str, float]:
        """Learn from trajectories of the present policy, and the critic alone from recorded ones too, at a share of the
        learning rate and of the entropy's weight; returns what is to be logged: losses, mean return and value, entropy,
        scale."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.settings.learning_rate
        with torch.no_grad():
            batch = self._targets(dreams)
            recorded = None if real is None else self._targets(real)
        self._num_updates += 1
        self.scale += max(0.02, 1 / self._num_updates) * (_spread(batch["returns"]) - self.scale)
        entropy = rate * self.settings.entropy
        losses: list[dict[str, Tensor]] = []
        for _ in range(self.settings.num_epochs):
            for part in torch.randperm(len(batch["returns"])).chunk(self.settings.num_minibatches):
                losses.append(self._losses({name: values[part] for name, values in batch.items()}, entropy))
                if recorded is not None:
                    some = torch.randint(len(recorded["returns"]), (len(part),))
                    real_loss = self._critic_loss(recorded["standardized"][some], recorded["returns"][some])
                    losses[-1]["real_critic"] = self.settings.real_weight * real_loss
                self._step(sum(losses[-1].values(), torch.zeros(())))
        means = {
            f"loss/{name}": torch.stack([each[name].detach() for each in losses]).mean().item() for name in losses[0]
        }
        means |= {"return": float(batch["returns"].mean()), "value": float(batch["values"].mean())}
        return means | {"entropy": means["loss/entropy"] / -(entropy or np.inf), "scale": self.scale}

    def _targets(self, steps: Trajectories) -> dict[str, Tensor]:
        """The valid steps (n, …) with their returns, values, and the log-probabilities of their actions."""
        standardized = self.network.standardized(steps.features)  # once: it takes as long as the networks
        values = self.network.bins.value(self.network.critic(standardized))
        returns = lambda_returns(steps, values, self.settings.discount, self.settings.trace_decay)
        features, actions = standardized[:, :-1][steps.valid], steps.actions[steps.valid]
        return {
            "standardized": features,
            "actions": actions,
            "returns": returns[steps.valid],
            "values": values[:, :-1][steps.valid],
            "log_prob": self.network.policy_of(features).log_prob(actions),
        }

    def _losses(self, batch: dict[str, Tensor], entropy: float) -> dict[str, Tensor]:
        policy = self.network.policy_of(batch["standardized"])
        advantages = (batch["returns"] - batch["values"]) / max(LEAST_SCALE, self.scale)
        ratio = (policy.log_prob(batch["actions"]) - batch["log_prob"]).exp()
        clipped = ratio.clamp(1 - self.settings.clip, 1 + self.settings.clip)
        return {
            "actor": -torch.minimum(ratio * advantages, clipped * advantages).mean(),
            "entropy": -entropy * policy.entropy().mean(),
            "critic": self._critic_loss(batch["standardized"], batch["returns"]),
        }

    def _critic_loss(self, standardized: Tensor, returns: Tensor) -> Tensor:
        """Toward the returns, and, to change slowly, toward what the slow copy says."""
        bins, logits = self.network.bins, self.network.critic(standardized)
        with torch.no_grad():
            slow = bins.value(self.network.slow_critic(standardized))
        return (bins.loss(logits, returns) + bins.loss(logits, slow)).mean()

    def _step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        slow, fast = self.network.slow_critic.parameters(), self.network.critic.parameters()
        with torch.no_grad():
            for old, new in zip(slow, fast, strict=True):
                old.lerp_(new, self.settings.slow_rate)


def _spread(returns: Float[Tensor, " n"]) -> float:
    """From the 5th to the 95th percentile, or two standard deviations: rare rewards leave those percentiles equal."""
    low, high = torch.quantile(returns, torch.tensor([0.05, 0.95])).tolist()
    return max(high - low, 2 * float(returns.std(correction=0)))


class StepOutcome(Protocol):
    """What a step brought: `expected_reward` (B,), the mean of what it may bring, and `terminated` (B,)."""

    @property
    def expected_reward(self) -> np.ndarray: ...

    @property
    def terminated(self) -> np.ndarray: ...


class Source(Protocol):
    """B worlds in which an agent can act, as a `Session` is: the features of their states, and steps."""

    @property
    def features(self) -> Float[Tensor, "B S F"]: ...

    def step(self, action: Any) -> StepOutcome: ...


@torch.no_grad()
def rollout(source: Source, network: ActorCritic, num_steps: int) -> Trajectories:
    """Let the policy act for some steps, from where the worlds are. A world that ends goes on being stepped, but its
    further steps are not valid."""
    features, actions, rewards, continues, valid = [source.features], [], [], [], []
    is_running = torch.ones(len(features[0]), dtype=torch.bool)
    for _ in range(num_steps):
        action = network.policy(features[-1]).sample()
        outcome = source.step(network.action_map.to_space(action))
        terminated = torch.from_numpy(np.asarray(outcome.terminated, bool))
        actions.append(action)
        rewards.append(torch.from_numpy(np.asarray(outcome.expected_reward, np.float32)))
        continues.append(1 - terminated.float())
        valid.append(is_running)
        is_running = is_running & ~terminated
        features.append(source.features)
    stacked = (torch.stack(parts, dim=1) for parts in (features, actions, rewards, continues, valid))
    return Trajectories(*stacked)
