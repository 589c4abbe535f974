"""The command that backs up the sessions of a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


def backup(
    file: Annotated[Positional[Path], arg(metavar="FILE")],
    *,
    store: Annotated[Path | None, arg(metavar="FILE")] = None,
) -> None:
    """Copy the file that stores the sessions, also while a server uses it, to one new file.

    Args:
        file: the copy, which `magrathea play --store` opens; must not be there yet.
        store: file that stores the sessions; by default the one of `magrathea play`.
    """
    from magrathea.server.database import backup_store
    from magrathea.server.server import data_folder

    print(backup_store(store if store is not None else data_folder() / "sessions.db", file))
