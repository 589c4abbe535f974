"""What the page and the server say to each other over one WebSocket.

Client to server: JSON text, one object with a "type" (see ``MESSAGES``), at most 4 KB; anything else is refused.

Server to client, text: ``{"type": "world", …}`` once, ``{"type": "session", …}`` whenever its name, its branches or
its visitors change, ``{"type": "error", "reason": …}`` for a refusal; a "fatal" one ends the connection.
Server to client, binary: one frame,

    4 bytes   H, the length of the header in bytes, unsigned, little-endian
    H bytes   the header: JSON, UTF-8
    the rest  the parts that header["parts"] lists, in that order, without gaps

A part is ``{"name", "format", "shape", "size"}`` with size in bytes: "picture" is format "rgb8", shape
[height, width, 3]; "uncertainty" is format "grey8", shape [rows, columns], 0 = certain, 255 = no idea.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MAX_MESSAGE_BYTES = 4096
MAX_SEED = 2**31 - 1
SPEEDS = (0.25, 0.5, 1, 2, 4, None)  # None: as fast as the model can


class ProtocolError(ValueError):
    """A message that is refused; its text is the reason sent back."""


Check = Callable[[Any], bool]


def _integer(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def _boolean(value: Any) -> bool:
    return type(value) is bool


def _speed(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and value in SPEEDS)


def _optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


@dataclass(frozen=True)
class Field:
    """One field of a message: what a value must be, in words and as a check."""

    words: str
    check: Check
    required: bool = True


def messages(num_actions: int, num_starts: int) -> dict[str, dict[str, Field]]:
    """The messages that a client may send to a world of so many actions and stored start states."""
    action = _integer(0, num_actions - 1)
    action_words = f"an integer from 0 to {num_actions - 1}"
    start_words = f"null or an integer from 0 to {num_starts - 1}"
    on = {"on": Field("true or false", _boolean)}
    return {
        "press": {"action": Field(action_words, action)},
        "release": {"action": Field(f"null or {action_words}", _optional(action))},
        "pause": on,
        "step": {"action": Field(f"null or {action_words}", _optional(action), required=False)},
        "reset": {
            "seed": Field(f"an integer from 0 to {MAX_SEED}", _integer(0, MAX_SEED)),
            "start": Field(start_words, _optional(_integer(0, num_starts - 1)), required=False),
        },
        "speed": {"value": Field("0.25, 0.5, 1, 2, 4 or null", _speed)},
        "realtime": on,
        "reality": on,
        "branch": {
            "branch": Field("the number of a branch", _integer(0, 2**53)),
            "step": Field("the number of a step", _integer(0, 2**53)),
        },
        "wheel": {"wish": Field("'ask' or 'give'", lambda value: value in ("ask", "give"))},
        "seen": {"frame": Field("a frame number", _integer(0, 2**53))},
    }


def parse_message(text: str | bytes, schema: Mapping[str, Mapping[str, Field]]) -> dict[str, Any]:
    """Read one client message; raises ProtocolError, with a reason for a person, for anything not in the schema."""
    if not isinstance(text, str):
        raise ProtocolError("binary messages are not understood; send JSON text")
    if len(text) > MAX_MESSAGE_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"message is larger than {MAX_MESSAGE_BYTES} bytes")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise ProtocolError("message is not JSON") from None
    if not isinstance(message, dict):
        raise ProtocolError("message must be a JSON object")
    kind = message.get("type")
    if not isinstance(kind, str) or kind not in schema:
        raise ProtocolError(f"unknown type {_shown(kind)}; known: {', '.join(schema)}")
    fields = schema[kind]
    for name in message:
        if name != "type" and name not in fields:
            raise ProtocolError(f"'{kind}' has no field {_shown(name)}")
    for name, rule in fields.items():
        if name not in message:
            if rule.required:
                raise ProtocolError(f"'{kind}' needs the field '{name}': {rule.words}")
        elif not rule.check(message[name]):
            raise ProtocolError(f"'{name}' of '{kind}' must be {rule.words}, not {_shown(message[name])}")
    return message


def _shown(value: Any, limit: int = 40) -> str:
    text = json.dumps(value)
    return text if len(text) <= limit else text[:limit] + "…"


@dataclass
class RateLimit:
    """At most ``per_second`` messages a second, with bursts of as many or of ``burst``; a bucket of tokens."""

    per_second: float = 200.0
    burst: float | None = None
    clock: Callable[[], float] = time.monotonic
    most: float = field(init=False)
    level: float = field(init=False)
    updated: float = field(init=False)

    def __post_init__(self) -> None:
        self.most = self.per_second if self.burst is None else self.burst
        self.level, self.updated = self.most, self.clock()

    def allow(self) -> bool:
        """Whether one more message may be handled now."""
        now = self.clock()
        self.level = min(self.most, self.level + (now - self.updated) * self.per_second)
        self.updated = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


@dataclass(frozen=True)
class Frame:
    """One frame before it is packed: what it says, and its pictures (uint8 arrays by name)."""

    header: dict[str, Any]
    parts: dict[str, np.ndarray]


def encode_frame(frame: Frame, **extra: Any) -> bytes:
    """Pack a frame for the wire; ``extra`` is added to its header (figures of one viewer)."""
    listed, blobs = [], []
    for name, array in frame.parts.items():
        if array.dtype != np.uint8:
            raise TypeError(f"Part '{name}' of a frame must be uint8, not {array.dtype}.")
        picture = array.ndim == 3
        listed.append(
            {"name": name, "format": "rgb8" if picture else "grey8", "shape": array.shape, "size": array.nbytes}
        )
        blobs.append(array.tobytes())
    header = json.dumps({**frame.header, **extra, "parts": listed}, allow_nan=False, separators=(",", ":")).encode()
    return b"".join([struct.pack("<I", len(header)), header, *blobs])


def decode_frame(data: bytes) -> Frame:
    """Unpack a frame from the wire; raises ProtocolError if it is cut or inconsistent."""
    if len(data) < 4:
        raise ProtocolError("frame is shorter than its length field")
    (length,) = struct.unpack_from("<I", data)
    try:
        header = json.loads(data[4 : 4 + length].decode())
        listed = header.pop("parts")
        offset, parts = 4 + length, {}
        for part in listed:
            array = np.frombuffer(data, np.uint8, part["size"], offset)
            parts[part["name"]] = array.reshape(part["shape"])
            offset += part["size"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProtocolError(f"frame cannot be read: {error}") from None
    if offset != len(data):
        raise ProtocolError(f"frame has {len(data)} bytes, its header says {offset}")
    return Frame(header, parts)
