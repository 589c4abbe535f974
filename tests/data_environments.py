"""Environments that tests record; other processes make them by "data_environments:ID"."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from board import Board
from gymnasium import spaces


class SlowBoard(Board):
    """A board with slow steps, so that a recording can be killed half-way."""

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        time.sleep(0.002)
        return super().step(action)


class Endless(SlowBoard):
    """A board whose episodes take minutes."""

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, _, _, info = super().step(action)
        return observation, reward, False, False, info


class Drawn(gymnasium.Env):
    """Observes how often it was stepped, and draws that as a brightness, into the same array every time."""

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 5}

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space, self.action_space = spaces.Box(0, 100, (2,)), spaces.Discrete(2)
        self.render_mode, self._canvas = render_mode, np.zeros((24, 16, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.num_steps = 0
        return self._observation(), {}

    def _observation(self) -> np.ndarray:
        return np.full(2, self.num_steps, np.float32)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.num_steps += 1
        return self._observation(), 0.0, self.num_steps == 9, False, {}

    def render(self) -> Any:
        if self.render_mode != "rgb_array":
            return str(self.num_steps)
        self._canvas[:] = 10 * self.num_steps
        return self._canvas


class Waiting(gymnasium.Env):
    """Counts up for eight steps, whatever is done, and then by the actions."""

    observation_space, action_space = spaces.Discrete(64), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.num_steps, self.count = 0, 0
        return 0, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.num_steps += 1
        self.count += 1 if self.num_steps <= 8 else 1 + int(action)
        return self.count, 0.0, False, self.num_steps == 30, {}


class Odd(gymnasium.Env):
    """Episodes of five random observations of a space; the one of step `nan_at` has a NaN."""

    def __init__(self, space: str = "dict", nan_at: int = -1) -> None:
        picture, number = spaces.Box(0, 255, (4, 4, 3), np.uint8), spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space: spaces.Space = {
            "dict": spaces.Dict(picture=picture, inner=spaces.Dict(number=number, choice=spaces.Discrete(3))),
            "tuple": spaces.Tuple([number, spaces.MultiBinary(3)]),
            "number": number,
            "sequence": spaces.Sequence(spaces.Discrete(3)),
            "graph": spaces.Graph(spaces.Discrete(3), None),
        }[space]
        self.action_space = spaces.MultiDiscrete([2, 3])
        self.nan_at = nan_at

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.num_steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.num_steps += 1
        observation = self.observation_space.sample()
        if self.num_steps == self.nan_at:
            observation[0] = np.nan
        return observation, 0.5, False, self.num_steps == 5, {}


class Other(gymnasium.Env):
    """An environment of somebody else, of which one thing is as `case` says; see tests/test_other_environments.py."""

    def __init__(self, case: str, value: Any = None, fails: tuple[int, ...] = (), length: int = 5) -> None:
        self.case, self.value, self.fails, self.length = case, value, fails, length
        space, self.observation = OBSERVATIONS.get(case, (spaces.Box(0, 255, (8, 8, 3), np.uint8), None))
        self.observation_space: spaces.Space = space
        self.action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.seed, self.num_steps = seed, 0
        return (self._observation(), self._info())

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, Any]:
        self.num_steps += 1
        if self.seed in self.fails and self.num_steps == 3:
            raise SystemExit("the world ended") if self.case == "exit" else ZeroDivisionError("the world fell apart")
        reward = REWARDS[self.value] if self.case == "reward" else 0.5
        terminated: Any = FLAGS[self.value] if self.case == "terminated" else False
        return self._observation(), reward, terminated, self.num_steps == self.length, self._info()

    def close(self) -> None:
        if self.case == "close":
            raise RuntimeError("it cannot be closed")

    def _observation(self) -> Any:
        return self.observation_space.sample() if self.observation is None else self.observation

    def _info(self) -> Any:
        if self.case != "info":
            return [1] if self.case == "info list" and self.num_steps else {}
        mixed = [1, "a"] if self.num_steps % 2 else 3
        odd = {"object": object(), "mixed": mixed, "text": "north", "a/b": 1, "": 2, 7: 3, "none": None, ".": 1}
        later = {"late": 1} if self.num_steps else {}
        growing = {"shape": np.zeros(self.num_steps), "long": np.zeros(2, np.longdouble), "big": 2**70}
        return odd | later | growing | {"kept": np.arange(3), "array": np.array([object()])}


OBSERVATIONS: dict[str, tuple[spaces.Space, Any]] = {
    "unit floats for uint8": (spaces.Box(0, 255, (8, 8, 3), np.uint8), np.full((8, 8, 3), 0.5)),
    "whole floats for uint8": (spaces.Box(0, 255, (8, 8, 3), np.uint8), np.ones((8, 8, 3))),
    "300 in uint8": (spaces.Box(0, 255, (2,), np.uint8), np.array([7, 300])),
    "-200 in int8": (spaces.Box(-128, 127, (2, 2), np.int8), np.array([[0, 1], [2, -200]])),
    "2.7 in Discrete": (spaces.Discrete(4), 2.7),
    "4 in Discrete": (spaces.Discrete(4), 4),
    "3 in MultiDiscrete": (spaces.MultiDiscrete([2, 3]), np.array([1, 3])),
    "2 in MultiBinary": (spaces.MultiBinary(3), np.array([0, 2, 1])),
    "2 in bool": (spaces.Box(0, 1, (2,), bool), np.array([0, 2])),
    "1e300 in float32": (spaces.Box(-np.inf, np.inf, (2,), np.float32), np.array([0, 1e300])),
    "2**70 in int64": (spaces.Box(-np.inf, np.inf, (1,), np.int64), [2**70]),
    "an object": (spaces.Discrete(4), object()),
    "a ragged list": (spaces.Box(0, 1, (2,), np.float32), [[1], [1, 2]]),
    "9 in float": (spaces.Box(-1, 1, (2,), np.float32), np.array([0.0, 9.0])),
}
PICTURE = spaces.Box(0, 255, (16, 16, 3), np.uint8)
SPACES: dict[str, spaces.Space] = {
    "int64 without bounds": spaces.Box(-np.inf, np.inf, (2,), np.int64),
    "uint64": spaces.Box(0, np.iinfo(np.uint64).max, (2,), np.uint64),
    "bool": spaces.Box(0, 1, (3,), bool),
    "no dimensions": spaces.Box(-1, 1, (), np.float64),
    "bits": spaces.MultiBinary((4, 4)),
    "choices": spaces.MultiDiscrete([[2, 3], [4, 1]]),
    "RGBA": spaces.Box(0, 255, (16, 16, 4), np.uint8),
    "channels first": spaces.Box(0, 255, (3, 16, 24), np.uint8),
    "floats": spaces.Box(0, 1, (16, 24, 3), np.float32),
    "floats, channels first": spaces.Box(0, 1, (1, 16, 24), np.float64),
    "floats to 255": spaces.Box(0, 255, (16, 16, 3), np.float32),
    "int32 to 255": spaces.Box(0, 255, (16, 16), np.int32),
    "61x61": spaces.Box(0, 255, (61, 61, 3), np.uint8),
    "1x200": spaces.Box(0, 255, (1, 200, 3), np.uint8),
    "2x2": spaces.Box(0, 255, (2, 2, 3), np.uint8),
    "grayscale": spaces.Box(0, 255, (16, 16), np.uint8),
    "one channel": spaces.Box(0, 255, (16, 16, 1), np.uint8),
    "four frames": spaces.Box(0, 255, (4, 16, 16), np.uint8),
    "rgb and depth": spaces.Dict(rgb=PICTURE, depth=spaces.Box(0, 1, (16, 16, 1), np.float32)),
    "nested": spaces.Tuple([spaces.Dict(picture=PICTURE, number=spaces.Discrete(3)), spaces.MultiBinary(2)]),
}
UNLEARNABLE: dict[str, spaces.Space] = {
    "no numbers": spaces.Box(0, 1, (0,), np.float32),
    "many choices": spaces.Discrete(10**10),
    "empty": spaces.Dict({}),
    "slash": spaces.Dict({"a/b": spaces.Discrete(2)}),
    "stack": spaces.Box(0, 255, (4, 64, 64, 3), np.uint8),
}
OBSERVATIONS |= {f"unlearnable: {name}": (space, None) for name, space in UNLEARNABLE.items()}
OBSERVATIONS |= {name: (space, None) for name, space in SPACES.items()}
REWARDS: dict[str, Any] = {
    "none": None, "nan": np.nan, "infinite": np.inf, "two": np.zeros(2), "text": "much", "too large": 1e300,
    "array of one": np.array([0.5]), "bool": True, "of 400 digits": 10**400,
}  # fmt: skip
FLAGS: dict[str, Any] = {
    "none": None, "text": "no", "two": np.array([True, False]), "seven": 7, "array of one": np.array([True]), "one": 1,
}  # fmt: skip


class OldApi(gymnasium.Env):
    """Inherits from Gymnasium and speaks gym's API: reset() -> observation, step() -> four values."""

    observation_space = spaces.Discrete(3)
    action_space = spaces.Discrete(3)

    def __init__(self, takes_seed: bool, tells_info: bool) -> None:
        self.tells_info = tells_info
        if not takes_seed:
            self.reset = lambda: 1  # type: ignore[method-assign]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return (1, {}) if self.tells_info else 1

    def step(self, action: Any) -> Any:
        return 1, 0.0, False, {}


class Closing(Board):
    """Keeps a file while it is open, as a game keeps a process."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.file = Path(folder) / f"open_{os.getpid()}"

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.file.touch()
        time.sleep(0.01)
        return super().step(action)

    def close(self) -> None:
        if self.file.exists():
            self.file.rename(self.file.with_name(self.file.name.replace("open", "closed")))


class NoEnv:
    """Inherits from nothing of Gymnasium's."""

    observation_space = action_space = spaces.Discrete(3)
    metadata: dict[str, Any] = {}


def always_down(env: gymnasium.Env, rng: np.random.Generator) -> Any:
    return lambda observation, info: 2


for name, entry_point in (
    ("Board", "board:Board"),
    ("Slow", "data_environments:SlowBoard"),
    ("Endless", "data_environments:Endless"),
    ("Drawn", "data_environments:Drawn"),
    ("Waiting", "data_environments:Waiting"),
    ("Odd", "data_environments:Odd"),
    ("Other", "data_environments:Other"),
    ("OldApi", "data_environments:OldApi"),
    ("Closing", "data_environments:Closing"),
    ("NoEnv", "data_environments:NoEnv"),
):
    gymnasium.register(f"recorded/{name}-v0", entry_point=entry_point)
