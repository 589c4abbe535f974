"""Untrained worlds of the board, one for each memory, the same in every process: their dreams are mostly random."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from board import Board
from torch import Tensor

from magrathea import memory as memories
from magrathea.interfaces import EpisodeReadout, MemoryOutputs, MemoryReadout, MemorySpec
from magrathea.layout import Layout
from magrathea.memory import memory_class
from magrathea.model.config import ModelConfig, model_size
from magrathea.model.transformer import MaskedTransformer
from magrathea.tokenizers import RewardTokenizer, TerminatedTokenizer, tokenizer_for
from magrathea.tokenizers.roles import codecs_of, layout_for
from magrathea.world import World, WorldConfig

NUM_ACTIONS = 5
Played = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class Echo:
    """A memory whose float state depends on every encoding written to it. Counts the steps that are written."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    @classmethod
    def outputs(cls, layout: Layout) -> MemoryOutputs:
        return MemoryOutputs(slots=(layout.picture.name,))

    @classmethod
    def fit(cls, layout: Layout, episodes: Iterable[Tensor]) -> Echo:
        return cls(layout)

    @classmethod
    def from_tensors(cls, layout: Layout, tensors: dict[str, Tensor]) -> Echo:
        return cls(layout)

    def tensors(self) -> dict[str, Tensor]:
        return {}

    @classmethod
    def recurrence(cls, config: ModelConfig, layout: Layout) -> None:
        return None

    def new(self, batch_size: int, model: MaskedTransformer) -> EchoMemory:
        return EchoMemory(self.layout, batch_size)

    def read_episode(self, tokens: Tensor, window: int) -> EpisodeReadout:
        return EpisodeReadout()


class EchoMemory:
    num_written = 0

    def __init__(self, layout: Layout, batch_size: int) -> None:
        self.span, num_tokens = layout.span(layout.picture.name), layout.picture.num_tokens
        self.name = layout.picture.name
        self.sums = torch.zeros(batch_size)
        self.pictures = torch.zeros(batch_size, 7, num_tokens, dtype=torch.long)

    def write(self, tokens: Tensor, encodings: Tensor, batch_indices: Sequence[int]) -> None:
        EchoMemory.num_written += len(batch_indices)
        indices = list(batch_indices)
        self.sums[indices] = 0.99 * self.sums[indices] + encodings[..., ::3].sum(dim=(1, 2))
        self.pictures[indices] = torch.cat([self.pictures[indices][:, 1:], tokens[:, None, self.span]], dim=1)

    def read(self, tokens: Tensor, hole_mask: Tensor, batch_indices: Sequence[int]) -> MemoryReadout:
        ages = self.sums[list(batch_indices)].mul(100).long() % 7
        return MemoryReadout({self.name: self.pictures[list(batch_indices), ages]})

    def reset(self, env_mask: Tensor | None = None) -> None:
        env_mask = torch.ones(len(self.sums), dtype=torch.bool) if env_mask is None else env_mask
        self.sums[env_mask], self.pictures[env_mask] = 0, 0

    def state_dict(self, batch_index: int) -> dict[str, Tensor]:
        return {"sum": self.sums[batch_index].clone(), "pictures": self.pictures[batch_index].clone()}

    def load_state_dict(self, batch_index: int, state: dict[str, Tensor]) -> None:
        self.sums[batch_index], self.pictures[batch_index] = state["sum"], state["pictures"]


memories.MEMORIES["echo"] = Echo
ZERO_INITIALIZED = (
    "prev_step_proj",
    "goal_proj",
    "memory_proj.",
    "recurrence.out",
    "feature_proj",
    "head.copy_bias",
    "head.copy_gate",
    "head.prev_frame_attention",
    "conv_blocks",
)
COMBINED = "spatial_map+recurrent:8+retrieval-pose:20"
MOTION = "motion:"  # before a memory's name: pictures are motions, and the last steps are shown position by position
MEMORIES = (
    "window",
    f"{MOTION}window",
    f"{MOTION}recurrent",
    "spatial_map",
    "spatial_map:20",
    "echo",
    "cycle_clock",
    "recurrent",
    "retrieval",
    COMBINED,
)


def play_board(num_steps: int, seed: int = 0) -> Played:
    """Observations (num_steps + 1, …), actions, rewards, endings (num_steps) of random play that never ends."""
    env, rng = Board(), np.random.default_rng(seed)
    actions = rng.integers(NUM_ACTIONS, size=num_steps)
    observations = [env.reset(seed=seed)[0]]
    rewards = []
    for action in actions:
        observation, reward, *_ = env.step(action)
        observations.append(observation)
        rewards.append(reward)
    return np.stack(observations), actions, np.array(rewards, np.float32), np.zeros(num_steps, bool)


def nights(pictures: np.ndarray, length: int = 20) -> np.ndarray:
    """Pictures (T, ...) of which the second half of every `length` is dark, no two equally."""
    dark = np.arange(len(pictures)) % length >= length / 2
    light = np.where(dark, np.random.default_rng(0).uniform(0.3, 0.5, len(pictures)), 1)
    return np.round(pictures * light.reshape(-1, *[1] * (pictures.ndim - 1))).astype(np.uint8)


@cache
def wild_world(memory: str = "window", seed: int = 0) -> World:
    """An untrained world of the board, so that random numbers determine nearly every token."""
    observation, action, reward, terminated = play_board(400)
    light = {"image": "lit_patch", "num_lights": 3} if memory == "cycle_clock" else {}
    is_motion, memory = memory.startswith(MOTION), memory.removeprefix(MOTION)
    motion = {"image": "motion", "cell": (4, 4), "group": (2, 2), "num_codes": 20}
    options = motion if is_motion else {"patch": (4, 4), **light}
    size = model_size("debug") if is_motion else replace(model_size("debug"), num_recent=0, num_memory_layers=1)
    if memory == "cycle_clock":
        observation = nights(observation)
    tokenizers = {
        "action": tokenizer_for(Board.action_space),
        "observation": tokenizer_for(Board.observation_space, **options).fit(
            observation[1:], previous=observation[:-1], seed=0
        ),
        "reward": RewardTokenizer().fit(reward),
        "terminated": TerminatedTokenizer(),
    }
    torch.manual_seed(seed)
    config = WorldConfig(replace(size, memory=memory), metadata={"name": "wild"})
    layout, kind = layout_for(tokenizers), memory_class(memory)
    model = MaskedTransformer(layout, config.model, kind, codecs_of(tokenizers)).eval()
    for name, weight in model.named_parameters():
        if name.startswith(ZERO_INITIALIZED):
            torch.nn.init.normal_(weight, std=0.2)
    world = World(tokenizers, config, torch.zeros(0, 1, model.layout.num_tokens), model)
    tokens = world.encode_episode(observation, action, reward, terminated)
    world.starts = torch.stack([tokens[first : first + 3] for first in range(0, 40, 5)])
    memory_spec: type[MemorySpec] = memory_class(memory)
    world.memory = memory_spec.fit(world.layout, [tokens])
    return world
