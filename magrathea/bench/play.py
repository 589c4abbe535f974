"""The speed of dreams in batches, under random actions that are repeated as often as in the data."""

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
    """Random actions with the frequencies of the stored starts, repeated as often as they are there.

    Only actions of stored steps are drawn, so that the dreams stay close to the data. Raises MagratheaError for a world
    without stored starts or without actions in them.
    """

    def __init__(self, world: World, batch_size: int, seed: int = 0) -> None:
        name = world.metadata.get("name", "?")
        if not world.num_starts:
            raise MagratheaError(f"World '{name}' has no stored starts, which a benchmark needs; train it with some.")
        slots = world.layout.of_role("action")
        span = slice(0, sum(slot.num_tokens for slot in slots))
        absent = torch.cat([torch.full((slot.num_tokens,), slot.absent) for slot in slots])
        taken = world.starts[:, :, span]
        present = (taken != absent).all(-1)
        if not present.any():
            raise MagratheaError(f"World '{name}' has no actions in its stored starts; train it on other data.")
        pairs = present[:, 1:] & present[:, :-1]
        same = (taken[:, 1:] == taken[:, :-1]).all(-1)
        self.world, self.choices = world, taken[present]
        self.hold = float(same[pairs].float().mean()) if pairs.any() else 0.0
        self._redraw_prob = 1 - self._hold_prob()
        self.rng = np.random.default_rng(seed)
        self.now = self._draw(batch_size)

    def _draw(self, num: int) -> Tensor:
        return self.choices[self.rng.integers(len(self.choices), size=num)]

    def next(self) -> Any:
        """The actions (B, …) of the next step."""
        fresh = torch.from_numpy(self.rng.random(len(self.now)) < self._redraw_prob)
        self.now = torch.where(fresh[:, None], self._draw(len(self.now)), self.now)
        rest = self.world.layout.num_tokens - self.now.shape[1]
        return self.world.decode_action(torch.nn.functional.pad(self.now, (0, rest)))

    def _hold_prob(self) -> float:
        """The probability to repeat an action on purpose: a new draw may give the same action by chance."""
        _, counts = self.choices.unique(dim=0, return_counts=True)
        chance = float((counts / counts.sum()).square().sum())
        return max(0.0, (self.hold - chance) / (1 - chance)) if chance < 1 else 1.0


@dataclass
class Playing:
    """Measurements of a batch of dreams: seconds of every step, and its passes for every dream (steps, B)."""

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
    """Step a batch of dreams, with decoding, for `seconds`. Dreams that end are reset, which is not timed."""
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
    """One step; returns the passes (B,) of each dream."""
    result = session.step(actions.next())
    if result.terminated.any():
        session.reset(env_mask=result.terminated)
    return result.num_passes


def _flops(session: Session, actions: HeldActions, num_passes: np.ndarray) -> float:
    """Mean FLOPs of an environment step: counted on a few steps, and scaled to the passes that were measured."""
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
    """The profiler's table of the operations that steps spend their time in, the most expensive first."""
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
