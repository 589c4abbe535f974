"""The server over HTTP and WebSocket."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import gymnasium
import numpy as np
import pytest
from server_square_world import SquareSession, SquareWorld, serving, square_app
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from magrathea.errors import MagratheaError
from magrathea.server import create_app, play
from magrathea.server.action_inputs import ActionInputs
from magrathea.server.catalog import Catalog
from magrathea.server.check import CheckError, check
from magrathea.server.frame import Renderer
from magrathea.server.protocol import Frame, decode_frame
from magrathea.server.session_manager import Limits


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(square_app(limits=Limits(active=3, per_visitor=1, new_per_second=100))) as address:
        yield address


def connected(url: str, query: str = "seed=1&start=0", **options: Any) -> ClientConnection:
    return connect(f"{url.replace('http', 'ws')}/api/worlds/square/play?{query}", **options)


def send(socket: ClientConnection, **message: Any) -> None:
    socket.send(json.dumps(message))


def text_of(socket: ClientConnection, kind: str) -> dict:
    while True:
        data = socket.recv(timeout=20)
        if isinstance(data, str) and json.loads(data)["type"] == kind:
            return json.loads(data)


def frame_of(socket: ClientConnection, step: int) -> Frame:
    while True:
        data = socket.recv(timeout=20)
        if isinstance(data, str):
            continue
        frame = decode_frame(data)
        send(socket, type="seen", frame=frame.header.frame)
        if frame.header.step == step and "picture" in frame.parts:
            return frame


def get(url: str) -> tuple[int, dict, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def test_a_step_is_answered_with_its_picture(url: str) -> None:
    with connected(url) as socket:
        world = text_of(socket, "world")
        assert world["world"]["name"] == "Square" and world["world"]["has_noop"] is True
        assert world["world"]["buttons"][5] == {"index": 5, "name": "paint", "keys": [" "]}
        send(socket, type="step", button=2)
        frame = frame_of(socket, 1)
        assert frame.parts["picture"].shape == (63, 63, 3) and frame.parts["uncertainty"].shape == (7, 7)
        assert frame.parts["picture"][9 * 3, 9 * 4, 0] == 255
        assert frame.header.num_passes == 2 and frame.header.buttons == [2]


def test_invalid_messages_are_refused_and_the_connection_stays_open(url: str) -> None:
    with connected(url) as socket:
        for message, reason in (
            ("hello", "malformed"),
            ('{"type": "press", "button": 99}', "must be from 0 to 6"),
            ('{"type": "press", "button": "' + "x" * 9000 + '"}', "larger than 4096 bytes"),
            (b"\x00\x01", "Binary"),
        ):
            socket.send(message)
            assert reason in text_of(socket, "error")["reason"]
        send(socket, type="step", button=4)
        assert frame_of(socket, 1).parts["picture"][9 * 4, 9 * 3, 0] == 255


def test_too_many_messages_are_ignored_and_the_connection_stays_open(url: str) -> None:
    with connected(url) as socket:
        for _ in range(500):
            send(socket, type="seen", frame=0)
        assert "messages a second" in text_of(socket, "error")["reason"]
        socket.recv(timeout=20)


def test_the_same_seed_and_actions_give_the_same_frames(url: str) -> None:
    runs = []
    for seed in (7, 7, 8):
        with connected(url, f"seed={seed}") as socket:
            for step, action in enumerate((2, 5, 3), start=1):
                send(socket, type="step", button=action)
                frame = frame_of(socket, step)
            runs.append((frame.parts["picture"].tobytes(), frame.parts["uncertainty"].tobytes()))
    assert runs[0] == runs[1] != runs[2]


def test_a_link_opens_the_session_and_two_may_watch_it(url: str) -> None:
    with connected(url) as socket:
        session = text_of(socket, "world")["session"]
        send(socket, type="step", button=2)
        frame_of(socket, 1)
        with connected(url, f"session={session}") as other:
            assert text_of(other, "world")["session"] == session
            assert frame_of(other, 1).parts["picture"][9 * 3, 9 * 4, 0] == 255
            send(other, type="step", button=2)
            assert "Somebody else has control" in text_of(other, "error")["reason"]
            send(other, type="control", on=True)
            send(socket, type="control", on=False)
            while not text_of(other, "session")["in_control"]:
                pass
            send(other, type="step", button=4)
            assert frame_of(socket, 2).parts["picture"][9 * 4, 9 * 4, 0] == 255
    with connected(url, "session=forged") as socket:
        assert "is not here" in text_of(socket, "error")["reason"]


def test_a_full_server_refuses_and_an_idle_session_makes_room(url: str) -> None:
    with ExitStack() as stack:
        for _ in range(3):
            text_of(stack.enter_context(connected(url)), "world")
        late = stack.enter_context(connected(url))
        refusal = text_of(late, "error")
        assert "3 active sessions" in refusal["reason"] and refusal["fatal"]
        with pytest.raises(ConnectionClosed):
            late.recv(timeout=20)
    time.sleep(0.2)
    with connected(url) as socket:
        text_of(socket, "world")


@pytest.mark.parametrize("query", ["seed=-1", "seed=x", "start=4", "seed=99999999999999"])
def test_an_invalid_query_is_refused_with_a_reason(url: str, query: str) -> None:
    with connected(url, query) as socket:
        refusal = text_of(socket, "error")
        assert f"`{query.split('=')[0]}`" in refusal["reason"].replace("$.", "") and refusal["fatal"]


def test_pages_of_other_sites_cannot_connect(url: str) -> None:
    with pytest.raises(InvalidStatus):
        connected(url, origin="http://elsewhere.example")
    with connected(url, origin=url) as socket:
        text_of(socket, "world")


def test_pages_and_pictures(url: str) -> None:
    for path in ("/", "/play/square", "/static/play.js", "/static/style.css", "/static/icon.svg"):
        status, headers, body = get(url + path)
        assert status == 200 and body
        assert "default-src 'self'" in headers["content-security-policy"]
        assert b"https://" not in body
    assert get(f"{url}/api/worlds/square/starts/0.png")[2].startswith(b"\x89PNG")
    for path in ("/play/none", "/api/worlds/square/starts/9.png", "/api/worlds/square/card", "/static/../server.py"):
        assert get(url + path)[0] == 404
    assert json.loads(get(f"{url}/health")[2])["status"] == "ok"


def test_a_world_is_listed_before_it_is_loaded_and_its_card_is_served(tmp_path: Any) -> None:
    (tmp_path / "README.md").write_bytes(b"# Square \xff\n")
    (tmp_path / "config.json").write_text(json.dumps({"metadata": {"name": "A square", "description": "It walks."}}))
    loaded = []
    catalog = Catalog({"square": tmp_path, "moon": "nowhere"}, lambda source: loaded.append(source) or SquareWorld())
    with serving(create_app(catalog, session_class=SquareSession)) as address:
        listed = json.loads(get(f"{address}/api/worlds")[2])
        assert listed == [
            {"id": "square", "name": "A square", "description": "It walks."},
            {"id": "moon", "name": "moon", "description": ""},
        ]
        assert get(f"{address}/api/worlds/square/card")[2] == "# Square \ufffd\n".encode() and not loaded
        assert json.loads(get(f"{address}/api/worlds/square")[2])["has_card"] and loaded == [tmp_path]


def test_a_world_is_found_by_words(tmp_path: Any) -> None:
    for name, text in (("maze", "walls and a key"), ("sea", "a ship on waves")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model": {"prompt": text}, "metadata": {}}))
    loaded = []
    sources = {name: tmp_path / name for name in ("maze", "sea")} | {"moon": "nowhere"}
    catalog = Catalog(sources, lambda source: loaded.append(source) or SquareWorld())
    with serving(create_app(catalog, session_class=SquareSession)) as address:
        for prompt, world in (("ships%20at%20sea", "sea"), ("a%20Key", "maze"), ("the%20moon", "moon")):
            assert json.loads(get(f"{address}/api/find?prompt={prompt}")[2]) == {"world": world, "start": None}
        assert len(loaded) == 3
        status, _, reason = get(f"{address}/api/find?prompt=xylophone")
        assert status == 400 and b"No world here is about 'xylophone'" in reason and b"sea: a ship on waves" in reason
        assert get(f"{address}/api/find?prompt={'a' * 501}")[0] == 400 and get(f"{address}/api/find")[0] == 400


def test_a_world_that_cannot_be_loaded_says_why() -> None:
    def load(_: Any) -> Any:
        raise MagratheaError("World folder 'moon' has no config.json.")

    with serving(create_app(Catalog({"moon": "moon"}, load), session_class=SquareSession)) as address:
        assert get(f"{address}/api/worlds/moon")[::2] == (400, b"World folder 'moon' has no config.json.")


def test_an_unknown_world_is_refused_with_a_reason() -> None:
    with pytest.raises(MagratheaError, match="No world 'moon' here"):
        Catalog({}, lambda _: SquareWorld()).world("moon")


def test_worlds_without_a_key_map_get_one() -> None:
    world = SquareWorld(names=["NOOP", "turn_left", "turn_right", "forward", "backward", "drop", "done"])
    world.metadata["key_map"] = None
    inputs = ActionInputs(world.action_space, world.metadata)
    assert inputs.has_noop and inputs.action(()) == 0
    keys = {key: button.index for button in inputs.buttons_info() for key in button.keys}
    assert keys == {
        "ArrowLeft": 1, "a": 1, "ArrowRight": 2, "d": 2, "ArrowUp": 3, "w": 3, "ArrowDown": 4, "s": 4, "1": 5, "2": 6,
    }  # fmt: skip


def test_observations_without_a_picture_are_drawn_as_bars() -> None:
    flat = Renderer(gymnasium.spaces.Box(-1, 1, (4,)))
    assert flat.slot is None
    assert flat.render(np.array([1, -1, 0, np.nan])).shape == (48, 32, 3)
    camera = gymnasium.spaces.Dict(
        {"direction": gymnasium.spaces.Discrete(4), "image": gymnasium.spaces.Box(0, 255, (5, 6, 1), np.uint8)}
    )
    renderer = Renderer(camera)
    assert renderer.slot == "observation/image"
    assert renderer.render({"direction": 1, "image": np.full((5, 6, 1), 9)}).shape == (5, 6, 3)


def test_check_plays_a_running_server(url: str) -> None:
    figures = check(url, num_frames=10, timeout=10)
    assert figures["frames"] == 10 and figures["frames_that_changed"] > 4 and figures["passes_per_step"] == 2
    command = [sys.executable, "-m", "magrathea.server.check", url, "--frames", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and json.loads(done.stdout)["frames"] == 3
    with pytest.raises(CheckError, match="no world 'moon'"):
        check(url, world_id="moon", timeout=20)
    with pytest.raises(OSError):
        check("http://127.0.0.1:9", timeout=2)


def test_check_sends_the_token_and_fails_if_requests_without_it_are_accepted(url: str) -> None:
    with serving(square_app(token="open sesame")) as guarded:
        assert check(f"{guarded}/?token=open%20sesame", num_frames=3, timeout=10)["frames"] == 3
        with pytest.raises(OSError, match="401"):
            check(guarded, timeout=10)
        with pytest.raises(OSError, match="401"):
            check(f"{guarded}/?token=guess", timeout=10)
    with pytest.raises(CheckError, match="accepts requests without its token"):
        check(f"{url}/?token=any", timeout=10)


def test_a_port_in_use_is_reported_in_one_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magrathea.server.server.open_catalog", lambda world, **_: (Catalog({}, lambda _: None), None))
    with pytest.raises(MagratheaError, match=r"Cannot listen on 127.0.0.1:\d+ .* choose another with --port"):
        play(port=int(url.rsplit(":", 1)[1]), open_browser=False)
