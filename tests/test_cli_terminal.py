"""Terminals, disks and users that lack something: one line and an exit code, no traceback."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from safetensors import SafetensorError

from magrathea import files
from magrathea.cli import main as cli
from magrathea.errors import MagratheaError
from magrathea.files import atomic_write, system_error
from magrathea.server.store import Store

DOCS = Path(__file__).parents[1] / "docs"
MAGRATHEA = [sys.executable, "-m", "magrathea"]


def run(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A shell command in which $M is the command line; its stderr must hold no traceback."""
    environment = {**os.environ, "M": " ".join(MAGRATHEA), "PYTHONPATH": str(Path(__file__).parents[1])} | environment
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, errors="replace", timeout=120, env=environment
    )
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize("arguments", ["--help", "play --help"])
def test_a_pipe_that_nobody_reads_any_more_is_no_error(arguments: str) -> None:
    done = run(f"$M {arguments} | (sleep 0.1; head -c 0); echo ${{PIPESTATUS[0]}}", PYTHONUNBUFFERED="1")
    assert done.stdout.strip() in ("0", "141") and not done.stderr
    done = run(f"$M {arguments} > >(exec 0<&-; sleep 2); echo $?")
    assert done.stdout.strip() in ("0", "141") and not done.stderr


def test_output_that_cannot_be_written_is_said() -> None:
    done = run("$M --help > /dev/full; echo $?")
    assert done.stdout.strip() == "2"
    assert re.fullmatch(r"magrathea: .*No space left on device.*\n", done.stderr), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_may_lack_letters(encoding: str) -> None:
    for arguments in ("collect --help", "play $'Welt-ä-世界-\\xff'"):
        done = run(f"$M {arguments} > /dev/null; echo $?", PYTHONIOENCODING=encoding, LANG="C", LC_ALL="C")
        assert done.stdout.strip() in ("0", "2")
        assert done.stdout.strip() == "0" or re.fullmatch(r"magrathea: No world .*\n", done.stderr), done.stderr


def test_a_user_without_a_home_folder_is_told_what_to_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from magrathea.server import server

    for name in ("HOME", "XDG_DATA_HOME", "MAGRATHEA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])  # a user that the system does not know
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MagratheaError, match=r"no home folder .* MAGRATHEA_HOME, or a file with --store"):
        server.data_folder()
    monkeypatch.setenv("MAGRATHEA_HOME", str(tmp_path))
    assert server.data_folder() == tmp_path and not list(tmp_path.iterdir())


NO_HOME = "import pwd, sys; pwd.getpwuid = {}.__getitem__; from magrathea.cli.main import main; sys.exit(main())"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("sessions backup copy.db", 2, "magrathea: This user has no home folder to keep data in; name a folder in the"),
        ("play --help", 0, ""),
        ("collect CartPole-v1 --out data --steps 20 --num-processes 1", 0, ""),
    ],
)
def test_a_process_without_a_home_folder(arguments: str, code: int, message: str, tmp_path: Path) -> None:
    done = run(f"cd {tmp_path}; unset HOME XDG_DATA_HOME MAGRATHEA_HOME; {sys.executable} -c '{NO_HOME}' {arguments}")
    assert done.returncode == code and done.stderr.startswith(message), done.stderr
    assert code == 0 or done.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"data"}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "A file cannot be used: No space left on device; free some"),
        (OSError(errno.EROFS, "Read-only", "a/b"), "'a/b' cannot be used: Read-only file system; choose a folder that"),
        (PermissionError(errno.EACCES, "Denied", b"a"), "'a' cannot be used: Permission denied; choose a folder that"),
        (NotADirectoryError(errno.ENOTDIR, "Not", Path("f")), "'f' cannot be used: Not a directory."),
        (
            SafetensorError("I/O error: No space left on device (os error 28)"),
            "No space left on device; free some space",
        ),
        (OSError("Can't write (file write failed: errno = 28, error message = 'x')"), "No space left on device; free"),
        (OSError("odd\nthing"), "A file cannot be used: odd thing."),
        (ValueError("no system error"), None),
    ],
)
def test_an_error_of_the_system_is_one_line(error: Exception, message: str | None) -> None:
    said = system_error(error)
    assert said is None if message is None else message in str(said) and "\n" not in str(said)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "settings.json"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(files.os, name, full)
            reason = r"settings.json' cannot be written: No space left on device; free some space"
            with pytest.raises(MagratheaError, match=reason), atomic_write(path) as fresh:
                fresh.write_text("new")
        assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    missing = tmp_path / "missing" / "file"
    with pytest.raises(MagratheaError, match=f"'{missing}' cannot be written: No such file"), atomic_write(missing):
        pass


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "data/episode.hdf5"),
            2,
            "'data/episode.hdf5' cannot be used",
        ),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 2, "Broken pipe"),  # of another pipe than the output
    ],
)
def test_exit_code_of_an_error_of_the_system(
    raised: Exception, code: int, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def command() -> None:
        raise raised

    monkeypatch.setattr(cli, "COMMANDS", {"play": command})
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        assert cli.main(["play"]) == code
    said = (tmp_path / "err").read_text()
    assert message in said and said.count("\n") == 1


WORKING = """
import sys, time
from pathlib import Path
from magrathea.cli import main as cli
from magrathea.files import atomic_write, claim_folder

def work() -> None:
    with claim_folder(Path("world"), "at"), atomic_write(Path("file")):
        print("ready", flush=True)
        time.sleep(60)

cli.COMMANDS = {"train": work}
sys.exit(cli.main(["train"]))
"""


def test_sigterm_leaves_no_temporary_file(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", WORKING]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "ready\n" and list(tmp_path.iterdir())
        process.terminate()
        assert process.wait(timeout=30) == 143
        assert not list(tmp_path.iterdir()) and not process.stderr.read()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB; needs the right to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)])


COLLECT = f"cd {DOCS / 'examples'}; $M collect garden:Garden-v0 --num-processes 1 --max-episode-steps 80"
TRAIN = "$M train --size debug --steps 5 --no-report"


@pytest.fixture(scope="module")
def garden(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small dataset, and a world that was barely trained on it."""
    folder = tmp_path_factory.mktemp("garden")
    data, world = folder / "data", folder / "world"
    assert run(f"{COLLECT} --steps 800 --out {data} && {TRAIN} {data} --out {world}").returncode == 0
    return data, world


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_commands_on_a_disk_that_takes_nothing_say_so(
    kind: str, small_disk: Path, garden: tuple[Path, Path], tmp_path: Path
) -> None:
    data, world = garden
    for command in (
        f"{COLLECT} --steps 20000 --out {small_disk}/data",
        f"{TRAIN} {data} --out {small_disk}/world",
        f"$M eval {world} {data} --out {small_disk}/report --num-dreams 2 --minutes 0.05",
        f"$M sessions backup {small_disk}/copy.db --store {_store(tmp_path)}",
    ):
        shutil.rmtree(small_disk / "data", ignore_errors=True)
        if kind == "full":
            (small_disk / "ballast").write_bytes(bytes(2**20 - 2**16))
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        done = run(command)
        (said,) = [line for line in done.stderr.splitlines() if line.startswith("magrathea: ")][-1:] or [done.stderr]
        assert done.returncode == 2 and re.search("No space left|free some space|Read-only file system", said), (
            command,
            done.returncode,
            done.stderr,
        )


def _store(folder: Path) -> Path:
    """A store of 2 MiB."""
    with closing(Store(folder / "store.db")) as store:
        session = store.add_session("square")
        store.add_root(session, b"", bytes(2**21))
    return folder / "store.db"
