"""Progress that a person can follow: bars on a terminal, and elsewhere, as in a log, a line now and then."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

COLUMNS = (
    TextColumn("{task.fields[stage]}"),
    BarColumn(),
    TextColumn("{task.fields[share]} {task.description}"),
    TimeElapsedColumn(),
)
LINE_SECONDS = 30.0  # between lines where there is no terminal


class Stages:
    """What takes long, one stage after the other; says nothing if it is quiet."""

    def __init__(self, quiet: bool = False) -> None:
        self._bars = Progress(*COLUMNS)
        self._draws = self._bars.console.is_terminal and not quiet
        self._writes = not self._draws and not quiet
        self._stage, self._task, self._said = "", TaskID(0), 0.0

    def begin(self, stage: str) -> None:
        """The stage before is done, and how far this one is is not known yet."""
        self._finish()
        self._stage, self._said = stage, time.monotonic()
        if self._draws:
            self._bars.start()
            self._task = self._bars.add_task("", total=None, stage=stage, share="")
        elif self._writes:
            print(f"{stage} …", flush=True)

    def update(self, share: float, text: str = "") -> None:
        """A share 0…1 of the stage is done, and what there is to say of it."""
        if self._draws:
            self._bars.update(self._task, total=1.0, completed=share, share=f"{share:.0%}", description=text)
        elif self._writes and time.monotonic() - self._said >= LINE_SECONDS:
            self._said = time.monotonic()
            print(f"{self._stage}: {share:.0%}" + (f", {text}" if text else ""), flush=True)

    def close(self) -> None:
        self._finish()
        self._stop()

    def _stop(self) -> None:
        if self._draws:
            self._bars.stop()

    def _finish(self) -> None:
        if self._draws and self._stage:
            self._bars.update(self._task, total=1.0, completed=1.0, share="100%")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._stop()
