"""Files are written atomically, claimed by one process, and read with their types."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from magrathea.errors import MagratheaError
from magrathea.files import atomic_write, claim, read_json


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


def test_a_claim_that_was_deleted_by_its_holder_is_taken_anew(tmp_path: Path) -> None:
    lock, held = tmp_path / "lock", []

    def work(number: int) -> None:
        while True:
            try:
                with claim(lock):
                    held.append(number)
                    assert held == [number]
                    time.sleep(0.001)
                    held.remove(number)
                    return
            except BlockingIOError:
                pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert not lock.exists()


@pytest.mark.parametrize("kind", [dict[str, int], list[int], float])
@pytest.mark.parametrize("data", [b"", b" \n", b"{", b'"a"', b"\xff", b'{"a": "b"}', b"[" * 100_000])
def test_json_of_another_type_is_refused_in_a_line(data: bytes, kind: Any, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_bytes(data)
    with pytest.raises(MagratheaError, match=r"^File '.*file.json' is damaged .*; remove it\.$") as raised:
        read_json(tmp_path / "file.json", kind, "remove it")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500
