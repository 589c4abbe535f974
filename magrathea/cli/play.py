"""The command that plays worlds in the browser."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg
from tyro.constructors import PrimitiveConstructorSpec

from magrathea.cli.options import Device, OptionalText, OwnEnvId, name_environment
from magrathea.errors import MagratheaError
from magrathea.settings import Range

Token = Annotated[
    tuple[str, ...] | None,
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="[STR]",
        instance_from_str=tuple,
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: ["None" if value is None else " ".join(value)],
    ),
]
"""What follows the option: a token, or nothing."""
Port = Annotated[int, Range(0, 65535)]


def play(
    world: Annotated[Positional[str | None], arg(metavar="[WORLD]")] = None,
    *,
    prompt: OptionalText = None,
    agent: Annotated[Path | None, arg(metavar="FOLDER")] = None,
    host: str = "127.0.0.1",
    port: Port = 8000,
    device: Device = "cpu",
    open_browser: bool = True,
    store: Annotated[Path | None, arg(metavar="FILE")] = None,
    token: Token = None,
    public_url: Annotated[str | None, arg(metavar="URL")] = None,
    env_id: OwnEnvId = None,
) -> None:
    """Play a world in the browser. A start page lists it and the shipped ones. Every session is stored.

    Args:
        world: folder of a world, name of a shipped one, or its id on the Hugging Face hub, whose page is opened; or
            folder of several worlds, which the start page lists; or folder of an agent, which may play its own world.
        prompt: words that say which of the worlds is opened, and where it starts, like "a cave with zombies".
        agent: folder of an agent, as "magrathea learn" makes it, that may play the world on its page; by default the
            folder "agent" inside the world's, if there is one.
        host: address to listen on; 0.0.0.0 lets other machines in.
        port: port to listen on; 0 takes any free one.
        open_browser: open the page in the default browser; never where the environment variable CI is set.
        store: file that stores the sessions; by default sessions.db in the folder that the environment variable
            MAGRATHEA_HOME names, or in the user's own folder for data.
        token: access token that visitors must give, of at least 16 characters; without a value, or where other machines
            are let in, the server makes one.
        public_url: the address that visitors see, like https://dreams.example:8443, where a proxy or a forwarded port
            makes it another one.
    """
    name_environment(env_id)
    secret = _parse_token(token)
    from magrathea.server import play as serve

    open_browser = open_browser and not os.environ.get("CI")
    serve(
        world,
        prompt=prompt,
        host=host,
        port=port,
        device=device,
        open_browser=open_browser,
        store=store,
        token=secret,
        public_url=public_url,
        agent=agent,
    )


def _parse_token(texts: tuple[str, ...] | None) -> str | bool | None:
    """The token that was given; True: make one; None: as the server does."""
    if texts is None:
        return None
    if len(texts) > 1:
        raise MagratheaError(f"Option --token takes one token, not {len(texts)}; put quotes around it.")
    return texts[0] if texts else True
