"""The error for mistakes of the user, and the end of a process by SIGTERM."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


class MagratheaError(ValueError):
    """A mistake in what was asked or given; its one-line message names the thing, what is wrong, and what to do.

    What no UTF-8 can hold, which a file may have given, is written as an escape, so that every message can be sent.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(str(message).encode("utf-8", "backslashreplace").decode())


class Terminated(SystemExit):
    """The end of this process by SIGTERM."""


FOREIGN_ERRORS = (Exception, SystemExit)
"""What the code of environments and policies may raise; `Terminated`, which is none of theirs, passes before it."""


def one_line(text: object, most: int = 500) -> str:
    """A text, or an error's message or name, on one line; of a long one the beginning and the end."""
    line = " ".join(str(text).split()) or type(text).__name__
    if len(line) <= most:
        return line
    end = most // 2
    return f"{line[: most - end - 3]} … {line[-end:]}"


def end_by_sigterm(number: int, frame: Any) -> NoReturn:
    """Handle SIGTERM: end this process as an error does, so that what is open is closed; a second one does nothing."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for process in multiprocessing.active_children():
        process.terminate()
    raise Terminated(128 + number)


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Exit on SIGTERM as on an error, so that environments are closed, temporary files and locks
    are deleted, and worker processes end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end_by_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
