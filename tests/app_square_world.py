"""A world whose dream is exact: a bright square that walks over a grid. It stands in for a model in the app's tests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import uvicorn
from gymnasium import spaces

from magrathea.app.catalog import Catalog
from magrathea.app.server import create_app

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


def draw(tokens: np.ndarray) -> np.ndarray:
    """Tokens (5,) -> picture (63, 63, 3): the square's red is 255, the ground's is 0."""
    _, row, column, shade, hue = tokens.tolist()
    picture = np.full((GRID, GRID, 3), (0, shade, 60 + 40 * hue), np.uint8)
    picture[row, column] = (255, 200, 90)
    return picture.repeat(TILE, 0).repeat(TILE, 1)


class SquareWorld:
    """Has of `World` what the app uses; `step_seconds` is how long its model takes."""

    def __init__(self, step_seconds: float = 0.0, fps: float = 20.0, names: list[str] = NAMES) -> None:
        self.metadata = {
            "name": "Square",
            "env_id": "square",
            "fps": fps,
            "action_names": names,
            "key_map": KEYS,
            "description": "A square that walks.",
        }
        self.step_seconds = step_seconds
        self.action_space = spaces.Discrete(len(NAMES))
        self.observation_space = spaces.Box(0, 255, (GRID * TILE, GRID * TILE, 3), np.uint8)
        self.starts = np.array([[[0, 3, 3, 40 + 20 * k, 0]] * 3 for k in range(4)])
        self.num_starts = len(self.starts)

    def decode_observation(self, tokens: np.ndarray) -> np.ndarray:
        rows = tokens.reshape(-1, NUM_TOKENS)
        return np.stack([draw(row) for row in rows]).reshape(*tokens.shape[:-1], *self.observation_space.shape)

    def encode_episode(self, observation: Any, action: Any, reward: Any, terminated: Any) -> np.ndarray:
        steps = []
        for picture in observation:
            row, column = np.argwhere(picture[::TILE, ::TILE, 0] == 255)[0]
            corner = picture[0, 0] if (row, column) != (0, 0) else picture[-1, -1]
            steps.append([0, row, column, corner[1], (int(corner[2]) - 60) // 40])
        return np.array(steps)


class SquareSession:
    """Has of `Session` what the app uses."""

    def __init__(self, world: SquareWorld, batch_size: int = 1, seed: int = 0, start: Any = None) -> None:
        self.world = world
        self.reset(seed=seed, start=start)

    def reset(self, env_mask: Any = None, seed: int | None = None, start: Any = None) -> Any:
        self.generator = np.random.default_rng(seed)
        if start is None:
            start = int(self.generator.integers(self.world.num_starts))
        self.tokens = self.world.starts[start][-1] if isinstance(start, int) else start[-1]
        return self.observation

    @property
    def observation(self) -> np.ndarray:
        return self.world.decode_observation(self.tokens[None])

    def step(self, action: np.ndarray) -> SimpleNamespace:
        assert action.shape == (1,)
        time.sleep(self.world.step_seconds)
        self.tokens = move(self.tokens, int(action[0]))
        uncertainty = np.zeros((1, GRID, GRID), np.float32)
        uncertainty[0, self.tokens[1], self.tokens[2]] = self.generator.random()
        return SimpleNamespace(
            observation=self.observation,
            reward=np.array([1.0 if action[0] == 5 else 0.0], np.float32),
            terminated=np.array([action[0] == 6]),
            tokens=self.tokens[None],
            uncertainty={"observation": uncertainty, "reward": np.zeros((1, 1, 1))},
            num_passes=np.array([2]),
        )


class SquareEnv(gymnasium.Env):
    """The real thing that the square world dreams of."""

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
    """The app with the square world at id "square"."""
    options = {"make_session": SquareSession, "make_env": lambda _: SquareEnv(), **options}
    square = world or SquareWorld()
    return create_app(Catalog({"square": "square"}, lambda _: square), **options)


@contextlib.contextmanager
def serving(app: Any):
    """Serve an app from a thread; gives its URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws_max_size=1 << 16, timeout_graceful_shutdown=1))
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
