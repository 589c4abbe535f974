"""Check a running `magrathea play`: `python -m magrathea.server.check URL` plays a few steps."""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from magrathea.server.protocol import DreamHeader, Frame, ProtocolError, decode_frame


class CheckError(RuntimeError):
    """The server does not work as it should."""


def check(url: str, num_frames: int = 30, world_id: str | None = None, timeout: float = 60.0) -> dict[str, Any]:
    """Play `num_frames` steps of a world over HTTP and WebSocket; returns the figures.

    Args:
        url: address of the server as it printed it, such as "http://127.0.0.1:8000"; with "?token=…", the server must
            refuse requests without the token.
        world_id: which world; None takes the first.
        timeout: seconds that a response may take.

    Raises CheckError, OSError or WebSocketException if something is wrong.
    """
    address = urllib.parse.urlsplit(url)
    url = f"{address.scheme}://{address.netloc}"
    token = dict(urllib.parse.parse_qsl(address.query)).get("token")
    if token is not None:
        _check_refusal(f"{url}/api/worlds", timeout)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    worlds = [world["id"] for world in json.loads(_get(f"{url}/api/worlds", timeout, headers))]
    if world_id is None and worlds:
        world_id = worlds[0]
    if world_id is None or world_id not in worlds:
        raise CheckError(f"no world '{world_id or 'at all'}' to play; the server has {worlds}")
    path = urllib.parse.quote(world_id)
    world = json.loads(_get(f"{url}/api/worlds/{path}", timeout, headers))
    for page in (f"/play/{path}", "/static/play.js", "/static/style.css", "/health"):
        _get(url + page, timeout, headers)
    picture = _get(f"{url}/api/worlds/{path}/starts/0.png", timeout, headers)
    if not picture.startswith(b"\x89PNG"):
        raise CheckError("the picture of a start state is not a PNG")
    socket_url = url.replace("http", "ws", 1) + f"/api/worlds/{path}/play?seed=0"
    with connect(socket_url, open_timeout=timeout, max_size=1 << 24, additional_headers=headers) as socket:
        figures = _play(socket, num_frames, len(world["buttons"]), timeout)
    return {"world": world["id"], **figures}


def _play(socket: ClientConnection, num_frames: int, num_buttons: int, timeout: float) -> dict[str, Any]:
    frame = _next_frame(socket, timeout, lambda header: header.state == "ready")
    shape, started, num_passes, changed = frame.parts["picture"].shape, time.monotonic(), 0, 0
    for index in range(num_frames):
        if frame.header.state == "ended":
            _send(socket, type="reset", seed=index)
            frame = _next_frame(socket, timeout, lambda header: header.state == "ready")
        before, step = frame.parts["picture"], frame.header.step
        _send(socket, type="step", button=index % num_buttons)
        frame = _next_frame(socket, timeout, lambda header, step=step: header.step > step)
        num_passes += frame.header.num_passes
        changed += bool((frame.parts["picture"] != before).any())
    seconds = time.monotonic() - started
    return {
        "frames": num_frames,
        "frames_per_second": round(num_frames / seconds, 2),
        "model_ms": frame.header.model_ms,
        "passes_per_step": round(num_passes / num_frames, 2),
        "frames_that_changed": changed,
        "picture": list(shape),
    }


def _next_frame(socket: ClientConnection, timeout: float, wanted: Callable[[DreamHeader], bool]) -> Frame:
    """The next frame of the dream with a wanted header; acknowledges every frame."""
    end = time.monotonic() + timeout
    while True:
        data = socket.recv(timeout=max(0.01, end - time.monotonic()))
        if isinstance(data, str):
            message = json.loads(data)
            if message["type"] == "error":
                raise CheckError(f"the server refused: {message['reason']}")
            continue
        frame = decode_frame(data)
        _send(socket, type="seen", frame=frame.header.frame)
        if frame.kind != "dream":
            continue
        if frame.header.state == "failed":
            raise CheckError(frame.header.reason)
        if wanted(frame.header):
            return frame


def _send(socket: ClientConnection, **message: Any) -> None:
    socket.send(json.dumps(message))


def _check_refusal(url: str, timeout: float) -> None:
    try:
        _get(url, timeout, {})
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 401:
                return
    raise CheckError("the server accepts requests without its token")


def _get(url: str, timeout: float, headers: dict[str, str]) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as response:
        return response.read()


def main() -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m magrathea.server.check", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--world")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds that a response may take")
    given = parser.parse_args()
    try:
        figures = check(given.url, given.frames, given.world, given.timeout)
    except (CheckError, ProtocolError, WebSocketException, OSError, ValueError, KeyError) as error:
        print(f"check failed: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
