"""The training loop of the masked transformer, of one world or of several that share their weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
from torch import Generator, Tensor, nn

from magrathea.model.joint import JointModel
from magrathea.settings import Count, Positive, Range, Seed, Share, check
from magrathea.train import distributed
from magrathea.train.batches import (
    Batch,
    BatchConfig,
    SizedBatch,
    draw_alone_batch,
    draw_batch,
    draw_dream_batch,
    draw_prompted_batch,
)
from magrathea.train.cache import TokenCache
from magrathea.train.checkpoint import load_checkpoint, save_checkpoint
from magrathea.train.self_forcing import dream_context, sample_context

LOGIT_SCALE_RATE = 6.0  # learning rate of the logit scales, relative to that of all other parameters
MIN_SECONDS = 1.0  # that a training with a deadline takes


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How the model is trained.

    Attributes:
        steps, minutes, passes: training ends after so many updates, so much time, or so many passes over the recorded
            steps, whichever is given and comes first.
        learning_rate: peak learning rate of AdamW.
        weight_decay: of weight matrices; embeddings, biases and logit scales have none.
        warmup: fraction of the training in which the learning rate rises to its peak.
        decay_from: fraction of the training from which it falls linearly to 1% of its peak.
        seed: seed of everything random.
        checkpoint_seconds: time between two checkpoints.
        batch: the segments of an update.
    """

    steps: Count | None = None
    minutes: Positive | None = None
    passes: Positive | None = None
    learning_rate: Annotated[float, Range(0, 1, above=True)] = 1.2e-3
    weight_decay: Share = 0.05
    warmup: Annotated[float, Range(0, 1, above=True)] = 0.02
    decay_from: Annotated[float, Range(0, 0.999)] = 0.4
    seed: Seed = 0
    checkpoint_seconds: Annotated[float, Range(0, 10**6)] = 120.0
    batch: BatchConfig = field(default_factory=BatchConfig)

    def __post_init__(self) -> None:
        check(self)

    @property
    def is_limited(self) -> bool:
        """Whether anything says when training ends."""
        return any(limit is not None for limit in (self.steps, self.minutes, self.passes))


@dataclass
class Progress:
    """State of a training: updates done, seconds spent, steps of data seen, the loss of the last update, and the
    fraction of the training that is done, 0…1."""

    step: int = 0
    seconds: float = 0.0
    num_trained_steps: int = 0
    loss: float = float("nan")
    fraction: float = 0.0

    def fraction_done(self, config: TrainerConfig, num_recorded: int) -> float:
        """Fraction, 0…1, that is done of a training on so many recorded steps; `config` says when it ends."""
        shares = [self.step / config.steps] if config.steps else []
        shares += [self.seconds / (60 * config.minutes)] if config.minutes else []
        shares += [self.num_trained_steps / (config.passes * num_recorded)] if config.passes else []
        return min(1.0, max(shares))


def make_optimizer(model: nn.Module, config: TrainerConfig) -> torch.optim.AdamW:
    """AdamW with a group for matrices, one for all without weight decay, and one for the logit scales; `scale` of a
    group multiplies its learning rate."""
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


def learning_rate(fraction_done: float, config: TrainerConfig) -> float:
    """Linear warm-up, constant, then linear decay to 1% of the peak."""
    rise = min(1.0, (fraction_done + 1e-3) / config.warmup)
    fall = min(1.0, (1 - fraction_done) / (1 - config.decay_from))
    return config.learning_rate * rise * max(fall, 0.01)


def update_loss(model: nn.Module, batches: list[tuple[int, Batch]]) -> Tensor:
    """The cross-entropy of this process's batches, each of the joint model's member of that number, scaled such that
    its mean over processes is the mean over all holes of the update."""
    totals = [
        model(member, b.past_tokens, b.tokens, b.hole_mask, b.prompt, b.first, b.readout, b.earlier)
        for member, b in batches
    ]
    loss, num_holes = (torch.stack(parts).sum() for parts in zip(*totals, strict=True))
    return loss / distributed.sum_over_processes(num_holes) * distributed.num_processes()


def draw_update(cache: TokenCache, config: SizedBatch, seed: int, step: int, fraction_done: float = 0.0) -> list[Batch]:
    """The batches of update number `step`, over all processes; a function of the arguments alone."""
    generator = Generator().manual_seed(seed * 1_000_003 + step)
    may_dream = config.own_dream_prob and fraction_done >= config.own_dream_from
    dreams = may_dream and torch.rand((), generator=generator) < config.own_dream_prob
    draw = draw_dream_batch if dreams else draw_batch
    batches = [draw(cache, config, generator)] if config.num_segments else []
    if config.num_prompted:
        batches.append(draw_prompted_batch(cache, config, generator))
    if config.num_alone:
        batches.append(draw_alone_batch(cache, config, generator))
    return batches


def train_model(
    model: JointModel,
    caches: Sequence[TokenCache],
    config: TrainerConfig,
    checkpoint: Path,
    report: Callable[[Progress], None] = lambda progress: None,
    deadline: float | None = None,
) -> Progress:
    """Train until `config` says that training ends, from the checkpoint on if there is one.

    Args:
        model: trained in place; parameters that do not require a gradient stay as they are.
        caches: tokens of the training episodes of each of the model's worlds. Every update has segments of all worlds.
        config: at least one of `steps`, `minutes` and `passes` is given.
        checkpoint: file of the training's state, written every `config.checkpoint_seconds` and at the end.
        report: called after every update.
        deadline: moment of `time.monotonic` that the training ends at, in place of `config.minutes`; it takes
            MIN_SECONDS at least.
    """
    optimizer, progress = make_optimizer(model, config), Progress()
    if checkpoint.exists():
        progress = load_checkpoint(checkpoint, model, optimizer, Progress)
    if deadline is not None:
        remaining = max(MIN_SECONDS, deadline - time.monotonic()) if progress.fraction < 1 else 0.0
        config = replace(config, minutes=(progress.seconds + remaining) / 60)
    parallel_model = distributed.data_parallel(model)
    sizes = [config.batch.fit_to(member, len(caches)) for member in model.models]
    num_recorded = sum(int(cache.ends[-1]) for cache in caches)
    for member, cache in zip(model.models, caches, strict=True):
        member.event_weights = {name: weights.to(model.device) for name, weights in cache.event_weights().items()}
    model.train()
    start, saved = time.monotonic() - progress.seconds, time.monotonic()
    while (fraction := distributed.broadcast(progress.fraction_done(config, num_recorded))) < 1:
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * learning_rate(fraction, config)
        batches = [
            (number, batch)
            for number, (cache, size) in enumerate(zip(caches, sizes, strict=True))
            for batch in draw_update(cache, size, config.seed + number, progress.step, fraction)
        ]
        loss = update_loss(
            parallel_model, [(number, _own_share(model, number, batch, sizes)) for number, batch in batches]
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress.step += 1
        progress.num_trained_steps += sum(batch.tokens.shape[0] * batch.tokens.shape[1] for _, batch in batches)
        progress.loss = distributed.mean_over_processes(loss.detach()).item()
        progress.seconds = time.monotonic() - start
        progress.fraction = progress.fraction_done(config, num_recorded)
        report(progress)
        if distributed.is_first() and time.monotonic() - saved > config.checkpoint_seconds:
            save_checkpoint(checkpoint, model, optimizer, vars(progress))
            saved = time.monotonic()
    if distributed.is_first():
        save_checkpoint(checkpoint, model, optimizer, vars(progress))
    model.eval()
    return progress


def _own_share(model: JointModel, number: int, batch: Batch, sizes: Sequence[SizedBatch]) -> Batch:
    """This process's segments of a batch of the world of that number, with the steps that the model dreams itself."""
    own, member = batch.shard(distributed.rank(), distributed.num_processes(), model.device), model.models[number]
    return dream_context(member, sample_context(member, own, sizes[number].self_forcing_rounds))
