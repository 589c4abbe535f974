"""Playing one episode and recording it, with every value checked against the environment's spaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from magrathea.data.counters import KeepCounters
from magrathea.data.episode import Episode
from magrathea.data.make_env import OLD_API
from magrathea.data.policies import policy_named
from magrathea.errors import MagratheaError, one_line
from magrathea.spaces import checked_array, first_outside, is_name, map_leaves, stack

REWARD_SPACE = spaces.Box(-np.inf, np.inf, (), np.float32)


Note = Callable[[str], None]


class EpisodeRecorder:
    """Records one episode step by step, and checks every value against the environment's spaces.

    Args:
        env: as `make_env` makes it; it is reset.
        seed: of its reset.
        max_steps: the episode is truncated there.
        note: called with what is not recorded as it is.
        is_late: says whether the episode is truncated after a number of steps, for want of time.
        what: an action is called in errors.

    Attributes:
        observation: the last one.
        info: that came with it.
        is_done: whether the episode has ended or is truncated.

    Raises:
        MagratheaError: here and in `step`, for observations, actions or rewards that are not in their spaces or not
            finite numbers, and for an environment of the old gym API.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        seed: int,
        max_steps: int | None = None,
        note: Note = lambda text: None,
        is_late: Callable[[int], bool] | None = None,
        what: str = "An action",
    ) -> None:
        self.env, self.seed, self.is_done = env, seed, False
        self._max_steps, self._note, self._is_late, self._what = max_steps, note, is_late, what
        self.observation, self.info = _reset(env, seed)
        self._observations, self._infos = [_observed(env, self.observation, note)], [_recordable(env, self.info, note)]
        self._actions: list[Any] = []
        self._rewards: list[float] = []
        self._terminations: list[bool] = []
        self._truncations: list[bool] = []

    def step(self, action: Any) -> None:
        """Take an action and record what follows it."""
        env, note = self.env, self._note
        action = checked_copy(env.action_space, action, self._what, note)
        result = _step(env, plain_action(env.action_space, action))
        self.observation, reward, terminated, truncated, self.info = result
        truncated = truncated or (self._is_cut(len(self._actions) + 1) and not terminated)
        self.is_done = terminated or truncated
        self._observations.append(_observed(env, self.observation, note))
        self._actions.append(action)
        self._rewards.append(_rewarded(env, reward))
        self._terminations.append(terminated)
        self._truncations.append(truncated)
        self._infos.append(_recordable(env, self.info, note))

    def _is_cut(self, num_steps: int) -> bool:
        is_long = self._max_steps is not None and num_steps >= self._max_steps
        return is_long or (self._is_late is not None and self._is_late(num_steps))

    def episode(self) -> Episode:
        """What was recorded, of at least one step."""
        for text in self.env.take_notes() if isinstance(self.env, KeepCounters) else []:
            self._note(text)
        return Episode(
            observation=stack(self._observations),
            action=stack(self._actions),
            reward=np.array(self._rewards, dtype=np.float32),
            terminated=np.array(self._terminations),
            truncated=np.array(self._truncations),
            infos=_stacked_infos(self.env, self._infos, self._note),
            seed=self.seed,
        )


def play_episode(
    env: gymnasium.Env,
    policy: str,
    seed: int,
    max_steps: int | None = None,
    note: Note = lambda text: None,
    is_late: Callable[[int], bool] | None = None,
) -> Episode:
    """Play one episode by a policy ("random", "sticky", "explore", one of the environment's plug-in ("explorer") or
    "module:function"), which does not see counters. The seed is of the environment's reset and of the policy; the
    rest, and what is raised, is as in `EpisodeRecorder`."""
    act = policy_named(policy, _name(env))(env, np.random.default_rng(seed))
    recorder = EpisodeRecorder(env, seed, max_steps, note, is_late, f"An action of policy '{policy}'")
    while not recorder.is_done:
        observation = recorder.observation
        seen = env.own_observation(observation) if isinstance(env, KeepCounters) else observation
        recorder.step(act(seen, recorder.info))
    return recorder.episode()


def _reset(env: gymnasium.Env, seed: int) -> tuple[Any, Any]:
    try:
        result = env.reset(seed=seed)
    except TypeError as error:
        if "'seed'" in str(error):
            raise MagratheaError(f"Environment '{_name(env)}' {OLD_API}.") from error
        raise
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict | None)):
        raise MagratheaError(f"Environment '{_name(env)}' {OLD_API}.")
    return result


def _step(env: gymnasium.Env, action: Any) -> tuple[Any, Any, bool, bool, Any]:
    try:
        observation, reward, terminated, truncated, info = env.step(action)
    except ValueError as error:  # of this line, or of a wrapper's
        if "expected 5, got 4" in str(error):
            raise MagratheaError(f"Environment '{_name(env)}' {OLD_API}.") from error
        raise
    return observation, reward, _flag(env, terminated, "terminated"), _flag(env, truncated, "truncated"), info


def _flag(env: gymnasium.Env, value: Any, name: str) -> bool:
    """Whether an episode ended: a bool, 0 or 1, or an array of one of them."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or array.size != 1 or array.reshape(()) not in (0, 1):
        raise MagratheaError(f"{name} of '{_name(env)}' is {one_line(repr(value), 100)}; give True or False.")
    return bool(array.reshape(()))


def checked_copy(space: gymnasium.Space, value: Any, what: str, note: Note = lambda text: None) -> Any:
    """A copy of a value as arrays of the space's dtypes, which hold the same numbers.

    Floats outside of the bounds of their Box, which environments often give, are kept and noted.

    Raises:
        MagratheaError: which begins with `what`, as `checked_array` does, and for another structure than the space's.
    """

    def checked(leaf: gymnasium.Space, part: Any) -> np.ndarray:
        array = checked_array(leaf, part, what)
        outside = first_outside(leaf, array) if array.dtype.kind == "f" else None
        if outside is not None:
            note(f"{what} {outside}; it is recorded, but dreams stay within the space: correct its bounds.")
        return array

    return map_leaves(checked, space, value, what)


def _observed(env: gymnasium.Env, observation: Any, note: Note) -> Any:
    return checked_copy(env.observation_space, observation, f"An observation of '{_name(env)}'", note)


def _rewarded(env: gymnasium.Env, reward: Any) -> float:
    """A reward as a number: a number or an array of one."""
    what = f"A reward of '{_name(env)}'"
    array = np.asarray(reward)
    if array.dtype.kind not in "biuf" or array.size != 1:
        shown = f"an array of shape {array.shape}" if array.ndim else one_line(repr(reward), 100)
        raise MagratheaError(f"{what} is {shown}; give one number, in a wrapper.")
    return float(checked_array(REWARD_SPACE, array.reshape(()), what))


def _name(env: gymnasium.Env) -> str:
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def plain_action(space: gymnasium.Space, action: Any) -> Any:
    """An action as environments expect it: a scalar where the space is Discrete, a str where it is Text."""
    return map_leaves(_plain_choice, space, action, "An action")


def _plain_choice(space: gymnasium.Space, choice: Any) -> Any:
    if isinstance(space, spaces.Text):
        return str(choice)
    return space.dtype.type(choice) if isinstance(space, spaces.Discrete) and space.dtype is not None else choice


def _recordable(env: gymnasium.Env, info: dict[str, Any] | None, note: Note) -> dict[str, np.ndarray]:
    """The numbers and arrays of numbers of an info, by keys that a file can have; notes what it leaves out."""
    if not isinstance(info, dict | None):
        raise MagratheaError(f"info of '{_name(env)}' is {one_line(repr(info), 100)}; give a dict.")
    numbers = int | float | bool | np.generic | np.ndarray
    arrays = {key: np.array(value) for key, value in (info or {}).items() if isinstance(value, numbers)}
    kept = {key: array for key, array in arrays.items() if _is_storable(array) and is_name(key)}
    for key in info or {}:
        if key not in kept:
            _note_dropped(env, key, note)
    return kept


def _is_storable(array: np.ndarray) -> bool:
    return array.dtype.kind in "biuf" and array.dtype.itemsize <= 8


def _stacked_infos(env: gymnasium.Env, infos: list[dict[str, np.ndarray]], note: Note) -> dict[str, np.ndarray]:
    """Stack the infos that every step has in the same shape: each (T + 1, …); notes what it leaves out."""
    first = infos[0]
    kept = [key for key in first if all(key in each and each[key].shape == first[key].shape for each in infos)]
    for key in {key: None for each in infos for key in each}:
        if key not in kept:
            _note_dropped(env, key, note)
    return {key: np.stack([each[key] for each in infos]) for key in kept}


def _note_dropped(env: gymnasium.Env, key: Any, note: Note) -> None:
    note(
        f"info[{key!r}] of '{_name(env)}' is not recorded; it has to be an array of numbers of one shape in every "
        "step, the reset included, with a printable name without '/'."
    )
