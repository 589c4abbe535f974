"""A folder for what programs write where they start."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def scratch_folder() -> Iterator[None]:
    """Be in a temporary folder for a while."""
    folder = Path(tempfile.gettempdir()) / "magrathea-scratch"
    folder.mkdir(exist_ok=True)
    with contextlib.chdir(folder):
        yield
