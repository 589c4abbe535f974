"""Counters: whole numbers that an environment reports in `info`, such as lives, score, inventory and achievements, kept
as numbers beside the picture."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from magrathea.errors import FOREIGN_ERRORS, MagratheaError, Terminated, one_line
from magrathea.spaces import COUNTERS, is_image

ALL = "all"
LIMITS = np.iinfo(np.int32)
MOST = 256  # counters of an environment
MOST_ENTRIES = 64  # of an array that are taken for counters
PROBE_STEPS = 200  # random ones in which the counters of `info` are looked for
LEAST_CHANGES = 10  # in the same episode, from which a number that always rises by the same is a clock
INFO_NAMES = "info_names"  # in an environment's metadata: the names of the entries of an array, by its key in `info`
_NAME = re.compile(r"[\w .+-]{1,100}")

Counter = tuple[str, str | int | None]  # key of `info`, and of the part of a dict or an array there


@dataclass
class FoundCounters:
    """What `info` holds, by what random play shows of it.

    Attributes:
        counters: names of whole numbers, "lives" or of a group "inventory.wood", with the values seen.
        clocks: of those, the names of the ones that rise by the same at every step.
        unnamed: of those, entries of arrays of which the environment does not say what they are, and what it does not
            name in its metadata's "counters", where it has that.
        others: keys of `info` that are none, and why not.
    """

    counters: dict[str, list[int]] = field(default_factory=dict)
    clocks: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    others: dict[str, str] = field(default_factory=dict)

    @property
    def usual(self) -> list[str]:
        """Those that "all" stands for."""
        return [name for name in self.counters if name not in self.clocks and name not in self.unnamed]

    def in_words(self) -> str:
        """The names of the usual ones, with the groups as a whole."""
        groups: dict[str, int] = {}
        for name in self.usual:
            group = name.partition(".")[0]
            groups[group] = groups.get(group, 0) + 1
        return ", ".join(name if num == 1 else f"{name} ({num} numbers)" for name, num in groups.items())


def whole_number(value: Any) -> int | str:
    """A number as a whole one, or why it is none."""
    array = np.asarray(value) if isinstance(value, int | float | bool | np.generic | np.ndarray) else None
    if array is None or array.dtype.kind not in "biuf":
        return f"is {one_line(repr(value), 60)}, no number"
    if array.size != 1:
        return f"is an array of shape {array.shape}"
    number = array.reshape(()).item()
    if number != number or int(np.clip(number, LIMITS.min, LIMITS.max)) != number:
        return f"is {number}, no whole number of 32 bits"
    return int(number)


def find_counters(env: gymnasium.Env, num_steps: int = PROBE_STEPS, seconds: float | None = None) -> FoundCounters:
    """Look for whole numbers in `info` while random actions are taken, perhaps for a limited time.

    Raises whatever the environment raises.
    """
    end, names = None if seconds is None else time.monotonic() + seconds, _info_names(env)
    seen: dict[str, list[list[int]]] = {}  # name -> episode -> values
    found, seed = FoundCounters(), 0
    env.action_space.seed(0)
    is_over = True
    for step in range(num_steps):
        if is_over:
            _, info = env.reset(seed=seed)
            seed += 1
        else:
            *_, terminated, truncated, info = env.step(env.action_space.sample())
        _add(found, seen, info, names, seed)
        is_over = False if is_over else bool(terminated or truncated)
        if end is not None and time.monotonic() > end and step > LEAST_CHANGES:
            break
    for name, episodes in seen.items():
        if name.partition(".")[0] not in found.others:
            found.counters[name] = [value for episode in episodes for value in episode]
    found.clocks = [name for name in found.counters if _is_clock(seen[name])]
    groups = {name.partition(".")[0] for name in found.counters if name.partition(".")[2].isdigit()}
    declared = (env.metadata or {}).get(COUNTERS)
    if declared is not None:
        groups |= {name.partition(".")[0] for name in found.counters} - {*declared}
    found.unnamed = [name for name in found.counters if name.partition(".")[0] in groups]
    return found


def _add(
    found: FoundCounters, seen: dict[str, list[list[int]]], info: Any, names: Mapping[str, Sequence[str]], seed: int
) -> None:
    """Add the numbers of one info, of the episode of a seed from 1 on."""
    for name, value in _parts(info if isinstance(info, Mapping) else {}, names):
        number = whole_number(value)
        group = name.partition(".")[0]
        if isinstance(number, str):
            found.others.setdefault(group, number)
        elif not _NAME.fullmatch(name):
            found.others.setdefault(group, "has a name of other signs than letters, digits, spaces and . + -")
        else:
            episodes = seen.setdefault(name, [])
            episodes.extend([] for _ in range(seed - len(episodes)))
            episodes[-1].append(number)


def _parts(info: Mapping[Any, Any], names: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, Any]]:
    """(name, value) of everything in an info: of dicts and short arrays in it "key.part"."""
    for key, value in info.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{part}", each) for part, each in value.items())
        elif isinstance(value, np.ndarray) and value.ndim == 1 and len(value) <= MOST_ENTRIES:
            own = names.get(key, ())
            for index, each in enumerate(value):
                yield f"{key}.{own[index] if index < len(own) else index}", each
        else:
            yield str(key), value


def _info_names(env: gymnasium.Env) -> dict[str, Sequence[str]]:
    given = (env.metadata or {}).get(INFO_NAMES)
    return dict(given) if isinstance(given, Mapping) else {}


def _is_clock(episodes: list[list[int]]) -> bool:
    changes = [np.diff(values) for values in episodes if len(values) > 1]
    joined = np.concatenate(changes) if changes else np.zeros(0)
    return len(joined) >= LEAST_CHANGES and joined[0] != 0 and bool((joined == joined[0]).all())


def chosen_counters(env: gymnasium.Env, wanted: str | Sequence[str]) -> list[str]:
    """The names of the counters that are asked for: "all", or names and groups, as a list or joined by commas.

    Raises:
        MagratheaError: for a name of none, with those that there are.
    """
    asked = [name.strip() for name in wanted.split(",")] if isinstance(wanted, str) else wanted
    _check_names(asked)
    found = find_counters(env)
    known = found.in_words() or "no whole numbers"
    if list(asked) == [ALL]:
        asked = found.usual
        if not asked:
            raise MagratheaError(f"info of {_name(env)} holds {known} to keep; leave out --info.")
    chosen: dict[str, None] = {}
    for name in asked:
        own = [each for each in found.counters if name in (each, each.partition(".")[0])]
        if not own:
            why = f"info['{name}'] {found.others[name]}" if name in found.others else f"it holds {known}"
            raise MagratheaError(
                f"info of {_name(env)} shows no counter '{name}' in {PROBE_STEPS} random steps ({why}); give --info "
                "all, or names of its whole numbers joined by commas."
            )
        chosen.update(dict.fromkeys(own))
    if len(chosen) > MOST:
        raise MagratheaError(f"info of {_name(env)} holds {len(chosen)} counters, and at most {MOST} can be kept.")
    return list(chosen)


def what_could_be_kept(env: gymnasium.Env) -> str:
    """A note of the counters that `info` holds and how to keep them; "" where there are none, or the environment fails,
    which the recording will tell."""
    try:
        words = find_counters(env, 32, seconds=0.5).in_words()
    except Terminated:
        raise
    except FOREIGN_ERRORS:
        return ""
    if not words:
        return ""
    return f"info holds counters: {words}. --info all keeps them beside the picture, --info NAME,NAME some of them."


class KeepCounters(gymnasium.Wrapper, gymnasium.utils.RecordConstructorArgs):
    """Adds counters of `info` to the observation, as one part "counters" (K,) int32 of a Dict.

    What the environment observes stays as it is: a Dict's parts under their own keys, a picture as "image", anything
    else as "observation". A counter that is not there, or is no whole number, has the value that it had last in the
    episode, 0 at first, and is noted.

    Args:
        env: the environment.
        names: of K counters: "lives", or "inventory.wood" for a part of a dict or an array.
    """

    def __init__(self, env: gymnasium.Env, names: Sequence[str]) -> None:
        _check_names(names)
        gymnasium.utils.RecordConstructorArgs.__init__(self, names=list(names))
        gymnasium.Wrapper.__init__(self, env)
        self.counters = list(names)
        own_names = _info_names(env)
        self._keys = [_key_of(name, own_names) for name in names]
        space = env.observation_space
        self._own_key = None if isinstance(space, spaces.Dict) else "image" if is_image(space) else "observation"
        parts: dict[Any, Any] = dict(space.spaces) if isinstance(space, spaces.Dict) else {self._own_key: space}
        if COUNTERS in parts:
            raise MagratheaError(f"The observation of {_name(env)} has a part '{COUNTERS}' already; rename it.")
        box = spaces.Box(LIMITS.min, LIMITS.max, (len(names),), np.int32)
        parts[COUNTERS] = box
        self.observation_space = spaces.Dict(parts)
        self._last = np.zeros(len(names), np.int32)
        self._notes: dict[str, None] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._last = np.zeros_like(self._last)
        return self._with_counters(observation, info, "at the reset"), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._with_counters(observation, info, "in a step"), reward, terminated, truncated, info

    def own_observation(self, observation: Any) -> Any:
        """What the environment itself observes."""
        if self._own_key is not None:
            return observation[self._own_key]
        return {key: value for key, value in observation.items() if key != COUNTERS}

    def take_notes(self) -> list[str]:
        """What was to be noted since the last call."""
        notes, self._notes = list(self._notes), {}
        return notes

    def _with_counters(self, observation: Any, info: Any, when: str) -> dict[str, Any]:
        values = self._last.copy()
        for index, (name, key) in enumerate(zip(self.counters, self._keys, strict=True)):
            number = _look_up(info, key)
            if isinstance(number, str):
                text = f"Counter '{name}' of info {number} {when}; it keeps its last value of the episode, or 0."
                self._notes[text] = None
            else:
                values[index] = number
        self._last = values
        parts: dict[str, Any] = dict(observation) if self._own_key is None else {self._own_key: observation}
        return parts | {COUNTERS: values}


def _check_names(names: Any) -> None:
    if not isinstance(names, list | tuple) or not names or not all(isinstance(each, str) for each in names):
        raise MagratheaError(f"counters is {one_line(repr(names), 100)}; give a list of names, such as ['lives'].")


def _key_of(name: str, own_names: Mapping[str, Sequence[str]]) -> Counter:
    group, dot, part = name.partition(".")
    if not dot:
        return name, None
    if part in own_names.get(group, ()):
        return group, list(own_names[group]).index(part)
    return group, int(part) if part.isdigit() else part


def _look_up(info: Any, key: Counter) -> int | str:
    """The number of a counter in an info, or why there is none."""
    group, part = key
    inside = info.get(group) if isinstance(info, Mapping) else None
    if inside is None and isinstance(info, Mapping) and part is not None:
        inside, part = info.get(f"{group}.{part}"), None  # a key with a dot of its own
    if inside is None:
        return "is missing"
    if part is None:
        return whole_number(inside)
    try:
        value = inside.get(part, inside.get(str(part))) if isinstance(inside, Mapping) else inside[part]
    except (IndexError, KeyError, TypeError):
        value = None
    return "is missing" if value is None else whole_number(value)


def _name(env: gymnasium.Env) -> str:
    return f"'{env.spec.id}'" if env.spec is not None else f"'{type(env.unwrapped).__name__}'"
