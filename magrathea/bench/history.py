"""The time of a step after a long history, and the bytes that the history takes."""

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
from magrathea.session.snapshots import EVERY, FARTHEST, stays
from magrathea.world import World

NUM_MEASURED = 100  # steps that the medians are of
NUM_REWINDS = 16  # steps that are gone back to, and as many just before a snapshot


def measure_history(world: World, lengths: Sequence[int], seed: int = 0) -> dict[str, Any]:
    """Time and size of a dream with a history, for each length of it.

    The history consists of stored steps in random order, some of whose tokens are exchanged, so that a memory hardly
    ever sees a step twice. A shorter history is the end of a longer one, and the dreams are stepped in turn, so that
    whatever else slows the machine affects all lengths.

    Returns:
        for each length: "ms_per_step", the median of a whole step; "memory_ms_per_step", the memory's part in it (a
        write, a read, and the saving of its state, spread over the steps between two snapshots); "rewind_ms" and
        "worst_rewind_ms", the median and the longest of going back to many steps and being ready for the next one;
        "passes_per_step";
        and bytes per step of the memory's state, of the log, and of the session's file, which holds both and the
        snapshots.
    """
    steps = distinct_steps(world, max(lengths), seed)
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
        rewinds = _rewind_seconds(session, np.random.default_rng(seed))
        measured[str(length)] = {
            "ms_per_step": round(1000 * float(np.median(took[length])), 3),
            "passes_per_step": round(passes[length] / NUM_MEASURED, 2),
            "memory_ms_per_step": round(1000 * (_memory_seconds(world, session) + keeping), 4),
            "rewind_ms": round(1000 * float(np.median(rewinds)), 1),
            "worst_rewind_ms": round(1000 * max(rewinds), 1),
            "memory_bytes_per_step": round(state / length, 1),
            "log_bytes_per_step": record_of(world.layout).itemsize,
            "file_bytes_per_step": round(file_bytes[length] / length, 1),
        }
    return measured


def dream_after(world: World, steps: Tensor, seed: int) -> Session:
    """A session whose history is steps (T, N), as if it had observed them."""
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
    """Write steps (T, N), all with the encoding of the first, which takes the same time. The history gets the snapshots
    that a session would have at its end."""
    encoding = world.model.encode(steps[None, :1].to(world.device))[0]
    for number, step in enumerate(steps.split(1), start=1):
        memory.write(step, encoding, [0])
        if number % EVERY == 0 and stays(number, len(steps)):
            history.snapshots.keep(number, memory.state_dict(0))


def distinct_steps(world: World, num: int, seed: int) -> Tensor:
    """(num, N) stored steps with some tokens of other ones, so that hardly two are equal."""
    stored, rng = world.starts.flatten(0, 1), torch.Generator().manual_seed(seed)
    steps, others = (stored[torch.randint(len(stored), (num,), generator=rng)] for _ in range(2))
    return torch.where(torch.rand(steps.shape, generator=rng) < 0.3, others, steps)


def _rewind_seconds(session: Session, rng: np.random.Generator) -> list[float]:
    """The seconds of going back and of being ready to go on, to some steps anywhere and to those that cost most, just
    before a snapshot."""
    length = int(session.num_steps[0]) + session.num_start_of(0)
    anywhere = rng.integers(1, length, NUM_REWINDS).tolist()
    before_snapshots = [max(1, number - number % FARTHEST - 1) for number in anywhere]
    took = []
    for number in [min(length - 1, FARTHEST - 1), *anywhere, *before_snapshots]:
        fork = session.fork()
        begin = time.perf_counter()
        fork.rewind(length - number)
        fork.prepare()
        synchronize(session.world.device)
        took.append(time.perf_counter() - begin)
    return took


@torch.inference_mode()
def _memory_seconds(world: World, session: Session) -> float:
    """The median seconds of a write and a read of the session's memory, whose content they change."""
    holes, steps = masks.forward_dynamics(world.layout)[None], distinct_steps(world, NUM_MEASURED, seed=1)
    encoding, took = world.model.encode(steps[None, :1].to(world.device))[0], []
    for step in steps.split(1):
        begin = time.perf_counter()
        session.memory.write(step, encoding, [0])
        session.memory.read(step, holes, [0])
        took.append(time.perf_counter() - begin)
    return float(np.median(took))
