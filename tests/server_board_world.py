"""A real world of the board: fitted tokenizers and a debug model, which a test may train."""

from __future__ import annotations

import numpy as np
import torch
from board import Board
from lights import _train

from magrathea.model.config import model_size
from magrathea.tokenizers import RewardTokenizer, TerminatedTokenizer, tokenizer_for
from magrathea.world import World, WorldConfig


def play_board(num_episodes: int, num_steps: int, seed: int = 0) -> list[tuple[np.ndarray, ...]]:
    """Episodes of random play that did not reach the corner: observations, actions, rewards, endings."""
    env, rng, episodes = Board(), np.random.default_rng(seed), []
    for number in range(num_episodes):
        steps = [(env.reset(seed=seed + number)[0], 0, 0.0, False)]
        while len(steps) <= num_steps and not steps[-1][3]:
            action = int(rng.integers(5))
            observation, reward, terminated, _, _ = env.step(action)
            steps.append((observation, action, reward, terminated))
        observation, action, reward, terminated = (np.array(part) for part in zip(*steps, strict=True))
        episodes.append((observation, action[1:], reward[1:].astype(np.float32), terminated[1:]))
    return episodes


def board_world(num_updates: int = 0) -> World:
    """A world of the board, trained for some updates."""
    torch.manual_seed(0)
    episodes = play_board(40, 11)
    tokenizers = {
        "action": tokenizer_for(Board.action_space),
        "observation": tokenizer_for(Board.observation_space, patch=(4, 4)).fit(episodes[0][0]),
        "reward": RewardTokenizer().fit(np.array([0, 1], np.float32)),
        "terminated": TerminatedTokenizer(),
    }
    metadata = {
        "name": "Board",
        "fps": 20,
        "action_names": list(Board.metadata["action_names"]),
        "key_map": Board.metadata["key_map"],
        "description": "A square on a board.",
    }
    none = torch.zeros(0, 3, sum(tokenizer.tokens_per_step for tokenizer in tokenizers.values()))
    world = World(tokenizers, WorldConfig(model_size("debug"), metadata=metadata), none)
    tokens = [world.encode_episode(*episode) for episode in episodes]
    whole = torch.cat([episode[: len(episode) // 4 * 4] for episode in tokens])
    world.starts = torch.stack([episode[:3] for episode in tokens if len(episode) > 4][:8])
    _train(world, whole, num_updates)
    return world
