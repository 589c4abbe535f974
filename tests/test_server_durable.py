"""A server that is killed at any moment loses no acknowledged step, and continues as if it had never stopped."""

from __future__ import annotations

import json
import multiprocessing
import random
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from server_board_world import board_world
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from magrathea.sampler import FillSettings
from magrathea.server.frame import Renderer
from magrathea.server.protocol import Frame, decode_frame
from magrathea.server.store import Store
from magrathea.session import Session
from magrathea.world import World

NUM_KILLS = 12
SERVERS = multiprocessing.get_context("forkserver")
SERVERS.set_forkserver_preload(["torch", "magrathea.server.server", "magrathea.session", "magrathea.world"])


def serve(folder: Path, port: int, store: Path) -> None:
    from magrathea.server import play

    torch.set_num_threads(1)
    torch.cpu._is_amx_tile_supported = torch.cpu._is_avx512_bf16_supported = lambda: False  # as in conftest.py
    play(str(folder), port=port, store=store, open_browser=False, device="cpu")


class Server:
    """A server in a process of its own, always at the same address."""

    def __init__(self, folder: Path, store: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.arguments = (folder, self.port, store)
        self.process: Any = None

    def start(self) -> None:
        self.process = SERVERS.Process(target=serve, args=self.arguments, daemon=True)
        self.process.start()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


class Client:
    """Plays one step after another, keeps the frames, and reconnects by its session's id."""

    def __init__(self, port: int, seed: int) -> None:
        self.url = f"ws://127.0.0.1:{port}/api/worlds/board/play"
        self.seed = seed
        self.session: str | None = None
        self.shown: dict[int, Frame] = {}
        self.actions: list[int] = []
        self.rng = random.Random(seed)
        self.connection = ExitStack()
        self.socket: Any = None

    def disconnect(self) -> None:
        self.connection.close()

    def connect(self) -> None:
        """Connect, trying until the server answers; the first frame has the number of the last step."""
        end = time.monotonic() + 90
        query = f"session={self.session}" if self.session else f"seed={self.seed}&start=1"
        while True:
            try:
                self.disconnect()
                self.socket = self.connection.enter_context(connect(f"{self.url}?{query}"))
                world = json.loads(self.socket.recv(timeout=30))
                assert world["type"] == "world", world
                self.session = world["session"]
                frame = self.frame(lambda header: header.state != "starting")
                break
            except (OSError, WebSocketException):
                assert time.monotonic() < end, "the server did not come back"
                time.sleep(0.05)
        step = frame.header.step
        assert len(self.actions) - 1 <= step <= len(self.actions), "an acknowledged step is lost"
        del self.actions[step:]
        if step in self.shown:
            assert (frame.parts["picture"] == self.shown[step].parts["picture"]).all()

    def frame(self, wanted: Any) -> Frame:
        while True:
            data = self.socket.recv(timeout=60)
            if isinstance(data, bytes):
                frame = decode_frame(data)
                self.socket.send(json.dumps({"type": "seen", "frame": frame.header.frame}))
                assert frame.header.state != "failed", frame.header.reason
                if frame.kind == "dream" and wanted(frame.header):
                    return frame

    def step(self) -> None:
        """One step; it is acknowledged when its frame is here."""
        action = self.rng.randrange(4)
        step = len(self.actions) + 1
        self.actions.append(action)
        self.socket.send(json.dumps({"type": "step", "button": action}))
        self.shown[step] = self.frame(lambda header: header.step == step)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = board_world(num_updates=15)
    world.config.fill = FillSettings(min_probability=0.3)  # so that no dream ends before the test does
    return world.save_pretrained(tmp_path_factory.mktemp("worlds") / "board")


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[Server]:
    server = Server(folder, tmp_path / "sessions.db")
    server.start()
    yield server
    server.kill()


@pytest.mark.slow
def test_sigkill_at_random_moments_loses_no_step_and_changes_none(server: Server, folder: Path) -> None:
    client, rng = Client(server.port, seed=3), random.Random(0)
    client.connect()
    for _ in range(NUM_KILLS):
        killed_at = time.monotonic() + rng.uniform(0.0, 0.6)
        try:
            while time.monotonic() < killed_at:
                client.step()
            client.socket.send(json.dumps({"type": "step", "button": 1}))  # so that the kill falls into a step
            client.actions.append(1)
            time.sleep(rng.uniform(0.0, 0.02))
        finally:
            server.kill()
        server.start()
        client.connect()
    client.step()
    client.disconnect()
    session = Session(World.from_pretrained(folder), seed=3, start=1)
    renderer = Renderer(session.world.observation_space)
    for step, action in enumerate(client.actions, start=1):
        result = session.step(np.array([action]))
        if step in client.shown:
            shown = client.shown[step].parts
            assert (shown["picture"] == renderer.render(result.observation[0])).all()
            uncertainty = np.rint(255 * np.clip(result.uncertainty[renderer.slot][0], 0, 1)).astype(np.uint8)
            assert (shown["uncertainty"] == uncertainty).all()
    assert len(client.actions) > NUM_KILLS


@pytest.mark.slow
def test_two_clients_of_a_killed_server_find_all_their_steps(server: Server) -> None:
    clients, rng = [Client(server.port, seed) for seed in (5, 6)], random.Random(1)
    for client in clients:
        client.connect()
    for _ in range(4):
        for _ in range(rng.randrange(1, 6)):
            for client in clients:
                client.step()
        server.kill()
        server.start()
        for client in clients:
            client.connect()
    for client in clients:
        client.disconnect()
    store = Store(server.arguments[2])
    for client in clients:
        assert client.session
        assert store.session(client.session).num_steps == len(client.actions)
    store.close()
