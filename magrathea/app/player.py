"""One running dream: its clock, the keys that drive it, and the viewers that watch it."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from magrathea.app.catalog import frames_per_second, noop_action, num_actions
from magrathea.app.controls import Controls
from magrathea.app.picture import Painter, first_of
from magrathea.app.protocol import Frame, ProtocolError, messages
from magrathea.app.reality import RealityTrack, make_environment
from magrathea.app.viewer import Viewer

RATE_WINDOW = 2.0  # seconds over which frames per second are counted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tick:
    """What one step of the dream gave, ready to be shown."""

    picture: np.ndarray  # uint8 (H, W, 3)
    uncertainty: np.ndarray | None = None  # uint8 (rows, columns), 255 = no idea
    action: int | None = None
    reward: float = 0.0
    terminated: bool = False
    num_passes: int = 0


class Player:
    """A dream that somebody plays. Lives on the event loop; the session runs in ``dreamer``, an executor.

    Args:
        world: the loaded world.
        make_session: ``Session`` or the like; called as ``make_session(world, seed=…, start=…)``.
        dreamer: where steps are computed; shared by all players of a server.
        seed, start: of the first dream; ``start`` None lets the seed choose a stored start.
        make_env: makes the real environment of a world.
    """

    def __init__(
        self,
        world: Any,
        make_session: Callable[..., Any],
        dreamer: Executor,
        *,
        seed: int = 0,
        start: int | None = None,
        make_env: Callable[[Any], gymnasium.Env] = make_environment,
    ) -> None:
        self.world = world
        self.schema = messages(num_actions(world), int(world.num_starts))
        self.fps = frames_per_second(world)
        self.noop = noop_action(world)
        self.controls = Controls(noop=self.noop, realtime=self.noop is not None)
        self.viewers: set[Viewer] = set()
        self.reality = RealityTrack(world, self._publish, make_env)
        self.seed, self.start = seed, start
        self.speed: float | None = 1
        self.num_steps = 0
        self.total_reward = 0.0
        self.model_seconds = 0.0
        self.failure = ""
        self._make_session = make_session
        self._dreamer = dreamer
        self._painter = Painter(world.observation_space)
        self._session: Any = None
        self._tick: Tick | None = None
        self._wake = asyncio.Event()
        self._wants_restart, self._wants_reality = True, False
        self._begun = self._paused = False
        self._singles: deque[int] = deque(maxlen=4)
        self._due = 0.0
        self._times: deque[float] = deque(maxlen=512)
        self._frame_number = 0

    @property
    def state(self) -> str:
        """ "starting", "failed", "ended", "paused", "ready" (waits for the first key) or "playing"."""
        if self.failure:
            return "failed"
        if self._tick is None or self._wants_restart:
            return "starting"
        if self._tick.terminated:
            return "ended"
        if self._paused:
            return "paused"
        return "playing" if self._begun else "ready"

    @property
    def rate(self) -> float:
        """Steps per second over the last two seconds."""
        now = time.monotonic()
        recent = [moment for moment in self._times if now - moment < RATE_WINDOW]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 else 0.0

    def attach(self) -> Viewer:
        """Let one more connection watch; it gets the current picture at once."""
        viewer = Viewer()
        self.viewers.add(viewer)
        if self._tick:
            self._show()
        self._wake.set()
        return viewer

    def detach(self, viewer: Viewer) -> None:
        """A connection is gone; a dream that nobody watches stands still."""
        self.viewers.discard(viewer)
        if not self.viewers:
            self.controls.clear()

    def rule_out_reality(self, reason: str) -> None:
        """Say that the real environment cannot be had here, and why."""
        self._wants_reality = False
        self.reality.rule_out(reason)
        self._show()

    # The clock

    async def run(self) -> None:
        """Dream until cancelled, at the world's speed and never faster than somebody watches."""
        try:
            while True:
                self._wake.clear()
                delay = self._delay(time.monotonic())
                if delay <= 0:
                    await self._advance()
                    continue
                try:
                    async with asyncio.timeout(None if math.isinf(delay) else delay):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            self.reality.close()

    def _delay(self, now: float) -> float:
        if not self.viewers:
            return math.inf
        if self._wants_restart or self._singles:
            return 0.0
        if self.state != "playing":
            return math.inf
        return max(self.controls.ready_in(now), self._due - now)

    async def _advance(self) -> None:
        try:
            if self._wants_restart:
                await self._restart()
            else:
                await self._step()
        except Exception as error:  # the server and the other players live on
            log.exception("a dream stopped")
            self.failure = f"The dream stopped: {(str(error).splitlines() or [''])[0] or type(error).__name__}"
            self._session, self._wants_restart = None, False
        self._show()

    async def _step(self) -> None:
        now = time.monotonic()
        action = self._singles.popleft() if self._singles else self.controls.take(now)
        if action is None:
            return
        period = 0.0 if self.speed is None else 1.0 / (self.fps * self.speed)
        self._due = self._due + period if now - self._due < period else now + period
        self.reality.act(action + int(self.world.action_space.start))
        tick = await asyncio.get_running_loop().run_in_executor(self._dreamer, self._dream, action)
        self._tick = tick
        self.num_steps += 1
        self.total_reward += tick.reward
        self._times.append(time.monotonic())
        if tick.terminated and not self._wants_restart:
            self.controls.clear()
            self._singles.clear()

    async def _restart(self) -> None:
        self._tick = None
        self._show()
        start: Any = self.start
        loop = asyncio.get_running_loop()
        if self._wants_reality:
            start = await self._real_start()
        seed = self.seed
        self._wants_restart = False
        self._tick = await loop.run_in_executor(self._dreamer, self._begin, seed, start)
        self.num_steps, self.total_reward = 0, 0.0
        self._times.clear()

    async def _real_start(self) -> Any:
        """Begin reality; the tokens of its first steps, or the chosen stored start if reality cannot be had."""
        num_steps = int(self.world.starts.shape[1]) - 1
        recording = await self.reality.begin(self.seed, num_steps)
        if recording is None:
            self._wants_reality = False
            return self.start
        steps = (recording.observation, recording.action, recording.reward, recording.terminated)
        return await asyncio.get_running_loop().run_in_executor(self._dreamer, self.world.encode_episode, *steps)

    # In the dreamer's thread

    def _begin(self, seed: int, start: Any) -> Tick:
        if self._session is None:
            self._session = self._make_session(self.world, seed=seed, start=start)
        else:
            self._session.reset(seed=seed, start=start)
        return Tick(self._painter.paint(first_of(self._session.observation)))

    def _dream(self, action: int) -> Tick:
        began = time.perf_counter()
        result = self._session.step(np.array([action + int(self.world.action_space.start)]))
        seconds = time.perf_counter() - began
        self.model_seconds += (seconds - self.model_seconds) * (0.1 if self.model_seconds else 1.0)
        uncertainty = result.uncertainty.get(self._painter.slot) if self._painter.slot else None
        if uncertainty is not None:
            uncertainty = np.rint(255 * np.clip(np.asarray(uncertainty[0], dtype=np.float32), 0, 1)).astype(np.uint8)
        reward = float(result.reward[0])
        return Tick(
            picture=self._painter.paint(first_of(result.observation)),
            uncertainty=uncertainty,
            action=action,
            reward=reward if math.isfinite(reward) else 0.0,
            terminated=bool(result.terminated[0]),
            num_passes=int(result.num_passes[0]),
        )

    # What is shown

    def _show(self) -> None:
        tick = self._tick
        header: dict[str, Any] = {
            "kind": "dream",
            "state": self.state,
            "reason": self.failure,
            "step": self.num_steps,
            "action": tick.action if tick else None,
            "next_action": self.controls.pending[0] if self._paused and self.controls.pending else None,
            "reward": round(tick.reward, 4) if tick else 0.0,
            "total_reward": round(self.total_reward, 4),
            "terminated": bool(tick and tick.terminated),
            "passes": tick.num_passes if tick else 0,
            "rate": round(self.rate, 2),
            "model_ms": round(1000 * self.model_seconds, 2),
            "seed": self.seed,
            "start": self.start,
            "speed": self.speed,
            "realtime": self.controls.realtime,
            "reality": self.reality.header,
        }
        parts = {"picture": tick.picture} if tick else {}
        if tick and tick.uncertainty is not None:
            parts["uncertainty"] = tick.uncertainty
        self._publish(Frame(header, parts))

    def _publish(self, frame: Frame) -> None:
        self._frame_number += 1
        frame.header["frame"] = self._frame_number
        for viewer in self.viewers:
            viewer.offer(frame)

    # What the page says

    def handle(self, message: dict[str, Any], viewer: Viewer) -> None:
        """Do what a checked message asks; raises ProtocolError if it cannot be done now."""
        if message["type"] == "seen":
            viewer.seen(message["frame"])
            return
        getattr(self, f"_on_{message['type']}")(message)
        self._wake.set()

    def _on_press(self, message: dict[str, Any]) -> None:
        if self.state in ("ended", "failed"):
            return
        if self._paused:
            self.controls.arm(message["action"])
            self._show()
            return
        if not self._begun:
            self._begun, self._due = True, time.monotonic()
        self.controls.press(message["action"], time.monotonic())

    def _on_release(self, message: dict[str, Any]) -> None:
        self.controls.release(message["action"])

    def _on_pause(self, message: dict[str, Any]) -> None:
        self._paused = message["on"]
        self.controls.clear()
        self._due = time.monotonic()
        self._show()

    def _on_step(self, message: dict[str, Any]) -> None:
        if self.state in ("ended", "failed"):
            raise ProtocolError(f"no step is possible while the dream is {self.state}")
        action = message.get("action")
        action = self.controls.single() if action is None else action
        if action is None:
            raise ProtocolError("this world has no no-op: press the key of an action first, then step")
        self._begun = self._paused = True
        self._singles.append(action)

    def _on_reset(self, message: dict[str, Any]) -> None:
        self.seed, self.start = message["seed"], message.get("start")
        self._reset()

    def _reset(self) -> None:
        self.controls.clear()
        self._singles.clear()
        self.failure = ""
        self._begun = self._paused = False
        self._wants_restart = True

    def _on_speed(self, message: dict[str, Any]) -> None:
        self.speed = message["value"]
        self._due = time.monotonic()
        self._show()

    def _on_realtime(self, message: dict[str, Any]) -> None:
        if message["on"] and self.noop is None:
            raise ProtocolError("this world has no no-op, so it can only wait for keys")
        self.controls.realtime = message["on"]
        self._due = time.monotonic()
        self._show()

    def _on_reality(self, message: dict[str, Any]) -> None:
        if self.reality.state == "absent":
            raise ProtocolError(f"there is no reality beside this dream: {self.reality.reason}")
        self._wants_reality = message["on"]
        if message["on"]:
            self._reset()
        else:
            self.reality.stop()
            self._show()
