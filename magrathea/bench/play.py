"""How fast dreams run, for one player and for batches, under actions that are held as the data's are; in one process,
and in several."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from magrathea.bench.peak import count_flops, synchronize
from magrathea.errors import MagratheaError
from magrathea.session import Session
from magrathea.world import World

NUM_WARM_UP = 5
LEAST_STEPS = 5


class HeldActions:
    """Random actions with the stored starts' own frequencies, held for as long as those are held.

    Draws from nothing but the actions that real steps took, so that no rare action makes dreams unlike the data.
    """

    def __init__(self, world: World, batch_size: int, seed: int = 0) -> None:
        if not world.num_starts:
            raise MagratheaError(f"World '{world.metadata.get('name', '?')}' has no stored starts to be measured from.")
        slots = world.layout.of_role("action")
        span = slice(0, sum(slot.num_tokens for slot in slots))
        absent = torch.cat([torch.full((slot.num_tokens,), slot.absent) for slot in slots])
        taken = world.starts[:, :, span]
        present = (taken != absent).all(-1)
        if not present.any():
            raise MagratheaError(f"World '{world.metadata.get('name', '?')}' has no actions in its stored starts.")
        pairs = present[:, 1:] & present[:, :-1]
        same = (taken[:, 1:] == taken[:, :-1]).all(-1)
        self.world, self.choices = world, taken[present]
        self.hold = float(same[pairs].float().mean()) if pairs.any() else 0.0
        self._drawn_anew = 1 - self._chance_to_hold()
        self.dice = np.random.default_rng(seed)
        self.now = self._draw(batch_size)

    def _draw(self, num: int) -> Tensor:
        return self.choices[self.dice.integers(len(self.choices), size=num)]

    def next(self) -> Any:
        """Actions (B, …) for the next step."""
        fresh = torch.from_numpy(self.dice.random(len(self.now)) < self._drawn_anew)
        self.now = torch.where(fresh[:, None], self._draw(len(self.now)), self.now)
        rest = self.world.layout.num_tokens - self.now.shape[1]
        return self.world.decode_action(torch.nn.functional.pad(self.now, (0, rest)))

    def _chance_to_hold(self) -> float:
        """A fresh draw may repeat the action by chance, so that the chance to hold is less than that to repeat."""
        _, counts = self.choices.unique(dim=0, return_counts=True)
        chance = float((counts / counts.sum()).square().sum())
        return max(0.0, (self.hold - chance) / (1 - chance)) if chance < 1 else 1.0


@dataclass
class Playing:
    """What running a batch of dreams took: the seconds of every step, and the passes of every row's."""

    batch_size: int
    seconds: np.ndarray
    num_passes: np.ndarray
    flops_per_step: float

    def to_json(self) -> dict[str, float | int]:
        """Rates and milliseconds; FLOPs are of one environment step."""
        rate = self.batch_size * len(self.seconds) / self.seconds.sum()
        milliseconds = 1000 * np.quantile(self.seconds, [0.5, 0.95])
        return {
            "batch_size": self.batch_size,
            "environment_steps_per_second": round(float(rate), 2),
            "p50_ms": round(float(milliseconds[0]), 3),
            "p95_ms": round(float(milliseconds[1]), 3),
            "passes_per_step": round(float(self.num_passes.mean()), 3),
            "mflop_per_environment_step": round(self.flops_per_step / 1e6, 2),
            "gflop_per_second": round(float(rate) * self.flops_per_step / 1e9, 2),
            "num_steps": len(self.seconds),
        }


def measure_playing(world: World, batch_size: int, seconds: float, seed: int = 0) -> Playing:
    """Step a batch of dreams, decoded to pictures, for so many seconds. Dreams that end start anew, off the clock."""
    session, actions = Session(world, batch_size=batch_size, seed=seed), HeldActions(world, batch_size, seed)
    for _ in range(NUM_WARM_UP if batch_size < 64 else 2):
        _step(session, actions)
    took, num_passes = [], []
    while len(took) < LEAST_STEPS or sum(took) < seconds:
        action = actions.next()
        synchronize(world.device)
        begin = time.perf_counter()
        result = session.step(action)
        synchronize(world.device)
        took.append(time.perf_counter() - begin)
        num_passes.append(result.num_passes)
        if result.terminated.any():
            session.reset(env_mask=result.terminated)
    return Playing(batch_size, np.array(took), np.stack(num_passes), _flops(session, actions, np.stack(num_passes)))


def _step(session: Session, actions: HeldActions) -> np.ndarray:
    """One step; returns the passes that each row took."""
    result = session.step(actions.next())
    if result.terminated.any():
        session.reset(env_mask=result.terminated)
    return result.num_passes


def _flops(session: Session, actions: HeldActions, num_passes: np.ndarray) -> float:
    """FLOPs of an environment step on average: a few are counted, and scaled to the passes that were measured."""
    counted: list[float] = []
    seen: list[np.ndarray] = []
    for _ in range(8 if session.batch_size == 1 else 2):
        action = actions.next()
        results = []
        counted.append(count_flops(lambda action=action, results=results: results.append(session.step(action))))
        seen.append(results[0].num_passes)
        if results[0].terminated.any():
            session.reset(env_mask=results[0].terminated)
    per_step = sum(counted) / len(counted) / session.batch_size
    return per_step * float(num_passes.mean()) / float(np.mean(seen))


def profile_steps(world: World, *, batch_size: int = 1, num_steps: int = 30, num_rows: int = 20) -> str:
    """The profiler's table of the operations that steps spend their time in, costliest first."""
    session, actions = Session(world, batch_size=batch_size), HeldActions(world, batch_size)
    for _ in range(NUM_WARM_UP):
        _step(session, actions)
    on_gpu = world.device.type == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiler:
        for _ in range(num_steps):
            _step(session, actions)
        synchronize(world.device)
    order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    return profiler.key_averages().table(sort_by=order, row_limit=num_rows, max_name_column_width=48)
