"""The command that plays worlds in the browser."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from magrathea.cli.options import Device, OptionalText, name_environment
from magrathea.settings import Range

Port = Annotated[int, Range(0, 65535)]


def play(
    world: Annotated[Positional[str | None], arg(metavar="[WORLD]")] = None,
    *,
    host: str = "127.0.0.1",
    port: Port = 8000,
    device: Device = "cpu",
    open_browser: bool = True,
    store: Annotated[Path | None, arg(metavar="FILE")] = None,
    token: OptionalText = None,
    env_id: OptionalText = None,
) -> None:
    """Play a world in the browser. Without a world, a start page lists the shipped ones. Every session is stored.

    Args:
        world: folder of a world, name of a shipped one, or its id on the Hugging Face hub.
        host: address to listen on; 0.0.0.0 lets other machines in.
        port: port to listen on; 0 takes any free one.
        device: "auto", "cpu", "cuda" or "cuda:N".
        open_browser: open the page in the default browser; never where the environment variable CI is set.
        store: file that stores the sessions; by default sessions.db in the folder that the environment variable
            MAGRATHEA_HOME names, or in the user's own folder for data.
        token: access token that visitors must give; where other machines are let in, the server makes one if none is
            given.
        env_id: the id of the world's environment, where no installed package offers it: "module:id" imports the
            module. A world or a dataset alone never does.
    """
    name_environment(env_id)
    from magrathea.server import play as serve

    open_browser = open_browser and not os.environ.get("CI")
    serve(world, host=host, port=port, device=device, open_browser=open_browser, store=store, token=token)
