"""What a step costs after a long life, and how many bytes its past takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from magrathea import masks
from magrathea.bench.peak import synchronize
from magrathea.bench.play import HeldActions
from magrathea.interfaces import Memory
from magrathea.session import Session
from magrathea.session.file import SessionState
from magrathea.session.history import History, StepKind, record_of
from magrathea.session.snapshots import EVERY, stays
from magrathea.world import World

NUM_MEASURED = 100  # steps that the medians are of


def measure_history(world: World, lengths: Sequence[int], seed: int = 0) -> dict[str, Any]:
    """For each length of history the median milliseconds of a whole step, of one dream, and of what its memory does in
    it (a write, a read, and its share of keeping the state, which is done once in a while), the passes of a step, and
    the bytes for each step of the memory's state, of the log, and of the session's file, which has both and the states
    to go back to.

    The history is of stored steps in an order drawn by the seed, with actions as the data has them, so a memory hardly
    ever sees the same twice. A shorter history is the end of a longer one, so the dreams begin alike, and they take
    their steps in turn, so what slows the machine slows them all.
    """
    steps = unlike_steps(world, max(lengths), seed)
    sessions = {length: dream_after(world, steps[-length:], seed) for length in lengths}
    file_bytes = {length: len(session.to_bytes()) for length, session in sessions.items()}
    actions, took, passes = HeldActions(world, 1, seed), {length: [] for length in lengths}, dict.fromkeys(lengths, 0)
    for _ in range(NUM_MEASURED):
        action = actions.next()
        for length, session in sessions.items():
            synchronize(world.device)
            begin = time.perf_counter()
            result = session.step(action)
            synchronize(world.device)
            took[length].append(time.perf_counter() - begin)
            passes[length] += int(result.num_passes[0])
    measured = {}
    for length, session in sessions.items():
        began = time.perf_counter()
        state = sum(tensor.nbytes for tensor in session.memory.state_dict(0).values())
        keeping = (time.perf_counter() - began) / EVERY
        measured[str(length)] = {
            "ms_per_step": round(1000 * float(np.median(took[length])), 3),
            "passes_per_step": round(passes[length] / NUM_MEASURED, 2),
            "memory_ms_per_step": round(1000 * (_memory_seconds(world, session) + keeping), 4),
            "memory_bytes_per_step": round(state / length, 1),
            "log_bytes_per_step": record_of(world.layout).itemsize,
            "file_bytes_per_step": round(file_bytes[length] / length, 1),
        }
    return measured


def dream_after(world: World, steps: Tensor, seed: int) -> Session:
    """A dream that has lived steps (T, N), without dreaming them."""
    history, log = History(world.layout, num_start=1), np.zeros(len(steps), record_of(world.layout))
    log["tokens"], log["kind"] = steps.numpy(), StepKind.OBSERVED
    history.extend(log)
    memory = world.new_memory(1)
    _write_all(world, memory, steps, history)
    state = SessionState(world.config.fill, "cached", [seed], [history], [memory.state_dict(0)], [len(steps)])
    session = Session.from_state(world, state)
    session.prepare()
    session.step(HeldActions(world, 1, seed).next())
    return session


@torch.inference_mode()
def _write_all(world: World, memory: Memory, steps: Tensor, history: History) -> None:
    """Write steps (T, N), all with the encoding of the first: it does not matter to the clock. The history gets the
    states along the way that are still kept at the end."""
    encoding = world.model.encode(steps[None, :1].to(world.device))[0]
    for number, step in enumerate(steps.split(1), start=1):
        memory.write(step, encoding, [0])
        if number % EVERY == 0 and stays(number, len(steps)):
            history.snapshots.keep(number, memory.state_dict(0))


def unlike_steps(world: World, num: int, seed: int) -> Tensor:
    """(num, N) stored steps with some of their tokens from other ones, so that no two are alike."""
    stored, dice = world.starts.flatten(0, 1), torch.Generator().manual_seed(seed)
    steps, others = (stored[torch.randint(len(stored), (num,), generator=dice)] for _ in range(2))
    return torch.where(torch.rand(steps.shape, generator=dice) < 0.3, others, steps)


@torch.inference_mode()
def _memory_seconds(world: World, session: Session) -> float:
    """The median time of a write and a read of the session's memory, which is spoiled by it."""
    holes, steps = masks.forward_dynamics(world.layout)[None], unlike_steps(world, NUM_MEASURED, seed=1)
    encoding, took = world.model.encode(steps[None, :1].to(world.device))[0], []
    for step in steps.split(1):
        begin = time.perf_counter()
        session.memory.write(step, encoding, [0])
        session.memory.read(step, holes, [0])
        took.append(time.perf_counter() - begin)
    return float(np.median(took))
