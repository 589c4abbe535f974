"""The training loop of the masked transformer: one loss, on one process or several."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Generator, Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from magrathea.model.transformer import MaskedTransformer
from magrathea.train.batches import Batch, BatchConfig, draw_batch, draw_prompted
from magrathea.train.cache import TokenCache
from magrathea.train.checkpoint import load_checkpoint, save_checkpoint
from magrathea.train.self_forcing import dream_past

LOGIT_SCALE_RATE = 6.0  # a head's logit scale is a single parameter, which has far to go


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How the model is trained: until `steps` updates or `minutes` have passed, whichever is given and comes first."""

    steps: int | None = None
    minutes: float | None = None
    learning_rate: float = 2.5e-3
    weight_decay: float = 0.05
    warmup: float = 0.02
    decay_from: float = 0.4
    seed: int = 0
    checkpoint_seconds: float = 120.0
    batch: BatchConfig = field(default_factory=BatchConfig)


@dataclass
class Progress:
    """Where training is: updates done, seconds spent, steps of data seen, and the last updates' losses."""

    step: int = 0
    seconds: float = 0.0
    num_trained_steps: int = 0
    loss: float = float("nan")

    def share(self, config: TrainerConfig) -> float:
        """How much of the training is done, 0…1."""
        shares = [self.step / config.steps] if config.steps else []
        shares += [self.seconds / (60 * config.minutes)] if config.minutes else []
        return min(1.0, max(shares))


def make_optimizer(model: nn.Module, config: TrainerConfig) -> torch.optim.AdamW:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embedding" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embedding" in name]
    logit_scale = [p for name, p in model.named_parameters() if "logit_scale" in name]
    others = [p for p in others if not any(p is single for single in logit_scale)]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay, "scale": 1.0},
        {"params": others, "weight_decay": 0.0, "scale": 1.0},
        {"params": logit_scale, "weight_decay": 0.0, "scale": LOGIT_SCALE_RATE},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)


def learning_rate(share: float, config: TrainerConfig) -> float:
    """Rises, stays, and falls to nothing over the last part of training."""
    rise = min(1.0, (share + 1e-3) / config.warmup)
    fall = min(1.0, (1 - share) / (1 - config.decay_from))
    return config.learning_rate * rise * max(fall, 0.01)


def update_loss(model: nn.Module, batches: list[Batch]) -> Tensor:
    """The mean cross-entropy at the holes of an update, over all processes, of this process's rows."""
    totals = [model(b.past_tokens, b.tokens, b.hole_mask, b.prompt, b.first, b.recalled, b.earlier) for b in batches]
    loss, num_holes = (torch.stack(parts).sum() for parts in zip(*totals, strict=True))
    num_processes = 1
    if dist.is_initialized():
        dist.all_reduce(num_holes)
        num_processes = dist.get_world_size()
    return loss / num_holes * num_processes


def draw_update(cache: TokenCache, config: TrainerConfig, step: int) -> list[Batch]:
    """All that update number `step` learns from; depends on nothing but the seed and the number."""
    generator = Generator().manual_seed(config.seed * 1_000_003 + step)
    batches = [draw_batch(cache, config.batch, generator)] if config.batch.num_segments else []
    if config.batch.num_prompted:
        batches.append(draw_prompted(cache, config.batch, generator))
    return batches


def train_model(
    model: MaskedTransformer,
    cache: TokenCache,
    config: TrainerConfig,
    checkpoint: Path,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Train until the time or the updates are spent, going on from the checkpoint if there is one."""
    optimizer, progress = make_optimizer(model, config), Progress()
    if checkpoint.exists():
        progress = Progress(**load_checkpoint(checkpoint, model, optimizer))
    rank, num_processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    wrapped: nn.Module = DistributedDataParallel(model) if num_processes > 1 else model
    model.train()
    began, saved = time.monotonic() - progress.seconds, time.monotonic()
    while (share := _of_first(progress.share(config))) < 1:
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * learning_rate(share, config)
        batches = draw_update(cache, config, progress.step)
        mine = [batch.part(rank, num_processes, model.device) for batch in batches]
        mine = [dream_past(model, batch, config.batch.self_forcing_rounds) for batch in mine]
        loss = update_loss(wrapped, mine)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress.step += 1
        progress.num_trained_steps += sum(batch.tokens.shape[0] * batch.tokens.shape[1] for batch in batches)
        progress.loss = _mean(loss.detach()).item()
        progress.seconds = time.monotonic() - began
        report(progress)
        if rank == 0 and time.monotonic() - saved > config.checkpoint_seconds:
            save_checkpoint(checkpoint, model, optimizer, vars(progress))
            saved = time.monotonic()
    if rank == 0:
        save_checkpoint(checkpoint, model, optimizer, vars(progress))
    model.eval()
    return progress


def _of_first(share: float) -> float:
    """What the first process says of its time, which is that of all: their weights must stay the same."""
    if not dist.is_initialized():
        return share
    said = torch.tensor(share, dtype=torch.float64)
    dist.broadcast(said, src=0)
    return said.item()


def _mean(loss: Tensor) -> Tensor:
    if dist.is_initialized():
        dist.all_reduce(loss)
        loss /= dist.get_world_size()
    return loss
