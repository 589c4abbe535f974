"""Writes docs/help.md from the command line's own help: python docs/make_help.py"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

from magrathea.cli.main import COMMANDS, main

PAGE = Path(__file__).parent / "help.md"


def help_text(arguments: list[str]) -> str:
    """What ``magrathea ... --help`` prints on a terminal of 100 columns."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*arguments, "--help"])
    return "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())


def help_page() -> str:
    """The whole page."""
    os.environ["COLUMNS"] = "100"
    parts = ["# The command line", "Written by `python docs/make_help.py`; a test keeps it current."]
    for arguments in [[], *(name.split() for name in COMMANDS)]:
        title = " ".join(["magrathea", *arguments])
        parts += [f"## {title}", f"```text\n{help_text(arguments)}\n```"]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(help_page(), encoding="utf-8")
