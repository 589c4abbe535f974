"""Sessions of a world that was trained on the board: steps, resets, actions, and refused input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from board import MOVES, SIZE, Board

from magrathea.data import Dataset
from magrathea.errors import MagratheaError
from magrathea.sampler import ORDERS, FillSettings
from magrathea.session import Session
from magrathea.world import World


def square_position(observation: np.ndarray) -> tuple[int, int]:
    """Row and column of the square in a picture of the board; (-1, -1) where there is not exactly one."""
    positions = np.argwhere((observation[::4, ::4] == (240, 90, 90)).all(-1))
    return tuple(positions[0]) if len(positions) == 1 else (-1, -1)


def session_from_episode(world: World, dataset: Dataset, batch_size: int = 1, **options) -> Session:
    episode = dataset.episode(0)
    tokens = world.encode_episode(episode.observation[:2], episode.action[:1])
    return Session(world, batch_size, start=tokens, **options)


def test_dreams_of_a_batch_may_start_from_histories_of_different_lengths(
    debug_world: World, debug_dataset: Dataset
) -> None:
    episode = debug_dataset.episode(0)
    tokens = debug_world.encode_episode(episode.observation[:6], episode.action[:5])
    session = Session(debug_world, 2, start=[tokens[:2], tokens])
    assert [session.num_start_of(index) for index in range(2)] == [2, 6]
    alone = Session(debug_world, 1, start=tokens)
    assert torch.equal(session.history_of(1), alone.history_of(0))
    with pytest.raises(MagratheaError, match="list of B"):
        Session(debug_world, 2, start=[tokens])


def test_dream_follows_the_rules_of_the_board(debug_world: World, debug_dataset: Dataset) -> None:
    session = session_from_episode(debug_world, debug_dataset, seed=1)
    rng, num_correct, num_moves = np.random.default_rng(0), 0, 0
    before = square_position(session.observation[0])
    for _ in range(60):
        action = int(rng.integers(5))
        result = session.step(np.array([action]))
        after = square_position(result.observation[0])
        expected = tuple(np.clip(np.array(before) + MOVES[action], 0, SIZE - 1))
        num_moves, num_correct = num_moves + 1, num_correct + (after == expected)
        if after == (-1, -1) or result.terminated[0]:
            session.reset(start=1 + num_moves % (debug_world.num_starts - 1))
            after = square_position(session.observation[0])
        before = after
    assert num_correct / num_moves > 0.9


def test_cached_and_naive_inference_give_the_same_dream(debug_world: World, debug_dataset: Dataset) -> None:
    dreams = []
    for inference in ("cached", "naive"):
        session = session_from_episode(debug_world, debug_dataset, 3, seed=5, inference=inference)
        dreams.append(torch.stack([session.step(np.array([step % 5, 1, 4])).tokens for step in range(12)]))
    assert torch.equal(*dreams)


@pytest.mark.parametrize("order", ORDERS)
def test_same_seed_gives_the_same_dream(debug_world: World, order: str) -> None:
    def dream(seed: int) -> torch.Tensor:
        session = Session(debug_world, 2, seed=seed, settings=FillSettings(order=order))  # type: ignore[arg-type]
        return torch.stack([session.step(np.array([4, 2])).tokens for _ in range(4)])

    assert torch.equal(dream(3), dream(3))


def test_dreams_of_a_batch_are_independent(debug_world: World) -> None:
    batch, alone = Session(debug_world, 3, seed=10), Session(debug_world, 1, seed=11)
    for step in range(6):
        result = batch.step(np.array([1, step % 5, 3]))
        assert torch.equal(result.tokens[1], alone.step(np.array([step % 5])).tokens[0])


def test_reset_of_one_dream_leaves_the_others_unchanged(debug_world: World) -> None:
    session, other = (Session(debug_world, 2, seed=4, start=0) for _ in range(2))
    for _ in range(3):
        session.step(np.array([1, 2])), other.step(np.array([1, 2]))
    session.reset(np.array([True, False]), start=1)
    assert session.num_steps.tolist() == [0, 3]
    for _ in range(3):
        assert torch.equal(session.step(np.array([4, 4])).tokens[1], other.step(np.array([4, 4])).tokens[1])


def test_expected_rewards_are_means_of_what_is_drawn(debug_world: World) -> None:
    """With logits that say next to nothing, so that rewards are drawn evenly."""
    session = Session(debug_world, 400, start=0, settings=replace(debug_world.config.fill, order="one_shot"))
    head = debug_world.model.head.logits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(debug_world.model.head, "logits", lambda *given: 0.01 * head(*given))
        outcome = session.step(np.zeros(400, int))
    tokenizer = debug_world.tokenizers["reward"]
    values = tokenizer.decode(np.arange(tokenizer.vocab_size)[:, None])
    assert outcome.expected_reward == pytest.approx(np.full(400, values.mean()), abs=0.05)
    assert len(set(outcome.reward.tolist())) == len(values)
    assert outcome.reward.mean() == pytest.approx(float(outcome.expected_reward.mean()), abs=0.2 * float(values.std()))


def test_observe_infer_action_and_act(debug_world: World, debug_dataset: Dataset) -> None:
    """Actions are inferred from observations, and chosen like the data, toward a goal and toward a return."""
    session, rng, env = session_from_episode(debug_world, debug_dataset, seed=2), np.random.default_rng(1), Board()
    observation, _ = env.reset(seed=0)
    session.observe(np.array([0]), observation[None], np.zeros(1, np.float32), np.zeros(1, bool))
    for _ in range(10):
        observation, reward, terminated, _, _ = env.step(action := int(rng.integers(1, 5)))
        assert 0 <= session.infer_action(observation[None])[0] < 5
        result = session.observe([action], observation[None], np.array([reward], np.float32), np.array([terminated]))
        assert np.array_equal(result.observation[0], observation) and result.num_passes.tolist() == [0]
        assert result.expected_reward == result.reward == np.float32(reward)
        if terminated:
            observation, _ = env.reset()
            session.reset(start=0)
    for act in (session.act(), session.act(total_reward=1.0), session.act(goal=observation[None])):
        assert act.shape == (1,) and 0 <= act[0] < 5


def test_kv_cache_does_not_grow_with_the_number_of_steps(debug_world: World) -> None:
    session = Session(debug_world, 1, seed=0)
    session.step(np.array([0]))
    size = session._context._ring.keys.numel()
    for step in range(149):
        session.step(np.array([step % 5]))
    assert session.num_steps.tolist() == [150] and session._context._ring.keys.numel() == size


def test_invalid_input_says_what_to_do(debug_world: World, debug_dataset: Dataset) -> None:
    session = Session(debug_world, 2, seed=0)
    before = session.tokens
    for action in (np.array([9, 0]), np.array([0]), np.array([0.5, 1.0]), np.array([np.nan, 0])):
        with pytest.raises(MagratheaError):
            session.step(action)
    picture = debug_dataset.episode(0).observation[:2]
    for observation in (picture[:, :3], picture.astype(float), picture[:1]):
        with pytest.raises(MagratheaError):
            session.observe(np.array([0, 1]), observation)
    assert torch.equal(session.tokens, before) and session.num_steps.tolist() == [0, 0]
    for start in (9999, [0], -1, torch.zeros(3, 2)):
        with pytest.raises(MagratheaError):
            Session(debug_world, 2, start=start)
    with pytest.raises(MagratheaError, match="'cached' or 'naive'"):
        Session(debug_world, inference="fast")  # type: ignore[arg-type]
    with pytest.raises(MagratheaError, match="a goal or a return"):
        session.act(goal=picture, total_reward=1.0)
