"""The mirror of a dream: the real environment under the same actions, or played by the same agent, in a thread of its
own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium
import numpy as np

from magrathea.errors import FOREIGN_ERRORS
from magrathea.server.action_inputs import ActionInputs
from magrathea.server.frame import Renderer
from magrathea.server.protocol import Frame, MirrorHeader, MirrorStatus
from magrathea.spaces import index_batch, stack

MAX_BEHIND = 500  # actions that the environment may lag behind before it is stopped
MAX_TRIES = 20  # resets, until an episode is long enough for the warm-up

log = logging.getLogger(__name__)


Steps = tuple[Any, Any, np.ndarray, np.ndarray]  # T+1 observations; T actions, rewards, endings between them

Shown = tuple[np.ndarray | None, list[int]]  # picture uint8 (H, W, 3), if any, and counters


def make_environment(world: Any) -> gymnasium.Env:
    """The real environment of a world; raises whatever its package raises if it is not available."""
    from magrathea.data import make_env_from_metadata  # imports packages that a player may not have

    return make_env_from_metadata(world.metadata)


def why_unavailable(world: Any, make: Callable[[Any], gymnasium.Env] = make_environment) -> str:
    """Why the real environment of a world cannot be made here, or "" if it can. Blocks: makes it once."""
    try:
        make(world).close()
    except FOREIGN_ERRORS as error:
        return _reason(error)
    return ""


class RealEnv:
    """A real environment that records its first steps. Blocks; used from one thread.

    Args:
        agent: that may act in it, on what it sees there.
    """

    def __init__(
        self,
        world: Any,
        inputs: ActionInputs,
        make: Callable[[Any], gymnasium.Env] = make_environment,
        agent: Any = None,
    ) -> None:
        self.inputs, self._agent, self._player = inputs, agent, None
        self.env = make(world)
        self.renderer = Renderer(self.env.observation_space)

    def reset(self, seed: int, num_steps: int) -> Steps:
        """Reset and take `num_steps` warm-up steps: no-ops, or seeded random actions in a world without a no-op.

        Raises RuntimeError if the episode ends before that, `MAX_TRIES` times.
        """
        space = self.inputs.space
        space.seed(seed)
        for attempt in range(MAX_TRIES):
            observations, actions, rewards = [self.env.reset(seed=seed + attempt)[0]], [], []
            ended = False
            while len(actions) < num_steps and not ended:
                action = self.inputs.action(()) if self.inputs.has_noop or self.inputs.texts else space.sample()
                observation, reward, terminated, truncated, _ = self.env.step(action)
                observations.append(observation)
                actions.append(action)
                rewards.append(reward)
                ended = bool(terminated or truncated)
            if not ended:
                stacked = stack(observations), stack(actions)
                if self._agent is not None:
                    self._show_agent(observations, actions)
                return *stacked, np.array(rewards, np.float32), np.zeros(len(actions), dtype=bool)
        raise RuntimeError(f"the environment ended within {num_steps} steps, {MAX_TRIES} times")

    def step(self, action: Any) -> tuple[Shown, float, bool]:
        """Take an action of the action space: what it shows, the reward, whether the episode ended."""
        observation, reward, terminated, truncated, _ = self.env.step(action)
        if self._player is not None:
            self._player.take(action)
            self._player.observe_one(observation, False)
        return self.show(observation), float(reward), bool(terminated or truncated)

    def _show_agent(self, observations: list[Any], actions: list[Any]) -> None:
        """An episode of the agent begins with these steps."""
        self._player = self._agent.new_player()
        self._player.observe_one(observations[0], True)
        for action, observation in zip(actions, observations[1:], strict=True):
            self._player.take(action)
            self._player.observe_one(observation, False)

    def decide(self) -> Any:
        """The action that the agent takes on what it has seen of the episode."""
        assert self._player is not None, "a real environment without an agent"
        return index_batch(self._player.choose(sample=False), 0)

    def show(self, observation: Any) -> Shown:
        return self.renderer.render(observation), self.renderer.counters(observation)


class EnvMirror:
    """Runs the real environment of one session: resets it, sends it actions, and publishes its frames. Used on the
    event loop.

    Args:
        agent: that may act in it in place of the dream's actions.
        call: runs the agent's model in the engine's thread.

    Attributes:
        state: "off", "starting", "on", "ended" (the episode is over), "failed" (see `reason`) or "unavailable" (it
            cannot be made here, see `reason`).
        num_steps, total_reward: since the reset.
    """

    def __init__(
        self,
        world: Any,
        inputs: ActionInputs,
        publish: Callable[[Frame], None],
        make: Callable[[Any], gymnasium.Env] = make_environment,
        agent: Any = None,
        call: Callable[..., Awaitable[Any]] = asyncio.to_thread,
    ) -> None:
        self.world, self.inputs, self._agent, self._call = world, inputs, agent, call
        self.state, self.reason = "off", ""
        self.num_steps, self.total_reward = 0, 0.0
        self._publish, self._make = publish, make
        self._real: RealEnv | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="environment")
        self._actions: asyncio.Queue[Any] = asyncio.Queue(MAX_BEHIND)
        self._task: asyncio.Task[None] | None = None

    @property
    def status(self) -> MirrorStatus:
        """What frames say of it."""
        return MirrorStatus(self.state, self.reason, self._actions.qsize())

    def mark_unavailable(self, reason: str) -> None:
        """The environment cannot be made here."""
        self.stop()
        self.state, self.reason = "unavailable", reason

    async def reset(self, seed: int) -> Any:
        """Reset the environment; returns the tokens of its first steps, or None if it fails (see `reason`)."""
        self.stop()
        self.state, self.num_steps, self.total_reward = "starting", 0, 0.0
        loop = asyncio.get_running_loop()
        try:
            steps = await loop.run_in_executor(self._thread, self._reset, seed)
        except FOREIGN_ERRORS as error:
            log.warning("real environment cannot be started: %s", error)
            self.state, self.reason = "failed", _reason(error)
            return None
        self.state, self.reason = "on", ""
        assert self._real is not None
        self._show(self._real.show(index_batch(steps[0], -1)), 0.0, False)
        self._task = loop.create_task(self._follow())
        return await asyncio.to_thread(self.world.encode_episode, *steps)

    def _reset(self, seed: int) -> Steps:
        if self._real is None:
            self._real = RealEnv(self.world, self.inputs, self._make, self._agent)
        return self._real.reset(seed, num_steps=int(self.world.starts.shape[1]) - 1)

    def act(self, action: Any) -> None:
        """Queue an action that the dream takes, or None for one that the agent decides on; returns at once."""
        if self.state != "on":
            return
        try:
            self._actions.put_nowait(action)
        except asyncio.QueueFull:
            self.stop()
            self.state, self.reason = "failed", f"the real environment fell {MAX_BEHIND} steps behind"

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        assert self._real is not None
        try:
            while True:
                action = await self._actions.get()
                if action is None:
                    action = await self._call(self._real.decide)
                shown, reward, ended = await loop.run_in_executor(self._thread, self._real.step, action)
                self.num_steps += 1
                self.total_reward += reward if np.isfinite(reward) else 0.0
                if ended:
                    self.state = "ended"
                self._show(shown, reward, ended)
                if ended:
                    return
        except FOREIGN_ERRORS as error:
            log.warning("real environment failed: %s", error)
            self.state, self.reason = "failed", _reason(error)
            self._show((None, []), 0.0, False)

    def _show(self, shown: Shown, reward: float, ended: bool) -> None:
        picture, counters = shown
        header = MirrorHeader(
            step=self.num_steps,
            reward=reward if np.isfinite(reward) else 0.0,
            total_reward=round(self.total_reward, 4),
            terminated=ended,
            mirror=self.status,
            counters=counters,
        )
        self._publish(Frame(header, {} if picture is None else {"picture": picture}))

    def stop(self) -> None:
        """Stop following the dream; the environment is kept for the next `reset`."""
        if self._task:
            self._task.cancel()
            self._task = None
        while not self._actions.empty():
            self._actions.get_nowait()
        if self.state != "unavailable":
            self.state, self.reason = "off", ""

    def close(self) -> None:
        """Stop, and close the environment in its own thread."""
        self.stop()
        if self._real is not None:
            self._thread.submit(self._real.env.close)
        self._thread.shutdown(wait=False)


def _reason(error: BaseException) -> str:
    if isinstance(error, ImportError):
        return f"not installed on the server: {str(error).splitlines()[0]} (pip install 'magrathea[worlds]')"
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__
