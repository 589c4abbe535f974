"""Sessions over HTTP, the limits of a server, its token, and whose turn it is: what cannot be done says why."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from app_square_world import SquareSession, SquareWorld, serving, square_app
from test_app_server import frame_of, joined, say, text_of
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from magrathea.server.auth import is_loopback
from magrathea.server.control_lock import IDLE, TURN, ControlLock
from magrathea.server.session_manager import Limits
from magrathea.server.viewer import Viewer


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(square_app(limits=Limits(awake=20, new_per_second=100))) as address:
        yield address


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


def dreamt(url: str, *actions: int, query: str = "seed=1&start=0") -> str:
    """The id of a session in which these actions were taken."""
    with joined(url, query) as socket:
        session = text_of(socket, "world")["session"]
        frame = frame_of_any(socket)
        for step, action in enumerate(actions, start=frame + 1):
            say(socket, type="step", action=action)
            frame_of(socket, step)
    return session


def frame_of_any(socket: Any) -> int:
    while True:
        data = socket.recv(timeout=20)
        if isinstance(data, bytes) and b'"state":"starting"' not in data[:400]:
            return int(data.split(b'"step":')[1].split(b",")[0])


def test_list_name_fork_and_delete(url: str) -> None:
    session = dreamt(url, 2, 5, 2)
    status, named = ask(f"{url}/api/sessions/{session}", "PATCH", {"name": " the lake "})
    assert status == 200 and named["name"] == "the lake" and named["num_steps"] == 3
    status, fork = ask(f"{url}/api/sessions/{session}/fork", "POST", {"step": 2, "branch": named["head"]})
    assert status == 201 and fork["num_steps"] == 2 and fork["id"] != session
    listed = {one["id"]: one for one in ask(f"{url}/api/sessions?world=square")[1]}
    assert listed[session]["num_branches"] == 1 and listed[fork["id"]]["name"] == ""
    assert ask(f"{url}/api/sessions?world=moon") == (200, [])
    assert ask(f"{url}/api/sessions/{session}", "DELETE")[0] == 204
    assert ask(f"{url}/api/sessions/{session}")[0] == 404
    with joined(url, f"session={fork['id']}") as socket:  # it has lost nothing of what it shares
        assert frame_of(socket, 2).header["total_reward"] == 1
        say(socket, type="step", action=5)
        assert frame_of(socket, 3).header["total_reward"] == 2
    assert ask(f"{url}/api/sessions/{fork['id']}/branches/{fork['head']}/steps/1.png")[1].startswith(b"\x89PNG")


def test_a_dream_in_which_nothing_was_done_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its link opens it all the same, after everybody has gone and it sleeps."""
    for module in ("seats", "server"):
        monkeypatch.setattr(f"magrathea.server.{module}.LINGER", 0.2)
    with serving(square_app()) as url:
        played = dreamt(url, 2)
        with joined(url, "seed=1&start=0") as named, joined(url, "seed=2&start=0") as idle:
            name, other = (text_of(socket, "world")["session"] for socket in (named, idle))
            assert ask(f"{url}/api/sessions/{name}", "PATCH", {"name": "to come"})[0] == 200
        time.sleep(0.5)
        assert {one["id"] for one in ask(f"{url}/api/sessions")[1]} == {played, name}
        assert ask(f"{url}/api/sessions/{other}")[0] == 200


def test_what_cannot_be_done_is_refused_in_one_line(url: str) -> None:
    session = dreamt(url, 2)
    head = ask(f"{url}/api/sessions/{session}")[1]["head"]
    one = f"{url}/api/sessions/{session}"
    for method, address, body, status, reason in (
        ("GET", f"{url}/api/sessions/none", None, 404, "is not here"),
        ("DELETE", f"{url}/api/sessions/none", None, 404, "is not here"),
        ("PATCH", one, {"name": "x" * 81}, 400, "at most 80 letters"),
        ("PATCH", one, {"name": "two\nlines"}, 400, "a line"),
        ("PATCH", one, {"name": 7}, 400, "A name"),
        ("PATCH", one, b"[]", 400, "JSON object"),
        ("PATCH", one, b"x" * 5000, 413, "larger than 4096 bytes"),
        ("POST", f"{one}/fork", {"step": 2}, 400, "no step 2"),
        ("POST", f"{one}/fork", {"step": -1}, 400, "no step -1"),
        ("POST", f"{one}/fork", {"branch": "1"}, 400, "whole numbers"),
        ("POST", f"{one}/fork", {"branch": 10**30}, 400, "no step"),
        ("GET", f"{one}/branches/{head}/steps/9.png", None, 400, "no step 9"),
        ("POST", f"{url}/api/sessions", b"no session", 400, "not a session"),
    ):
        got, answer = ask(address, method, body)
        assert got == status and reason in answer.decode() and b"\n" not in answer, (method, address, got, answer)


def test_a_file_goes_out_and_comes_back(url: str) -> None:
    session = dreamt(url, 2, 5, 4)
    status, file = ask(f"{url}/api/sessions/{session}/file")
    file = json.dumps(file).encode()  # the square's sessions are JSON
    status, added = ask(f"{url}/api/sessions?name=back", "POST", file)
    assert status == 201 and added["name"] == "back" and added["num_steps"] == 3
    with joined(url, f"session={added['id']}") as socket:
        frame = frame_of(socket, 3)
        assert frame.parts["picture"][9 * 4, 9 * 4, 0] == 255 and frame.header["total_reward"] == 1
        say(socket, type="branch", branch=added["head"], step=1)
        assert frame_of(socket, 1).parts["picture"][9 * 3, 9 * 4, 0] == 255
        say(socket, type="step", action=3)
        assert frame_of(socket, 2).parts["picture"][9 * 2, 9 * 4, 0] == 255
    assert ask(f"{url}/api/sessions/{added['id']}")[1]["num_branches"] == 2
    other = SquareWorld()
    other.fingerprint = "another"
    status, answer = ask(f"{url}/api/sessions", "POST", SquareSession(other).to_bytes())
    assert status == 400 and b"of another world" in answer


def test_a_branch_that_is_not_there_is_refused_and_the_dream_goes_on(url: str) -> None:
    with joined(url) as socket:
        text_of(socket, "world")
        for branch, step in ((10**6, 0), (1, 10**9)):
            say(socket, type="branch", branch=branch, step=step)
            assert "has no step" in text_of(socket, "error")["reason"]
        say(socket, type="step", action=2)
        frame_of(socket, 1)


def test_a_branch_is_deleted_and_the_others_lose_nothing(url: str) -> None:
    with joined(url, "seed=1&start=0") as socket:
        session = text_of(socket, "world")["session"]
        for step, action in enumerate((2, 2, 5), start=1):
            say(socket, type="step", action=action)
            frame_of(socket, step)
        old = ask(f"{url}/api/sessions/{session}")[1]["head"]
        say(socket, type="branch", branch=old, step=2)
        frame_of(socket, 2)
        new = ask(f"{url}/api/sessions/{session}")[1]["head"]
        address = f"{url}/api/sessions/{session}/branches"
        assert ask(f"{address}/{new}", "DELETE") == (400, b"This session is on that branch; go to another one first.")
        assert ask(f"{address}/77777", "DELETE")[0] == 400
        assert ask(f"{address}/{old}", "DELETE")[0] == 204
        while [branch["id"] for branch in text_of(socket, "session")["branches"]] != [new]:
            pass
        assert ask(f"{address}/{old}", "DELETE")[0] == 400
        say(socket, type="branch", branch=old, step=1)
        assert "no step 1 on branch" in text_of(socket, "error")["reason"]
        say(socket, type="step", action=4)
        frame_of(socket, 3)
        assert ask(f"{address}/{new}/steps/1.png")[0] == 200
    assert ask(f"{url}/api/sessions/{session}/file")[0] == 200


def test_limits_on_sessions_branches_steps_visitors_and_rates() -> None:
    limits = Limits(awake=2, viewers=2, sessions=3, branches=3, steps=4, upload_bytes=100, new_per_second=1)
    with serving(square_app(limits=limits)) as url:
        session = dreamt(url, 2, 2, 2)
        with joined(url, f"session={session}") as socket, joined(url, f"session={session}") as other:
            frame_of(socket, 3)
            frame_of(other, 3)
            with joined(url, f"session={session}") as third:
                assert "2 visitors watch this session already" in text_of(third, "error")["reason"]
            say(socket, type="step", action=2)
            frame_of(socket, 4)
            say(socket, type="step", action=2)
            assert "4 steps at most" in text_of(socket, "error")["reason"]
            for _ in range(2):
                say(socket, type="reset", seed=0)
                frame_of(socket, 0)
                say(socket, type="step", action=2)
                frame_of(socket, 1)
            say(socket, type="reset", seed=0)
            assert "3 branches at most" in text_of(socket, "error")["reason"]
            say(socket, type="step", action=2)
            frame_of(socket, 2)
        for _ in range(2):
            assert ask(f"{url}/api/sessions/{session}/fork", "POST", {})[0] == 201
        assert b"3 sessions at most" in ask(f"{url}/api/sessions/{session}/fork", "POST", {})[1]
        assert b"Too many new sessions" in ask(f"{url}/api/sessions/{session}/fork", "POST", {})[1]
        time.sleep(1.1)
        assert ask(f"{url}/api/sessions", "POST", b"x" * 200)[0] == 413


def test_a_session_that_nobody_watches_sleeps_and_wakes_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magrathea.server.session_pool.LINGER", 0.2)
    monkeypatch.setattr("magrathea.server.server.LINGER", 0.2)
    with serving(square_app()) as url:
        session = dreamt(url, 2, 5)
        end = time.monotonic() + 20
        while ask(f"{url}/api/sessions/{session}")[1]["awake"]:
            assert time.monotonic() < end, "it does not sleep"
            time.sleep(0.05)
        assert ask(f"{url}/health")[1]["players"] == 0
        with joined(url, f"session={session}") as socket:
            assert frame_of(socket, 2).header["total_reward"] == 1
            assert ask(f"{url}/api/sessions/{session}")[1]["awake"]


def test_where_a_token_is_asked_for_nothing_else_opens() -> None:
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
        assert 429 in [ask(f"{url}/?token=guess{number}")[0] for number in range(12)]
        assert ask(f"{url}/api/sessions", Authorization="Bearer open sesame")[0] == 200


def test_other_sites_and_other_names_are_refused(url: str) -> None:
    session = dreamt(url, 2)
    foreign = {"Origin": "http://elsewhere.example"}
    assert ask(f"{url}/api/sessions/{session}", "DELETE", **foreign)[0] == 403
    assert ask(f"{url}/api/sessions/{session}/fork", "POST", {}, **foreign)[0] == 403
    assert ask(f"{url}/api/sessions", Host="elsewhere.example")[0] == 421
    assert ask(f"{url}/api/sessions/{session}")[0] == 200
    assert ask(f"{url}/api/sessions/{session}", "DELETE", Origin=url)[0] == 204


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("a.example", False),
    ],
)
def test_names_of_this_machine(host: str, own: bool) -> None:
    assert is_loopback(host) == own


def test_the_wheel_goes_round() -> None:
    first, second, third = Viewer(), Viewer(), Viewer()
    wheel = ControlLock()
    assert wheel.take(first, 0.0) and not wheel.take(second, 1.0)
    wheel.ask(second, 2.0)
    wheel.ask(third, 2.5)
    wheel.take(first, 5.0)
    assert wheel.pass_on(9.0) == pytest.approx(5.0 + IDLE - 9.0)
    wheel.pass_on(5.0 + IDLE)
    assert wheel.driver is second and wheel.asking == [third]
    now = 5.0 + IDLE
    while wheel.driver is second and now < 200:
        now += 1.0
        wheel.take(second, now)
        wheel.pass_on(now)
    assert wheel.driver is third and now == 5.0 + IDLE + TURN
    wheel.ask(first, now)
    wheel.give(first, now)
    assert wheel.asking == []
    wheel.give(third, now)
    assert wheel.driver is None and wheel.take(second, now)
    wheel.ask(first, now)
    wheel.give(second, now)
    assert wheel.driver is first
