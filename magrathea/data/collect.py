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
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import gymnasium

from magrathea.data.dataset import METADATA_FILE_NAME, OWN_METADATA, Dataset
from magrathea.data.episode import episode_length, merge_episodes, save_episode
from magrathea.data.make_env import environment_metadata, make_env
from magrathea.data.policies import current_policy_name, policy_named
from magrathea.data.recorder import play_episode
from magrathea.errors import MagratheaError
from magrathea.files import atomic_write, claim
from magrathea.plugins import environment_plugin
from magrathea.progress import Stages
from magrathea.settings import Count, Seed, check, check_value
from magrathea.spaces import space_to_config

WORK_FOLDER = ".collecting"


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
) -> Dataset:
    """Record an environment into a dataset, or resume an interrupted recording.

    Args:
        env_id: Gymnasium id, or "module:id".
        steps: number of steps; the last episode is finished, so that there are a few more.
        out: folder of the dataset.
        policy: "random", "sticky", one of the environment's plug-in ("explorer"), or "module:function".
        num_processes: processes that play at once; the dataset does not depend on it.
        seed: episode i is played with seed + i.
        max_episode_steps: longer episodes are cut (truncated) there.
        env_kwargs: given to the environment; `size` resizes image observations to (height, width).

    Raises:
        MagratheaError: for an environment or policy that cannot be had, spaces that no tokenizer knows, values that are
            not in their spaces or not finite, and a folder that holds something else.
    """
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
        with _claimed(work):
            _begin(work, metadata)
            num_episodes = _play_all(recording, work, num_processes)
            _write(out, work, num_episodes, metadata)
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


def _play_all(recording: Recording, work: Path, num_processes: int) -> int:
    """Play until enough steps are recorded; returns the number of episodes."""
    lengths = _recorded_lengths(work)
    with Stages() as stages:
        stages.begin("collecting")
        for index, length in _play_missing(recording, work, lengths, num_processes):
            lengths[index] = length
            num_steps = min(sum(lengths.values()), recording.steps)
            stages.update(num_steps / recording.steps, f"{num_steps:,} of {recording.steps:,} steps")
    needed = _num_needed(lengths, recording.steps)
    assert needed is not None
    return needed


def _play_missing(
    recording: Recording, work: Path, lengths: dict[int, int], num_processes: int
) -> Iterator[tuple[int, int]]:
    """Play the episodes that are missing; yields (index, length), which the caller adds to `lengths`."""
    missing = (index for index in itertools.count() if index not in lengths)
    if _num_needed(lengths, recording.steps) is not None:
        return
    if num_processes == 1:
        env = _recorded_env(recording)
        with contextlib.closing(env):
            while _num_needed(lengths, recording.steps) is None:
                yield _play_one(env, recording, work, next(missing))
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


_worker: dict[str, Any] = {}


def _start_worker(recording: Recording, work: Path) -> None:
    """Prepare a worker process: it ignores Ctrl-C, which its parent handles, and exits with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker.update(recording=recording, work=work, env=_recorded_env(recording))
    multiprocessing.util.Finalize(None, _worker["env"].close, exitpriority=10)  # it may have processes of its own


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _play_in_worker(index: int) -> tuple[int, int]:
    return _play_one(_worker["env"], _worker["recording"], _worker["work"], index)


def _recorded_env(recording: Recording) -> gymnasium.Env:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="gymnasium")
        return make_env(recording.env_id, **recording.env_kwargs)


def _play_one(env: gymnasium.Env, recording: Recording, work: Path, index: int) -> tuple[int, int]:
    episode = play_episode(env, recording.policy, recording.seed + index, recording.max_episode_steps)
    save_episode(episode, _episode_path(work, index))
    return index, len(episode)


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
                space_to_config(space)
            except MagratheaError as error:
                raise MagratheaError(
                    f"'{recording.env_id}', {name}: {error} {_unsupported_hint(recording.env_id)}"
                ) from error
        described = environment_metadata(env)
    try:
        return json.loads(json.dumps(described | asdict(recording)))
    except TypeError as error:
        raise MagratheaError(f"env_kwargs can only hold what JSON can ({error}); give plain values.") from error


def _unsupported_hint(env_id: str) -> str:
    plugin = environment_plugin(env_id)
    hint = plugin.unsupported_hint if plugin is not None and env_id not in plugin.env_ids else ""
    return hint.format(env_id=env_id) or "Wrap the environment to leave that part out."


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


def _write(out: Path, work: Path, num_episodes: int, metadata: dict[str, Any]) -> None:
    """Merge the recorded episodes into a Minari dataset, atomically."""
    import minari
    from minari.dataset.minari_storage import MinariStorage

    fresh = work / "data"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    with contextlib.closing(make_env(metadata["env_id"], **metadata["env_kwargs"])) as env:
        storage = MinariStorage.new(fresh, env.observation_space, env.action_space, jpeg_encoding=False)
    paths = [_episode_path(work, index) for index in range(num_episodes)]
    num_steps = merge_episodes(paths, fresh / "main_data.hdf5")
    name = "".join(letter if letter.isalnum() else "-" for letter in metadata["env_id"].lower()).strip("-")
    storage.update_metadata(
        {
            "dataset_id": f"{name}/{metadata['policy'].split(':')[-1].lower().replace('_', '-')}-v0",
            "minari_version": minari.__version__,
            "total_episodes": num_episodes,
            "total_steps": num_steps,
            "dataset_size": float(storage.get_size()),
            OWN_METADATA: metadata,
        }
    )
    fresh.replace(out / "data")
