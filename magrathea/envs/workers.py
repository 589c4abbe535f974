"""The dreams of a vector environment, their rows split among processes: each is a session of its own."""

from __future__ import annotations

import itertools
import multiprocessing
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector.utils import create_shared_memory, read_from_shared_memory

from magrathea.devices import num_cores
from magrathea.envs.dreams import Outcome
from magrathea.envs.worker import Work, run
from magrathea.errors import MagratheaError
from magrathea.pretrained import save_world
from magrathea.sampler import FillSettings
from magrathea.spaces import row_of
from magrathea.world import World

SECONDS_TO_END = 5.0  # a worker that takes longer is killed


class DreamWorkers:
    """`Dreams` of R rows in several processes. They end with `close`, with this object, or with the parent."""

    def __init__(self, world: World, num_dreams: int, settings: FillSettings, num_workers: int) -> None:
        if not 1 <= num_workers <= num_dreams:
            raise MagratheaError(f"workers is {num_workers}; give 1 to {num_dreams}, one row for each at least.")
        context = multiprocessing.get_context("spawn")
        ends = [num_dreams * index // num_workers for index in range(num_workers + 1)]
        self._shares = [slice(first, last) for first, last in itertools.pairwise(ends)]
        self._space, self._num_dreams, self._begun = world.observation_space, num_dreams, False
        self._observations = create_shared_memory(self._space, num_dreams, context)  # type: ignore[arg-type]
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        self.close = weakref.finalize(self, _end, self._pipes, self._processes)
        try:
            self._start(context, world, settings)
        except BaseException:
            self.close()
            raise

    def _start(self, context: SpawnContext, world: World, settings: FillSettings) -> None:
        """Start the processes; all load the world at the same time."""
        with tempfile.TemporaryDirectory(prefix="magrathea-") as folder:
            exact = save_world(world, Path(folder) / "world", torch.float32)
            for share in self._shares:
                work = Work(
                    folder=str(exact),
                    device=str(world.device),
                    compute_dtype=str(world.model.compute_dtype).removeprefix("torch."),
                    settings=settings.to_config(),
                    first=share.start,
                    num_dreams=share.stop - share.start,
                    observations=self._observations,
                    num_threads=max(1, num_cores() // len(self._shares)),
                )
                pipe, its_pipe = context.Pipe()
                process = context.Process(target=run, args=(its_pipe, work), daemon=True, name="dreams")
                process.start()
                its_pipe.close()
                self._pipes.append(pipe)
                self._processes.append(process)
            self._ask("load", dict.fromkeys(range(len(self._shares)), ()))

    @property
    def observation(self) -> Any:
        """What is seen now, (R, *shape); a view of the shared memory. Raises MagratheaError before the first reset."""
        self._check_begun()
        return read_from_shared_memory(self._space, self._observations, self._num_dreams)

    def reset(self, env_mask: np.ndarray, seeds: Sequence[int], start: Any = None) -> None:
        """Begin anew where env_mask (R,) is True, and everywhere at first; start as `start_from` gives it."""
        if isinstance(start, list) and len(start) != self._num_dreams:
            raise MagratheaError(f"Got {len(start)} starts for {self._num_dreams} dreams; give one for each.")
        start = start.numpy() if isinstance(start, torch.Tensor) else start
        requests = {
            index: (env_mask[share], seeds[share], start[share] if isinstance(start, list) else start)
            for index, share in enumerate(self._shares)
            if env_mask[share].any() or not self._begun
        }
        self._ask("reset", requests)
        self._begun = True

    def step(self, actions: Any) -> Outcome:
        """Dream what follows actions (R, *shape)."""
        self._check_begun()
        requests = {index: (row_of(actions, share),) for index, share in enumerate(self._shares)}
        rewards, terminated, infos = zip(*self._ask("step", requests), strict=True)
        together = {key: np.concatenate([info[key] for info in infos]) for key in infos[0]}
        return np.concatenate(rewards), np.concatenate(terminated), together

    def _check_begun(self) -> None:
        if not self._begun:
            raise MagratheaError("The dream has not begun; call reset first.")

    def _ask(self, method: str, requests: Mapping[int, tuple[Any, ...]]) -> list[Any]:
        """What workers (by their index) answer to these arguments of a method, all at once."""
        if not self.close.alive:
            raise MagratheaError("The workers of these dreams have ended; make the environment anew.")
        index = 0
        try:
            for index, arguments in requests.items():
                self._pipes[index].send((method, arguments))
            answers = []
            for index in requests:
                answers.append(self._pipes[index].recv())
        except (EOFError, OSError) as error:
            process = self._processes[index]
            self.close()
            raise MagratheaError(
                f"Worker {index} of {len(self._shares)} ended by itself (exit code {process.exitcode}). Was there too "
                "little memory? Make the environment anew, with fewer workers; in a script, below "
                "`if __name__ == '__main__':`."
            ) from error
        except BaseException:  # as Ctrl-C: answers would be left in the pipes
            self.close()
            raise
        wrong = [message for _, message in answers if message is not None]
        if wrong:
            raise MagratheaError(wrong[0])
        return [result for result, _ in answers]


def _end(pipes: list[Connection], processes: list[BaseProcess]) -> None:
    """A worker ends when its pipe is closed."""
    for pipe in pipes:
        pipe.close()
    for process in processes:
        process.join(SECONDS_TO_END)
        if process.is_alive():
            process.kill()
            process.join()
