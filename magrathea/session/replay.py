"""Running a session again from its start, with its actions, random numbers and observations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from magrathea.errors import MagratheaError
from magrathea.session.file import SessionState
from magrathea.session.history import StepKind
from magrathea.world import World

if TYPE_CHECKING:
    from magrathea.session.session import Session


def replay(session: Session, world: World) -> Session:
    """Run a session again in a world of the same layout; see `Session.replay`."""
    if world.layout != session.world.layout:
        raise MagratheaError("Replay needs a world of the session's own layout; give one with the same slots.")
    have, logs = session.num_steps, [session.log_of(index) for index in range(session.batch_size)]
    starts = [history.fork_start() for history in session._histories]
    seeds = [int(log["seed"][0]) for log in logs]
    replayed = session.from_state(world, SessionState.new(session.settings, session.inference, starts, seeds))
    for back in range(int(have.max()), 0, -1):  # worlds with fewer steps begin later
        _replay_step(replayed, {index: log[-back:][:1] for index, log in enumerate(logs) if have[index] >= back})
    replayed._seeds = list(session._seeds)
    return replayed


def _replay_step(session: Session, logs: Mapping[int, np.ndarray]) -> None:
    """Run one logged step (1,) of some worlds: with its action and seed if it was dreamt, else as it was."""
    span = session.world.layout.role_span("action")
    actions = torch.zeros(session.batch_size, span.stop - span.start, dtype=torch.long)
    dreamt = [index for index, log in logs.items() if log["kind"][0] == StepKind.DREAMT]
    for index in dreamt:
        actions[index] = torch.from_numpy(logs[index]["tokens"][0, span].astype(np.int64))
        session._seeds[index] = int(logs[index]["seed"][0])
    logs = {index: log.copy() for index, log in logs.items()}
    if dreamt:
        tokens = session._imagine(actions, range(session.batch_size)).tokens.cpu().numpy()
        for index in dreamt:
            logs[index]["tokens"][0] = tokens[index]
    session._commit_logs(logs)
