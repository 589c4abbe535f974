"""The futures that an agent imagines, and how it decides after the steps of a world."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces
from session_worlds import play_board, wild_world

from magrathea.agents import Agent, Future, LearnerSettings, imagine
from magrathea.errors import MagratheaError
from magrathea.session import Session
from magrathea.tokenizers import tokenizer_for

GAMMA = 0.9


@pytest.fixture(scope="module")
def agent() -> Agent:
    """Whose networks are random, so that actions and values depend on the state."""
    made = Agent(wild_world(), LearnerSettings(discount=GAMMA))
    torch.manual_seed(1)
    for network in (made.network.actor, made.network.critic):
        torch.nn.init.normal_(network.out.weight, std=0.5)
    return made


def steps(agent: Agent) -> torch.Tensor:
    observation, action, *_ = play_board(10, seed=3)
    return agent.world.encode_episode(observation, action)


def imagined(agent: Agent, **options: int) -> list[Future]:
    return [future for done in imagine(agent, steps(agent), **options) for future in done]


def test_futures_begin_with_the_step_and_their_actions(agent: Agent) -> None:
    futures, world = imagined(agent, num_dreams=8, horizon=5), agent.world
    assert len(futures) == 8
    for future in futures:
        assert (future.tokens[0] == steps(agent)[-1]).all()
        assert int(world.decode_action(future.tokens[1:2])[0]) == future.action
        ended = world.decode_terminated(future.tokens[1:])
        assert future.ends == bool(ended[-1]) and not ended[:-1].any()
        assert len(future.tokens) == 6 or future.ends
    assert len({int(future.action) for future in futures}) > 1


def test_a_future_returns_its_rewards_and_the_value_of_where_it_leads(agent: Agent) -> None:
    for future in imagined(agent, num_dreams=8, horizon=5):
        rewards = agent.world.decode_reward(future.tokens[1:])
        total = float(rewards @ GAMMA ** np.arange(len(rewards)))
        if not future.ends:
            past = torch.cat([steps(agent), future.tokens[1:]])
            total += GAMMA ** len(rewards) * agent.decide(agent.features_after(past))[1]
        assert future.total == pytest.approx(total, rel=1e-4)


def test_the_same_seed_imagines_the_same(agent: Agent) -> None:
    first, again, other = (imagined(agent, seed=seed) for seed in (4, 4, 5))
    assert all(torch.equal(one.tokens, two.tokens) for one, two in zip(first, again, strict=True))
    assert any(
        len(a.tokens) != len(b.tokens) or (a.tokens != b.tokens).any() for a, b in zip(first, other, strict=True)
    )


def test_each_call_of_imagine_steps_a_few_dreams(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    step = Session.step

    def counted(self: Session, action: np.ndarray) -> object:
        taken.append(len(action))
        return step(self, action)

    monkeypatch.setattr(Session, "step", counted)
    for _ in imagine(agent, steps(agent), num_dreams=4, horizon=3):
        assert sum(taken) <= 2
        taken.clear()


def test_an_agent_decides_after_steps_as_it_acts_on_observations(agent: Agent) -> None:
    seen, taken = play_board(12, seed=5)[0], []
    agent.reset()
    history = agent.world.encode(None, seen[:1])
    for index in range(12):
        action, value = agent.decide(agent.features_after(history))
        assert agent.act(seen[index]) == action and np.isfinite(value)
        taken.append(int(action))
        after = agent.world.encode(np.array([action]), seen[index + 1 : index + 2], previous=history[-1:])
        history = torch.cat([history, after])
    assert len(set(taken)) > 1


def test_a_world_of_other_spaces_is_refused(agent: Agent) -> None:
    agent.check_fits(wild_world("spatial_map"))  # of the same spaces, with another memory
    other = copy.copy(wild_world())
    other.tokenizers = dict(other.tokenizers)
    other.tokenizers["observation"] = tokenizer_for(spaces.Discrete(2))
    with pytest.raises(MagratheaError, match=r"observation space is Box.*, but the world's is Discrete\(2\); play it"):
        agent.check_fits(other)
