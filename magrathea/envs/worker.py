"""A process that dreams some rows of a vector environment. PyTorch is imported only once it runs."""

from __future__ import annotations

import contextlib
import signal
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.vector.utils import write_to_shared_memory

from magrathea.cli.allocator import keep_memory
from magrathea.errors import MagratheaError
from magrathea.spaces import row_of

if TYPE_CHECKING:
    from magrathea.envs.dreams import Outcome


@dataclass(frozen=True)
class Work:
    """What a worker is given.

    Attributes:
        folder: of the world.
        device: of the world.
        compute_dtype: of its model, as PyTorch names it.
        settings: the fields of FillSettings.
        first, num_dreams: its rows.
        observations: the shared memory of the observations of all rows.
        num_threads: of PyTorch's operations.
    """

    folder: str
    device: str
    compute_dtype: str
    settings: dict[str, Any]
    first: int
    num_dreams: int
    observations: Any
    num_threads: int


def run(pipe: Connection, work: Work) -> None:
    """Answer requests, until the other end of the pipe is closed: (name of a method of Worker, arguments) with
    (result, None), or with (None, what went wrong). Ctrl-C is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_memory()
    worker = Worker(work)
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        while True:
            name, arguments = pipe.recv()
            pipe.send(worker.answer(name, arguments))


class Worker:
    """Dreams, whose observations are written where the parent reads them."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def answer(self, name: str, arguments: tuple[Any, ...]) -> tuple[Any, str | None]:
        try:
            return getattr(self, name)(*arguments), None
        except MagratheaError as error:
            return None, str(error)
        except Exception as error:
            traceback.print_exc()
            return None, f"A worker of these dreams failed with {error!r}."

    def load(self) -> None:
        import torch

        from magrathea.envs.dreams import Dreams
        from magrathea.sampler import FillSettings
        from magrathea.world import World

        torch.set_num_threads(self.work.num_threads)
        world = World.from_pretrained(self.work.folder, device=self.work.device)
        world.model.compute_dtype = getattr(torch, self.work.compute_dtype)
        self.dreams = Dreams(world, self.work.num_dreams, FillSettings(**self.work.settings))

    def reset(self, env_mask: np.ndarray, seeds: list[int], start: Any) -> None:
        import torch

        start = torch.from_numpy(start) if isinstance(start, np.ndarray) else start
        self.dreams.reset(env_mask, seeds, start)
        self._show()

    def step(self, actions: Any) -> Outcome:
        outcome = self.dreams.step(actions)
        self._show()
        return outcome

    def _show(self) -> None:
        space, observation = self.dreams.world.observation_space, self.dreams.observation
        for row in range(self.work.num_dreams):
            write_to_shared_memory(space, self.work.first + row, row_of(observation, row), self.work.observations)
