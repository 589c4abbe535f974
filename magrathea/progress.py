"""Progress of long work: bars on a terminal, and elsewhere, as in a log file, a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

COLUMNS = (
    TextColumn("{task.fields[stage]}"),
    BarColumn(),
    TextColumn("{task.fields[percent]} {task.description}"),
    TimeElapsedColumn(),
)
LINE_SECONDS = 30.0  # between lines where there is no terminal


class Stages:
    """Progress of work that consists of stages, one after the other; prints nothing if `quiet`.

    Attributes:
        prefix: of the names of the stages that begin from here on.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._bars = Progress(*COLUMNS)
        self._shows_bars = self._bars.console.is_terminal and not quiet
        self._prints_lines = not self._shows_bars and not quiet
        self._stage, self._task, self._last_line = "", TaskID(0), 0.0
        self.prefix = ""

    def begin(self, stage: str) -> None:
        """Finish the stage before and begin one whose progress is not known yet."""
        self._finish()
        stage = self.prefix + stage
        self._stage, self._last_line = stage, time.monotonic()
        if self._shows_bars:
            self._bars.start()
            self._task = self._bars.add_task("", total=None, stage=stage, percent="")
        elif self._prints_lines:
            print(f"{stage} …", flush=True)

    def update(self, fraction: float, text: str = "") -> None:
        """Show that a fraction 0…1 of the stage is done, with a text next to it."""
        if self._shows_bars:
            self._bars.update(self._task, total=1.0, completed=fraction, percent=f"{fraction:.0%}", description=text)
        elif self._prints_lines and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            print(f"{self._stage}: {fraction:.0%}" + (f", {text}" if text else ""), flush=True)

    def note(self, text: str) -> None:
        """Print a line of its own: above the bars, or on the error stream where there are none."""
        if self._shows_bars:
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif self._prints_lines:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Finish the last stage."""
        self._finish()
        self._stop()

    def _stop(self) -> None:
        if self._shows_bars:
            self._bars.stop()

    def _finish(self) -> None:
        if self._shows_bars and self._stage:
            self._bars.update(self._task, total=1.0, completed=1.0, percent="100%")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._stop()
