"""The clock of a dream: it keeps its pace, stands still when it should, and waits for nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from app_square_world import SquareEnv, SquareSession, SquareWorld

from magrathea.server.player import Player
from magrathea.server.protocol import Frame, ProtocolError, decode_frame
from magrathea.server.session_manager import LiveSession, SessionManager
from magrathea.server.store import Store
from magrathea.server.viewer import MAX_UNSEEN, Viewer


def play(
    scene: Callable[[Player, Viewer], Awaitable[None]],
    world: SquareWorld | None = None,
    session_class: Any = SquareSession,
    **options: Any,
) -> None:
    """Run a scene with a player whose clock runs and one viewer."""
    options = {"make_env": lambda _: SquareEnv(), "start": 0, **options}

    async def main() -> None:
        library = SessionManager(Store(), session_class)
        player = Player(LiveSession(library, world or SquareWorld(fps=50), library.add("square")), **options)
        viewer = player.attach()
        clock = asyncio.create_task(player.run())
        try:
            await until(lambda: player.state == "ready")
            await scene(player, viewer)
        finally:
            clock.cancel()
            await asyncio.gather(clock, return_exceptions=True)
            await library.close()

    asyncio.run(main())


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.002)


def say(player: Player, viewer: Viewer, kind: str, **fields: Any) -> None:
    player.handle({"type": kind, **fields}, viewer)


async def newest(viewer: Viewer) -> Frame:
    """The frame that waits is taken and seen."""
    data: Any = ""
    while isinstance(data, str):
        data = await viewer.take()
    frame = decode_frame(data)
    viewer.seen(frame.header["frame"])
    return frame


def test_it_waits_for_the_first_key_and_then_keeps_its_pace() -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        await asyncio.sleep(0.1)
        assert player.num_steps == 0
        say(player, viewer, "press", action=2)
        await asyncio.sleep(1.0)
        assert 38 <= player.num_steps <= 52
        say(player, viewer, "speed", value=0.25)
        before = player.num_steps
        await asyncio.sleep(0.4)
        assert 3 <= player.num_steps - before <= 7

    play(scene)


def test_at_most_speed_the_model_sets_the_pace() -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        say(player, viewer, "speed", value=None)
        say(player, viewer, "press", action=0)
        await asyncio.sleep(0.5)
        assert player.num_steps > 60
        header = (await newest(viewer)).header
        assert header["model_ms"] < 5 and header["passes"] == 2

    play(scene)


def test_a_viewer_that_takes_nothing_holds_nothing_up() -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        say(player, viewer, "press", action=0)
        await until(lambda: player.num_steps > 20)
        assert viewer.num_sent == 0 and viewer.num_dropped >= 20
        frame = await newest(viewer)
        assert frame.header["step"] >= 20 and frame.header["dropped"] >= 20

    play(scene)


def test_a_viewer_that_sees_nothing_gets_no_more_than_a_few_frames() -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        say(player, viewer, "press", action=0)

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


def test_nobody_there_nobody_dreams() -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        say(player, viewer, "press", action=0)
        await until(lambda: player.num_steps > 2)
        player.detach(viewer)
        await asyncio.sleep(0.05)
        before = player.num_steps
        await asyncio.sleep(0.1)
        assert player.num_steps == before
        again = player.attach()
        assert (await newest(again)).header["step"] == before
        await until(lambda: player.num_steps > before)

    play(scene)


def test_two_viewers_watch_one_dream() -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        other = player.attach()
        say(player, viewer, "step", action=2)
        await until(lambda: player.num_steps == 1)
        await asyncio.sleep(0.01)
        first, second = await newest(viewer), await newest(other)
        assert first.header["step"] == second.header["step"] == 1
        assert (first.parts["picture"] == second.parts["picture"]).all()

    play(scene)


def test_pause_single_steps_and_reset() -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        for action in (2, 2, 5):
            say(player, viewer, "step", action=action)
        await until(lambda: player.num_steps == 3)
        assert player.state == "paused" and player.total_reward == 1
        await asyncio.sleep(0.08)
        assert player.num_steps == 3
        say(player, viewer, "press", action=4)
        say(player, viewer, "step")
        await until(lambda: player.num_steps == 4)
        frame = await newest(viewer)
        assert frame.header["action"] == 4 and frame.parts["picture"][9 * 4, 9 * 5, 0] == 255
        say(player, viewer, "reset", seed=3, start=2)
        await until(lambda: player.state == "ready")
        assert (player.num_steps, player.total_reward, player.seed, player.start) == (0, 0.0, 3, 2)

    play(scene)


def test_without_a_noop_it_waits_for_keys_and_says_why_it_cannot_do_more() -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        with pytest.raises(ProtocolError, match="can only wait for keys"):
            say(player, viewer, "realtime", on=True)
        with pytest.raises(ProtocolError, match="press the key of an action first"):
            say(player, viewer, "step")
        say(player, viewer, "press", action=1)
        say(player, viewer, "release", action=1)
        await until(lambda: player.num_steps == 1)
        await asyncio.sleep(0.1)
        assert player.num_steps == 1

    play(scene, SquareWorld(fps=50, names=["stay", "left", "right", "up", "down", "paint", "end"]))


def test_the_end_stops_the_clock() -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        say(player, viewer, "press", action=6)
        await until(lambda: player.state == "ended")
        say(player, viewer, "press", action=1)
        with pytest.raises(ProtocolError, match="ended"):
            say(player, viewer, "step")
        await asyncio.sleep(0.05)
        assert player.num_steps == 1

    play(scene)


def test_a_dream_that_breaks_is_reported_and_can_be_begun_anew(caplog: pytest.LogCaptureFixture) -> None:
    broken = [True]

    class Breaks(SquareSession):
        def step(self, action: np.ndarray, rows: list[int] | None = None) -> Any:
            if broken[0]:
                raise RuntimeError("NaN in the logits\nand more")
            return super().step(action, rows)

    async def scene(player: Player, viewer: Viewer) -> None:
        say(player, viewer, "press", action=1)
        await until(lambda: player.state == "failed")
        await asyncio.sleep(0.01)
        assert (await newest(viewer)).header["reason"] == "The dream stopped: NaN in the logits"
        broken[0] = False
        say(player, viewer, "reset", seed=0)
        await until(lambda: player.state == "ready")
        say(player, viewer, "press", action=1)
        await until(lambda: player.num_steps >= 1)

    play(scene, session_class=Breaks)


def test_reality_begins_where_the_dream_begins_and_never_slows_it() -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        say(player, viewer, "reality", on=True)
        await until(lambda: player.reality.state == "on" and player.state == "ready")
        frames = {}
        for _ in range(2):
            frame = await newest(viewer)
            frames[frame.header["kind"]] = frame
        assert (frames["dream"].parts["picture"] == frames["reality"].parts["picture"]).all()
        say(player, viewer, "press", action=2)
        await asyncio.sleep(0.5)
        assert player.num_steps >= 18
        assert player.reality.num_steps <= 6
        say(player, viewer, "reality", on=False)
        before = player.num_steps
        await until(lambda: player.num_steps > before)

    play(scene, make_env=lambda _: SquareEnv(step_seconds=0.1))


def test_reality_that_falls_apart_leaves_the_dream_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Falls(SquareEnv):
        def step(self, action: int) -> Any:
            if action == 5:
                raise ValueError("the real world broke")
            return super().step(action)

    async def scene(player: Player, viewer: Viewer) -> None:
        say(player, viewer, "reality", on=True)
        await until(lambda: player.reality.state == "on" and player.state == "ready")
        say(player, viewer, "step", action=5)
        await until(lambda: player.reality.state == "unavailable")
        assert player.reality.reason == "the real world broke"
        say(player, viewer, "step", action=2)
        await until(lambda: player.num_steps == 2)

    play(scene, make_env=lambda _: Falls())


def test_reality_that_cannot_begin_leaves_a_dream_to_play(caplog: pytest.LogCaptureFixture) -> None:
    def missing(_: Any) -> Any:
        raise ImportError("No module named 'crafter'")

    async def scene(player: Player, viewer: Viewer) -> None:
        say(player, viewer, "reality", on=True)
        await until(lambda: player.reality.state == "unavailable" and player.state == "ready")
        say(player, viewer, "step", action=2)
        await until(lambda: player.num_steps == 1)
        player.rule_out_reality("not here")
        with pytest.raises(ProtocolError, match="no reality beside this dream: not here"):
            say(player, viewer, "reality", on=True)

    play(scene, make_env=missing)
