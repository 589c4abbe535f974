"""A deterministic world, a bright square that moves over a grid, in place of a model in the server's tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import torch
import uvicorn
from gymnasium import spaces

from magrathea.errors import MagratheaError
from magrathea.layout import Layout, Slot
from magrathea.server import create_app
from magrathea.server.catalog import Catalog
from magrathea.server.server import server_config
from magrathea.session.history import record_of
from magrathea.spaces import index_batch

GRID, TILE = 7, 9
NAMES = ["noop", "left", "right", "up", "down", "paint", "end"]
MOVES = {1: (0, -1), 2: (0, 1), 3: (-1, 0), 4: (1, 0)}
KEYS = {"n": 0, "ArrowLeft": 1, "ArrowRight": 2, "ArrowUp": 3, "ArrowDown": 4, " ": 5, "e": 6}
NUM_TOKENS = 5  # action, row, column, shade, hue


def move(tokens: np.ndarray, action: int) -> np.ndarray:
    """The next step's tokens (5,)."""
    _, row, column, shade, hue = tokens.tolist()
    down, right = MOVES.get(action, (0, 0))
    hue = (hue + 1) % 4 if action == 5 else hue
    return np.array([action, np.clip(row + down, 0, GRID - 1), np.clip(column + right, 0, GRID - 1), shade, hue])


def draw(tokens: Any) -> np.ndarray:
    """Tokens (5,) -> picture (63, 63, 3): the square's red is 255, the background's is 0."""
    _, row, column, shade, hue = tokens.tolist()
    picture = np.full((GRID, GRID, 3), (0, shade, 60 + 40 * hue), np.uint8)
    picture[row, column] = (255, 200, 90)
    return picture.repeat(TILE, 0).repeat(TILE, 1)


class SquareWorld:
    """Has of `World` what the server uses; `step_seconds` is how long its model takes."""

    def __init__(
        self,
        step_seconds: float = 0.0,
        fps: float = 20.0,
        names: list[str] = NAMES,
        action_space: spaces.Space | None = None,
        move_of: Callable[[Any], int] = int,
    ) -> None:
        self.metadata = {
            "name": "Square",
            "env_id": "square",
            "fps": fps,
            "action_names": names,
            "key_map": KEYS,
            "description": "A square that walks.",
        }
        self.step_seconds = step_seconds
        self.action_space = action_space or spaces.Discrete(len(NAMES))
        self.move_of = move_of  # number of the move of an action
        self.observation_space = spaces.Box(0, 255, (GRID * TILE, GRID * TILE, 3), np.uint8)
        self.starts = np.array([[[0, 3, 3, 40 + 20 * k, 0]] * 3 for k in range(4)])
        self.num_starts = len(self.starts)
        seen = Slot(name="observation", role="observation", vocab_size=255, grid=(1, NUM_TOKENS - 1))
        self.layout = Layout((Slot(name="action", role="action", vocab_size=len(NAMES)), seen))
        self.fingerprint = "square"

    def decode_observation(self, tokens: np.ndarray) -> np.ndarray:
        rows = tokens.reshape(-1, NUM_TOKENS)
        return np.stack([draw(row) for row in rows]).reshape(*tokens.shape[:-1], *self.observation_space.shape)

    def decode_reward(self, tokens: Any) -> np.ndarray:
        return (np.asarray(tokens)[..., 0] == 5).astype(np.float32)

    def decode_terminated(self, tokens: Any) -> np.ndarray:
        return np.asarray(tokens)[..., 0] == 6

    def encode_episode(self, observation: Any, action: Any, reward: Any, terminated: Any) -> np.ndarray:
        steps = []
        for picture in observation:
            row, column = np.argwhere(picture[::TILE, ::TILE, 0] == 255)[0]
            corner = picture[0, 0] if (row, column) != (0, 0) else picture[-1, -1]
            steps.append([0, row, column, corner[1], (int(corner[2]) - 60) // 40])
        return np.array(steps)


class SquareSession:
    """Has of `Session` what the server uses. A state is a seed, a number of start steps, and all tokens."""

    def __init__(self, world: SquareWorld, batch_size: int = 1, seed: int = 0, start: Any = None) -> None:
        if start is None:
            start = int(np.random.default_rng(seed).integers(world.num_starts))
        first = world.starts[start] if isinstance(start, int) else np.asarray(start)
        self.world, self.states = world, [(seed, 1, [first[-1]])]

    @property
    def batch_key(self) -> tuple:
        return (self.world,)

    @classmethod
    def of(cls, world: SquareWorld, states: list) -> SquareSession:
        session = cls(world)
        session.states = [(seed, num_start, list(steps)) for seed, num_start, steps in states]
        return session

    def append(self, other: SquareSession) -> None:
        self.states.extend(other.states)

    def prepare(self) -> None:
        pass

    def keep(self, batch_indices: list[int]) -> None:
        self.states = [self.states[index] for index in batch_indices]

    def fork_batch(self, batch_indices: list[int]) -> SquareSession:
        return self.of(self.world, [self.states[index] for index in batch_indices])

    @property
    def batch_size(self) -> int:
        return len(self.states)

    @property
    def tokens(self) -> torch.Tensor:
        return torch.tensor(np.stack([steps[-1] for _, _, steps in self.states]))

    def log_of(self, batch_index: int, first: int = 0) -> np.ndarray:
        seed, num_start, steps = self.states[batch_index]
        log = np.zeros(len(steps), record_of(self.world.layout))
        log["tokens"], log["kind"], log["seed"] = np.stack(steps), 1, seed
        log["kind"][:num_start] = 0
        return log[first:]

    def num_start_of(self, batch_index: int) -> int:
        return self.states[batch_index][1]

    def rewind(self, num_steps: int) -> None:
        for _, _, steps in self.states:
            del steps[len(steps) - num_steps :]

    def extend(self, logs: list[np.ndarray]) -> None:
        for (_, _, steps), log in zip(self.states, logs, strict=True):
            steps.extend(log["tokens"].astype(int))

    def to_bytes(self) -> bytes:
        states = [(seed, num_start, np.array(steps).tolist()) for seed, num_start, steps in self.states]
        return json.dumps({"fingerprint": self.world.fingerprint, "states": states}).encode()

    @classmethod
    def from_bytes(
        cls, data: bytes, world: SquareWorld, source: str = "This session", limits: Any = None
    ) -> SquareSession:
        try:
            saved = json.loads(data)
            fingerprint = saved["fingerprint"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise MagratheaError(f"{source} is not a session.") from error
        if fingerprint != world.fingerprint:
            raise MagratheaError(f"{source} is of another world.")
        return cls.of(world, [(seed, num_start, map(np.array, steps)) for seed, num_start, steps in saved["states"]])

    def step(self, action: Any, batch_indices: list[int] | None = None) -> SimpleNamespace:
        batch_indices = list(range(self.batch_size)) if batch_indices is None else batch_indices
        time.sleep(self.world.step_seconds)
        uncertainty = np.zeros((len(batch_indices), GRID, GRID), np.float32)
        for place, index in enumerate(batch_indices):
            seed, _, steps = self.states[index]
            steps.append(move(steps[-1], self.world.move_of(index_batch(action, place))))
            uncertainty[place, steps[-1][1], steps[-1][2]] = np.random.default_rng([seed, len(steps)]).random()
        tokens = self.tokens[batch_indices]
        return SimpleNamespace(
            observation=self.world.decode_observation(tokens),
            reward=self.world.decode_reward(tokens),
            terminated=self.world.decode_terminated(tokens),
            tokens=tokens,
            uncertainty={"observation": uncertainty, "reward": np.zeros((len(batch_indices), 1, 1))},
            num_passes=np.full(len(batch_indices), 2),
        )


class SquareEnv(gymnasium.Env):
    """The real environment of the square world."""

    def __init__(self, step_seconds: float = 0.0) -> None:
        self.action_space = spaces.Discrete(len(NAMES))
        self.observation_space = spaces.Box(0, 255, (GRID * TILE, GRID * TILE, 3), np.uint8)
        self.step_seconds = step_seconds

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.tokens = np.array([0, *self.np_random.integers(1, GRID - 1, 2), 80, 0])
        return draw(self.tokens), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        time.sleep(self.step_seconds)
        self.tokens = move(self.tokens, int(action))
        return draw(self.tokens), float(action == 5), action == 6, False, {}


def square_app(world: SquareWorld | None = None, **options: Any):
    """The application with the square world at id "square"."""
    options = {"session_class": SquareSession, "make_env": lambda _: SquareEnv(), **options}
    square = world or SquareWorld()
    return create_app(Catalog({"square": "square"}, lambda _: square), **options)


@contextlib.contextmanager
def serving(app: Any, port: int = 0):
    """Serve an app from a thread; gives its URL."""
    listener = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(server_config(app))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
