"""Playing the episodes of a recording into files, in one process or several."""

from __future__ import annotations

import contextlib
import itertools
import math
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium

from magrathea.data.episode import Episode, save_episode
from magrathea.data.lockstep import ActingMaker, play_in_lockstep
from magrathea.data.make_env import close_env, make_env
from magrathea.data.recorder import EpisodeRecorder, play_episode
from magrathea.errors import FOREIGN_ERRORS, MagratheaError, Terminated, end_by_sigterm, one_line
from magrathea.plugins import environment_plugin
from magrathea.settings import Count, Seed, check

DEFAULT_EPISODE_STEPS = 1000
"""Steps after which an episode is cut where the environment has no time limit."""
SECONDS_TO_CLOSE = 5.0  # that an environment has to close itself when its process must exit
FAILED = 0  # length of an episode that was left out
LEAST_STEPS = 32  # of an episode that is cut by the time
MOST_TOGETHER = 16  # environments in which a policy acts at once


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What is recorded: everything that the content of the dataset depends on; the table `collect` of a recipe.

    Attributes are those of `collect`.
    """

    env_id: str
    steps: Count
    policy: str = "sticky"
    seed: Seed = 0
    max_episode_steps: Count | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self)


def episode_path(work: Path, index: int) -> Path:
    return work / f"episode_{index:06d}.hdf5"


class Needed:
    """How many episodes, counted from the first, hold the steps of a recording; None while some of them are missing.

    Args:
        lengths: of the episodes by index, to which more are added.
        steps: that are wanted.
    """

    def __init__(self, lengths: dict[int, int], steps: int) -> None:
        self._lengths, self._steps = lengths, steps
        self._num_episodes = self._num_steps = 0

    def __call__(self) -> int | None:
        while self._num_steps < self._steps:
            if self._num_episodes not in self._lengths:
                return None
            self._num_steps += self._lengths[self._num_episodes]
            self._num_episodes += 1
        return self._num_episodes


@dataclass(frozen=True)
class TimeLimit:
    """When a recording ends, and how long each of its episodes may last; longer ones are cut.

    Attributes:
        end: moment of `time.monotonic`, which all processes of a machine share.
        episode_seconds: that an episode may last.
    """

    end: float
    episode_seconds: float

    @classmethod
    def of(cls, seconds: float, num_processes: int, num_episodes: int) -> TimeLimit:
        """The limit that leaves time for a number of episodes in some seconds from now."""
        rounds = math.ceil(num_episodes / num_processes)
        return cls(time.monotonic() + seconds, seconds / rounds)

    def clock(self) -> Callable[[int], bool]:
        """Starts an episode; the function says whether it is cut after a number of steps."""
        end = min(self.end, time.monotonic() + self.episode_seconds)
        return lambda num_steps: num_steps >= LEAST_STEPS and time.monotonic() > end


@dataclass(frozen=True)
class Played:
    """An episode that was played: its number of steps and what is to be noted of it; or why it failed."""

    index: int
    length: int = FAILED
    notes: tuple[str, ...] = ()
    failure: str = ""


def play_missing(
    recording: Recording,
    work: Path,
    lengths: dict[int, int],
    num_processes: int,
    time_limit: TimeLimit | None = None,
    exact: bool = False,
) -> Generator[Played, None, None]:
    """Play the episodes that are missing; the caller adds the lengths of what is yielded to `lengths`. To be exact, in
    one process, the last episode is cut at the recording's number of steps."""
    missing = (index for index in itertools.count() if index not in lengths)
    needed = Needed(lengths, recording.steps)
    if needed() is not None:
        return
    if num_processes == 1 or _would_run_again():
        with contextlib.closing(_Player(recording, work, time_limit)) as player:
            while needed() is None:
                left = recording.steps - sum(lengths.values())
                yield player.play(next(missing), left if exact else None)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, context, _start_worker, (recording, work, time_limit)) as pool:
        try:
            playing = {pool.submit(_play_in_worker, next(missing)) for _ in range(num_processes)}
            while needed() is None:
                finished, playing = wait(playing, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
                    playing.add(pool.submit(_play_in_worker, next(missing)))
        except BrokenProcessPool as error:
            raise MagratheaError(
                f"A process that played '{recording.env_id}' crashed or was ended from outside, perhaps for want of "
                "memory; run the same command again to go on, with fewer processes. A script that records needs the "
                'line: if __name__ == "__main__":'
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _would_run_again() -> bool:
    """Whether a process that is started would run this program from its beginning: a script that does not ask whether
    it is the main program."""
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    if path is None or getattr(main, "__spec__", None) is not None:  # a notebook, or "python -m"
        return False
    try:
        return "__main__" not in Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def check_main() -> None:
    """Raises MagratheaError in a process that runs a script again from its beginning before it plays."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise MagratheaError(
            "Recording in several processes runs the script again in each; put what it does below the line "
            'if __name__ == "__main__": or give num_processes=1.'
        )


class _Player:
    """Plays episodes of a recording into their files, in an environment that is made again after a failure."""

    def __init__(self, recording: Recording, work: Path, time_limit: TimeLimit | None = None) -> None:
        self._recording, self._work, self._time_limit = recording, work, time_limit
        self._env: gymnasium.Env | None = None
        self._notes: dict[str, None] = {}  # of the episode that is being played

    @property
    def env(self) -> gymnasium.Env:
        """The environment, made where there is none."""
        if self._env is None:
            self._env = recorded_env(self._recording)
        return self._env

    def play(self, index: int, most: int | None = None) -> Played:
        """Play the episode of an index, of at most so many steps, by the recording's policy."""
        recording = self._recording
        is_late = None if self._time_limit is None else self._time_limit.clock()
        try:
            cut, seed = self._cut(most), recording.seed + index
            episode = play_episode(self.env, recording.policy, seed, cut, self._notes.setdefault, is_late)
        except Terminated:
            raise
        except FOREIGN_ERRORS as error:  # of the environment or the policy
            self.close()
            return _failed(index, error)
        return self.save(index, episode)

    def begin(self, index: int, most: int) -> EpisodeRecorder:
        """Begin the episode of an index, of at most so many steps, in which somebody else acts."""
        return EpisodeRecorder(self.env, self._recording.seed + index, self._cut(most), self._notes.setdefault)

    def save(self, index: int, episode: Episode) -> Played:
        """Write an episode that has ended."""
        if self._has_default_limit and len(episode) == DEFAULT_EPISODE_STEPS and episode.truncated[-1]:
            self._notes[
                f"'{self._recording.env_id}' has no time limit; its episodes are cut after {DEFAULT_EPISODE_STEPS} "
                "steps. --max-episode-steps sets another."
            ] = None
        save_episode(episode, episode_path(self._work, index))
        notes, self._notes = tuple(self._notes), {}
        return Played(index, len(episode), notes)

    def _cut(self, most: int | None) -> int | None:
        """Steps after which an episode is cut."""
        limit = DEFAULT_EPISODE_STEPS if self._has_default_limit else self._recording.max_episode_steps
        return min((steps for steps in (limit, most) if steps is not None), default=None)

    @property
    def _has_default_limit(self) -> bool:
        """Whether no limit was asked for, and episodes are not known to end."""
        env, recording = self.env, self._recording
        has_own = env.spec is not None and env.spec.max_episode_steps is not None
        return recording.max_episode_steps is None and not has_own and environment_plugin(recording.env_id) is None

    def close(self) -> None:
        """Close the environment, whatever state it is in."""
        env, self._env, self._notes = self._env, None, {}
        if env is not None:
            close_env(env)


def _failed(index: int, error: BaseException) -> Played:
    """An episode that failed, and why."""
    line = one_line(error)
    return Played(index, failure=line if isinstance(error, MagratheaError) else f"{type(error).__name__}: {line}")


def episode_limit(env: gymnasium.Env, max_episode_steps: int | None = None) -> int:
    """Steps after which an episode is cut: what was asked for, the environment's own limit, or the default one."""
    own = None if env.spec is None else env.spec.max_episode_steps
    return max_episode_steps or own or DEFAULT_EPISODE_STEPS


# -- several environments at once -------------------------------------------------------------------------------------
def play_together(
    recording: Recording, work: Path, lengths: dict[int, int], acting: ActingMaker
) -> Generator[Played, None, None]:
    """Play the steps that are missing of a recording, and no more, by a policy that acts in several environments at
    once: at most MOST_TOGETHER, and as few as leave each time for a whole episode. Each plays an equal part of the
    steps; its last episode is cut."""
    missing = (index for index in itertools.count() if index not in lengths)
    left = recording.steps - sum(lengths.values())
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.closing(_Player(recording, work)))
        num_envs = min(MOST_TOGETHER, max(1, left // episode_limit(first.env, recording.max_episode_steps)))
        others = [stack.enter_context(contextlib.closing(_Player(recording, work))) for _ in range(1, num_envs)]
        players, indices = [first, *others], [-1] * num_envs  # of the episode that each plays
        parts = [left * (number + 1) // num_envs - left * number // num_envs for number in range(num_envs)]

        def begin(number: int) -> EpisodeRecorder | None:
            if not parts[number]:
                return None
            indices[number] = next(missing)
            return players[number].begin(indices[number], parts[number])

        try:
            for number, recorder in play_in_lockstep(begin, acting, num_envs) if left > 0 else ():
                episode = recorder.episode()
                parts[number] -= len(episode)
                yield players[number].save(indices[number], episode)
        except Terminated:
            raise
        except FOREIGN_ERRORS as error:  # of an environment or the policy
            yield _failed(max(indices), error)


# -- processes --------------------------------------------------------------------------------------------------------
_worker: dict[str, _Player] = {}


def _start_worker(recording: Recording, work: Path, time_limit: TimeLimit | None) -> None:
    """Prepare a worker process: it ignores Ctrl-C, which its parent handles, and exits with its parent. However it
    exits, it closes its environment, which may have processes and files of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker["player"] = _Player(recording, work, time_limit)
    signal.signal(signal.SIGTERM, end_by_sigterm)
    multiprocessing.util.Finalize(None, _worker["player"].close, exitpriority=10)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)  # the main thread closes the environment, which it is using
        time.sleep(SECONDS_TO_CLOSE)
        os._exit(1)


def _play_in_worker(index: int) -> Played:
    try:
        return _worker["player"].play(index)
    except Terminated:  # the pool would catch it and go on
        _worker["player"].close()
        os._exit(1)


def recorded_env(recording: Recording) -> gymnasium.Env:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="gymnasium")
        return make_env(recording.env_id, **recording.env_kwargs)
