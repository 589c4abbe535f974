"""Files are written atomically."""

from __future__ import annotations

from pathlib import Path

import pytest

from magrathea.errors import MagratheaError
from magrathea.files import atomic_write


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "claim.json"
    for text in ("old", "new"):
        with atomic_write(path) as file:
            file.write_text(text)
    with pytest.raises(MagratheaError, match="full"), atomic_write(path) as file:
        file.write_text("ha")
        raise OSError("full")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "claim.json"
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]
