"""Sessions over HTTP, the limits of a server and its token: what is refused says why."""

from __future__ import annotations

import io
import json
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from server_square_world import SquareSession, SquareWorld, serving, square_app
from test_server_http import connected, frame_of, send, text_of
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from magrathea.errors import MagratheaError
from magrathea.server import play
from magrathea.server.auth import is_loopback
from magrathea.server.catalog import Catalog
from magrathea.server.protocol import decode_frame
from magrathea.server.server import _listen
from magrathea.server.session_manager import Limits
from magrathea.session.file import FileLimits


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(square_app(limits=Limits(active=20, new_per_second=100))) as address:
        yield address


@pytest.fixture
def short_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle sessions are suspended after a fifth of a second."""
    for module in ("session_pool", "server"):
        monkeypatch.setattr(f"magrathea.server.{module}.IDLE_SECONDS", 0.2)


def ask(url: str, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, Any]:
    """The status and the answer, as JSON where it is."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            status, answer = response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            status, answer = error.code, error.read()
    try:
        return status, json.loads(answer)
    except ValueError:
        return status, answer


def played(url: str, *actions: int, query: str = "seed=1&start=0") -> str:
    """The id of a session in which these actions were taken."""
    with connected(url, query) as socket:
        session = text_of(socket, "world")["session"]
        for step, action in enumerate(actions, start=first_step(socket) + 1):
            send(socket, type="step", button=action)
            frame_of(socket, step)
    return session


def first_step(socket: Any) -> int:
    """The step at which a session starts or is resumed."""
    while True:
        data = socket.recv(timeout=20)
        if isinstance(data, bytes) and decode_frame(data).header.state != "starting":
            return decode_frame(data).header.step


def test_list_name_fork_and_delete(url: str) -> None:
    session = played(url, 2, 5, 2)
    status, named = ask(f"{url}/api/sessions/{session}", "PATCH", {"name": " the lake "})
    assert status == 200 and named["name"] == "the lake" and named["num_steps"] == 3
    status, fork = ask(f"{url}/api/sessions/{session}/fork", "POST", {"step": 2, "branch": named["head"]})
    assert status == 201 and fork["num_steps"] == 2 and fork["id"] != session
    listed = {one["id"]: one for one in ask(f"{url}/api/sessions?world=square")[1]}
    assert listed[session]["num_branches"] == 1 and listed[fork["id"]]["name"] == ""
    assert ask(f"{url}/api/sessions?world=moon") == (200, [])
    assert ask(f"{url}/api/sessions/{session}", "DELETE")[0] == 204
    assert ask(f"{url}/api/sessions/{session}")[0] == 404
    with connected(url, f"session={fork['id']}") as socket:  # it has lost nothing of what it shares
        assert frame_of(socket, 2).header.total_reward == 1
        send(socket, type="step", button=5)
        assert frame_of(socket, 3).header.total_reward == 2
    assert ask(f"{url}/api/sessions/{fork['id']}/branches/{fork['head']}/steps/1.png")[1].startswith(b"\x89PNG")


def test_an_untouched_session_is_not_listed(short_idle: None) -> None:
    """Its link opens it all the same, after it was suspended."""
    with serving(square_app()) as url:
        other_session = played(url, 2)
        with connected(url, "seed=1&start=0") as named, connected(url, "seed=2&start=0") as idle:
            name, other = (text_of(socket, "world")["session"] for socket in (named, idle))
            assert ask(f"{url}/api/sessions/{name}", "PATCH", {"name": "later"})[0] == 200
        time.sleep(0.5)
        assert {one["id"] for one in ask(f"{url}/api/sessions")[1]} == {other_session, name}
        assert ask(f"{url}/api/sessions/{other}")[0] == 200


def test_invalid_requests_are_refused_in_one_line(url: str) -> None:
    session = played(url, 2)
    head = ask(f"{url}/api/sessions/{session}")[1]["head"]
    one = f"{url}/api/sessions/{session}"
    for method, address, body, status, reason in (
        ("GET", f"{url}/api/sessions/none", None, 404, "is not here"),
        ("DELETE", f"{url}/api/sessions/none", None, 404, "is not here"),
        ("PATCH", one, {"name": "x" * 81}, 400, "length <= 80"),
        ("PATCH", one, {"name": "two\nlines"}, 400, "one line"),
        ("PATCH", one, {"name": 7}, 400, "Expected `str`"),
        ("PATCH", one, b"[]", 400, "Expected `object`"),
        ("PATCH", one, b"x" * 5000, 413, "larger than 4096 bytes"),
        ("POST", f"{one}/fork", {"step": 2}, 400, "no step 2"),
        ("POST", f"{one}/fork", {"step": -1}, 400, "Expected `int` >= 0"),
        ("POST", f"{one}/fork", {"branch": "1"}, 400, "got `str`"),
        ("POST", f"{one}/fork", {"branch": 10**30}, 400, "Expected `int` <="),
        ("GET", f"{one}/branches/{head}/steps/9.png", None, 400, "no step 9"),
        ("GET", f"{one}/branches/{head}/steps/9.gif", None, 400, "no step 9"),
        ("POST", f"{url}/api/sessions", b"no session", 400, "not a session"),
    ):
        got, answer = ask(address, method, body)
        assert got == status and reason in answer.decode() and b"\n" not in answer, (method, address, got, answer)


def test_the_last_seconds_are_a_clip(url: str) -> None:
    session = played(url, 2, 5, 4)
    head = ask(f"{url}/api/sessions/{session}")[1]["head"]
    with urllib.request.urlopen(f"{url}/api/sessions/{session}/branches/{head}/steps/3.gif") as response:
        assert response.headers["content-type"] == "image/gif"
        with Image.open(io.BytesIO(response.read())) as clip:
            assert clip.n_frames == 4 and clip.size == (252, 252)  # type: ignore[attr-defined]
            places = []
            for number in range(4):
                clip.seek(number)
                red = np.asarray(clip.convert("RGB"))[18::36, 18::36, 0]
                places.append(np.argwhere(red > 200)[0].tolist())
    assert [b[1] - a[1] for a, b in pairwise(places)] == [1, 0, 0] and places[3][0] == places[2][0] + 1


def test_a_session_file_is_downloaded_and_uploaded(url: str) -> None:
    session = played(url, 2, 5, 4)
    status, file = ask(f"{url}/api/sessions/{session}/file")
    file = json.dumps(file).encode()  # the square's sessions are JSON
    status, added = ask(f"{url}/api/sessions?name=back", "POST", file)
    assert status == 201 and added["name"] == "back" and added["num_steps"] == 3
    with connected(url, f"session={added['id']}") as socket:
        frame = frame_of(socket, 3)
        assert frame.parts["picture"][9 * 4, 9 * 4, 0] == 255 and frame.header.total_reward == 1
        send(socket, type="go_to", branch=added["head"], step=1)
        assert frame_of(socket, 1).parts["picture"][9 * 3, 9 * 4, 0] == 255
        send(socket, type="step", button=3)
        assert frame_of(socket, 2).parts["picture"][9 * 2, 9 * 4, 0] == 255
    assert ask(f"{url}/api/sessions/{added['id']}")[1]["num_branches"] == 2
    other = SquareWorld()
    other.fingerprint = "another"
    status, answer = ask(f"{url}/api/sessions", "POST", SquareSession(other).to_bytes())
    assert status == 400 and b"of another world" in answer


def test_a_session_longer_than_a_file_may_be_is_not_downloaded() -> None:
    """Its start counts too, as in the upload of the file."""
    with serving(square_app(limits=Limits(active=20, upload=FileLimits(steps=3)))) as url:
        assert ask(f"{url}/api/sessions/{played(url, 2, 2)}/file")[0] == 200
        for actions in ((2, 2, 2), (2, 2, 2, 2)):
            status, answer = ask(f"{url}/api/sessions/{played(url, *actions)}/file")
            assert status == 400 and b"steps, and 3 are the most that a file may have" in answer


def test_a_missing_branch_is_refused_and_the_session_continues(url: str) -> None:
    with connected(url) as socket:
        text_of(socket, "world")
        for branch, step in ((10**6, 0), (1, 10**9)):
            send(socket, type="go_to", branch=branch, step=step)
            assert "has no step" in text_of(socket, "error")["reason"]
        send(socket, type="step", button=2)
        frame_of(socket, 1)


def test_a_deleted_branch_takes_no_shared_steps_with_it(url: str) -> None:
    with connected(url, "seed=1&start=0") as socket:
        session = text_of(socket, "world")["session"]
        for step, action in enumerate((2, 2, 5), start=1):
            send(socket, type="step", button=action)
            frame_of(socket, step)
        old = ask(f"{url}/api/sessions/{session}")[1]["head"]
        send(socket, type="go_to", branch=old, step=2)
        frame_of(socket, 2)
        new = ask(f"{url}/api/sessions/{session}")[1]["head"]
        address = f"{url}/api/sessions/{session}/branches"
        assert ask(f"{address}/{new}", "DELETE") == (400, b"This session is on that branch; go to another one first.")
        assert ask(f"{address}/77777", "DELETE")[0] == 400
        assert ask(f"{address}/{old}", "DELETE")[0] == 204
        while [branch["id"] for branch in text_of(socket, "session")["branches"]] != [new]:
            pass
        assert ask(f"{address}/{old}", "DELETE")[0] == 400
        send(socket, type="go_to", branch=old, step=1)
        assert "no step 1 on branch" in text_of(socket, "error")["reason"]
        send(socket, type="step", button=4)
        frame_of(socket, 3)
        assert ask(f"{address}/{new}/steps/1.png")[0] == 200
    assert ask(f"{url}/api/sessions/{session}/file")[0] == 200


def test_limits_on_sessions_branches_steps_viewers_and_rates() -> None:
    limits = Limits(
        active=2, viewers=2, sessions=3, branches=3, steps=4, upload_bytes=100, new_per_second=1, per_visitor=1
    )
    with serving(square_app(limits=limits)) as url:
        session = played(url, 2, 2, 2)
        with connected(url, f"session={session}") as socket, connected(url, f"session={session}") as other:
            frame_of(socket, 3)
            frame_of(other, 3)
            with connected(url, f"session={session}") as third:
                assert "2 viewers, the most allowed" in text_of(third, "error")["reason"]
            send(socket, type="step", button=2)
            frame_of(socket, 4)
            send(socket, type="step", button=2)
            assert "4 steps at most" in text_of(socket, "error")["reason"]
            for _ in range(2):
                send(socket, type="reset", seed=0)
                frame_of(socket, 0)
                send(socket, type="step", button=2)
                frame_of(socket, 1)
            send(socket, type="reset", seed=0)
            assert "3 branches at most" in text_of(socket, "error")["reason"]
            send(socket, type="step", button=2)
            frame_of(socket, 2)
        for _ in range(2):
            assert ask(f"{url}/api/sessions/{session}/fork", "POST", {})[0] == 201
        assert b"3 sessions at most" in ask(f"{url}/api/sessions/{session}/fork", "POST", {})[1]
        assert b"Too many new sessions" in ask(f"{url}/api/sessions/{session}/fork", "POST", {})[1]
        time.sleep(1.1)
        assert ask(f"{url}/api/sessions", "POST", b"x" * 200)[0] == 413


def test_an_idle_session_is_suspended_and_resumed_where_it_was(short_idle: None) -> None:
    with serving(square_app()) as url:
        session = played(url, 2, 5)
        end = time.monotonic() + 20
        while ask(f"{url}/api/sessions/{session}")[1]["active"]:
            assert time.monotonic() < end, "it is not suspended"
            time.sleep(0.05)
        with connected(url, f"session={session}") as socket:
            assert frame_of(socket, 2).header.total_reward == 1
            assert ask(f"{url}/api/sessions/{session}")[1]["active"]


def test_a_server_with_a_token_refuses_requests_without_it() -> None:
    with serving(square_app(token="open sesame")) as url:
        socket_url = f"{url.replace('http', 'ws')}/api/worlds/square/play"
        for path in ("/", "/play/square", "/api/sessions", "/api/worlds", "/?token=wrong"):
            assert ask(url + path)[0] == 401
        for address in (socket_url, f"{socket_url}?token=wrong"):
            with pytest.raises(InvalidStatus):
                connect(address)
        assert ask(f"{url}/health")[0] == 200 and ask(f"{url}/static/style.css")[0] == 200
        assert ask(f"{url}/api/sessions", Authorization="Bearer open sesame") == (200, [])
        assert ask(f"{url}/api/sessions", Host="worlds.example", Authorization="Bearer open sesame")[0] == 200
        with connect(f"{socket_url}?token=open%20sesame") as socket:
            assert text_of(socket, "world")["session"]


@pytest.mark.parametrize("header", ["Authorization", "Cookie", "query"])
def test_wrong_tokens_are_limited_before_they_are_compared(header: str) -> None:
    """So that a right guess is answered like a wrong one while they come too fast, however it is sent."""

    def guess(url: str, token: str) -> int:
        if header == "query":
            return ask(f"{url}/?token={token}")[0]
        return ask(f"{url}/", **{header: f"Bearer {token}" if header == "Authorization" else f"magrathea={token}"})[0]

    with serving(square_app(token="opensesame")) as url:
        assert [guess(url, f"guess{number}") for number in range(10)] == [401] * 10
        assert guess(url, "opensesame") == 429
        assert ask(f"{url}/", Authorization="Bearer opensesame")[0] == 429
        assert ask(f"{url}/")[0] == 401  # without a guess, the page that asks for the token
        time.sleep(2.1)
        assert ask(f"{url}/api/sessions", Authorization="Bearer opensesame")[0] == 200


@pytest.mark.parametrize("token", ["", " ", "\t"])
def test_an_empty_token_is_refused(token: str) -> None:
    with pytest.raises(MagratheaError, match="The token is empty; give one of at least 16 characters"):
        play(host="0.0.0.0", token=token, open_browser=False)
    with pytest.raises(MagratheaError, match="The token is empty"):
        square_app(token=token)


def served_address(monkeypatch: pytest.MonkeyPatch, store: Path, **options: Any) -> str:
    """The address that a server prints, without serving."""
    printed: list[str] = []
    monkeypatch.setattr(
        "magrathea.server.server.open_catalog", lambda world, device, **_: (Catalog({}, lambda _: None), world)
    )
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: (server.announce(), sockets[0].close()))
    monkeypatch.setattr("builtins.print", lambda text, **_: printed.append(text))
    play(port=0, store=store, open_browser=False, **options)
    return "\n".join(printed)


def test_a_token_is_made_where_it_is_needed_or_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def token_of(**options: Any) -> list[str]:
        return re.findall(r"\?token=(\S+)", served_address(monkeypatch, tmp_path / "store.db", **options))

    (made,) = token_of(host="0.0.0.0")
    assert len(made) >= 16
    assert token_of(token=True) == [made] and token_of() == []
    assert token_of(token="a&b #=ä" + "x" * 16) == ["a%26b+%23%3D%C3%A4" + "x" * 16]


@pytest.mark.parametrize(
    ("options", "printed"),
    [
        ({}, r"http://127.0.0.1:\d+/ \("),
        ({"world": "a b#"}, r"http://127.0.0.1:\d+/play/a%20b%23 "),
        ({"public_url": "http://localhost:9000/"}, r"http://localhost:9000/ "),
        ({"public_url": "https://dreams.example"}, r"https://dreams.example/\?token=\S{16,} "),
        ({"host": "0.0.0.0", "world": "moon"}, r"http://localhost:\d+/play/moon\?token=\S{16,} "),
    ],
)
def test_the_address_that_visitors_see_is_printed(
    options: dict, printed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert re.match("Magrathea is at " + printed, served_address(monkeypatch, tmp_path / "store.db", **options))


@pytest.mark.parametrize("url", ["", "dreams.example", "ftp://a", "http://", "https://a/b", "http://a:b", "http://a?b"])
def test_a_public_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(MagratheaError, match="is not the address of a server; give one without a path"):
        play(public_url=url, open_browser=False)


def test_a_proxy_may_change_the_host_and_its_port() -> None:
    """What a page sends as its origin is then the public URL; its cookie is only sent over https."""
    proxied = {"Host": "dreams.example", "Origin": "https://dreams.example:8443"}
    with serving(square_app()) as url:
        assert ask(f"{url}/api/sessions", **proxied)[0] == 421
    with serving(square_app(public_url="https://Dreams.example:8443", token="x" * 16)) as url:
        session = {**proxied, "Authorization": "Bearer " + "x" * 16}
        foreign = {**session, "Origin": "https://elsewhere.example"}
        socket_url = f"{url.replace('http', 'ws')}/api/worlds/square/play?token={'x' * 16}"
        with connect(socket_url, origin=proxied["Origin"]) as socket:
            name = text_of(socket, "world")["session"]
        assert ask(f"{url}/api/sessions/{name}", "DELETE", **foreign)[0] == 403
        assert ask(f"{url}/api/sessions/{name}", "DELETE", **session)[0] == 204
        request = urllib.request.Request(f"{url}/sessions?token={'x' * 16}")
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=10) as response:
            assert response.status == 303 and "; Secure" in response.headers["set-cookie"]
    with serving(square_app(public_url="https://dreams.example:443")) as url:  # without a token, for this name only
        socket_url = f"{url.replace('http', 'ws')}/api/worlds/square/play"
        for host, status in (("dreams.example", 200), ("elsewhere.example", 421)):
            assert ask(f"{url}/api/sessions", Host=host)[0] == status
        with connect(socket_url, origin="https://dreams.example") as socket:
            assert text_of(socket, "world")["session"]


class _NoRedirect(urllib.request.HTTPErrorProcessor):
    def http_response(self, request: Any, response: Any) -> Any:
        return response


def test_a_short_token_is_warned_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for token, warned in (("x" * 15, True), ("x" * 16, False)):
        printed = served_address(monkeypatch, tmp_path / "store.db", token=token)
        assert ("can be guessed; give at least 16" in printed) == warned


def test_other_sites_and_other_host_names_are_refused(url: str) -> None:
    session = played(url, 2)
    foreign = {"Origin": "http://elsewhere.example"}
    assert ask(f"{url}/api/sessions/{session}", "DELETE", **foreign)[0] == 403
    assert ask(f"{url}/api/sessions/{session}/fork", "POST", {}, **foreign)[0] == 403
    assert ask(f"{url}/api/sessions", Host="elsewhere.example")[0] == 421
    assert ask(f"{url}/api/sessions/{session}")[0] == 200
    assert ask(f"{url}/api/sessions", Host=url.removeprefix("http://").replace("127.0.0.1", "LocalHost"))[0] == 200
    for origin in ("http://[", "null", "http://", "nonsense"):
        assert ask(f"{url}/api/sessions/{session}", "DELETE", Origin=origin)[0] == 403
    assert ask(f"{url}/api/sessions/{session}", "DELETE", Origin=url.upper())[0] == 204


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("LocalHost", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("a.example", False),
    ],
)
def test_loopback_names(host: str, own: bool) -> None:
    assert is_loopback(host) == own


def test_uploads_are_limited_in_number_and_time() -> None:
    with serving(square_app(limits=Limits(uploads=1, upload_seconds=1.0))) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as slow:
            slow.sendall(f"POST /api/sessions HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9\r\n\r\nx".encode())
            time.sleep(0.3)
            status, answer = ask(f"{url}/api/sessions", "POST", b"{}")
            assert status == 400 and b"takes 1 uploads at a time" in answer
            assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def test_health_tells_no_counts(url: str) -> None:
    assert ask(f"{url}/health") == (200, {"status": "ok"})


def test_a_dream_that_failed_is_tried_again_and_frees_its_place() -> None:
    class Fragile(SquareSession):
        broken = False

        def step(self, action: Any, batch_indices: Any = None) -> Any:
            if Fragile.broken:
                raise RuntimeError("broke")
            return super().step(action, batch_indices)

    with (
        serving(square_app(session_class=Fragile, limits=Limits(active=1))) as url,
        connected(url, "seed=1&start=0") as socket,
    ):
        session = text_of(socket, "world")["session"]
        send(socket, type="step", button=2)
        frame_of(socket, 1)
        Fragile.broken = True
        send(socket, type="step", button=2)
        while (frame := decode_frame_of(socket)).header.state != "failed":
            pass
        assert frame.header.reason == "broke"
        Fragile.broken = False
        with connected(url, f"session={session}") as again:
            frame_of(again, 1)
        send(socket, type="step", button=2)
        frame_of(socket, 2)
        Fragile.broken = True
        send(socket, type="step", button=2)
        while decode_frame_of(socket).header.state != "failed":
            pass
        Fragile.broken = False
        with connected(url, "seed=2&start=0") as other:  # the only place
            frame_of(other, 0)
        assert "its place was needed" in text_of(socket, "error")["reason"]


def decode_frame_of(socket: Any) -> Any:
    """The next frame, acknowledged."""
    while True:
        data = socket.recv(timeout=20)
        if isinstance(data, bytes):
            frame = decode_frame(data)
            send(socket, type="seen", frame=frame.header.frame)
            return frame


def test_a_frame_is_sent_at_once() -> None:
    listener = _listen("127.0.0.1", 0)
    with listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
