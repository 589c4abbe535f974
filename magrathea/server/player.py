"""One session that is played: its clock, the keys that drive it, and the viewers that watch it."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import gymnasium

from magrathea.errors import MagratheaError
from magrathea.server.catalog import frames_per_second, noop_action, num_actions
from magrathea.server.env_mirror import EnvMirror, make_environment
from magrathea.server.frame import NO_FRAME, StepFrame, frame_of, still_of
from magrathea.server.picture import Painter
from magrathea.server.protocol import Frame, ProtocolError, messages
from magrathea.server.session_manager import LiveSession
from magrathea.server.steering import Steering
from magrathea.server.viewer import Viewer
from magrathea.server.viewers import Viewers

log = logging.getLogger(__name__)


class Player:
    """A session that somebody plays. Lives on the event loop.

    Args:
        life: the session; woken where it was left, or begun with ``seed`` and ``start`` if it has no branch yet.
        seed, start: of a first branch; ``start`` None lets the seed choose a stored start.
        make_env: makes the real environment of a world.
    """

    def __init__(
        self,
        life: LiveSession,
        *,
        is_new: bool = True,
        seed: int = 0,
        start: int | None = None,
        make_env: Callable[[Any], gymnasium.Env] = make_environment,
    ) -> None:
        world = life.world
        self.life, self.world = life, world
        self.schema = messages(num_actions(world), int(world.num_starts))
        self.steering = Steering(frames_per_second(world), noop_action(world))
        self.audience = Viewers(self._turns_changed)
        self.reality = EnvMirror(world, self.audience.show, make_env)
        self.seed, self.start = seed, start
        self.failure = ""
        self._painter = Painter(world.observation_space)
        self._tick: StepFrame | None = None
        self._wake = asyncio.Event()
        self._move: Callable[[], Awaitable[Any]] | None = self._begin if is_new else life.wake
        self._wants_reality = False

    @property
    def num_steps(self) -> int:
        return self.life.num_steps

    @property
    def total_reward(self) -> float:
        return self.life.total_reward

    @property
    def state(self) -> str:
        """ "starting", "failed", "ended", "paused", "ready" (waits for the first key) or "playing"."""
        if self.failure:
            return "failed"
        if self._tick is None or self._move:
            return "starting"
        if self._tick.terminated:
            return "ended"
        if self.steering.paused:
            return "paused"
        return "playing" if self.steering.begun else "ready"

    def attach(self) -> Viewer:
        """Let one more connection watch; it gets the current picture at once."""
        viewer = self.audience.add(self.life.library.limits.viewers)
        if self._tick:
            self._show()
        self._wake.set()
        return viewer

    def detach(self, viewer: Viewer) -> None:
        """A connection is gone; a dream that nobody watches stands still."""
        self.audience.remove(viewer)

    def tell(self) -> None:
        """Say to all viewers how the session stands: its name, its branches, who drives."""
        if not self.audience.viewers or self._move:
            return
        store, session = self.life.library.store, self.life.session
        branches = [vars(branch) for branch in store.branches(session)]
        name, branch = store.session(session).name, self.life.branch
        self.audience.tell({"type": "session", "id": session, "name": name, "branch": branch, "branches": branches})

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
            self.audience.close()
            self.reality.close()
            await self.life.sleep()

    def _delay(self, now: float) -> float:
        if not self.audience.viewers:
            return math.inf
        return 0.0 if self._move else self.steering.due_in(now, self.state == "playing")

    async def _advance(self) -> None:
        move, before = self._move, self._tick
        try:
            if move:
                await self._make(move)
            else:
                await self._step()
        except MagratheaError as error:
            if self.life.awake and before:  # refused; the session is as it was
                self._tick, self._move = before, None
                self.steering.refused()
                self.audience.say({"type": "error", "reason": str(error)})
            else:
                self._fail(error)
        except Exception as error:  # the server and the other players live on
            log.exception("a dream stopped")
            self._fail(error)
        self._show()

    def _fail(self, error: Exception) -> None:
        self.failure = f"The dream stopped: {(str(error).splitlines() or [''])[0] or type(error).__name__}"
        self._move = None

    async def _step(self) -> None:
        now = time.monotonic()
        action = self.steering.take(now)
        if action is None:
            return
        self.steering.pace.begin_step(now)
        in_space = action + int(self.world.action_space.start)
        self.reality.act(in_space)
        row = await self.life.step(in_space)
        self.steering.pace.end_step(row.seconds)
        self._tick = frame_of(row, action, self._painter)
        if self._tick.terminated and not self._move:
            self.steering.clear()

    async def _make(self, move: Callable[[], Awaitable[Any]]) -> None:
        """Begin, wake or go elsewhere."""
        self._tick = None
        self._show()
        tokens = await move()
        self._tick = still_of(self.world, tokens, self.num_steps == 0, self._painter)
        self.steering.pace.clear()
        if self._move is move:
            self._move = None
        self.tell()

    async def _begin(self) -> Any:
        start: Any = await self.reality.begin(self.seed) if self._wants_reality else None
        if start is None:  # reality is not wanted, or cannot be had
            self._wants_reality = False
            start = self.start
        return await self.life.begin(self.seed, start)

    # What is shown

    def _show(self) -> None:
        tick, steering = self._tick or NO_FRAME, self.steering
        header = tick.header | {
            "kind": "dream",
            "state": self.state,
            "reason": self.failure,
            "branch": self.life.branch,
            "step": self.num_steps,
            "next_action": steering.armed,
            "total_reward": round(self.total_reward, 4),
            "rate": round(steering.pace.rate, 2),
            "model_ms": round(1000 * steering.pace.model_seconds, 2),
            "seed": self.seed,
            "start": self.start,
            "speed": steering.pace.speed,
            "realtime": steering.controls.realtime,
            "reality": self.reality.header,
        }
        self.audience.show(Frame(header, tick.parts))

    # What the page says

    def handle(self, message: dict[str, Any], viewer: Viewer) -> None:
        """Do what a checked message asks; raises ProtocolError if it cannot be done now."""
        kind = message["type"]
        if kind == "seen":
            viewer.seen(message["frame"])
        elif kind == "wheel":
            self.audience.wish(message["wish"], viewer)
        elif self.audience.drives(viewer):
            getattr(self, f"_on_{kind}")(message)
            self._wake.set()
        elif kind != "release":
            raise ProtocolError("somebody else drives this session; ask for the wheel first")

    def _turns_changed(self, handed_over: bool) -> None:
        if handed_over:
            self.steering.controls.clear()
        self.tell()

    def _on_press(self, message: dict[str, Any]) -> None:
        if self.state in ("ended", "failed"):
            return
        self.steering.press(message["action"])
        if self.steering.paused:
            self._show()

    def _on_release(self, message: dict[str, Any]) -> None:
        self.steering.controls.release(message["action"])

    def _on_pause(self, message: dict[str, Any]) -> None:
        self.steering.pause(message["on"])
        self._show()

    def _on_step(self, message: dict[str, Any]) -> None:
        if self.state in ("ended", "failed"):
            raise ProtocolError(f"no step is possible while the dream is {self.state}")
        self.steering.step(message.get("action"))

    def _on_reset(self, message: dict[str, Any]) -> None:
        self.seed, self.start = message["seed"], message.get("start")
        self._reset(self._begin)

    def _on_branch(self, message: dict[str, Any]) -> None:
        self.reality.stop()
        self._wants_reality = False
        self._reset(lambda: self.life.go(message["branch"], message["step"]))

    def _reset(self, move: Callable[[], Awaitable[Any]]) -> None:
        self.steering.begin()
        self.failure = ""
        self._move = move

    def _on_speed(self, message: dict[str, Any]) -> None:
        self.steering.speed(message["value"])
        self._show()

    def _on_realtime(self, message: dict[str, Any]) -> None:
        self.steering.realtime(message["on"])
        self._show()

    def _on_reality(self, message: dict[str, Any]) -> None:
        if self.reality.state == "absent":
            raise ProtocolError(f"there is no reality beside this dream: {self.reality.reason}")
        self._wants_reality = message["on"]
        if message["on"]:
            self._reset(self._begin)
        else:
            self.reality.stop()
            self._show()
