"""Whatever a visitor sends, the server answers it or refuses it in one line: no 5xx, no traceback."""

from __future__ import annotations

import http.client
import json
import logging
import re
import time
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lights import lights_world
from safetensors.torch import load, save
from server_square_world import serving, square_app
from test_server_http import connected, frame_of, send, text_of
from test_server_sessions import ask, played

from magrathea.errors import MagratheaError
from magrathea.server.protocol import AnyClientMessage
from magrathea.server.session_manager import Limits
from magrathea.session import Session
from magrathea.session.file import FileLimits, _checksum

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LONG, HUGE = "9" * 400, "9" * 5000
NUMBERS = st.one_of(st.integers(-2, 5).map(str), st.sampled_from([LONG, HUGE, str(2**63), str(2**53), "-0", "1e9"]))
TEXT = st.one_of(NUMBERS, st.text(max_size=20), st.sampled_from(["\0", "..", "a/b", "%", "\ud7ff", "😀", "NaN"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.sampled_from([10**400, -(2**63)]) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
HEADER = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20)
HEADERS = st.dictionaries(
    st.sampled_from(["Origin", "Host", "Cookie", "Authorization", "Range", "If-None-Match", "Content-Type"]),
    HEADER | st.sampled_from(["http://[", "http://]:x", "[", "localhost:x", "bytes=9-1", "Bearer ", "magrathea=\xff"]),
    max_size=2,
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(square_app(limits=Limits(active=200, sessions=10**6, new_per_second=10**4))) as address:
        yield address


def answer(url: str, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> int:
    """The status of one request, whose path and headers are sent as they are."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    connection._validate_path = lambda _: None  # type: ignore[attr-defined]
    try:
        connection.request(method, path, body, headers or {})
        return connection.getresponse().status
    finally:
        connection.close()


def paths(session: str) -> st.SearchStrategy[str]:
    one = st.sampled_from([session, "none"]) | TEXT.map(lambda text: quote(text, safe=""))
    world = st.sampled_from(["square", "moon"]) | TEXT.map(lambda text: quote(text, safe=""))
    number = TEXT.map(lambda text: quote(text, safe=""))
    query = st.dictionaries(st.sampled_from(["world", "name", "token", "seed", "start", "session"]), TEXT, max_size=2)
    routes = [
        *(st.just(path) for path in ("/", "/sessions", "/health", "/api/worlds", "/api/sessions")),
        *(st.builds((prefix + "{}").format, world) for prefix in ("/play/", "/card/", "/api/worlds/", "/static/")),
        st.builds("/api/worlds/{}/card".format, world),
        st.builds("/api/worlds/{}/starts/{}.png".format, world, number),
        st.builds("/api/worlds/{}/play".format, world),
        *(st.builds(("/api/sessions/{}" + suffix).format, one) for suffix in ("", "/fork", "/file")),
        st.builds("/api/sessions/{}/branches/{}".format, one, number),
        st.builds("/api/sessions/{}/branches/{}/steps/{}.png".format, one, number, number),
        st.builds("/api/sessions/{}/branches/{}/steps/{}.gif".format, one, number, number),
    ]
    texts = query.map(lambda given: "&".join(f"{name}={quote(value)}" for name, value in given.items()))
    return st.builds("{}?{}".format, st.one_of(routes), texts)


@pytest.mark.slow
def test_every_route_answers_any_request_without_an_error_of_the_server(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    session = played(url, 2, 5)

    @FUZZ
    @given(
        st.sampled_from(["GET", "POST", "PATCH", "DELETE", "HEAD", "PUT"]),
        paths(session),
        JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=50),
        HEADERS,
    )
    @example("POST", "/api/sessions", b"{}", {"Origin": "http://["})
    @example("GET", f"/api/sessions/{session}/branches/{LONG}/steps/1.png", b"", {})
    @example("DELETE", f"/api/sessions/{session}/branches/{LONG}", b"", {})
    @example("POST", f"/api/sessions/{session}/fork", json.dumps({"branch": 10**400}).encode(), {})
    @example("GET", f"/api/worlds/square/starts/{HUGE}.png", b"", {})
    @example("GET", "/api/sessions?world=%00", b"", {})
    @example("POST", "/api/sessions?name=%00", b"", {})
    @example("POST", "/api/sessions", b"[" * 100_000, {})
    def fuzz(method: str, path: str, body: bytes, headers: dict[str, str]) -> None:
        caplog.clear()
        status = answer(url, method, path, body, headers)
        assert status < 500, (method, path, status)
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]

    fuzz()


@pytest.mark.parametrize("query", [f"start={HUGE}", f"seed={LONG}", "session=%00", f"session={LONG}", "start=%ff"])
def test_a_query_that_no_session_has_is_refused_with_a_reason(url: str, query: str) -> None:
    with connected(url, query) as socket:
        message = text_of(socket, "error")
        assert message["fatal"] and message["reason"] and "\n" not in message["reason"]


@pytest.mark.slow
def test_every_message_is_done_or_refused_and_the_session_goes_on(url: str, caplog: pytest.LogCaptureFixture) -> None:
    fields = sorted({name for kind in AnyClientMessage.__args__ for name in kind.__struct_fields__})
    kinds = [kind.__struct_config__.tag for kind in AnyClientMessage.__args__]
    values = st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from([0.25, 10**400, -1, 2**53]) | JSON
    typed = st.builds(
        lambda kind, given: json.dumps({**given, "type": kind}),
        st.sampled_from(kinds),
        st.dictionaries(st.sampled_from(fields), values, max_size=2),
    )

    @settings(FUZZ, max_examples=15)
    @given(st.lists(typed | JSON.map(json.dumps) | st.text(max_size=30) | st.binary(max_size=30), max_size=25))
    @example([f'{{"type": "go_to", "branch": {2**53}, "step": {2**53}}}', f'{{"type": "press", "button": {HUGE}}}'])
    @example(["[" * 4000, '{"type": "speed", "value": NaN}', '{"type": "speed", "value": 1e400}'])
    def fuzz(messages: list[str | bytes]) -> None:
        caplog.clear()
        with connected(url) as socket:
            for message in messages:
                socket.send(message)
            time.sleep(0.02)
            send(socket, type="reset", seed=1, start=0)
            frame_of(socket, 0)
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]

    fuzz()


@pytest.mark.parametrize("version", ["9" * 5000, "9" * 400, "", "-1", "²", "1" * 10])
def test_a_strange_version_of_a_session_file_is_refused(version: str) -> None:
    world = lights_world()
    file = Session(world).to_bytes()
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    header["__metadata__"]["magrathea_session"] = version
    with pytest.raises(MagratheaError, match="is not a session"):
        Session.from_bytes(with_header(file, json.dumps(header).encode()), world)


def test_the_answer_to_a_failure_is_one_line(url: str) -> None:
    status, text = ask(f"{url}/api/sessions/none")
    assert status == 404 and re.fullmatch(rb"[^\n]+", text)


def test_a_message_about_half_a_letter_can_be_sent() -> None:
    world = lights_world()
    file = Session(world).to_bytes()
    tensors, metadata = load(file), json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])["__metadata__"]
    header = json.dumps(json.loads(metadata["header"]) | {"inference": "\ud800"})
    bad = save(tensors, metadata | {"header": header, "checksum": _checksum(header, tensors)})
    with pytest.raises(MagratheaError) as raised:
        Session.from_bytes(bad, world)
    assert rb"unknown inference '\ud800'" in str(raised.value).encode()


def with_header(file: bytes, header: bytes) -> bytes:
    """A session file with another JSON header."""
    return len(header).to_bytes(8, "little") + header + file[8 + int.from_bytes(file[:8], "little") :]


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"[" * (33 << 20), "a header of 34603008 bytes"),
        (b'{"tokens": {"dtype": "U8", "shape": [990000, 5], "data_offsets": [0, 1]}}', "990000 steps, and 100000 are"),
        (b'{"tokens": {"shape": [' + b"9" * 400 + b"]}}", "steps, and 100000 are"),
        (b'{"tokens": {"shape": {}}}', "is not a session"),
        (b'{"tokens": []}', "is not a session"),
        (b"[" * 100_000, "is not a session"),
    ],
)
def test_a_file_beyond_the_limits_is_refused_before_it_costs_anything(header: bytes, reason: str) -> None:
    world = lights_world()
    file = with_header(Session(world).to_bytes(), header)
    started = time.perf_counter()
    with pytest.raises(MagratheaError, match=reason):
        Session.from_bytes(file, world, limits=FileLimits())
    assert time.perf_counter() - started < 0.1
