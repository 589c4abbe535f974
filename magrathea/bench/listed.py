"""Benchmarks over a list of environments: each is made and measured in a folder of its own, and is a row of a table."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from magrathea.errors import MagratheaError
from magrathea.files import atomic_write
from magrathea.settings import check

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ListedEnvironment:
    """An environment of a list.

    Attributes:
        id: a Gymnasium id, or "module:id" to import the module that registers it.
        name: of its folder and its line in the table; made of the id and the arguments, if not given.
        kwargs: keyword arguments for gymnasium.make; "size" resizes pictures.
        needs: modules that have to be installed.
    """

    id: str
    name: str = ""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(self)

    @property
    def folder(self) -> str:
        """A name that can be a folder's."""
        text = self.name or " ".join([self.id.partition(":")[2] or self.id, *map(str, self.kwargs.values())])
        return "".join(letter if letter.isalnum() else "-" for letter in text.lower()).strip("-")

    def missing(self) -> list[str]:
        """The modules that it needs and that are not installed."""
        return [module for module in self.needs if importlib.util.find_spec(module) is None]


Listed = TypeVar("Listed", bound=ListedEnvironment)


def read_list(path: str | Path, kind: type[Listed]) -> list[Listed]:
    """The environments of a TOML file, a table [[environment]] for each; raises MagratheaError for a mistake."""
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))["environment"]
        return [kind(**table | {"needs": tuple(table.get("needs", ()))}) for table in tables]
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise MagratheaError(
            f"'{path}' is no list of environments ({error}); write a table [[environment]] with an id for each."
        ) from error


def run_list(
    environments: Iterable[Listed],
    out: Path,
    settings: Any,
    make: Callable[[Listed, Path], Row],
    file_name: str,
    show: Callable[[list[Row]], None],
) -> list[Row]:
    """Make and measure each environment of a list, and show the rows so far after each.

    Run again, it skips what is finished and goes on with what is not. An environment that cannot be had, or that fails,
    is a row with the reason under "error", and is tried again by the next run.

    Args:
        out: folder of the environments' folders.
        settings: a dataclass; other ones than those of a finished row raise MagratheaError.
        make: makes an environment in its folder and returns what it measured.
        file_name: of a finished row, in its environment's folder.
        show: writes and prints the rows, of which the last is new.
    """
    environments = list(environments)
    folders = [each.folder for each in environments]
    if twice := {name for name in folders if folders.count(name) > 1}:
        raise MagratheaError(f"Two environments are named '{min(twice)}'; give them different names.")
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for environment in environments:
        wanted = json.loads(json.dumps({"environment": asdict(environment), "settings": asdict(settings)}))
        rows.append(_row(environment, out / environment.folder / file_name, wanted, make))
        show(rows)
    return rows


def _row(environment: Listed, path: Path, wanted: Row, make: Callable[[Listed, Path], Row]) -> Row:
    """The row of one environment, from its file where it is finished."""
    row: Row = {"name": environment.folder, "id": environment.id, "kwargs": dict(environment.kwargs)}
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored.pop("made") != wanted:
            raise MagratheaError(f"'{path.parent}' was made with other settings; give another --out, or remove it.")
        return stored
    if missing := environment.missing():
        return row | {"error": f"Skipped: it needs {', '.join(missing)}, which is not installed."}
    try:
        row |= make(environment, path.parent)
    except Exception as error:  # of the environment, which may raise anything
        return row | {"error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
    with atomic_write(path) as file:
        file.write_text(json.dumps(row | {"made": wanted}, indent=1) + "\n", encoding="utf-8")
    return row
