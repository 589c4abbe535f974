"""Files are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from magrathea.files import whole_file


def test_what_fails_while_it_is_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "claim.json"
    for text in ("old", "new"):
        with whole_file(path) as file:
            file.write_text(text)
    with pytest.raises(OSError, match="full"), whole_file(path) as file:
        file.write_text("ha")
        raise OSError("full")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]
