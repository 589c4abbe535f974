"""A world small enough to train in a test: the action usually selects which of two lights is on; 1 is rewarded."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces

from magrathea import masks
from magrathea.model.config import model_size
from magrathea.tokenizers import RewardTokenizer, TerminatedTokenizer, tokenizer_for
from magrathea.world import World, WorldConfig

IMAGE = spaces.Box(0, 255, (4, 8, 3), np.uint8)


def lights_picture(light: np.ndarray) -> np.ndarray:
    """Numbers (...) of the light that is on -> pictures (..., 4, 8, 3)."""
    picture = np.zeros((*light.shape, 4, 8, 3), np.uint8)
    picture[light == 0, :, :4] = 250
    picture[light == 1, :, 4:] = 250
    return picture


def play_lights(num_steps: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Observations (num_steps + 1, ...), actions, rewards and endings (num_steps) of random play that never ends."""
    random = np.random.default_rng(seed)
    action = random.integers(2, size=num_steps)
    works = random.random(num_steps) < 0.9
    light = np.concatenate([[0], np.where(works, action, 1 - action)])
    reward = light[1:].astype(np.float32)
    return lights_picture(light), action, reward, np.zeros(num_steps, bool)


def lights_world(num_updates: int = 0, seed: int = 0) -> World:
    """A world of the two lights, trained for `num_updates` updates."""
    observation, action, reward, terminated = play_lights(2_000, seed)
    torch.manual_seed(seed)
    tokenizers = {
        "action": tokenizer_for(spaces.Discrete(2)),
        "observation": tokenizer_for(IMAGE, patch=(4, 4)).fit(observation),
        "reward": RewardTokenizer().fit(reward),
        "terminated": TerminatedTokenizer(),
    }
    steps = torch.zeros(0, 3, sum(tokenizer.tokens_per_step for tokenizer in tokenizers.values()))
    world = World(tokenizers, WorldConfig(model_size("debug"), metadata={"name": "lights", "fps": 5}), steps)
    tokens = world.encode_episode(observation, action, reward, terminated)
    world.starts = torch.stack([tokens[first : first + 3] for first in range(8)])
    _train(world, tokens, num_updates)
    return world


def _train(world: World, tokens: torch.Tensor, num_updates: int) -> None:
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(world.model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    segments = tokens[: len(tokens) // 4 * 4].unflatten(0, (-1, 4))
    holes = masks.forward_dynamics(world.layout).expand(32, 3, -1)
    world.model.train()
    for _ in range(num_updates):
        batch = segments[torch.randint(len(segments), (32,), generator=generator)]
        loss, num_holes = world.model(batch, batch[:, 1:], holes, first=1)
        optimizer.zero_grad(set_to_none=True)
        (loss / num_holes).backward()
        torch.nn.utils.clip_grad_norm_(world.model.parameters(), 1.0)
        optimizer.step()
    world.model.eval()
