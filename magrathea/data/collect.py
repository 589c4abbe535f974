"""Recording a dataset: several processes play episodes into a file each, which are merged into a Minari dataset.

Episode i is played with seed + i by whichever process is free, so the dataset does not depend on their number, and an
interrupted recording is resumed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Literal

from magrathea.data.counters import KeepCounters, chosen_counters, what_could_be_kept
from magrathea.data.dataset import METADATA_FILE_NAME, Dataset, write_dataset
from magrathea.data.episode import episode_length
from magrathea.data.lockstep import ActingMaker
from magrathea.data.make_env import closed_after, draws_pictures, environment_metadata, make_env
from magrathea.data.pictures import ConvertPictures, fitting_size
from magrathea.data.playing import (
    FAILED,
    Needed,
    Played,
    Recording,
    TimeLimit,
    check_main,
    episode_path,
    play_missing,
    play_together,
    recorded_env,
)
from magrathea.data.policies import current_policy_name, policy_named
from magrathea.errors import MagratheaError, exit_on_sigterm
from magrathea.files import atomic_write, claim_folder, read_json
from magrathea.progress import Stages
from magrathea.settings import Count, Positive, check_value
from magrathea.sounds import sounds_of_other_lengths
from magrathea.spaces import COUNTERS, check_space, find_picture

WORK_FOLDER = ".collecting"
ASKED_STEPS = "asked_steps"  # in the metadata of a dataset that was cut by the time; "steps" are those that it has
OnError = Literal["stop", "skip"]
MAX_FAILED_IN_A_ROW = 10
MIN_EPISODES = 4  # of a recording that is cut by the time: two to train on, and two held out


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
    max_seconds: float | None = None,
    info: str | Sequence[str] | None = None,
    pixels: bool = False,
    exact: bool = False,
    acting: ActingMaker | None = None,
    stages: Stages | None = None,
) -> Dataset:
    """Record an environment into a dataset, or resume an interrupted recording.

    Args:
        env_id: Gymnasium id, or "module:id".
        steps: number of steps; the last episode is finished, so that there are a few more.
        out: folder of the dataset.
        policy: "random", "sticky", "explore", one of the environment's plug-in ("explorer"), the folder of an agent,
            or "module:function".
        num_processes: processes that play at once; the dataset does not depend on it.
        seed: episode i is played with seed + i.
        max_episode_steps: longer episodes are cut (truncated) there; if None, after 1,000 steps where the environment
            has no time limit and no plug-in.
        env_kwargs: given to the environment; `size` resizes image observations to (height, width).
        on_error: whether an episode in which the environment, the policy or a value fails stops the recording, which
            goes on when it is called again, or is left out ("skip").
        max_seconds: time after which the recording ends with the episodes that are whole, at least MIN_EPISODES; the
            dataset is then one of as many steps as they have. Episodes that are so long that there would be fewer are
            cut (truncated).
        info: names of counters in `info` that become part of the observation, or "all"; see `KeepCounters`. Written as
            `counters` of `env_kwargs`.
        pixels: whether the picture that the environment draws is recorded in place of its own observation. Written as
            `pixels` of `env_kwargs`.
        exact: whether the last episode is cut (truncated) instead of finished, so that there are not a few steps more;
            with one process only.
        acting: makes the policy in place of the one that `policy` names: one that acts in several environments at once.
            As many steps as were asked for are recorded, exactly; with one process only.
        stages: display that the progress is shown in; one of its own if not given.

    Raises:
        MagratheaError: for an environment or policy that cannot be had, spaces that no tokenizer can learn, an
            episode that fails, and a folder that holds something else.
    """
    check_value("on_error", on_error, OnError)
    check_value("num_processes", num_processes, Count)
    check_value("max_seconds", max_seconds, Positive | None)
    if (exact or acting is not None) and num_processes > 1:
        raise MagratheaError(f"num_processes is {num_processes}; give 1 for a recording of exactly {steps:,} steps.")
    check_main()
    _require_minari()
    out = Path(out).resolve()
    asked = ({} if info is None else {COUNTERS: info}) | ({"pixels": True} if pixels else {})
    recording = Recording(
        env_id=env_id,
        steps=steps,
        policy=policy,
        seed=seed,
        max_episode_steps=max_episode_steps,
        env_kwargs=dict(env_kwargs or {}) | asked,
    )
    time_limit = None if max_seconds is None else TimeLimit.of(max_seconds, num_processes, MIN_EPISODES)
    with exit_on_sigterm():  # environments are closed
        recording, metadata = _described(recording)
    work = out / WORK_FOLDER
    if not _is_done(out, metadata, max_seconds):
        with claim_folder(out, "recording into"), exit_on_sigterm():
            if not _is_done(out, metadata, max_seconds):  # meanwhile
                _begin(work, metadata)
                lengths = _recorded_lengths(work)
                if acting is None:
                    played = play_missing(recording, work, lengths, num_processes, time_limit, exact)
                else:
                    played = play_together(recording, work, lengths, acting)
                lengths = _play_all(recording, work, lengths, played, on_error, time_limit, stages)
                _write(out, work, lengths, metadata)
            shutil.rmtree(work, ignore_errors=True)
    return Dataset.open(out)


# -- playing ----------------------------------------------------------------------------------------------------------
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


def _play_all(
    recording: Recording,
    work: Path,
    lengths: dict[int, int],
    episodes: Generator[Played, None, None],
    on_error: OnError,
    time_limit: TimeLimit | None,
    display: Stages | None,
) -> dict[int, int]:
    """Play until enough steps are recorded, or up to a moment; adds to the lengths, and returns that of each episode of
    the dataset, FAILED included."""
    noted = set()
    with Stages() if display is None else contextlib.nullcontext(display) as stages:
        stages.begin("collecting")
        with contextlib.closing(episodes) as played:
            for episode in played:
                lengths[episode.index] = episode.length
                for text in sorted({*episode.notes} - noted):
                    stages.note(f"Note: {text}")
                    noted.add(text)
                if episode.failure:
                    _handle_failure(recording, work, lengths, episode, on_error, stages)
                num_steps = min(sum(lengths.values()), recording.steps)
                stages.update(num_steps / recording.steps, f"{num_steps:,} of {recording.steps:,} steps")
                is_late = time_limit is not None and time.monotonic() > time_limit.end
                if is_late and sum(map(bool, _first(lengths))) >= MIN_EPISODES:
                    stages.note(f"Note: {num_steps:,} of {recording.steps:,} steps were recorded in the time for it.")
                    break
    return dict(enumerate(_first(lengths)[: Needed(lengths, recording.steps)()]))


def _first(lengths: dict[int, int]) -> list[int]:
    """The lengths of the episodes up to the first that is missing."""
    num = next(index for index in itertools.count() if index not in lengths)
    return [lengths[index] for index in range(num)]


def _handle_failure(
    recording: Recording, work: Path, lengths: dict[int, int], episode: Played, on_error: OnError, stages: Stages
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


# -- folders ----------------------------------------------------------------------------------------------------------
def _require_minari() -> None:
    try:
        import h5py  # noqa: F401
        import minari  # noqa: F401
    except ImportError as error:
        raise MagratheaError(
            f"Recording needs the package '{error.name}'; install it with 'pip install magrathea[train]'."
        ) from error


def _described(recording: Recording) -> tuple[Recording, dict[str, Any]]:
    """The recording, with the size of large pictures where none was asked for and the names of its counters, and the
    dataset's metadata; makes the environment, to raise errors before anything is recorded."""
    policy_named(recording.policy, recording.env_id)
    recording = _with_counters(recording)
    if "size" not in recording.env_kwargs:
        with closed_after(recorded_env(recording)) as env:
            size = fitting_size(env.observation_space)
            if find_picture(env.observation_space) is None and draws_pictures(env):
                print(
                    "Note: there is no picture in the observation; --pixels records what the environment draws.",
                    file=sys.stderr,
                )
        if size is not None:
            recording = replace(recording, env_kwargs={**recording.env_kwargs, "size": list(size)})
            print(
                f"Note: pictures are recorded at {size[0]}x{size[1]} pixels; ask for another size by "
                "--env-kwargs '{\"size\": [height, width]}'.",
                file=sys.stderr,
            )
    with closed_after(recorded_env(recording)) as env:
        for name, space in (("observation", env.observation_space), ("action", env.action_space)):
            try:
                check_space(space, name)
            except MagratheaError as error:
                raise MagratheaError(f"'{recording.env_id}', {error}") from error
        described = environment_metadata(env)
        converted = env.env if isinstance(env, KeepCounters) else env
        changes = converted.changes if isinstance(converted, ConvertPictures) else ()
        for text in (*changes, *sounds_of_other_lengths(env.observation_space, described["fps"])):
            print(f"Note: {text}", file=sys.stderr)
    try:
        return recording, json.loads(json.dumps(described | asdict(recording), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise MagratheaError(f"env_kwargs can only hold what JSON can ({error}); give plain values.") from error


def _with_counters(recording: Recording) -> Recording:
    """The recording with the name of each counter that was asked for; prints which could be, where none was."""
    wanted = recording.env_kwargs.get(COUNTERS)
    without = {key: value for key, value in recording.env_kwargs.items() if key != COUNTERS}
    with closed_after(recorded_env(replace(recording, env_kwargs=without))) as env:
        if wanted is None:
            note = what_could_be_kept(env)
            if note:
                print(f"Note: {note}", file=sys.stderr)
            return recording
        return replace(recording, env_kwargs={**without, COUNTERS: chosen_counters(env, wanted)})


def _is_done(out: Path, metadata: dict[str, Any], max_seconds: float | None) -> bool:
    """Whether the recording is there already, perhaps with fewer steps where it may be cut by the time; raises
    MagratheaError where something else is."""
    if not (out / "data" / METADATA_FILE_NAME).exists():
        if out.exists() and (not out.is_dir() or any(path.name != WORK_FOLDER for path in out.iterdir())):
            raise MagratheaError(f"'{out}' exists and is not a dataset; give another --out.")
        return False
    stored = Dataset.open(out).metadata
    if max_seconds is not None and ASKED_STEPS in stored:
        stored = stored | {"steps": stored[ASKED_STEPS]}
    _require_same(stored, metadata, f"'{out}' holds a dataset")
    return True


def _begin(work: Path, metadata: dict[str, Any]) -> None:
    """Write down the settings of a recording; refuses to resume one of other settings."""
    settings = work / "recording.json"
    if settings.exists():
        stored = read_json(settings, dict[str, Any], f"remove the folder '{work}' to record anew")
        _require_same(stored, metadata, f"'{work.parent}' holds an unfinished recording")
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MagratheaError(f"'{work.parent}' cannot be made ({error.strerror}); give another --out.") from error
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
    fresh = work / "data"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    paths = [episode_path(work, index) for index, length in lengths.items() if length > FAILED]
    failed = [index for index, length in lengths.items() if length == FAILED]
    num_steps = sum(lengths.values())
    cut = {"steps": num_steps, ASKED_STEPS: metadata["steps"]} if num_steps < metadata["steps"] else {}
    name = f"{metadata['env_id'].replace('/', '-')}/{metadata['policy'].split(':')[-1].replace('+', '-')}-v0"
    about = metadata | cut | ({"failed_episodes": failed} if failed else {})
    with closed_after(make_env(metadata["env_id"], **metadata["env_kwargs"])) as env:
        write_dataset(fresh, env.observation_space, env.action_space, paths, name, about)
    fresh.replace(out / "data")
