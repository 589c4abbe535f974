"""A ring of rooms of which one is seen at a time; their colours are random in every episode, so only a memory can know
them when a room comes back into view."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from magrathea import masks
from magrathea.layout import Layout, Slot
from magrathea.memory import MemorySpec, memory_class
from magrathea.model.config import ModelConfig
from magrathea.model.joint import JointModel
from magrathea.model.transformer import MaskedTransformer
from magrathea.train.batches import SizedBatch
from magrathea.train.cache import TokenCache
from magrathea.train.trainer import TrainerConfig, draw_update, learning_rate, make_optimizer, update_loss

NUM_ROOMS, NUM_COLOURS, NUM_STEPS = 6, 4, 40
WINDOW = 2
LAYOUT = Layout(
    (
        Slot(name="action", role="action", vocab_size=2),  # to the left, to the right
        Slot(name="observation", role="observation", vocab_size=NUM_ROOMS + NUM_COLOURS, grid=(3, 3)),
        Slot(name="reward", role="reward", vocab_size=2),
        Slot(name="terminated", role="terminated", vocab_size=2),
    )
)
COLOURS = slice(LAYOUT.span("observation").start + 3, LAYOUT.span("observation").start + 9)


def walk(seed: int) -> Tensor:
    """Steps (NUM_STEPS, N) of a walk round the rooms. A picture has its room number in row 1, colours below."""
    rng = np.random.default_rng(seed)
    rooms = NUM_ROOMS + rng.integers(NUM_COLOURS, size=(NUM_ROOMS, 6))
    going = np.where(rng.random(NUM_STEPS) < 0.15, -1, 1).cumprod()
    where = going.cumsum() % NUM_ROOMS
    tokens = torch.zeros(NUM_STEPS, LAYOUT.num_tokens, dtype=torch.long)
    tokens[:, 0] = torch.from_numpy((going + 1) // 2)
    tokens[0, 0] = 2
    tokens[:, 1:4] = torch.from_numpy(where)[:, None]
    tokens[:, COLOURS] = torch.from_numpy(rooms[where])
    return tokens


def seen_before(tokens: Tensor) -> Tensor:
    """(T,) whether the room was seen before, but not within the window."""
    rooms = tokens[:, 1].tolist()
    return torch.tensor(
        [room in rooms[:now] and room not in rooms[max(0, now - WINDOW) : now] for now, room in enumerate(rooms)]
    )


def learn(memory: str, steps: int, enough: float = 1.0, num_episodes: int = 200, width: int = 48) -> float:
    """Train on walks. The accuracy on held-out walks of the colours that only a memory can know is measured every 100
    updates, and training ends when it is `enough`: how many updates that takes depends on how a machine rounds."""
    torch.manual_seed(0)
    episodes = [walk(seed) for seed in range(num_episodes)]
    spec = memory_class(memory).fit(LAYOUT, episodes)
    shape = ModelConfig(width=width, num_layers=2, window=WINDOW, memory=memory)
    model, cache = MaskedTransformer(LAYOUT, shape, memory_class(memory)), cache_of(spec, episodes)
    config = TrainerConfig(
        steps=steps,
        learning_rate=4e-3,
        batch=SizedBatch(num_segments=16, num_steps=6, num_prompted=0, num_earlier=12),
    )
    joint, optimizer = JointModel.of(model), make_optimizer(model, config)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * learning_rate(step / steps, config)
        optimizer.zero_grad()
        batches = draw_update(cache, config.batch, config.seed, step)
        update_loss(joint, [(0, batch) for batch in batches]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 99:
            right = accuracy(model.eval(), spec)
            model.train()
            if right >= enough:
                return right
    return accuracy(model.eval(), spec)


def cache_of(spec: MemorySpec, episodes: list[Tensor]) -> TokenCache:
    recorded = [spec.read_episode(tokens, WINDOW) for tokens in episodes]
    starts = np.arange(len(episodes)) * NUM_STEPS
    sources = [each.sources for each in recorded if each.sources is not None]
    predicted = {
        name: torch.cat([each.predicted_tokens[name] for each in recorded]).numpy()
        for name in recorded[0].predicted_tokens
    }
    return TokenCache(
        torch.cat(episodes).numpy(),
        np.zeros((len(episodes) * NUM_STEPS, 0), np.uint8),
        np.ones(len(episodes) * NUM_STEPS, np.float32),
        np.zeros(len(episodes) * NUM_STEPS, np.int64),
        starts + NUM_STEPS,
        predicted,
        np.concatenate([np.where(s < 0, -1, s + b) for s, b in zip(sources, starts, strict=True)]) if sources else None,
        None,
        LAYOUT,
    )


@torch.inference_mode()
def accuracy(model: MaskedTransformer, spec: MemorySpec) -> float:
    """Of the colours of rooms that were seen before, but not within the window."""
    episodes, right, num_predicted = [walk(seed) for seed in range(10_000, 10_020)], 0, 0
    cache = cache_of(spec, episodes)
    holes = masks.forward_dynamics(LAYOUT).expand(1, NUM_STEPS - 1, -1)
    for number, tokens in enumerate(episodes):
        steps = np.arange(number * NUM_STEPS + 1, (number + 1) * NUM_STEPS)
        readout = cache._readout(steps[None]).select_known_action(holes, LAYOUT)
        kv_cache = model.segment_cache(tokens[None], 1, readout=readout)
        time = torch.arange(1, NUM_STEPS)[None]
        predicted_tokens = model.predict(tokens[None, 1:], holes, time, kv_cache)["observation"][0].argmax(-1)
        where = seen_before(tokens)[1:]
        right += int((predicted_tokens[:, 3:] == tokens[1:, COLOURS])[where].sum())
        num_predicted += 6 * int(where.sum())
    return right / num_predicted


if __name__ == "__main__":
    import sys
    import time

    began = time.process_time()
    print(sys.argv[1], learn(sys.argv[1], int(sys.argv[2])), f"{time.process_time() - began:.0f} s of CPU")
