"""An agent at the controls of a session: what it does, who takes over, and what it imagines meanwhile."""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from board import Board
from server_agent import FIGURES, board_agent
from server_square_world import SquareWorld
from session_worlds import wild_world
from test_server_player import newest, say, until
from test_server_player import play as play_scene

from magrathea.agents import Agent
from magrathea.errors import MagratheaError
from magrathea.server.catalog import Catalog
from magrathea.server.engine import Engine
from magrathea.server.player import Player
from magrathea.server.protocol import Frame, ProtocolError
from magrathea.server.server import open_catalog
from magrathea.server.viewers import Viewer
from magrathea.session import Session
from magrathea.world import World


class EndlessBoard(Board):
    """Whose episodes do not end, and which keeps what happened."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.taken = [], []

    def reset(self, **options: Any) -> Any:
        self.seen, self.taken = [], []
        observation, info = super().reset(**options)
        self.seen.append(observation)
        return observation, info

    def step(self, action: Any) -> Any:
        observation, reward, _, _, info = super().step(action)
        self.taken.append(int(action))
        self.seen.append(observation)
        return observation, reward, False, False, info


@pytest.fixture(scope="module")
def world() -> World:
    """An untrained world of the board, which shows something else at every step, and does not end by itself."""
    made = copy.copy(wild_world())
    metadata = {"fps": 20, "action_names": list(Board.metadata["action_names"])}
    made.config = replace(made.config, metadata=metadata)
    made.decode_terminated = lambda tokens: np.zeros(tokens.shape[:-1], bool)  # type: ignore[method-assign]
    return made


@pytest.fixture(scope="module")
def agent(world: World) -> Agent:
    return board_agent(world=world)


def play(
    world: Any, agent: Any, scene: Callable[[Player, Viewer], Awaitable[None]], make_env: Any = EndlessBoard
) -> None:
    play_scene(scene, world, Session, agent=agent, make_env=lambda _: make_env())


async def history(player: Player) -> torch.Tensor:
    return await player.live.last_steps(10**6)


async def frames(viewer: Viewer, kind: str, seconds: float = 20.0) -> Frame:
    end = time.monotonic() + seconds
    while True:
        frame = await asyncio.wait_for(newest(viewer), end - time.monotonic())
        if frame.kind == kind:
            return frame


def actions_of(world: World, steps: torch.Tensor) -> list[int]:
    return world.decode_action(steps).tolist()


async def pause(player: Player, viewer: Viewer) -> None:
    """Pause, and wait until a step that was under way is there."""
    say(player, viewer, "pause", on=True)
    for _ in range(8):
        await player.live.manager.engine.call(int)
        await asyncio.sleep(0.02)


def decided(agent: Agent, steps: torch.Tensor) -> tuple[Any, float]:
    return agent.decide(agent.features_after(steps))


def expected(agent: Agent, steps: torch.Tensor, number: int) -> list[int]:
    """What the agent does before each of the last `number` steps, given those before it."""
    return [int(decided(agent, steps[:index])[0]) for index in range(len(steps) - number, len(steps))]


def test_the_agent_plays_and_its_actions_are_logged(world: World, agent: Agent) -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        player.controls.set_realtime(False)  # nothing but the agent makes steps
        say(player, viewer, "agent", on=True)
        await until(lambda: player.num_steps >= 12)
        await pause(player, viewer)
        number, steps = player.num_steps, await history(player)
        assert actions_of(world, steps[-number:]) == expected(agent, steps, number)
        assert len(set(actions_of(world, steps[-number:]))) > 1
        header = (await frames(viewer, "dream")).header
        while header.step < number or header.state != "paused":
            header = (await frames(viewer, "dream")).header
        assert header.agent and header.buttons == actions_of(world, steps[-1:])
        assert header.value == pytest.approx(decided(agent, steps[:-1])[1], rel=1e-4)

    play(world, agent, scene)


def test_a_key_takes_over_and_the_agent_may_be_given_back(world: World, agent: Agent) -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        player.controls.set_realtime(False)
        say(player, viewer, "agent", on=True)
        await until(lambda: player.num_steps >= 3)
        say(player, viewer, "press", button=3)
        say(player, viewer, "release", button=3)
        assert not player.controls.agent
        before = player.num_steps
        await until(lambda: player.num_steps > before)
        await asyncio.sleep(0.2)
        number = player.num_steps
        assert number <= before + 2  # one of the agent's may have been under way
        assert actions_of(world, (await history(player))[-1:]) == [3]
        header = (await frames(viewer, "dream")).header
        while header.step < number:
            header = (await frames(viewer, "dream")).header
        assert not header.agent and header.value is None
        say(player, viewer, "agent", on=True)
        await until(lambda: player.num_steps >= number + 3)
        for kind, fields in (("step", {"button": 1}), ("agent", {"on": False})):
            say(player, viewer, "agent", on=True)
            say(player, viewer, kind, **fields)
            assert not player.controls.agent

    play(world, agent, scene)


def test_going_back_stops_the_agent_and_starting_anew_does_not(world: World, agent: Agent) -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        player.controls.set_realtime(False)
        say(player, viewer, "agent", on=True)
        await until(lambda: player.num_steps >= 8)
        await pause(player, viewer)
        steps, number, branch = await history(player), player.num_steps, player.live.branch
        say(player, viewer, "go_to", branch=branch, step=5)
        await until(lambda: player.state == "ready")
        assert player.num_steps == 5 and not player.controls.agent
        assert torch.equal(await history(player), steps[: len(steps) - number + 5])
        say(player, viewer, "agent", on=True)
        await until(lambda: player.num_steps >= number)
        await pause(player, viewer)
        again = await history(player)
        assert torch.equal(again[: len(steps)], steps)  # it goes on as if it had never stopped
        say(player, viewer, "reset", seed=3, start=1)
        await until(lambda: player.live.branch not in (branch, branch + 1) and player.num_steps >= 2)
        assert player.controls.agent and player.state == "playing"

    play(world, agent, scene)


def test_single_steps_take_the_agents_actions(world: World, agent: Agent) -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        say(player, viewer, "pause", on=True)
        say(player, viewer, "agent", on=True)
        await asyncio.sleep(0.1)
        assert player.num_steps == 0 and player.state == "paused"
        for number in (1, 2):
            say(player, viewer, "step")
            await until(lambda number=number: player.num_steps == number)
        steps = await history(player)
        assert actions_of(world, steps[-2:]) == expected(agent, steps, 2)

    play(world, agent, scene)


def test_the_same_agent_plays_in_the_real_environment_on_what_it_sees_there(world: World, agent: Agent) -> None:
    made: list[EndlessBoard] = []

    def make() -> EndlessBoard:
        made.append(EndlessBoard())
        return made[-1]

    async def scene(player: Player, viewer: Viewer) -> None:
        say(player, viewer, "mirror", on=True)
        say(player, viewer, "agent", on=True)
        await until(lambda: player.mirror.num_steps >= 8)
        await pause(player, viewer)
        await until(lambda: player.mirror.num_steps == player.num_steps)
        env, warm_up = made[-1], len(made[-1].taken) - player.mirror.num_steps
        alone = agent.new_player()
        alone.observe_one(env.seen[0], True)
        for index, action in enumerate(env.taken):
            if index >= warm_up:
                assert int(alone.choose(sample=False)[0]) == action
            alone.take(action)
            alone.observe_one(env.seen[index + 1], False)
        dreamt = actions_of(world, (await history(player))[-player.num_steps :])
        assert len(dreamt) == player.mirror.num_steps

    play(world, agent, scene, make)


def test_reality_goes_on_where_the_dream_has_ended(agent: Agent) -> None:
    ending = copy.copy(wild_world())
    ending.decode_terminated = lambda tokens: np.ones(tokens.shape[:-1], bool)  # type: ignore[method-assign]

    async def scene(player: Player, viewer: Viewer) -> None:
        say(player, viewer, "mirror", on=True)
        say(player, viewer, "agent", on=True)
        await until(lambda: player.mirror.num_steps >= 6)
        assert player.num_steps == 1 and player.state == "ended"

    play(ending, board_agent(world=ending), scene)


def test_futures_are_shown_while_the_agent_plays(world: World, agent: Agent) -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        say(player, viewer, "pause", on=True)
        say(player, viewer, "agent", on=True)
        frame = await frames(viewer, "futures")
        header, totals = frame.header, [future.total for future in frame.header.futures]
        assert header.step == 0 and len(totals) == 3 and totals == sorted(totals, reverse=True)
        assert {future.action for future in header.futures} <= set(Board.metadata["action_names"])
        first = world.decode_observation((await history(player))[-1:])[0]
        for index, number in enumerate(header.num_pictures):
            pictures = frame.parts[f"future{index}"]
            assert pictures.shape == (16 * number, 16, 3) and number == 13
            assert (pictures[:16] == first).all() and (pictures[-16:] != first).any()
        late = player.attach()
        assert (await frames(late, "futures")).header.step == 0
        say(player, viewer, "press", button=1)
        assert player.agent and player.agent.shown is None
        with pytest.raises(TimeoutError):
            await frames(viewer, "futures", 0.5)

    play(world, agent, scene)


def test_an_agent_plays_a_world_that_is_not_its_own(world: World) -> None:
    other = board_agent(seed=2, world=wild_world(seed=1))

    async def scene(player: Player, viewer: Viewer) -> None:
        player.controls.set_realtime(False)
        say(player, viewer, "agent", on=True)
        await until(lambda: player.num_steps >= 6)
        await pause(player, viewer)
        steps, number = await history(player), player.num_steps
        window = other.world.config.model.window + 1
        for index in range(len(steps) - number, len(steps)):
            before = steps[max(0, index - window) : index]
            seen = other.world.encode_episode(world.decode_observation(before), world.decode_action(before[1:]))
            assert int(decided(other, seen)[0]) == actions_of(world, steps[index : index + 1])[0]

    play(world, other, scene)


def test_a_world_without_an_agent_says_so(world: World) -> None:
    async def scene(player: Player, viewer: Viewer) -> None:
        with pytest.raises(ProtocolError, match="has no agent; name one: magrathea play WORLD --agent FOLDER"):
            say(player, viewer, "agent", on=True)

    play(world, None, scene)


def test_calls_while_idle_wait_for_slots_that_step_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magrathea.server.engine.IDLE_SECONDS", 0.2)  # for busy machines

    class Still:
        batch_key = "still"

        def step(self, actions: Any, indices: Any) -> Any:
            time.sleep(0.01)

    async def main() -> None:
        engine, called = Engine(), []
        slot = await engine.open(Still())
        assert await engine.call_while_idle(lambda: 3) == 3
        waiting = asyncio.create_task(engine.call_while_idle(called.append, 1))
        await asyncio.sleep(0)
        for _ in range(20):
            await slot.step(0)
        assert not called and not waiting.done()
        await waiting
        assert called == [1]
        started = time.monotonic()
        for _ in range(3):
            await engine.call_while_idle(time.sleep, 0.05)
        assert time.monotonic() - started > 0.28  # half of the time is left to others
        await engine.close()

    asyncio.run(main())


# -- which agent plays which world ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield board_agent().save_pretrained(tmp_path_factory.mktemp("agents") / "walker")


def test_an_agents_folder_is_played_in_its_own_world(folder: Path) -> None:
    catalog, opened = open_catalog(str(folder), device="cpu")
    assert opened == "walker"
    agent, world = catalog.agent("walker"), catalog.world("walker")
    assert agent.world is world
    shown = catalog.describe("walker", world).agent
    assert shown and shown.has_card and [round.real_return for round in shown.learned] == [-2.0, 2.0]
    assert shown.measured and (shown.measured.dream_return, shown.measured.real_return) == (3.0, 2.0)
    card = catalog.agent_card("walker")
    assert card and card.startswith("# An agent for board")


def test_an_agent_is_named_or_lies_in_the_folder_of_its_world(folder: Path, tmp_path: Path) -> None:
    alone = wild_world().save_pretrained(tmp_path / "alone")
    assert open_catalog(str(alone), device="cpu")[0].agent("alone") is None
    catalog, _ = open_catalog(str(alone), device="cpu", agent=folder)
    assert catalog.agent("alone").metadata["env_id"] == FIGURES["env_id"]
    assert catalog.agent("alone").world is not catalog.world("alone")
    with_agent = wild_world().save_pretrained(tmp_path / "with-agent")
    board_agent().save_pretrained(with_agent / "agent")
    assert open_catalog(str(with_agent), device="cpu")[0].agent("with-agent") is not None
    agent = board_agent()
    own = agent.world.save_pretrained(tmp_path / "own", dtype=torch.float32)
    agent.save_pretrained(own / "agent")
    catalog, _ = open_catalog(str(own / "agent"), device="cpu")
    assert catalog.agent("agent").world is catalog.world("agent"), "one world, that of the folder"


def test_an_agent_that_is_broken_or_does_not_fit_is_refused_where_it_was_named(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = wild_world().save_pretrained(tmp_path / "world")
    with pytest.raises(MagratheaError, match=r"No agent in '.*nothing'; train one with"):
        open_catalog(str(world), device="cpu", agent=tmp_path / "nothing")
    with pytest.raises(MagratheaError, match=r"The agent's observation space is .*, but the world's is .*its own env"):
        Catalog({"square": tmp_path}, lambda _: SquareWorld(), {"square": folder}).agent("square")
    (world / "agent").mkdir()
    (world / "agent" / "agent.safetensors").write_bytes(b"nonsense")
    with caplog.at_level(logging.WARNING):
        assert open_catalog(str(world), device="cpu")[0].agent("world") is None
    assert "does not play" in caplog.text
