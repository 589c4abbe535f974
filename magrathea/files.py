"""Atomic writing of files and folders, claims on folders that one process at a time may work in, and reading back what
was written."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from magrathea.errors import MagratheaError, one_line

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

T = TypeVar("T")
_AT_FDCWD, _EXCHANGE = -100, 2  # RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS
_REMEDIES = {
    errno.ENOSPC: "free some space, and try again",
    errno.EDQUOT: "free some space, and try again",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a folder that can be written",
    errno.EPERM: "choose a folder that can be written",
    errno.ELOOP: "choose a path whose links end",
    errno.EMFILE: "raise the limit of open files: ulimit -n",
    errno.ENFILE: "raise the limit of open files: ulimit -n",
}
_ERROR_NUMBER = re.compile(r"\b(?:os error|errno)[ =:]+(\d+)", re.IGNORECASE)  # in the texts of safetensors and HDF5


def system_error(error: BaseException, path: Path | None = None) -> MagratheaError | None:
    """What to say of an error that the operating system gave, such as a full disk; None for any other error.

    Args:
        path: what was written, where the error names no other file.
    """
    number = getattr(error, "errno", None)
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):  # of Path.resolve
        number = errno.ELOOP
    if not isinstance(number, int):
        found = _ERROR_NUMBER.search(str(error))
        number = int(found.group(1)) if found else None
    if number is None and not isinstance(error, OSError):
        return None
    named = getattr(error, "filename", None) or path or ""
    if path is not None and Path(os.fsdecode(named)).parent == path.parent:
        named = path  # not its temporary file
    reason = os.strerror(number) if number else " ".join(str(error).split())
    what = (
        f"'{os.fsdecode(named)}' cannot be {'used' if path is None else 'written'}"
        if named
        else "A file cannot be used"
    )
    remedy = _REMEDIES.get(number or 0)
    return MagratheaError(f"{what}: {reason}" + (f"; {remedy}." if remedy else "."))


def require_space(path: Path, num_bytes: int) -> None:
    """Raises MagratheaError where the disk of a file that is to be written has less space than that."""
    free = shutil.disk_usage(path.parent).free
    if free < num_bytes:
        raise MagratheaError(
            f"'{path}' cannot be written: it needs {num_bytes:,} bytes, and the disk has {free:,} left; free some "
            "space, and try again."
        )


@contextmanager
def naming_the_file(path: Path) -> Iterator[None]:
    """Raise a MagratheaError that names a path where the operating system does not let the block write there."""
    try:
        yield
    except MagratheaError:
        raise
    except Exception as error:
        refused = system_error(error, path)
        if refused is None:
            raise
        raise refused from error


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file that replaces `path` at the end of the block, or is deleted if it fails.

    Readers see the old file or the new one, never a part of it, even after a crash of the machine. Several processes
    and threads may write the same file: the last one to finish wins.

    Raises:
        MagratheaError: where the disk is full, or the folder is missing or cannot be written.
    """
    with naming_the_file(path):
        descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def replace_folder(fresh: Path, folder: Path) -> None:
    """Put a folder in the place of another one on the same disk, which is deleted, or where there is none.

    Readers see the old folder or the new one at every moment, even if this process is killed. Only where the file
    system cannot exchange two folders there is a moment without one; the old one then has the name "…-old".
    """
    for path in [*fresh.rglob("*"), fresh]:
        _sync(path)
    if not folder.exists():
        fresh.rename(folder)
    elif _exchange(fresh, folder):
        shutil.rmtree(fresh, ignore_errors=True)
    else:
        old = fresh.with_name(fresh.name + "-old")
        folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    _sync(folder.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; False where that cannot be done here."""
    paths = os.fsencode(one), os.fsencode(other)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            return library.renamex_np(*paths, _EXCHANGE) == 0
        return library.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _EXCHANGE) == 0
    except (OSError, AttributeError, TypeError):  # no such library, or an older one
        return False


def _sync(path: Path) -> None:
    """Wait until a file or a folder's list of files is on the disk."""
    if os.name == "posix" and (path.is_file() or path.is_dir()) and not path.is_symlink():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def claim(path: Path) -> Iterator[None]:
    """Hold a lock file in the block, and delete it at its end; the lock ends with the process, however that ends.

    Raises:
        BlockingIOError: where another process, or another block of this one, holds it.
    """
    file = _locked(path)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        file.close()


def _locked(path: Path) -> IO[str]:
    while True:
        file = path.open("a")
        try:
            if fcntl is None:
                return file
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
        except BaseException:
            file.close()
            raise
        file.close()  # its holder has deleted it meanwhile


@contextmanager
def claim_folder(folder: Path, doing: str) -> Iterator[None]:
    """Work in a folder, which may not be there yet, as the only process; its lock file lies beside it.

    Args:
        folder: may be replaced meanwhile (`replace_folder`).
        doing: what is done, such as "training into".

    Raises:
        MagratheaError: where another process is at it, or the lock file cannot be written.
    """
    lock, held = folder.parent / f".{folder.name}.lock", ExitStack()
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held.enter_context(claim(lock))
    except BlockingIOError as error:
        raise MagratheaError(f"Another process is {doing} '{folder}'; wait for it, or give another --out.") from error
    except OSError as error:
        raise MagratheaError(f"'{folder.parent}' cannot be written ({error.strerror}); give another --out.") from error
    with held:
        yield


def read_json(path: Path, kind: type[T], remedy: str) -> T:
    """What a JSON file holds, as a type that msgspec knows.

    Raises:
        MagratheaError: which names the file and ends with the remedy, where it cannot be read, is empty or cut, or
            holds something else.
    """
    try:
        data = path.read_bytes()
        if not data.strip():
            raise ValueError("it is empty")
        return msgspec.json.decode(data, type=kind)
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, error, remedy) from error


def unreadable(path: Path, error: Exception, remedy: str) -> MagratheaError:
    """The error for a file of ours that cannot be read back."""
    return MagratheaError(f"File '{path}' is damaged or of another version ({one_line(error, 200)}); {remedy}.")
