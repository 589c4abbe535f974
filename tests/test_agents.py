"""The learner on worlds whose values are known, and that it would be noticed if it were wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact_worlds import GAMMA, Corridor, OneChoice, TwoStepBandit
from gymnasium import spaces
from session_worlds import play_board, wild_world
from torch import Tensor

from magrathea.agents import (
    ActorCritic,
    Agent,
    Learner,
    LearnerSettings,
    Player,
    Replay,
    Trajectories,
    lambda_returns,
    learner,
    rollout,
)
from magrathea.agents.actions import ActionMap, ValueBins
from magrathea.data.policies import policy_named
from magrathea.errors import MagratheaError
from magrathea.session import Session
from magrathea.world import World

SETTINGS = LearnerSettings(
    discount=GAMMA,
    learning_rate=3e-3,
    entropy=3e-3,
    width=32,
    num_dreams=48,
    horizon=8,
    num_epochs=2,
    num_minibatches=2,
)


def learned(make: Callable[[int], Any], num_features: int, num_updates: int, settings: Any = SETTINGS) -> ActorCritic:
    """A network that learned in fresh worlds in every update."""
    torch.manual_seed(0)
    network = ActorCritic(1, num_features, make(1).action_space, settings.width)
    own = Learner(network, settings)
    for update in range(num_updates):
        own.update(rollout(make(settings.num_dreams), network, settings.horizon), rate=1 - update / num_updates)
    return network


def check_corridor() -> None:
    network, states = learned(Corridor, 5, 150), Corridor.features_of(torch.arange(5))
    with torch.no_grad():
        assert (network.policy(states).mode().flatten() == 1).all(), "it does not walk to the exit"
        error = (network.value(states) - Corridor.values()).abs().max().item()
    assert error < 0.06, f"a value is wrong by {error}"


def check_bandit() -> None:
    network, states = learned(TwoStepBandit, 3, 150), TwoStepBandit.features_of(torch.arange(3))
    with torch.no_grad():
        assert network.policy(states).mode().flatten().tolist() == [1, 0, 1], "it does not take the best actions"
        error = (network.value(states)[[0, 2]] - torch.tensor([GAMMA, 1.0])).abs().max().item()
    assert error < 0.06, f"a value is wrong by {error}"


def test_the_corridor_has_its_exact_values() -> None:
    check_corridor()


def test_the_first_action_of_the_bandit_gets_the_credit_of_the_second() -> None:
    check_bandit()


# -- deliberate faults, each of which must be noticed -----------------------------------------------------------------
def _credit_off_by_one(steps: Trajectories, *rest: Any) -> Tensor:
    return lambda_returns(replace(steps, rewards=steps.rewards.roll(-1, dims=1)), *rest)


def _leaking_across_episodes(steps: Trajectories, *rest: Any) -> Tensor:
    return lambda_returns(replace(steps, continues=torch.ones_like(steps.continues)), *rest)


def _reset_ignored(source: Any, network: ActorCritic, num_steps: int) -> Trajectories:
    steps = learner.rollout(source, network, num_steps)
    return replace(steps, valid=torch.ones_like(steps.valid))


@pytest.mark.parametrize("check", [check_corridor, check_bandit])
@pytest.mark.parametrize("fault", [_credit_off_by_one, _leaking_across_episodes])
def test_wrong_returns_are_noticed(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[..., Tensor], check: Callable[[], None]
) -> None:
    monkeypatch.setattr(learner, "lambda_returns", fault)
    with pytest.raises(AssertionError):
        check()


def test_a_wrong_reset_mask_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "rollout", _reset_ignored)
    with pytest.raises(AssertionError):
        check_corridor()


# -- parts ------------------------------------------------------------------------------------------------------------
def random_steps(num_steps: int = 6) -> tuple[Trajectories, Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    steps = Trajectories(
        draw(4, num_steps + 1, 1, 2),
        torch.zeros(4, num_steps, 1),
        draw(4, num_steps),
        (draw(4, num_steps) > 0.2).float(),
        torch.arange(num_steps) < torch.tensor([6, 3, 1, 6])[:, None],
    )
    return steps, draw(4, num_steps + 1)


def test_lambda_returns_are_the_mixture_of_all_n_step_returns() -> None:
    steps, values = random_steps()
    found = lambda_returns(steps, values, 0.9, 0.7)
    for batch, length in enumerate([6, 3, 1, 6]):
        for first in range(length):
            n_step, weights, total, discount = [], [], 0.0, 1.0
            for step in range(first, length):
                total = total + discount * steps.rewards[batch, step].item()
                discount = discount * 0.9 * steps.continues[batch, step].item()
                n_step.append(total + discount * values[batch, step + 1].item())
                weights.append(0.3 * 0.7 ** (step - first) if step < length - 1 else 0.7 ** (step - first))
            assert found[batch, first].item() == pytest.approx(np.dot(n_step, weights), abs=1e-5)


def test_features_are_standardized() -> None:
    """Small differences between states, beside large constants, are enough to tell them apart."""
    network, states = ActorCritic(1, 2, spaces.Discrete(2), 16), torch.tensor([[[500.0, 0.01]], [[500.0, 0.02]]])
    torch.nn.init.normal_(network.critic.out.weight)
    before = network.value(states).diff().abs().item()
    network.fit_scale(states)
    assert network.value(states).diff().abs().item() > 20 * before


def test_nothing_after_an_episodes_end_changes_what_is_learned() -> None:
    steps, values = random_steps()
    other = replace(steps, rewards=torch.where(steps.valid, steps.rewards, 100.0))
    after_end = ~torch.cat([torch.ones(4, 1, dtype=torch.bool), steps.valid], dim=1)
    before, after = (
        lambda_returns(own, own_values, 0.9, 0.7)[steps.valid]
        for own, own_values in ((steps, values), (other, values.masked_fill(after_end, 100.0)))
    )
    assert torch.equal(before, after)


@pytest.mark.parametrize(
    ("space", "best"),
    [
        (spaces.MultiDiscrete([3, 2, 4]), [2, 0, 1]),
        (spaces.MultiBinary(3), [1, 0, 1]),
        (spaces.Box(-2.0, 2.0, (2,), np.float32), [1.0, -0.5]),
    ],
)
def test_actions_of_every_kind_are_learned(space: spaces.Space, best: list[float]) -> None:
    settings = replace(SETTINGS, horizon=1, num_dreams=128)
    network = learned(lambda number: OneChoice(number, space, best), 1, 150, settings)
    with torch.no_grad():
        action = network.action_map.to_space(network.policy(torch.ones(1, 1, 1)).mode())[0]
    assert space.contains(action)
    assert np.abs(action - np.array(best)).max() < 0.25


def test_action_maps_are_inverted_and_stay_in_their_spaces() -> None:
    for space in (
        spaces.Discrete(4, start=-1),
        spaces.MultiDiscrete([[3, 2], [4, 5]]),
        spaces.MultiBinary((2, 2)),
        spaces.Box(np.array([-3.0, 0.0], np.float32), np.array([1.0, 7.0], np.float32)),
    ):
        space.seed(0)
        own, actions = ActionMap(space), np.stack([space.sample() for _ in range(8)])
        assert np.allclose(own.to_space(own.from_space(actions)), actions, atol=1e-5)
        drawn = own.to_space(own.distribution(torch.randn(8, own.num_outputs)).sample())
        assert all(space.contains(action) for action in drawn)
    with pytest.raises(MagratheaError, match="cannot act in Text"):
        ActionMap(spaces.Text(5))


def test_value_bins_give_back_the_value_that_was_learned() -> None:
    bins = ValueBins()
    values = torch.tensor([-500.0, -0.37, 0.0, 0.05, 3.3, 4321.0])
    logits = torch.zeros(6, len(bins.places), requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        bins.loss(logits, values).sum().backward()
        optimizer.step()
    assert torch.allclose(bins.value(logits), values, rtol=0.05, atol=0.02)
    assert bins.value(torch.zeros(len(bins.places))).item() == 0


# -- features and replay ----------------------------------------------------------------------------------------------
def board_world(seed: int = 0) -> Any:
    return wild_world("motion:window", seed)


def board_episodes(world: Any) -> list[Tensor]:
    """Two episodes of the board, of which the second ends."""
    episodes = []
    for seed, length in ((1, 9), (2, 4)):
        observation, action, reward, terminated = play_board(length, seed)
        terminated[-1] = seed == 2
        episodes.append(world.encode_episode(observation, action, reward, terminated))
    return episodes


def test_a_dreamt_step_has_the_features_of_its_history() -> None:
    world = board_world()
    session = Session(world, 3, seed=5)
    assert session.features.shape == (3, world.layout.of_role("observation")[0].num_positions, 2 * 48)
    for _ in range(5):
        session.step(np.array([0, 1, 2]))
        tail = torch.stack([session.history_of(index)[-world.config.model.window - 1 :] for index in range(3)])
        assert torch.allclose(session.features, world.features(tail)[:, 0], atol=1e-4)
    captured = session.features
    forked = session.fork()
    assert torch.allclose(forked.features, captured, atol=1e-4)
    session.rewind(1)
    assert not torch.allclose(session.features, captured, atol=1e-2)


def test_worlds_of_a_batch_that_step_join_and_leave_have_the_features_of_their_histories() -> None:
    world = board_world()
    session = Session(world, 3, seed=5)

    def check(**counts: int) -> None:
        window, got = world.config.model.window + 1, Counter[str]()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(World, "features", lambda *given: got.update(passes=1) or features(*given))
            found = [session.features_of([index]) for index in range(session.batch_size)]
        assert got["passes"] == counts["passes"]
        for index, own in enumerate(found):
            tail = session.history_of(index, -window)
            whole = torch.cat([tail[:1].expand(window - len(tail), -1), tail])
            assert torch.allclose(own, world.features(whole[None])[:, 0], atol=1e-4)

    features = World.features
    session.step(np.array([2, 1]), [2, 0])
    check(passes=1)
    session.append(Session(world, 1, seed=9))
    session.step(np.array([3, 0]), [3, 1])
    check(passes=0)
    session.keep([3, 0, 2])
    check(passes=0)
    session.rewind([1, 0, 0])
    check(passes=1)


def test_features_need_a_window_and_a_step() -> None:
    world = board_world()
    with pytest.raises(MagratheaError, match="T over 3"):
        world.features(world.starts)


def test_segments_are_recorded_steps_and_stay_in_their_episodes() -> None:
    world = board_world()
    episodes = board_episodes(world)
    replay, network = Replay(world, episodes, seed=0), Agent(world).network
    steps = replay.segments(64, 6, network)
    window, found = world.config.model.window, 0
    for index, (index_of, first) in enumerate(Replay(world, episodes, seed=0)._draw(64)):
        tokens = episodes[index_of]
        length = min(6, len(tokens) - 1 - first)
        assert steps.valid[index].tolist() == [step < length for step in range(6)]
        padded = torch.cat([tokens[:1].expand(window, -1), tokens])[first : first + window + 1 + length]
        assert torch.allclose(steps.features[index, : length + 1], world.features(padded[None])[0], atol=1e-4)
        after = tokens[first + 1 : first + 1 + length]
        assert steps.rewards[index, :length].tolist() == pytest.approx(world.decode_reward(after).tolist())
        assert steps.actions[index, :length, 0].tolist() == world.decode_action(after).tolist()
        ends = index_of == 1 and first + length == len(tokens) - 1
        assert steps.continues[index, :length].tolist() == [1.0] * (length - ends) + [0.0] * ends
        found += ends
        assert not (index_of == 1 and first == len(tokens) - 1), "a dream would begin after an end"
    assert found


def test_replay_shows_what_its_own_world_knows() -> None:
    """Features of another world, or of one that has been trained further, are another's."""
    first, second = board_world(0), board_world(1)
    episodes, network = board_episodes(first), Agent(first).network
    segments = [Replay(world, episodes, seed=0).segments(8, 4, network) for world in (first, second, first)]
    assert torch.equal(segments[0].features, segments[2].features)
    assert not torch.allclose(segments[0].features, segments[1].features, atol=1e-2)
    changed = Replay(first, episodes, seed=0)
    before = changed.segments(8, 4, network).features
    with torch.no_grad():
        first.model.embedding.position.neg_()
    try:
        changed.generator.manual_seed(0)
        assert not torch.allclose(changed.segments(8, 4, network).features, before, atol=1e-2), "it is stale"
    finally:
        with torch.no_grad():
            first.model.embedding.position.neg_()


def test_dreams_begin_at_recorded_states() -> None:
    world = board_world()
    replay = Replay(world, board_episodes(world), seed=0)
    session, begun = replay.dreams(16), replay.dreams(16, from_beginnings=True)
    states = [tokens[: step + 1] for tokens in replay.episodes for step in range(len(tokens))]
    recorded = torch.stack([world.last_window(steps) for steps in states])
    beginnings = torch.stack([world.last_window(tokens[:1]) for tokens in replay.episodes])
    for index in range(16):
        assert (recorded == session.history_of(index)).flatten(1).all(1).any()
        assert (beginnings == begun.history_of(index)).flatten(1).all(1).any()
    assert session.features.std(0).max() > 0.1, "all begin alike"


def test_rollouts_act_on_what_they_record() -> None:
    world = board_world()
    agent, session = Agent(world), Replay(world, board_episodes(world), seed=0).dreams(8)
    steps = rollout(session, agent.network, 5)
    again = Replay(world, board_episodes(world), seed=0).dreams(8)
    for step in range(5):
        outcome = again.step(steps.actions[:, step, 0].numpy())
        assert steps.rewards[:, step].tolist() == pytest.approx(outcome.expected_reward.tolist())
    for index in range(8):
        dreamt = session.history_of(index)[-5:]
        assert steps.actions[index, :, 0].tolist() == world.decode_action(dreamt).tolist()
        ends = world.decode_terminated(dreamt)
        assert steps.continues[index].tolist() == (1.0 - ends).tolist()
        assert steps.valid[index].tolist() == [not ends[:step].any() for step in range(5)]
        history = session.history_of(index)
        for step in range(5):
            tail = history[-5 + step - 1 - world.config.model.window : len(history) - 5 + step]
            assert torch.allclose(steps.features[index, step], world.features(tail[None])[0, 0], atol=1e-4)


# -- agents -----------------------------------------------------------------------------------------------------------
def trained_agent() -> Agent:
    """An agent that acts differently in different states."""
    agent = Agent(board_world(), metadata={"env_id": "test/Board-v0"})
    actor = agent.network.actor
    tokens = agent.world.encode_episode(*play_board(40)[:2])
    with torch.no_grad():
        hidden = actor.layers(actor.positions(agent.world.features(tokens[None])[0]).flatten(-2))
        torch.manual_seed(1)
        torch.nn.init.normal_(actor.out.weight, std=2.0)
        actor.out.bias.copy_(-(actor.out.weight @ hidden.mean(0)))
    return agent


def test_a_saved_agent_acts_as_before(tmp_path: Path) -> None:
    agent = trained_agent()
    folder = agent.save_pretrained(tmp_path / "agent")
    loaded = Agent.from_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "agent.safetensors", "config.json", "world"]
    observations, *_ = play_board(20)
    for own in (agent, loaded):
        own.reset()
    actions = [(agent.act(each), loaded.act(each)) for each in observations]
    assert all(one == other for one, other in actions) and len({int(one) for one, _ in actions}) > 1
    assert "test/Board-v0" in (folder / "README.md").read_text()


def test_an_agent_in_its_worlds_folder_has_no_copy_of_the_world(tmp_path: Path) -> None:
    agent = trained_agent()
    world = agent.world.save_pretrained(tmp_path / "board", dtype=torch.float32)
    folder = agent.save_pretrained(world / "agent")
    assert not (folder / "world").exists()
    loaded, observations = Agent.from_pretrained(folder), play_board(20)[0]
    assert loaded.world.fingerprint == agent.world.fingerprint
    assert [int(loaded.act(each)) for each in observations] == [int(agent.act(each)) for each in observations]
    other = wild_world().save_pretrained(tmp_path / "other")
    assert (agent.save_pretrained(other / "agent") / "world").exists()


def test_an_agent_sees_in_reality_what_it_saw_in_the_replay() -> None:
    agent = trained_agent()
    observation, action, _, _ = play_board(6)
    player, seen = Player(agent, 1), []
    for step, each in enumerate(observation):
        if step:
            player._actions = action[step - 1 : step]
        player.act(each[None], np.array([step == 0]))
        seen.append(agent.world.features(player._tokens)[0, 0])
    tokens = agent.world.encode_episode(observation, action)
    padded = torch.cat([tokens[:1].expand(agent.world.config.model.window, -1), tokens])
    assert torch.allclose(torch.stack(seen), agent.world.features(padded[None])[0], atol=1e-4)


def test_environments_that_are_played_at_once_do_not_mix() -> None:
    agent = trained_agent()
    first, second = (play_board(8, seed)[0] for seed in (3, 4))
    alone = []
    for observations in (first, second):
        agent.reset()
        alone.append([int(agent.act(each)) for each in observations[:5]])
    player, both = Player(agent, 2), []
    for step in range(5):  # the second environment begins two steps later
        late = max(0, step - 2)
        is_first = np.array([step == 0, step in (0, 2)])
        both.append(player.act(np.stack([first[step], second[late]]), is_first, sample=False))
    assert [int(each[0]) for each in both] == alone[0]
    assert [int(each[1]) for each in both[2:]] == alone[1][:3]


def test_damaged_agents_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(MagratheaError, match=r"No agent in .*magrathea learn"):
        Agent.from_pretrained(tmp_path)
    folder = trained_agent().save_pretrained(tmp_path / "agent")
    (folder / "agent.safetensors").write_bytes(b"no weights")
    with pytest.raises(MagratheaError, match="is damaged"):
        Agent.from_pretrained(folder)
    (folder / "config.json").write_text('{"format_version": 7}')
    with pytest.raises(MagratheaError, match="format version 7"):
        Agent.from_pretrained(folder)


def test_worlds_with_another_memory_are_refused() -> None:
    with pytest.raises(MagratheaError, match="memory 'recurrent'"):
        Agent(wild_world("recurrent"))


def test_collect_plays_the_policy_of_an_agents_folder(tmp_path: Path) -> None:
    folder = trained_agent().save_pretrained(tmp_path / "agent")
    observations, *_ = play_board(20)
    make, played = policy_named(str(folder), "test/Board-v0"), []
    for seed in (0, 0, 1):
        act = make(None, np.random.default_rng(seed))  # type: ignore[arg-type]
        played.append([int(act(each, {})) for each in observations])
    assert played[0] == played[1] != played[2], "an episode depends on its seed alone"
    with pytest.raises(MagratheaError, match="No agent in"):
        policy_named(str(tmp_path), "test/Board-v0")
