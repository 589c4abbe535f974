"""Serve worlds until interrupted: `magrathea play`."""

from __future__ import annotations

import secrets
import socket
import threading
import time
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn

from magrathea.errors import MagratheaError
from magrathea.server.auth import is_loopback
from magrathea.server.catalog import Catalog
from magrathea.server.database import data_home
from magrathea.server.server import create_app
from magrathea.server.session_manager import Limits
from magrathea.server.store import Store


def catalog_of(world: str | None, *, device: str = "auto") -> tuple[Catalog, str | None]:
    """The worlds to offer: the shipped ones, or only the one named (a folder, a hub id or a shipped name)."""
    from magrathea.pretrained import shipped_worlds
    from magrathea.world import World

    def load(source: str | Path) -> Any:
        return World.from_pretrained(source, device=device)

    shipped = shipped_worlds()
    if world is None:
        if not shipped:
            raise MagratheaError("No world is shipped with this install; name one: magrathea play FOLDER.")
        return Catalog(shipped, load), None
    world_id = Path(str(world)).name.replace(" ", "-") or "world"
    catalog = Catalog({world_id: shipped.get(str(world), world)}, load)
    catalog.world(world_id)  # a wrong name is told now, in the terminal
    return catalog, world_id


def play(
    world: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    open_browser: bool = True,
    *,
    device: str = "auto",
    store: str | Path | None = None,
    token: str | None = None,
    most_awake: int = Limits.awake,
) -> None:
    """Serve the page until interrupted: the start page, or the page of the one world named.

    Args:
        world: a world's folder, hub id or shipped name; None offers all shipped worlds.
        host, port: where to listen; port 0 takes any free one.
        open_browser: whether to open the page in this machine's browser.
        device: where the model runs: "cpu", "cuda", or "auto" for a GPU if there is one.
        store: the file in which sessions live on; by default "sessions.db" in the user's own place for data.
        token: what a visitor must show; by default none on this machine, and one that the store keeps elsewhere.
        most_awake: how many sessions may be played at a time.

    Raises MagratheaError if the world cannot be loaded, the store cannot be used or the port is in use.
    """
    catalog, only = catalog_of(world, device=device)
    listener = _listen(host, port)
    kept = Store(store if store is not None else data_home() / "sessions.db")
    if token is None and not is_loopback(host):
        token = kept.setting("token", secrets.token_urlsafe(18))
    name = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    url = f"http://{name}:{listener.getsockname()[1]}/" + (f"?token={token}" if token else "")
    app = create_app(catalog, only=only, store=kept, token=token, limits=Limits(awake=most_awake))
    config = uvicorn.Config(app, log_level="warning", ws_max_size=1 << 16, timeout_graceful_shutdown=2)
    print(f"Magrathea is at {url} (Ctrl+C ends it; sessions are kept in {kept.path})", flush=True)
    server = uvicorn.Server(config)
    if open_browser:
        threading.Thread(target=_open_when_started, args=(server, url), daemon=True).start()
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


def _open_when_started(server: uvicorn.Server, url: str) -> None:
    while not server.started:
        time.sleep(0.05)
    webbrowser.open(url)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise MagratheaError(f"Cannot listen on {host}:{port} ({error}); choose another with --port.") from None
    return listener
