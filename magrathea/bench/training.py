"""The speed of training: the update of an untrained model of the world's own shape."""

from __future__ import annotations

import time

import torch
from torch import Generator, Tensor, nn

from magrathea import masks
from magrathea.bench.peak import count_flops, synchronize
from magrathea.memory import NUM_FEATURES, MemoryReadout, memory_class
from magrathea.memory.episodic_buffer import NUM_RETRIEVED
from magrathea.model.transformer import MaskedTransformer
from magrathea.train.batches import SizedBatch
from magrathea.world import World

BATCH = SizedBatch()  # the default segments of an update
NUM_SEGMENTS, NUM_STEPS, NUM_EARLIER = BATCH.num_segments, BATCH.num_steps, BATCH.num_earlier


def measure_training(world: World, seconds: float, seed: int = 0) -> dict[str, float | int]:
    """Rates of updates on the world's stored steps, measured for `seconds`; the rates count steps with holes only."""
    torch.manual_seed(seed)
    config = world.config.model
    model = MaskedTransformer(world.layout, config, memory_class(config.memory), world.model.codecs).to(world.device)
    model.compute_dtype = world.model.compute_dtype
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)
    tokens = _segments(world)
    readout, earlier = _readout(world, tokens)
    holes = masks.mixture(world.layout, (NUM_SEGMENTS, NUM_STEPS - 1), Generator().manual_seed(seed)).to(world.device)

    def update() -> None:
        loss, num_holes = model(tokens, tokens[:, 1:], holes, None, 1, readout, earlier)
        optimizer.zero_grad()
        (loss / num_holes).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    flops = count_flops(update)
    update()
    synchronize(world.device)
    begin, num_updates = time.perf_counter(), 0
    while num_updates < 2 or time.perf_counter() - begin < seconds:
        update()
        num_updates += 1
    synchronize(world.device)
    took = (time.perf_counter() - begin) / num_updates
    num_tokens = NUM_SEGMENTS * (NUM_STEPS - 1) * world.layout.num_tokens
    return {
        "tokens_per_second": round(num_tokens / took, 1),
        "environment_steps_per_second": round(NUM_SEGMENTS * (NUM_STEPS - 1) / took, 2),
        "ms_per_update": round(1000 * took, 2),
        "gflop_per_update": round(flops / 1e9, 3),
        "gflop_per_second": round(flops / took / 1e9, 2),
        "num_updates": num_updates,
    }


def _readout(world: World, tokens: Tensor) -> tuple[MemoryReadout, Tensor]:
    """A readout of the shape of the world's memory for all steps (B, T, N) but the first, and the earlier steps."""
    outputs = memory_class(world.config.model.memory).outputs(world.layout)
    predicted = {name: tokens[:, 1:, world.layout.span(name)] for name in outputs.slots}
    steps = tokens[:, :-1, None].expand(-1, -1, NUM_RETRIEVED, -1) if outputs.steps else None
    features = tokens.new_zeros(*tokens[:, 1:, 0].shape, NUM_FEATURES).float() if outputs.features else None
    return MemoryReadout(predicted, steps, features=features), tokens.repeat(1, NUM_EARLIER // NUM_STEPS, 1)


def _segments(world: World) -> Tensor:
    """(NUM_SEGMENTS, NUM_STEPS, N) stored steps; their content does not change the time of an update."""
    steps = world.starts.reshape(-1, world.layout.num_tokens)
    index = torch.arange(NUM_SEGMENTS * NUM_STEPS) % len(steps)
    return steps[index].reshape(NUM_SEGMENTS, NUM_STEPS, -1).to(world.device)
