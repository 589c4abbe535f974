"""The real environment beside the dream: the same actions drive it, in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from magrathea.server.catalog import noop_action
from magrathea.server.picture import Painter
from magrathea.server.protocol import Frame
from magrathea.spaces import row_of

MAX_BEHIND = 500  # actions that reality may lag behind before it is switched off
MAX_TRIES = 20

log = logging.getLogger(__name__)


@dataclass
class Recording:
    """Real steps that a dream begins from, T+1 observations and the T actions between."""

    observation: Any
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray


def make_environment(world: Any) -> gymnasium.Env:
    """The real environment of a world; raises whatever says why it cannot be had."""
    from magrathea.data import make_env_from_metadata  # imports packages that a player may not have

    return make_env_from_metadata(world.metadata)


def why_absent(world: Any, make: Callable[[Any], gymnasium.Env] = make_environment) -> str:
    """Why the real environment of a world cannot be had here, or "" if it can. Blocking: makes it once."""
    try:
        make(world).close()
    except Exception as error:  # whatever a foreign environment raises
        return _reason(error)
    return ""


class Reality:
    """A real environment that plays along. Blocking; used from one thread."""

    def __init__(self, world: Any, make: Callable[[Any], gymnasium.Env] = make_environment) -> None:
        self.world = world
        self.env = make(world)
        self.painter = Painter(self.env.observation_space)

    def begin(self, seed: int, num_steps: int) -> Recording:
        """Reset with ``seed`` and play ``num_steps`` warm-up steps: no-ops, or seeded random actions without one."""
        generator = np.random.default_rng(seed)
        noop = noop_action(self.world)
        for attempt in range(MAX_TRIES):
            observations, actions, rewards = [self.env.reset(seed=seed + attempt)[0]], [], []
            ended = False
            while len(actions) < num_steps and not ended:
                action = int(generator.integers(self.world.action_space.n)) if noop is None else noop
                action += int(self.world.action_space.start)
                observation, reward, terminated, truncated, _ = self.env.step(action)
                observations.append(observation)
                actions.append(action)
                rewards.append(reward)
                ended = bool(terminated or truncated)
            if not ended:
                return _recording(observations, actions, rewards)
        raise RuntimeError(f"the environment ended within {num_steps} steps, {MAX_TRIES} times")

    def step(self, action: int) -> tuple[np.ndarray, float, bool]:
        """Take an action of the action space: the picture (H, W, 3) uint8, the reward, whether the episode ended."""
        observation, reward, terminated, truncated, _ = self.env.step(action)
        return self.painter.paint(observation), float(reward), bool(terminated or truncated)


def _recording(observations: list[Any], actions: list[int], rewards: list[Any]) -> Recording:
    return Recording(
        observation=_stack(observations),
        action=np.asarray(actions, dtype=np.int64),
        reward=np.asarray(rewards, dtype=np.float32),
        terminated=np.zeros(len(actions), dtype=bool),
    )


def _stack(observations: list[Any]) -> Any:
    first = observations[0]
    if isinstance(first, dict):
        return {name: _stack([observation[name] for observation in observations]) for name in first}
    if isinstance(first, tuple):
        return tuple(_stack([observation[index] for observation in observations]) for index in range(len(first)))
    return np.stack([np.asarray(observation) for observation in observations])


class EnvMirror:
    """Reality beside one dream, from the event loop: begins it, sends it actions, and publishes what it shows.

    ``state`` is "off", "starting", "on", "ended" (the real episode is over), "unavailable" (it failed: see ``reason``)
    or "absent" (it is known that it cannot be had: see ``reason``).
    """

    def __init__(self, world: Any, publish: Callable[[Frame], None], make: Callable[[Any], gymnasium.Env]) -> None:
        self.world = world
        self.state = "off"
        self.reason = ""
        self.num_steps = 0
        self.total_reward = 0.0
        self._publish = publish
        self._make = make
        self._reality: Reality | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reality")
        self._actions: asyncio.Queue[int] = asyncio.Queue(MAX_BEHIND)
        self._task: asyncio.Task[None] | None = None

    @property
    def header(self) -> dict[str, Any]:
        return {"state": self.state, "reason": self.reason, "behind": self._actions.qsize()}

    def rule_out(self, reason: str) -> None:
        """From now on it is known that there is no reality here."""
        self.stop()
        self.state, self.reason = "absent", reason

    async def begin(self, seed: int) -> Any:
        """Restart reality; gives the tokens (T, N) of the real steps to dream on from, as many as stored starts have,
        or None (``state`` and ``reason`` say why)."""
        self.stop()
        self.state, self.num_steps, self.total_reward = "starting", 0, 0.0
        loop = asyncio.get_running_loop()
        try:
            recording = await loop.run_in_executor(self._thread, self._begin, seed)
        except Exception as error:  # whatever a foreign environment raises
            log.warning("reality cannot be had: %s", error)
            self.state, self.reason = "unavailable", _reason(error)
            return None
        self.state, self.reason = "on", ""
        assert self._reality is not None
        self._show(self._reality.painter.paint(row_of(recording.observation, -1)), 0.0, False)
        self._task = loop.create_task(self._follow())
        steps = (recording.observation, recording.action, recording.reward, recording.terminated)
        return await asyncio.to_thread(self.world.encode_episode, *steps)

    def _begin(self, seed: int) -> Recording:
        if self._reality is None:
            self._reality = Reality(self.world, self._make)
        return self._reality.begin(seed, num_steps=int(self.world.starts.shape[1]) - 1)

    def act(self, action: int) -> None:
        """Let reality take the action that the dream takes; returns at once."""
        if self.state != "on":
            return
        try:
            self._actions.put_nowait(action)
        except asyncio.QueueFull:
            self.stop()
            self.state, self.reason = "unavailable", f"the real environment fell {MAX_BEHIND} steps behind"

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        assert self._reality is not None
        try:
            while True:
                action = await self._actions.get()
                picture, reward, ended = await loop.run_in_executor(self._thread, self._reality.step, action)
                self.num_steps += 1
                self.total_reward += reward if np.isfinite(reward) else 0.0
                if ended:
                    self.state = "ended"
                self._show(picture, reward, ended)
                if ended:
                    return
        except Exception as error:  # whatever a foreign environment raises
            log.warning("reality stopped: %s", error)
            self.state, self.reason = "unavailable", _reason(error)
            self._show(None, 0.0, False)

    def _show(self, picture: np.ndarray | None, reward: float, ended: bool) -> None:
        header = {
            "kind": "reality",
            "step": self.num_steps,
            "reward": reward if np.isfinite(reward) else 0.0,
            "total_reward": round(self.total_reward, 4),
            "terminated": ended,
            "reality": self.header,
        }
        self._publish(Frame(header, {} if picture is None else {"picture": picture}))

    def stop(self) -> None:
        """Stop following the dream; the environment is kept for the next ``begin``."""
        if self._task:
            self._task.cancel()
            self._task = None
        while not self._actions.empty():
            self._actions.get_nowait()
        self.state, self.reason = "off", ""

    def close(self) -> None:
        """Stop, and close the environment in its own thread."""
        self.stop()
        if self._reality is not None:
            self._thread.submit(self._reality.env.close)
        self._thread.shutdown(wait=False)


def _reason(error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"not installed on the server: {str(error).splitlines()[0]} (pip install 'magrathea[worlds]')"
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__
