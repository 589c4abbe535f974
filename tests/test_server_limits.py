"""What one visitor, or many, cannot do to a server: hold all places, keep it waiting, take all its files."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from server_square_world import serving, square_app
from test_server_http import connected, frame_of, send, text_of
from test_server_sessions import ask, decode_frame_of
from websockets.exceptions import ConnectionClosed

from magrathea.errors import MagratheaError
from magrathea.server import connections, session_pool
from magrathea.server.database import Visitor
from magrathea.server.session_manager import Limits
from magrathea.server.store import Store, StoreThread


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@contextmanager
def plain_socket(url: str, sent: bytes = b"") -> Iterator[socket.socket]:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as plain:
        plain.sendall(sent)
        yield plain


def from_address(address: str) -> dict[str, Any]:
    """Options of a connection that a proxy passes on for this address."""
    return {"additional_headers": {"X-Forwarded-For": address}}


def test_one_visitor_cannot_hold_all_places() -> None:
    with serving(square_app(limits=Limits(active=4, new_per_second=100))) as url, ExitStack() as stack:
        for _ in range(2):
            text_of(stack.enter_context(connected(url)), "world")
        refusal = text_of(stack.enter_context(connected(url)), "error")
        assert "You have 2 of the 4 active sessions" in refusal["reason"] and refusal["fatal"]
        for address in ("192.0.2.1", "192.0.2.2"):
            text_of(stack.enter_context(connected(url, **from_address(address))), "world")
        late = stack.enter_context(connected(url, **from_address("192.0.2.3")))
        assert "4 active sessions, the most allowed" in text_of(late, "error")["reason"]


def test_a_visitor_leaves_its_own_idle_session_for_another() -> None:
    with serving(square_app(limits=Limits(active=2, new_per_second=100))) as url:
        for _ in range(5):
            with connected(url) as one:
                text_of(one, "world")
            eventually(lambda: not any(found["viewers"] for found in ask(f"{url}/api/sessions")[1]))
            time.sleep(0.1)


def test_one_visitor_cannot_take_all_uploads_or_new_sessions() -> None:
    with serving(square_app(limits=Limits(uploads=2, new_per_second=1))) as url:
        head = b"POST /api/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx"
        with plain_socket(url, head):
            time.sleep(0.3)
            assert b"uploads at a time" in ask(f"{url}/api/sessions", "POST", b"{}")[1]
            other = {"X-Forwarded-For": "192.0.2.1"}
            assert b"is not a session" in ask(f"{url}/api/sessions", "POST", b"{}", **other)[1]
        answers = [ask(f"{url}/api/sessions", "POST", b"{}")[1] for _ in range(4)]
        assert b"Too many new sessions" in answers[-1]
        assert b"is not a session" in ask(f"{url}/api/sessions", "POST", b"{}", **other)[1]


def test_one_visitor_cannot_fill_the_store() -> None:
    with serving(square_app(limits=Limits(sessions=6, new_per_second=100))) as url, ExitStack() as stack:
        sessions = [text_of(stack.enter_context(connected(url)), "world")["session"] for _ in range(3)]
        refusal = text_of(stack.enter_context(connected(url)), "error")
        assert "You have 3 of the 6 sessions that this server keeps" in refusal["reason"] and refusal["fatal"]
        status, said = ask(f"{url}/api/sessions/{sessions[0]}/fork", "POST", {})
        assert status == 400 and b"delete one first" in said
        elsewhere = {"X-Forwarded-For": "192.0.2.1"}
        assert ask(f"{url}/api/sessions/{sessions[0]}/fork", "POST", {}, **elsewhere)[0] == 201
        assert ask(f"{url}/api/sessions/{sessions[0]}", "DELETE")[0] == 204
        text_of(stack.enter_context(connected(url)), "world")


def test_one_visitor_cannot_fill_the_disk() -> None:
    with closing(Store(max_bytes=1 << 20)) as store:
        for address in ("192.0.2.1", "192.0.2.2"):
            visitor = Visitor(address=address, of_limit=0.25, num_bytes=200_000)
            store.add_root(store.add_session("square", visitor=visitor), b"", bytes(200_000))
            with pytest.raises(MagratheaError, match=r"take 200,000 of the 1,048,576 bytes .* delete one first"):
                store.add_session("square", visitor=visitor)
        for session in store.sessions():
            store.delete(session.id)
        store.add_session("square", visitor=visitor)
        ((_, key),) = store._query("SELECT * FROM visitor")
        assert len(key) == 64  # a hash, not the address


def test_viewers_without_input_are_given_up_where_the_place_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_pool, "INACTIVE_SECONDS", 0.3)
    with (
        serving(square_app(limits=Limits(active=2, per_visitor=1))) as url,
        connected(url) as idle,
        connected(url) as busy,
    ):
        for viewer in (idle, busy):
            text_of(viewer, "world")
        time.sleep(0.4)
        send(busy, type="step", button=2)
        frame_of(busy, 1)
        with connected(url) as new:
            text_of(new, "world")
            assert "idle, and its place was needed" in text_of(idle, "error")["reason"]
            with pytest.raises(ConnectionClosed):
                while True:
                    idle.recv(timeout=20)
            send(busy, type="step", button=2)
            frame_of(busy, 2)


@pytest.mark.parametrize("sent", [b"", b"GET /health HTT", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_slow_headers_end_the_connection(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.5)
    with serving(square_app()) as url, plain_socket(url, sent) as slow:
        started = time.monotonic()
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")
        assert 0.3 < time.monotonic() - started < 5 and slow.recv(1000) == b""
        with plain_socket(url, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") as again:
            answer = b""
            while not answer.endswith(b"}"):
                answer += again.recv(1000)
            assert answer.startswith(b"HTTP/1.1 200")
            again.sendall(b"GET /hea")  # the next one on the same connection
            assert again.recv(1000).startswith(b"HTTP/1.1 408")


def test_a_slow_body_is_refused_and_an_aborted_one_is_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with serving(square_app(limits=Limits(body_seconds=0.5))) as url:
        with connected(url) as viewer:
            session = text_of(viewer, "world")["session"]
        head = f"PATCH /api/sessions/{session} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90\r\n\r\n{{"
        with plain_socket(url, head.encode()) as slow:
            assert slow.recv(1000).startswith(b"HTTP/1.1 408")
        with plain_socket(url, head.encode()):
            time.sleep(0.1)
        assert ask(f"{url}/health")[0] == 200
        time.sleep(0.7)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_visitor_who_takes_nothing_of_an_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SEND_SECONDS", 0.5)
    with serving(square_app()) as url, plain_socket(url) as slow:
        request = b"GET /static/play.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with pytest.raises(OSError):  # until the buffers of both ends are full
            for _ in range(20_000):
                slow.sendall(request)
                time.sleep(0.0001)


def test_a_full_disk_stops_the_session_with_a_reason_and_not_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = StoreThread(tmp_path / "store.db")
    with serving(square_app(store=store)) as url, connected(url) as viewer:
        session = text_of(viewer, "world")["session"]
        send(viewer, type="step", button=2)
        frame_of(viewer, 1)
        store.call(Store._query, "PRAGMA max_page_count = 1")  # it never grows from here on
        send(viewer, type="speed", value=None)
        send(viewer, type="pause", on=False)
        send(viewer, type="press", button=2)
        while (header := decode_frame_of(viewer).header).state != "failed":
            pass
        assert re.search(r"store.db' cannot be used \(.*full\); free some space", header.reason)
        assert ask(f"{url}/health")[0] == 200 and ask(f"{url}/api/sessions/{session}")[1]["num_steps"] == header.step
        store.call(Store._query, "PRAGMA max_page_count = 100000")
        with connected(url, f"session={session}") as again:  # whoever loads the page again goes on
            frame_of(again, header.step)
            send(viewer, type="step", button=2)
            frame_of(again, header.step + 1)
    said = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert said and not any(record.exc_info or "\n" in record.getMessage() for record in said)


SERVE = """
import sys; sys.path.insert(0, {tests!r})
from server_square_world import *
from magrathea.errors import MagratheaError
from magrathea.server import connections, server
connections.RESERVED_FILES = {reserved}
server.open_catalog = lambda world, device, **_: (Catalog({{"square": "square"}}, lambda _: SquareWorld()), None)
server.create_app = lambda catalog, **options: create_app(
    catalog, session_class=SquareSession, make_env=lambda _: SquareEnv(), **options)
server.play(port=0, open_browser=False, store={store!r})
"""


@contextmanager
def serving_apart(tmp_path: Path, num_files: int, reserved: int) -> Iterator[str]:
    """A server in a process of its own that may open so many files; it writes its errors to "log"."""
    program = SERVE.format(tests=str(Path(__file__).parent), store=str(tmp_path / "store.db"), reserved=reserved)
    command = ["sh", "-c", f'ulimit -n {num_files}; exec "$@"', "sh", sys.executable, "-c", program]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    log = (tmp_path / "log").open("w")
    with log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as server:
        try:
            assert server.stdout
            line = server.stdout.readline()
            url = re.search(r"http://[^/]+", line)
            assert url, (line, (tmp_path / "log").read_text())
            yield url[0]
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(20)


@pytest.mark.slow
@pytest.mark.parametrize("reserved", [64, 0])
def test_the_server_goes_on_when_it_can_open_no_more_files(tmp_path: Path, reserved: int) -> None:
    """With files kept for itself it refuses connections; without, none can be accepted for a while. Both are said."""
    num_files = 160
    with serving_apart(tmp_path, num_files, reserved) as url:
        assert ask(f"{url}/health")[0] == 200  # at once: the address is printed when connections are accepted
        with ExitStack() as stack:
            refused = 0
            for _ in range(num_files + 20):
                plain = stack.enter_context(plain_socket(url))
                plain.settimeout(0.02)
                with suppress(OSError):
                    refused += plain.recv(100).startswith(b"HTTP/1.1 503")
            assert (refused > 20) == (reserved > 0)
        eventually(lambda: ask(f"{url}/health")[0] == 200)
        with connected(url) as viewer:
            text_of(viewer, "world")
            send(viewer, type="step", button=2)
            frame_of(viewer, 1)
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said and "ulimit -n" in said and said.count("\n") < 10, said
