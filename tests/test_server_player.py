"""The step loop of a session: it keeps its speed, stops when it should, and waits for no viewer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from server_square_world import SquareEnv, SquareSession, SquareWorld

from magrathea.server.live_session import LiveSession
from magrathea.server.player import Player
from magrathea.server.protocol import Frame, ProtocolError, decode_frame
from magrathea.server.session_manager import SessionManager
from magrathea.server.store import StoreThread
from magrathea.server.viewers import MAX_UNSEEN, Viewer


def play(
    scene: Callable[[Player, Viewer], Awaitable[None]],
    world: SquareWorld | None = None,
    session_class: Any = SquareSession,
    **options: Any,
) -> None:
    """Run a scene with a player whose step loop runs, and one viewer."""
    options = {"make_env": lambda _: SquareEnv(), "start": 0, **options}

    async def main() -> None:
        manager = SessionManager(StoreThread(), session_class)
        live = LiveSession(manager, world or SquareWorld(fps=50), await manager.add("square"))
        player = Player(live, **options)
        viewer = player.attach()
        loop = asyncio.create_task(player.run())
        try:
            await until(lambda: player.state == "ready")
            await scene(player, viewer)
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
            await manager.close()

    asyncio.run(main())


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.002)


def say(player: Player, viewer: Viewer, kind: str, **fields: Any) -> None:
    player.handle(player.decoder.decode(json.dumps({"type": kind, **fields})), viewer)


async def newest(viewer: Viewer) -> Frame:
    """The frame that waits; it is acknowledged."""
    data: Any = ""
    while isinstance(data, str):
        data = await viewer.take()
    frame = decode_frame(data)
    viewer.seen(frame.header.frame)
    return frame


def test_steps_start_with_the_first_key_and_keep_their_speed() -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        await asyncio.sleep(0.1)
        assert player.num_steps == 0
        say(player, viewer, "press", button=2)
        await asyncio.sleep(1.0)
        assert 38 <= player.num_steps <= 52
        say(player, viewer, "speed", value=0.25)
        before = player.num_steps
        await asyncio.sleep(0.4)
        assert 3 <= player.num_steps - before <= 7

    play(scene)


def test_at_unlimited_speed_the_model_sets_the_rate() -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        say(player, viewer, "speed", value=None)
        say(player, viewer, "press", button=0)
        await until(lambda: player.num_steps > 60)  # at the world's own speed they would take 30 seconds
        header = (await newest(viewer)).header
        assert header.model_ms < 500 and header.num_passes == 2

    play(scene, SquareWorld(fps=2))


def test_a_viewer_that_takes_no_frames_does_not_delay_steps() -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        say(player, viewer, "press", button=0)
        await until(lambda: player.num_steps > 20)
        assert viewer.num_sent == 0 and viewer.num_dropped >= 20
        frame = await newest(viewer)
        assert frame.header.step >= 20 and frame.header.dropped >= 20

    play(scene)


def test_a_viewer_that_acknowledges_nothing_gets_only_a_few_frames() -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        say(player, viewer, "press", button=0)

        async def take_all() -> None:
            while True:
                await viewer.take()

        taking = asyncio.create_task(take_all())
        await until(lambda: player.num_steps > 25)
        assert viewer.num_sent == MAX_UNSEEN
        viewer.seen(10**9)
        await until(lambda: viewer.num_sent > MAX_UNSEEN)
        taking.cancel()

    play(scene)


def test_no_steps_without_viewers() -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        say(player, viewer, "press", button=0)
        await until(lambda: player.num_steps > 2)
        player.detach(viewer)
        await asyncio.sleep(0.05)
        before = player.num_steps
        await asyncio.sleep(0.1)
        assert player.num_steps == before
        again = player.attach()
        assert (await newest(again)).header.step == before
        await until(lambda: player.num_steps > before)

    play(scene)


def test_two_viewers_get_the_same_frames() -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        other = player.attach()
        say(player, viewer, "step", button=2)
        await until(lambda: player.num_steps == 1)
        await asyncio.sleep(0.01)
        first, second = await newest(viewer), await newest(other)
        assert first.header.step == second.header.step == 1
        assert (first.parts["picture"] == second.parts["picture"]).all()

    play(scene)


def test_pause_single_steps_and_reset() -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        for action in (2, 2, 5):
            say(player, viewer, "step", button=action)
        await until(lambda: player.num_steps == 3)
        assert player.state == "paused" and player.live.total_reward == 1
        await asyncio.sleep(0.08)
        assert player.num_steps == 3
        say(player, viewer, "press", button=4)
        say(player, viewer, "step")
        await until(lambda: player.num_steps == 4)
        frame = await newest(viewer)
        assert frame.header.buttons == [4] and frame.parts["picture"][9 * 4, 9 * 5, 0] == 255
        say(player, viewer, "reset", seed=3, start=2)
        await until(lambda: player.state == "ready")
        assert (player.num_steps, player.live.total_reward, player.seed, player.start) == (0, 0.0, 3, 2)

    play(scene)


def test_a_world_without_a_noop_waits_for_keys_and_refuses_realtime() -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        with pytest.raises(ProtocolError, match="can only wait for keys"):
            say(player, viewer, "realtime", on=True)
        with pytest.raises(ProtocolError, match="press the key of an action first"):
            say(player, viewer, "step")
        say(player, viewer, "press", button=1)
        say(player, viewer, "release", button=1)
        await until(lambda: player.num_steps == 1)
        await asyncio.sleep(0.1)
        assert player.num_steps == 1

    play(scene, SquareWorld(fps=50, names=["turn", "left", "right", "up", "down", "paint", "end"]))


def test_no_steps_after_the_end() -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        say(player, viewer, "press", button=6)
        await until(lambda: player.state == "ended")
        say(player, viewer, "press", button=1)
        with pytest.raises(ProtocolError, match="ended"):
            say(player, viewer, "step")
        await asyncio.sleep(0.05)
        assert player.num_steps == 1

    play(scene)


def test_a_failed_step_is_reported_and_a_reset_recovers(caplog: pytest.LogCaptureFixture) -> None:
    broken = [True]

    class Breaks(SquareSession):
        def step(self, action: np.ndarray, batch_indices: list[int] | None = None) -> Any:
            if broken[0]:
                raise RuntimeError("NaN in the logits\nand more")
            return super().step(action, batch_indices)

    async def scene(player: Player, viewer: Viewer) -> None:
        say(player, viewer, "press", button=1)
        await until(lambda: player.state == "failed")
        await asyncio.sleep(0.01)
        assert (await newest(viewer)).header.reason == "NaN in the logits"
        broken[0] = False
        say(player, viewer, "reset", seed=0)
        await until(lambda: player.state == "ready")
        say(player, viewer, "press", button=1)
        await until(lambda: player.num_steps >= 1)

    play(scene, session_class=Breaks)


def test_the_real_environment_starts_with_the_dream_and_never_delays_it() -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        say(player, viewer, "mirror", on=True)
        await until(lambda: player.mirror.state == "on" and player.state == "ready")
        frames = {}
        for _ in range(2):
            frame = await newest(viewer)
            frames[frame.kind] = frame
        assert (frames["dream"].parts["picture"] == frames["mirror"].parts["picture"]).all()
        say(player, viewer, "press", button=2)
        await asyncio.sleep(0.5)
        assert player.num_steps >= 18
        assert player.mirror.num_steps <= 6
        say(player, viewer, "mirror", on=False)
        before = player.num_steps
        await until(lambda: player.num_steps > before)

    play(scene, make_env=lambda _: SquareEnv(step_seconds=0.1))


def test_a_failing_real_environment_does_not_affect_the_dream(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(SquareEnv):
        def step(self, action: int) -> Any:
            if action == 5:
                raise ValueError("the real world broke")
            return super().step(action)

    async def scene(player: Player, viewer: Viewer) -> None:
        say(player, viewer, "mirror", on=True)
        await until(lambda: player.mirror.state == "on" and player.state == "ready")
        say(player, viewer, "step", button=5)
        await until(lambda: player.mirror.state == "failed")
        assert player.mirror.reason == "the real world broke"
        say(player, viewer, "step", button=2)
        await until(lambda: player.num_steps == 2)

    play(scene, make_env=lambda _: Failing())


def test_a_missing_real_environment_leaves_the_dream_playable(caplog: pytest.LogCaptureFixture) -> None:
    def missing(_: Any) -> Any:
        raise ImportError("No module named 'crafter'")

    async def scene(player: Player, viewer: Viewer) -> None:
        say(player, viewer, "mirror", on=True)
        await until(lambda: player.mirror.state == "failed" and player.state == "ready")
        say(player, viewer, "step", button=2)
        await until(lambda: player.num_steps == 1)
        player.mark_mirror_unavailable("not here")
        with pytest.raises(ProtocolError, match="real environment is not available: not here"):
            say(player, viewer, "mirror", on=True)

    play(scene, make_env=missing)
