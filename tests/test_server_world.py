"""The server with a real world and a real session: tokenizers, model and environment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from board import Board
from server_board_world import board_world
from server_square_world import serving
from websockets.sync.client import connect

from magrathea.errors import MagratheaError
from magrathea.server import create_app
from magrathea.server.catalog import Catalog
from magrathea.server.check import check
from magrathea.server.protocol import Frame, decode_frame
from magrathea.server.server import open_catalog
from magrathea.world import World


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return board_world(num_updates=15).save_pretrained(tmp_path_factory.mktemp("worlds") / "board")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    catalog = Catalog({"board": folder}, World.from_pretrained)
    with serving(create_app(catalog, make_env=lambda world: Board())) as address:
        yield address


def dream(url: str, query: str, messages: list[dict]) -> list[Frame]:
    """The frames of a dream that the messages drive, one at a time; the newest comes last."""
    frames = []
    with connect(f"{url.replace('http', 'ws')}/api/worlds/board/play?{query}") as socket:
        for number, message in enumerate([{}, *messages]):
            if message:
                socket.send(json.dumps(message))
            num_steps = sum(sent["type"] == "step" for sent in messages[:number])
            while True:
                data = socket.recv(timeout=30)
                if isinstance(data, str):
                    continue
                frames.append(decode_frame(data))
                socket.send(json.dumps({"type": "seen", "frame": frames[-1].header.frame}))
                header = frames[-1].header
                if frames[-1].kind == "dream" and header.state == "ended":
                    return frames  # a model that has learned little may end its dream
                if frames[-1].kind == "dream" and header.step == num_steps and header.state != "starting":
                    break
    return frames


def test_the_same_seed_gives_the_same_frames(url: str) -> None:
    keys = [{"type": "step", "button": action} for action in (4, 4, 1)]
    runs = [dream(url, f"seed={seed}&start=1", keys)[-1] for seed in (3, 3, 4, 5, 6, 7)]
    assert runs[0].parts["picture"].shape == (16, 16, 3) and runs[0].parts["uncertainty"].shape == (4, 4)
    assert (runs[0].parts["picture"] == runs[1].parts["picture"]).all()
    assert any((run.parts["picture"] != runs[0].parts["picture"]).any() for run in runs[2:])
    assert runs[0].header.num_passes >= 1 and runs[0].parts["uncertainty"].any()


def test_a_dream_starts_from_the_real_environment(url: str) -> None:
    frames = dream(url, "seed=3", [{"type": "mirror", "on": True}, {"type": "step", "button": 1}])
    mirror = next(frame for frame in frames if frame.kind == "mirror")
    begun = [frame for frame in frames if frame.kind == "dream" and frame.header.mirror.state == "on"]
    assert (begun[0].parts["picture"] == mirror.parts["picture"]).all()


def test_check_plays_a_real_world(url: str) -> None:
    figures = check(url, num_frames=5, timeout=30)
    assert figures["world"] == "board" and figures["picture"] == [16, 16, 3] and figures["model_ms"] > 0


def test_a_folder_is_opened_by_its_name_and_a_missing_one_is_reported(folder: Path, tmp_path: Path) -> None:
    catalog, only = open_catalog(str(folder))
    assert only == "board" and catalog.world("board").num_starts == 8
    with pytest.raises(MagratheaError):
        open_catalog(str(tmp_path / "nothing-here"))
