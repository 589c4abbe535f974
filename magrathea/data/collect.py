"""Recording a dataset: several processes play, each episode becomes a file, and all of them become a Minari dataset.

Episode i is played with seed + i by whichever process comes to it, so that the dataset does not depend on their number,
and an interrupted recording goes on where it was.
"""

from __future__ import annotations

import importlib.metadata
import json
import multiprocessing
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from magrathea.data.dataset import METADATA_FILE_NAME, OWN_METADATA, Dataset
from magrathea.data.environments import environment_metadata, make_env
from magrathea.data.episode import Episode, load_episode, save_episode, stack
from magrathea.data.policies import policy_named
from magrathea.errors import MagratheaError
from magrathea.spaces import space_to_config

if TYPE_CHECKING:
    from minari.data_collector import EpisodeBuffer

WORK_FOLDER = ".collecting"


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What is recorded: everything that the content of the dataset depends on."""

    env_id: str
    steps: int
    policy: str = "sticky"
    seed: int = 0
    max_episode_steps: int | None = None
    env_kwargs: dict[str, Any] = field(default_factory=dict)


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
    """Record an environment into a dataset; goes on where an interrupted recording was.

    Args:
        env_id: Gymnasium id.
        steps: number of steps; the last episode is finished, so that there are a few more.
        out: folder of the dataset.
        policy: "random", "sticky", or "module:function".
        num_processes: processes that play at once; the dataset does not depend on it.
        seed: episode i is played with seed + i.
        max_episode_steps: longer episodes are cut (truncated) there.
        env_kwargs: given to the environment; `size` resizes image observations to (height, width).
    """
    import minari  # noqa: F401  so that it is missed now and not after the recording

    out, kwargs = Path(out), dict(env_kwargs or {})
    recording = Recording(
        env_id=env_id, steps=steps, policy=policy, seed=seed, max_episode_steps=max_episode_steps, env_kwargs=kwargs
    )
    if steps < 1 or num_processes < 1:
        raise MagratheaError(f"Nothing to collect with {steps} steps and {num_processes} processes; give 1 or more.")
    metadata = _describe(recording)
    if _is_done(out, metadata):
        return Dataset.open(out)
    work = out / WORK_FOLDER
    _claim(work, metadata)
    num_episodes = _play_all(recording, work, num_processes)
    _write(out, work, num_episodes, metadata)
    return Dataset.open(out)


def play_episode(env: gymnasium.Env, policy: str, seed: int, max_steps: int | None = None) -> Episode:
    """One episode, played with the seed; raises MagratheaError for observations that are not finite numbers."""
    act = policy_named(policy)(env, np.random.default_rng(seed))
    observation, info = env.reset(seed=seed)
    observations, actions, rewards, terminations, truncations = [_copied(observation)], [], [], [], []
    infos = [_recordable(info)]
    done = False
    while not done:
        action = act(observation, info)
        observation, reward, terminated, truncated, info = env.step(action)
        truncated = truncated or (max_steps is not None and len(actions) + 1 >= max_steps and not terminated)
        done = terminated or truncated
        observations.append(_copied(observation))
        actions.append(_copied(action))
        rewards.append(float(reward))
        terminations.append(bool(terminated))
        truncations.append(bool(truncated))
        infos.append(_recordable(info))
    reward_array = np.array(rewards, dtype=np.float32)
    if not np.isfinite(reward_array).all():
        raise MagratheaError(f"Episode with seed {seed} has a reward that is not a finite number; mend the environment.")
    kept = [key for key in infos[0] if all(key in each and each[key].shape == infos[0][key].shape for each in infos)]
    return Episode(
        observation=stack(observations),
        action=stack(actions),
        reward=reward_array,
        terminated=np.array(terminations),
        truncated=np.array(truncations),
        infos={key: np.stack([each[key] for each in infos]) for key in kept},
        seed=seed,
    )


def _copied(value: Any) -> Any:
    """A copy that the environment will not overwrite; refuses numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_copied(part) for part in value)
    array = np.array(value)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise MagratheaError("The environment gave an observation or took an action with NaN or infinite values; mend it.")
    return array


def _recordable(info: dict[str, Any]) -> dict[str, np.ndarray]:
    """The infos that are numbers."""
    arrays = {key: np.array(value) for key, value in info.items() if isinstance(value, int | float | bool | np.generic | np.ndarray)}
    return {key: array for key, array in arrays.items() if array.dtype.kind in "biuf"}


# -- playing ----------------------------------------------------------------------------------------------------------
def _episode_path(work: Path, index: int) -> Path:
    return work / f"episode_{index:06d}.npz"


def _lengths(work: Path) -> dict[int, int]:
    """Lengths of the episodes that are recorded already; damaged ones are played again."""
    lengths = {}
    for path in sorted(work.glob("episode_*.npz")):
        try:
            with np.load(path, allow_pickle=False) as file:
                lengths[int(path.stem.split("_")[1])] = len(file["reward"])
        except Exception:
            path.unlink()
    return lengths


def _num_needed(lengths: dict[int, int], steps: int) -> int | None:
    """How many episodes from the first on make up the steps, or None if some are still missing."""
    total = 0
    for index in range(len(lengths) + 1):
        if total >= steps:
            return index
        if index not in lengths:
            return None
        total += lengths[index]
    return None


def _play_all(recording: Recording, work: Path, num_processes: int) -> int:
    """Play until the steps are there; returns the number of episodes."""
    lengths = _lengths(work)
    missing = (index for index in range(10**9) if index not in lengths)
    columns = (TextColumn("collecting"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("", total=recording.steps, completed=min(sum(lengths.values()), recording.steps))
        for index, length in _played(recording, work, missing, lengths, num_processes):
            lengths[index] = length
            progress.update(task, completed=min(sum(lengths.values()), recording.steps))
    needed = _num_needed(lengths, recording.steps)
    assert needed is not None
    return needed


def _played(
    recording: Recording, work: Path, missing: Iterator[int], lengths: dict[int, int], num_processes: int
) -> Iterator[tuple[int, int]]:
    """Yields (index, length) of each episode as it is recorded, until they suffice."""
    if num_processes == 1:
        env = _recorded_env(recording)
        while _num_needed(lengths, recording.steps) is None:
            yield _play_one(env, recording, work, next(missing))
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(num_processes, _start_worker, (recording, work)) as pool:
        waiting = [pool.apply_async(_work, (next(missing),)) for _ in range(num_processes + 1)]
        while _num_needed(lengths, recording.steps) is None:
            yield waiting.pop(0).get()
            waiting.append(pool.apply_async(_work, (next(missing),)))
        pool.terminate()


_worker: dict[str, Any] = {}


def _start_worker(recording: Recording, work: Path) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    _worker.update(recording=recording, work=work.resolve())
    _worker["env"] = _recorded_env(recording)


def _work(index: int) -> tuple[int, int]:
    return _play_one(_worker["env"], _worker["recording"], _worker["work"], index)


def _recorded_env(recording: Recording) -> gymnasium.Env:
    warnings.filterwarnings("ignore", module="gymnasium")
    return make_env(recording.env_id, **recording.env_kwargs)


def _play_one(env: gymnasium.Env, recording: Recording, work: Path, index: int) -> tuple[int, int]:
    episode = play_episode(env, recording.policy, recording.seed + index, recording.max_episode_steps)
    save_episode(episode, _episode_path(work, index))
    return index, len(episode)


# -- folders ----------------------------------------------------------------------------------------------------------
def _describe(recording: Recording) -> dict[str, Any]:
    """The dataset's own metadata; makes the environment once, so that a mistake is told at once."""
    policy_named(recording.policy)
    env = make_env(recording.env_id, **recording.env_kwargs)
    try:
        space_to_config(env.observation_space), space_to_config(env.action_space)
        described = environment_metadata(env)
    finally:
        env.close()
    return json.loads(json.dumps(described | asdict(recording)))


def _is_done(out: Path, metadata: dict[str, Any]) -> bool:
    if not (out / "data" / METADATA_FILE_NAME).exists():
        if out.exists() and any(path.name != WORK_FOLDER for path in out.iterdir()):
            raise MagratheaError(f"'{out}' exists and is no dataset; give another --out.")
        return False
    if Dataset.open(out).metadata != metadata:
        raise MagratheaError(f"'{out}' holds a dataset of other settings; give another --out, or remove it.")
    return True


def _claim(work: Path, metadata: dict[str, Any]) -> None:
    """Refuse to go on with a recording that was begun with other settings."""
    work.mkdir(parents=True, exist_ok=True)
    claim = work / "recording.json"
    if claim.exists() and json.loads(claim.read_text()) != metadata:
        raise MagratheaError(f"'{work.parent}' holds an unfinished recording of other settings; give another --out, or remove it.")
    claim.write_text(json.dumps(metadata, indent=1))


def _write(out: Path, work: Path, num_episodes: int, metadata: dict[str, Any]) -> None:
    """Make a Minari dataset of the recorded episodes, in one step."""
    from minari.dataset.minari_storage import MinariStorage

    env = make_env(metadata["env_id"], **metadata["env_kwargs"])
    fresh = work / "data"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    storage = MinariStorage.new(fresh, env.observation_space, env.action_space, jpeg_encoding=False)
    env.close()
    storage.update_episodes(_buffers(work, num_episodes))
    name = metadata["env_id"].replace(":", "-").lower()
    dataset_id = f"{name}/{metadata['policy'].split(':')[-1].lower()}-v0"
    version = importlib.metadata.version("minari")
    storage.update_metadata({"dataset_id": dataset_id, "minari_version": version, OWN_METADATA: metadata})
    os.replace(fresh, out / "data")
    shutil.rmtree(work)


def _buffers(work: Path, num_episodes: int) -> Iterator[EpisodeBuffer]:
    from minari.data_collector import EpisodeBuffer

    for index in range(num_episodes):
        episode = load_episode(_episode_path(work, index))
        yield EpisodeBuffer(
            id=index,
            seed=episode.seed,
            observations=episode.observation,
            actions=episode.action,
            rewards=episode.reward,  # type: ignore[arg-type]
            terminations=episode.terminated,  # type: ignore[arg-type]
            truncations=episode.truncated,  # type: ignore[arg-type]
            infos=episode.infos,
        )
