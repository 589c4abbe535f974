"""The connections of a server: how many there may be, and how long a request may take to come and an answer to go."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from functools import cache
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

try:
    import resource
except ImportError:  # not on Windows
    resource = None

HEADER_SECONDS = 10.0  # until the headers of a request are there
SEND_SECONDS = 60.0  # that a visitor may take nothing of an answer
RESERVED_FILES = 64  # of the files that the process may open: not for connections
DEFAULT_CONNECTIONS = 1024  # where the system does not say how many files a process may open
SHORT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

log = logging.getLogger(__name__)


@cache
def max_connections() -> int:
    """The connections that this process can hold; its limit of open files is raised as far as the system allows."""
    if resource is None:
        return DEFAULT_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, 1 << 16)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # some systems allow less than they say
        hard = soft
    return max(1, hard - RESERVED_FILES)


class _FullNotice:
    """Says in the log, once a minute at most, that there are too many connections."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, reason: str) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + 60
            log.warning("%s; new connections are refused until others end. The limit of open files: ulimit -n.", reason)


_notify_full = _FullNotice()


def report_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Exception handler of an event loop: one line where no more connections can be accepted, which asyncio tries again
    a second later; otherwise as asyncio does."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in SHORT_OF_RESOURCES:
        _notify_full(f"No connection can be accepted ({error.strerror})")
    else:
        loop.default_exception_handler(context)


class TimedProtocol(H11Protocol):
    """HTTP of uvicorn, with what it lacks: a connection is closed where the headers of a request have not come after
    `HEADER_SECONDS`, or nothing of an answer was taken for `SEND_SECONDS`, and refused beyond `max_connections()`."""

    _header_timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > max_connections():
            _notify_full(f"{len(self.connections)} connections are open")
            self._refuse(503, "Service Unavailable", "This server has no connection left; try again in a moment.")
        self._header_timer = self.loop.call_later(HEADER_SECONDS, self._headers_are_late)

    def data_received(self, data: bytes) -> None:
        if self._header_timer is None and not self._is_answering():
            self._header_timer = self.loop.call_later(HEADER_SECONDS, self._headers_are_late)
        super().data_received(data)
        if self._is_answering():
            self._header_timer = _cancelled(self._header_timer)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._send_timer = self.loop.call_later(SEND_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._send_timer = _cancelled(self._send_timer)
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._header_timer = _cancelled(self._header_timer)
        self._send_timer = _cancelled(self._send_timer)
        super().connection_lost(exc)

    def _is_answering(self) -> bool:
        """Whether a request has come whose answer is not complete, or a WebSocket has taken over."""
        is_request = self.cycle is not None and not self.cycle.response_complete
        return is_request or self.transport.get_protocol() is not self

    def _headers_are_late(self) -> None:
        self._header_timer = None
        if not self._is_answering():
            self._refuse(408, "Request Timeout", f"The request did not come within {HEADER_SECONDS:g} seconds.")

    def _refuse(self, status: int, phrase: str, reason: str) -> None:
        if not self.transport.is_closing():
            head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: text/plain\r\ncontent-length: {len(reason)}\r\n"
            self.transport.write(f"{head}connection: close\r\n\r\n{reason}".encode())
            self.transport.close()


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
