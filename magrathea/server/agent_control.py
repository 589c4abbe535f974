"""The agent of a live session: decides its actions, and imagines futures while nobody waits for a step."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from magrathea.errors import MagratheaError
from magrathea.server.action_inputs import ActionInputs
from magrathea.server.catalog import frames_per_second
from magrathea.server.frame import Renderer, futures_frame
from magrathea.server.live_session import LiveSession
from magrathea.server.protocol import Frame

NUM_SHOWN = 3  # futures
MIN_SHOWN_SECONDS = 1.0  # until others take their place

log = logging.getLogger(__name__)


class AgentControl:
    """Lets an agent play one session. It sees what people see: where the session's world is not its own, its own world
    encodes the observations. Used on the event loop.

    Args:
        agent: an `Agent` that fits the session's world.
        publish: shows a frame to all viewers.

    Attributes:
        value: what the agent expected before its last action; None while it does not play.
        shown: the last futures, for whoever comes later; None while it does not play.
    """

    def __init__(self, agent: Any, live: LiveSession, inputs: ActionInputs, publish: Callable[[Frame], None]) -> None:
        self.agent, self.live, self.inputs = agent, live, inputs
        self.value: float | None = None
        self.shown: Frame | None = None
        self._publish = publish
        self._renderer = Renderer(agent.world.observation_space)
        self._moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def decide(self) -> Any:
        """The action that the agent takes where the session is."""
        agent, live, engine = self.agent, self.live, self.live.manager.engine
        if agent.world is live.world:
            features = await live.features()
        else:
            steps = await live.last_steps(self._num_steps)
            features = await engine.call(lambda: agent.features_after(self._seen(steps)))
        action, self.value = await engine.call(agent.decide, features)
        return action

    @property
    def _num_steps(self) -> int:
        return self.agent.world.config.model.window + 1

    def _seen(self, steps: Any) -> Any:
        """Steps (T, N) of the session's world as those of the agent's; rewards and endings are not told to it."""
        own, world = self.agent.world, self.live.world
        if own is world:
            return steps
        return own.encode_episode(world.decode_observation(steps), world.decode_action(steps[1:]))

    # -- futures ------------------------------------------------------------------------------------------------------
    def moved(self) -> None:
        """The session is at another step, from which the agent plays on: imagine futures, as soon as there is time."""
        self._moved.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """The agent plays no longer."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._moved.clear()
        self.value = self.shown = None

    async def _run(self) -> None:
        while True:
            await self._moved.wait()
            self._moved.clear()
            began = time.monotonic()
            try:
                frame = await self._imagine()
            except MagratheaError:  # the session has left the engine; `moved` says when it is back
                continue
            except Exception:  # the session goes on without futures
                log.exception("futures were not imagined")
                return
            if frame is not None:
                self.shown = frame
                self._publish(frame)
                await asyncio.sleep(max(0.0, began + self._shown_seconds(frame) - time.monotonic()))

    def _shown_seconds(self, frame: Frame) -> float:
        """How long the longest future takes to be seen once."""
        return max(MIN_SHOWN_SECONDS, max(frame.header.num_pictures) / frames_per_second(self.live.world))

    async def _imagine(self) -> Frame | None:
        """The best futures from where the session is; None if it has gone elsewhere meanwhile."""
        from magrathea.agents import imagine

        live, engine = self.live, self.live.manager.engine
        branch, number = live.branch, live.num_steps
        steps = await live.last_steps(self._num_steps)
        dreams = imagine(self.agent, await engine.call_while_idle(self._seen, steps), seed=number)
        futures = []
        while (done := await engine.call_while_idle(next, dreams, None)) is not None:
            futures += done
        best = sorted(futures, key=lambda future: -future.total)[:NUM_SHOWN]
        if live.branch != branch or live.num_steps < number:
            return None
        return await engine.call_while_idle(futures_frame, self.agent.world, best, self.inputs, self._renderer, number)
