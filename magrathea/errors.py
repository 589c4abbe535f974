"""The error for mistakes of the user."""


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
