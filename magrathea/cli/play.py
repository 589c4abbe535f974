"""The command that plays worlds in the browser."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from magrathea.cli.options import Name


def play(
    world: Annotated[Positional[str | None], arg(metavar="[WORLD]")] = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str = "cpu",
    open_browser: bool = True,
    store: Annotated[Path | None, arg(metavar="FILE")] = None,
    token: Name = None,
) -> None:
    """Play a world in the browser. Without a world, a start page shows the shipped ones. Every session is kept.

    Args:
        world: folder of a world, name of a shipped one, or its id on the Hugging Face hub.
        host: address to listen on; 0.0.0.0 lets other machines in.
        port: port to listen on; 0 takes any free one.
        device: "cpu" or "cuda".
        open_browser: open the page in the default browser; never where the environment variable CI is set.
        store: file that sessions are kept in; without it, sessions.db in the folder that the environment variable
            MAGRATHEA_HOME names, or in the user's own folder for data.
        token: what visitors must show; where other machines are let in, the server makes one if none is given.
    """
    from magrathea.server import play as serve

    open_browser = open_browser and not os.environ.get("CI")
    serve(world, host=host, port=port, device=device, open_browser=open_browser, store=store, token=token)
