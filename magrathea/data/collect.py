"""Recording a dataset: several processes play episodes into a file each, which are merged into a Minari dataset.

Episode i is played with seed + i by whichever process is free, so the dataset does not depend on their number, and an
interrupted recording is resumed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import multiprocessing.util
import os
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn

import gymnasium

from magrathea.data.dataset import METADATA_FILE_NAME, OWN_METADATA, Dataset
from magrathea.data.episode import Episode, episode_length, merge_episodes, save_episode
from magrathea.data.make_env import environment_metadata, make_env
from magrathea.data.policies import current_policy_name, policy_named
from magrathea.data.recorder import play_episode
from magrathea.errors import MagratheaError
from magrathea.files import atomic_write, claim
from magrathea.plugins import environment_plugin
from magrathea.progress import Stages
from magrathea.settings import Count, Seed, check, check_value
from magrathea.spaces import check_space

WORK_FOLDER = ".collecting"
OnError = Literal["stop", "skip"]
DEFAULT_EPISODE_STEPS = 1000
"""Steps after which an episode is cut where the environment has no time limit."""
MAX_FAILED_IN_A_ROW = 10
SECONDS_TO_CLOSE = 5.0  # that an environment has to close itself when its process must exit
FAILED = 0  # length of an episode that was left out


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


def collect(
    env_id: str,
    steps: int,
    out: str | Path,
    *,
    policy: str = "sticky",
    num_processes: int = 2,
    seed: int = 0,
    max_episode_steps: int | None = None,
    env_kwargs: dict[str, Any] | None = None,
    on_error: OnError = "stop",
) -> Dataset:
    """Record an environment into a dataset, or resume an interrupted recording.

    Args:
        env_id: Gymnasium id, or "module:id".
        steps: number of steps; the last episode is finished, so that there are a few more.
        out: folder of the dataset.
        policy: "random", "sticky", one of the environment's plug-in ("explorer"), or "module:function".
        num_processes: processes that play at once; the dataset does not depend on it.
        seed: episode i is played with seed + i.
        max_episode_steps: longer episodes are cut (truncated) there; if None, at DEFAULT_EPISODE_STEPS where the
            environment has no time limit and no plug-in.
        env_kwargs: given to the environment; `size` resizes image observations to (height, width).
        on_error: whether an episode in which the environment, the policy or a value fails stops the recording, which
            goes on when it is called again, or is left out ("skip").

    Raises:
        MagratheaError: for an environment or policy that cannot be had, spaces that no tokenizer can learn, an
            episode that fails, and a folder that holds something else.
    """
    check_value("on_error", on_error, OnError)
    check_value("num_processes", num_processes, Count)
    _require_minari()
    out = Path(out).resolve()
    recording = Recording(
        env_id=env_id,
        steps=steps,
        policy=policy,
        seed=seed,
        max_episode_steps=max_episode_steps,
        env_kwargs=dict(env_kwargs or {}),
    )
    metadata = _metadata_of(recording)
    work = out / WORK_FOLDER
    if not _is_done(out, metadata):
        with _claimed(work), _exit_on_sigterm():
            _begin(work, metadata)
            lengths = _play_all(recording, work, num_processes, on_error)
            _write(out, work, lengths, metadata)
    shutil.rmtree(work, ignore_errors=True)
    return Dataset.open(out)


# -- playing ----------------------------------------------------------------------------------------------------------
def _episode_path(work: Path, index: int) -> Path:
    return work / f"episode_{index:06d}.hdf5"


def _recorded_lengths(work: Path) -> dict[int, int]:
    """Lengths of the recorded episodes by index; deletes damaged files, whose episodes are played again."""
    lengths = {}
    for path in sorted(work.glob("episode_*.hdf5")):
        length = episode_length(path)
        if length is None:
            path.unlink()
        else:
            lengths[int(path.stem.split("_")[1])] = length
    return lengths


def _num_needed(lengths: dict[int, int], steps: int) -> int | None:
    """How many episodes, counted from the first, hold the steps; None while some of them are missing."""
    total = 0
    for index in itertools.count():
        if total >= steps:
            return index
        if index not in lengths:
            return None
        total += lengths[index]
    return None


@dataclass(frozen=True)
class _Played:
    """An episode that was played: its number of steps and what is to be noted of it; or why it failed."""

    index: int
    length: int = FAILED
    notes: tuple[str, ...] = ()
    failure: str = ""


def _play_all(recording: Recording, work: Path, num_processes: int, on_error: OnError) -> dict[int, int]:
    """Play until enough steps are recorded; returns the length of each episode of the dataset, FAILED included."""
    lengths, noted = _recorded_lengths(work), set()
    with Stages() as stages:
        stages.begin("collecting")
        with contextlib.closing(_play_missing(recording, work, lengths, num_processes)) as played:
            for episode in played:
                lengths[episode.index] = episode.length
                for text in sorted({*episode.notes} - noted):
                    stages.note(f"Note: {text}")
                    noted.add(text)
                if episode.failure:
                    _handle_failure(recording, work, lengths, episode, on_error, stages)
                num_steps = min(sum(lengths.values()), recording.steps)
                stages.update(num_steps / recording.steps, f"{num_steps:,} of {recording.steps:,} steps")
    needed = _num_needed(lengths, recording.steps)
    assert needed is not None
    return {index: lengths[index] for index in range(needed)}


def _handle_failure(
    recording: Recording, work: Path, lengths: dict[int, int], episode: _Played, on_error: OnError, stages: Stages
) -> None:
    """Note that an episode failed; raises MagratheaError where that stops the recording."""
    num_whole = sum(length > FAILED for length in lengths.values())
    what = f"Episode {episode.index} (seed {recording.seed + episode.index}) of '{recording.env_id}' failed"
    kept = f"; the {num_whole} whole episodes stay in '{work.parent}'" if num_whole else ""
    if on_error == "stop":
        raise MagratheaError(
            f"{what}: {episode.failure.rstrip('.')}{kept}. '--on-error skip' leaves such episodes out."
        )
    last = [lengths[index] for index in sorted(lengths)[-MAX_FAILED_IN_A_ROW:]]
    if len(last) == MAX_FAILED_IN_A_ROW and not any(last):
        raise MagratheaError(
            f"{what}, as did all of the last {MAX_FAILED_IN_A_ROW}: {episode.failure.rstrip('.')}{kept}. Correct the "
            "environment and run the same command again."
        )
    stages.note(f"{what} and is left out: {episode.failure}")


def _play_missing(
    recording: Recording, work: Path, lengths: dict[int, int], num_processes: int
) -> Generator[_Played, None, None]:
    """Play the episodes that are missing; the caller adds the lengths of what is yielded to `lengths`."""
    missing = (index for index in itertools.count() if index not in lengths)
    if _num_needed(lengths, recording.steps) is not None:
        return
    if num_processes == 1:
        with contextlib.closing(_Player(recording, work)) as player:
            while _num_needed(lengths, recording.steps) is None:
                yield player.play(next(missing))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, context, _start_worker, (recording, work)) as pool:
        try:
            playing = {pool.submit(_play_in_worker, next(missing)) for _ in range(num_processes)}
            while _num_needed(lengths, recording.steps) is None:
                finished, playing = wait(playing, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
                    playing.add(pool.submit(_play_in_worker, next(missing)))
        except BrokenProcessPool as error:
            raise MagratheaError(
                f"A process that played '{recording.env_id}' was ended from outside, perhaps for want of memory; "
                "run the same command again to go on, with fewer processes."
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class _Player:
    """Plays episodes of a recording into their files, in an environment that is made again after a failure."""

    def __init__(self, recording: Recording, work: Path) -> None:
        self._recording, self._work = recording, work
        self._env: gymnasium.Env | None = None

    def play(self, index: int) -> _Played:
        """Play the episode of an index."""
        notes: dict[str, None] = {}
        try:
            if self._env is None:
                self._env = _recorded_env(self._recording)
            episode = self._play(self._env, index, notes)
        except Exception as error:  # of the environment or the policy, which may raise anything
            self.close()
            line = " ".join(str(error).split())
            known = isinstance(error, MagratheaError)
            return _Played(index, failure=line if known else f"{type(error).__name__}: {line}")
        save_episode(episode, _episode_path(self._work, index))
        return _Played(index, len(episode), tuple(notes))

    def _play(self, env: gymnasium.Env, index: int, notes: dict[str, None]) -> Episode:
        recording = self._recording
        limit, is_default = recording.max_episode_steps, False
        if limit is None and not _has_end(env, recording.env_id):
            limit, is_default = DEFAULT_EPISODE_STEPS, True
        episode = play_episode(env, recording.policy, recording.seed + index, limit, notes.setdefault)
        if is_default and len(episode) == limit and episode.truncated[-1]:
            notes[
                f"'{recording.env_id}' has no time limit; its episodes are cut after {limit} steps. "
                "--max-episode-steps sets another."
            ] = None
        return episode

    def close(self) -> None:
        """Close the environment, whatever state it is in."""
        env, self._env = self._env, None
        if env is not None:
            with contextlib.suppress(Exception):
                env.close()


def _has_end(env: gymnasium.Env, env_id: str) -> bool:
    """Whether the episodes of an environment are known to end."""
    spec = env.spec
    return (spec is not None and spec.max_episode_steps is not None) or environment_plugin(env_id) is not None


# -- processes --------------------------------------------------------------------------------------------------------
_worker: dict[str, _Player] = {}


def _start_worker(recording: Recording, work: Path) -> None:
    """Prepare a worker process: it ignores Ctrl-C, which its parent handles, and exits with its parent. However it
    exits, it closes its environment, which may have processes and files of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker["player"] = _Player(recording, work)
    signal.signal(signal.SIGTERM, _exit)
    multiprocessing.util.Finalize(None, _worker["player"].close, exitpriority=10)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _exit(number: int, frame: Any) -> NoReturn:
    """Handle SIGTERM: end this process as an error does, so that what is open is closed; a second one does nothing."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for process in multiprocessing.active_children():
        process.terminate()
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)  # the main thread closes the environment, which it is using
        time.sleep(SECONDS_TO_CLOSE)
        os._exit(1)


@contextlib.contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Exit on SIGTERM as on an error, so that environments are closed, and end the worker processes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _play_in_worker(index: int) -> _Played:
    try:
        return _worker["player"].play(index)
    except SystemExit:  # the pool would catch it and go on
        _worker["player"].close()
        os._exit(1)


def _recorded_env(recording: Recording) -> gymnasium.Env:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="gymnasium")
        return make_env(recording.env_id, **recording.env_kwargs)


# -- folders ----------------------------------------------------------------------------------------------------------
def _require_minari() -> None:
    try:
        import h5py  # noqa: F401
        import minari  # noqa: F401
    except ImportError as error:
        raise MagratheaError(
            f"Recording needs the package '{error.name}'; install it with 'pip install magrathea[train]'."
        ) from error


def _metadata_of(recording: Recording) -> dict[str, Any]:
    """The dataset's metadata; makes the environment once, to raise errors before anything is recorded."""
    policy_named(recording.policy, recording.env_id)
    with contextlib.closing(_recorded_env(recording)) as env:
        for name, space in (("observation", env.observation_space), ("action", env.action_space)):
            try:
                check_space(space, name)
            except MagratheaError as error:
                raise MagratheaError(f"'{recording.env_id}', {error} {_unsupported_hint(recording.env_id)}") from error
        described = environment_metadata(env)
    try:
        return json.loads(json.dumps(described | asdict(recording)))
    except TypeError as error:
        raise MagratheaError(f"env_kwargs can only hold what JSON can ({error}); give plain values.") from error


def _unsupported_hint(env_id: str) -> str:
    plugin = environment_plugin(env_id)
    hint = plugin.unsupported_hint if plugin is not None and env_id not in plugin.env_ids else ""
    return hint.format(env_id=env_id)


def _is_done(out: Path, metadata: dict[str, Any]) -> bool:
    if not (out / "data" / METADATA_FILE_NAME).exists():
        if out.exists() and (not out.is_dir() or any(path.name != WORK_FOLDER for path in out.iterdir())):
            raise MagratheaError(f"'{out}' exists and is not a dataset; give another --out.")
        return False
    _require_same(Dataset.open(out).metadata, metadata, f"'{out}' holds a dataset")
    return True


@contextlib.contextmanager
def _claimed(work: Path) -> Iterator[None]:
    """Make the folder of a recording, in which only one process at a time may record."""
    held = contextlib.ExitStack()
    try:
        work.mkdir(parents=True, exist_ok=True)
        held.enter_context(claim(work / "lock"))
    except BlockingIOError as error:
        raise MagratheaError(
            f"Another process is recording into '{work.parent}'; wait for it, or give another --out."
        ) from error
    except OSError as error:
        raise MagratheaError(f"'{work.parent}' cannot be made ({error.strerror}); give another --out.") from error
    with held:
        yield


def _begin(work: Path, metadata: dict[str, Any]) -> None:
    """Write down the settings of a recording; refuses to resume one of other settings."""
    settings = work / "recording.json"
    if settings.exists():
        _require_same(json.loads(settings.read_text()), metadata, f"'{work.parent}' holds an unfinished recording")
    with atomic_write(settings) as file:
        file.write_text(json.dumps(metadata, indent=1))


def _require_same(stored: dict[str, Any], requested: dict[str, Any], what: str) -> None:
    stored = stored | {"policy": current_policy_name(str(stored.get("policy")))}
    keys = [each.name for each in fields(Recording) if stored.get(each.name) != requested.get(each.name)]
    if keys:
        differences = ", ".join(f"{key} {stored.get(key)!r} and not {requested.get(key)!r}" for key in keys)
        raise MagratheaError(f"{what} of other settings ({differences}); give another --out, or remove it.")


def _write(out: Path, work: Path, lengths: dict[int, int], metadata: dict[str, Any]) -> None:
    """Merge the recorded episodes, those of a length, into a Minari dataset, atomically."""
    import minari
    from minari.dataset.minari_storage import MinariStorage

    fresh = work / "data"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    with contextlib.closing(make_env(metadata["env_id"], **metadata["env_kwargs"])) as env:
        storage = MinariStorage.new(fresh, env.observation_space, env.action_space, jpeg_encoding=False)
    paths = [_episode_path(work, index) for index, length in lengths.items() if length > FAILED]
    failed = [index for index, length in lengths.items() if length == FAILED]
    num_steps = merge_episodes(paths, fresh / "main_data.hdf5")
    name = "".join(letter if letter.isalnum() else "-" for letter in metadata["env_id"].lower()).strip("-")
    storage.update_metadata(
        {
            "dataset_id": f"{name}/{metadata['policy'].split(':')[-1].lower().replace('_', '-')}-v0",
            "minari_version": minari.__version__,
            "total_episodes": len(paths),
            "total_steps": num_steps,
            "dataset_size": float(storage.get_size()),
            OWN_METADATA: metadata | ({"failed_episodes": failed} if failed else {}),
        }
    )
    fresh.replace(out / "data")
