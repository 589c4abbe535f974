"""Plays one live session: its step loop, the input of whoever has control, and the frames for its viewers."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import gymnasium
import msgspec

from magrathea.errors import MagratheaError
from magrathea.server import protocol
from magrathea.server.action_inputs import ActionInputs
from magrathea.server.agent_control import AgentControl
from magrathea.server.catalog import frames_per_second
from magrathea.server.controls import Controls
from magrathea.server.env_mirror import EnvMirror, make_environment
from magrathea.server.frame import Renderer, restored_frame, step_frame, texts_of
from magrathea.server.live_session import LiveSession
from magrathea.server.protocol import AnyClientMessage, DreamHeader, Frame, MessageDecoder, ProtocolError
from magrathea.server.rate_limiter import StepMeter
from magrathea.server.viewers import Viewer, Viewers

log = logging.getLogger(__name__)

Restore = Callable[[], Awaitable[Any]]  # puts the session at some step; returns that step's tokens (N,)


class Player:
    """Plays one live session. Used on the event loop.

    Args:
        live: the session; resumed where it was left, or started with `seed` and `start` if `is_new`.
        start: stored start state of a first branch; None lets the seed choose.
        make_env: makes the real environment of a world.
        agent: an `Agent` that may play, if the world has one.
    """

    def __init__(
        self,
        live: LiveSession,
        *,
        is_new: bool = True,
        seed: int = 0,
        start: int | None = None,
        make_env: Callable[[Any], gymnasium.Env] = make_environment,
        agent: Any = None,
    ) -> None:
        world = live.world
        self.live, self.world = live, world
        self.inputs = ActionInputs(world.action_space, world.metadata)
        self.decoder = MessageDecoder(
            len(self.inputs.buttons), self.inputs.num_axes, int(world.num_starts), len(self.inputs.texts)
        )
        self.controls = Controls(frames_per_second(world), self.inputs)
        self.viewers = Viewers(self._control_changed)
        self.agent = None if agent is None else AgentControl(agent, live, self.inputs, self._show_futures)
        self.mirror = EnvMirror(world, self.inputs, self.viewers.show, make_env, agent, live.manager.engine.call)
        self.seed, self.start = seed, start
        self.failure = ""
        self.used_at = time.monotonic()  # when somebody joined or sent input last
        self._renderer, self._meter = Renderer(world.observation_space, str(world.metadata.get("env_id"))), StepMeter()
        self._frame: Frame | None = None
        self._changed = asyncio.Event()
        self._restore: Restore | None = self._start if is_new else live.resume
        self._mirrored = False

    @property
    def num_steps(self) -> int:
        """Steps of the branch."""
        return self.live.num_steps

    @property
    def state(self) -> str:
        """ "starting", "failed", "ended", "paused", "ready" (waits for the first key) or "playing"."""
        if self.failure:
            return "failed"
        if self._frame is None or self._restore:
            return "starting"
        if self._frame.header.terminated:
            return "ended"
        if self.controls.paused:
            return "paused"
        return "playing" if self.controls.started else "ready"

    def attach(self) -> Viewer:
        """One more viewer, which gets the current frame at once; raises MagratheaError if there are too many."""
        viewer = self.viewers.add(self.live.manager.limits.viewers)
        self.used_at = time.monotonic()
        if self.failure:  # whoever loads the page again tries again
            self._restart_with(self.live.resume if self.live.branch else self._start)
        if self._frame:
            self._show()
        if self.agent and self.agent.shown and self._agent_plays_on:
            viewer.offer(self.agent.shown)
        self._changed.set()
        return viewer

    def detach(self, viewer: Viewer) -> None:
        """A viewer has left; without viewers no steps are taken."""
        self.viewers.remove(viewer)

    def send_session(self) -> None:
        """Send all viewers the session's name and branches, and who has control."""
        live = self.live
        if len(self.viewers) and not self._restore:
            branches = [
                replace(branch, num_steps=live.num_steps) if branch.id == live.branch else branch
                for branch in live.branches
            ]
            self.viewers.send_session(live.session, live.name, live.branch, branches)

    async def refresh(self) -> None:
        """Read the session's name and branches from the store again, and send them to all viewers."""
        await self.live.refresh()
        self.send_session()

    def mark_mirror_unavailable(self, reason: str) -> None:
        """The real environment cannot be made here."""
        self._mirrored = False
        self.mirror.mark_unavailable(reason)
        self._show()

    # -- step loop ----------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Take steps until cancelled, at the chosen speed and only while somebody watches."""
        try:
            while True:
                self._changed.clear()
                delay = self._seconds_until_next(time.monotonic())
                if delay <= 0:
                    await self._advance()
                    continue
                try:
                    async with asyncio.timeout(None if math.isinf(delay) else delay):
                        await self._changed.wait()
                except TimeoutError:
                    pass
        finally:
            self.viewers.close()
            self.mirror.close()
            if self.agent is not None:
                self.agent.stop()
            await self.live.suspend()

    def _seconds_until_next(self, now: float) -> float:
        if not len(self.viewers):
            return math.inf
        playing = self.state == "playing" or self._plays_on_in_reality
        return 0.0 if self._restore else self.controls.seconds_until_step(now, playing)

    @property
    def _plays_on_in_reality(self) -> bool:
        """Whether the agent's dream has ended before its episode in the real environment."""
        return self.state == "ended" and self.controls.agent and self.mirror.state == "on"

    async def _advance(self) -> None:
        restore, before = self._restore, self._frame
        try:
            if restore:
                await self._run_restore(restore)
            else:
                await self._step()
        except MagratheaError as error:
            if self.live.active and before:  # refused; the session is as it was
                self._frame, self._restore = before, None
                if not restore:
                    self.controls.stop()
                elif self._mirrored:
                    self._set_mirror(False)  # which has moved on
                self.viewers.send(protocol.ErrorMessage(str(error)))
            else:
                await self._fail(error)
        except Exception as error:  # only this session fails
            log.exception("session failed")
            await self._fail(error)
        self._show()

    async def _fail(self, error: Exception) -> None:
        """Say why the session cannot go on, and give up its place in the engine."""
        self.failure = (str(error).splitlines() or [""])[0] or type(error).__name__
        self._restore = None
        await self.live.suspend()

    async def _step(self) -> None:
        buttons = self.controls.take_step(time.monotonic())
        if buttons is None:
            return
        if self._plays_on_in_reality:
            self.mirror.act(None)
            return
        if self.agent and self.controls.agent:
            action = await self.agent.decide()
            if not self.controls.agent or self._restore:  # somebody has taken over meanwhile
                return
            buttons = self.inputs.buttons_of(action)
            self.mirror.act(None)
        else:
            action = self.inputs.action(buttons, self.controls.axes, self.controls.texts)
            self.mirror.act(action)
        output = await self.live.step(action)
        self._meter.add(output.seconds)
        self._frame = step_frame(output, buttons, texts_of(self.inputs.space, action), self._renderer)
        if self._frame.header.terminated and not self._restore:
            self.controls.clear()

    async def _run_restore(self, restore: Restore) -> None:
        self._frame = None
        self._show()
        tokens = await restore()
        self._frame = restored_frame(self.world, tokens, self.num_steps == 0, self._renderer)
        self._meter.clear()
        if self._restore is restore:
            self._restore = None
        self.send_session()

    async def _start(self) -> Any:
        start: Any = await self.mirror.reset(self.seed) if self._mirrored else None
        if start is None:  # the real environment is off, or failed
            self._mirrored = False
            start = self.start
        return await self.live.start(self.seed, start)

    async def _start_beside_env(self) -> Any:
        start = await self.mirror.reset(self.seed)
        if start is None:
            raise MagratheaError(f"The real environment cannot be started: {self.mirror.reason}; the dream goes on.")
        self._mirrored = True
        return await self.live.start(self.seed, start)

    # -- frames -------------------------------------------------------------------------------------------------------
    def _show(self) -> None:
        frame, controls = self._frame or Frame(DreamHeader(), {}), self.controls
        header = msgspec.structs.replace(
            frame.header,
            state=self.state,
            reason=self.failure,
            branch=self.live.branch,
            step=self.num_steps,
            next_buttons=list(controls.next_buttons),
            total_reward=round(self.live.total_reward, 4),
            rate=round(self._meter.rate, 2),
            model_ms=round(1000 * self._meter.model_seconds, 2),
            seed=self.seed,
            start=self.start,
            speed=controls.speed,
            realtime=controls.realtime,
            mirror=self.mirror.status,
            agent=controls.agent,
            value=self.agent.value if self.agent and controls.agent else None,
        )
        self.viewers.show(Frame(header, frame.parts))
        self._follow_agent()

    def _follow_agent(self) -> None:
        """Let the agent imagine where it plays on, and nothing where it does not."""
        if self.agent is not None:
            if self._agent_plays_on:
                self.agent.moved()
            elif not self.controls.agent:
                self.agent.stop()

    @property
    def _agent_plays_on(self) -> bool:
        return self.controls.agent and self.state in ("playing", "paused")

    def _show_futures(self, frame: Frame) -> None:
        if self._agent_plays_on:
            self.viewers.show(frame)

    # -- messages -----------------------------------------------------------------------------------------------------
    def handle(self, message: AnyClientMessage, viewer: Viewer) -> None:
        """Do what a viewer's message asks; raises ProtocolError if it cannot be done now."""
        match message:
            case protocol.Seen(frame):
                viewer.seen(frame)
            case protocol.Control(on):
                (self.viewers.request_control if on else self.viewers.release_control)(viewer)
            case _ if self.viewers.acquire_control(viewer):
                self.used_at = time.monotonic()
                self._handle_input(message)
                self._changed.set()
            case protocol.Release():
                pass  # of a key that went down without control
            case _:
                raise ProtocolError("Somebody else has control of this session; request it first.")

    def _handle_input(self, message: AnyClientMessage) -> None:
        agent_played = self.controls.agent
        self._input(message)
        if agent_played and not self.controls.agent and not self._restore:
            self._show()

    def _input(self, message: AnyClientMessage) -> None:
        controls, over = self.controls, self.state in ("ended", "failed")
        match message:
            case protocol.Press(button) if not over:
                controls.press(button, time.monotonic())
                if controls.paused:
                    self._show()
            case protocol.Release(button):
                controls.release(button)
            case protocol.Axis(axis, value) if not over or value is None:
                controls.set_axis(axis, value)
            case protocol.Say(text, value) if not over:
                try:
                    self.inputs.check_text(text, value)
                except MagratheaError as error:
                    raise ProtocolError(str(error)) from None
                controls.say(text, value)
            case protocol.Pause(on):
                controls.pause(on)
                self._show()
            case protocol.SingleStep(button):
                if over:
                    raise ProtocolError(f"No step is possible while the dream is {self.state}; reset it.")
                controls.single_step(button)
            case protocol.Reset(seed, start):
                self.seed, self.start = seed, start
                self._restart_with(self._start, controls.agent)
            case protocol.GoTo(branch, step):
                if self._mirrored:
                    self._set_mirror(False)
                    self.viewers.send(protocol.ErrorMessage("The real environment cannot go back; it is off now."))
                self._restart_with(lambda: self.live.go_to(branch, step))
            case protocol.LetAgentPlay(on):
                self._let_agent_play(on)
            case protocol.SetSpeed(value):
                controls.set_speed(value)
                self._show()
            case protocol.Realtime(on):
                controls.set_realtime(on)
                self._show()
            case protocol.Mirror(on):
                if self.mirror.state == "unavailable":
                    raise ProtocolError(f"The real environment is not available: {self.mirror.reason}.")
                if on:
                    self._restart_with(self._start_beside_env, controls.agent)
                else:
                    self._set_mirror(False)
                    self._show()

    def _let_agent_play(self, on: bool) -> None:
        """The agent plays on, or begins anew where the dream is over; or somebody else plays."""
        if self.agent is None:
            raise ProtocolError("This world has no agent; name one: magrathea play WORLD --agent FOLDER.")
        if on and self.state in ("ended", "failed"):
            self._restart_with(self._start, True)
            return
        self.controls.let_agent(on)
        self._show()

    def _set_mirror(self, on: bool) -> None:
        self._mirrored = on
        if not on:
            self.mirror.stop()

    def _restart_with(self, restore: Restore, agent_plays: bool = False) -> None:
        self.controls.reset()
        if agent_plays:
            self.controls.let_agent(True)
        self.failure = ""
        self._restore = restore

    def _control_changed(self, passed_on: bool) -> None:
        if passed_on:
            self.controls.release_keys()
        self.send_session()
