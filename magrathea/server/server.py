"""The web server: `create_app` puts it together, `play` serves it until interrupted (`magrathea play`)."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import gymnasium
import platformdirs
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from magrathea.errors import MagratheaError
from magrathea.server.auth import GOOD_TOKEN_LENGTH, STATIC, Auth, check_public_url, check_token, is_loopback
from magrathea.server.catalog import Catalog
from magrathea.server.connections import TimedProtocol, max_connections, report_loop_error
from magrathea.server.env_mirror import make_environment
from magrathea.server.routes import HANDLERS, Routes
from magrathea.server.session_manager import Limits, SessionManager
from magrathea.server.session_pool import IDLE_SECONDS, SessionPool
from magrathea.server.store import Store, StoreThread

log = logging.getLogger(__name__)

KEEP_UNTOUCHED_SECONDS = 86400.0  # that a session without steps, branches and a name is kept


def create_app(
    catalog: Catalog,
    *,
    store: StoreThread | None = None,
    limits: Limits | None = None,
    token: str | None = None,
    public_url: str | None = None,
    session_class: Any = None,
    make_env: Callable[[Any], gymnasium.Env] = make_environment,
) -> Starlette:
    """The web application.

    Args:
        store: keeps the sessions; by default they end with the process.
        token: what a visitor must send; without one, only this machine may connect, or who comes by `public_url`.
        public_url: the address that visitors see, where it is another than the server's own.
        session_class: by default `magrathea.session.Session`.
        make_env: makes the real environment of a world.

    Raises MagratheaError for an empty token, or a public URL that is none.
    """
    check_token(token)
    check_public_url(public_url)
    if session_class is None:
        from magrathea.session import Session as session_class
    limits = limits or Limits()
    manager = SessionManager(store or StoreThread(), session_class, limits)
    pool = SessionPool(limits)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_exception_handler(report_loop_error)
        cleaner = asyncio.create_task(_clean_up(pool, manager.store))
        yield
        cleaner.cancel()
        await pool.close()
        await manager.close()

    routes = [
        *Routes(catalog, manager, pool, make_env).all(),
        Mount("/static", StaticFiles(directory=STATIC), name="static"),
    ]
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(Auth, token=token, public_url=public_url)],
        exception_handlers=HANDLERS,
    )


def server_config(app: Starlette) -> uvicorn.Config:
    """How an application is served: its limits of size and time, and one line for each warning."""
    max_connections()  # raises the limit of open files
    return uvicorn.Config(
        app, http=TimedProtocol, log_level="warning", ws_max_size=1 << 16, timeout_graceful_shutdown=2
    )


async def _clean_up(pool: SessionPool, store: StoreThread) -> None:
    while True:
        try:
            await store.run(Store.delete_untouched, time.time() - KEEP_UNTOUCHED_SECONDS)
        except MagratheaError as error:  # such as a full disk; tried again
            log.warning("%s", error)
        await asyncio.sleep(IDLE_SECONDS / 4)
        pool.suspend_idle()


def data_folder() -> Path:
    """Where this user's data is kept: $MAGRATHEA_HOME, or the platform's own folder for data.

    Raises MagratheaError where the user has no home folder.
    """
    home = os.environ.get("MAGRATHEA_HOME")
    if home:
        return Path(home)
    with suppress(RuntimeError):
        folder = platformdirs.user_data_path("magrathea", appauthor=False)
        if folder.is_absolute():
            return folder
    raise MagratheaError(
        "This user has no home folder to keep data in; name a folder in the environment variable MAGRATHEA_HOME, or a "
        "file with --store."
    )


def open_catalog(
    world: str | None, *, device: str = "auto", agent: str | Path | None = None
) -> tuple[Catalog, str | None]:
    """The shipped worlds and, first, the one named (a folder, a hub id or a shipped name), and the id of that; or those
    of a folder of several, and None.

    Args:
        world: an agent's folder stands for its world, which the agent plays.
        device: of the worlds.
        agent: folder of the agent that plays the world; the one in the world's folder, if not given.

    Raises MagratheaError if a world or the agent cannot be loaded, the agent does not fit, or no world is named and
    none is shipped.
    """
    from magrathea.agents.agent import is_agent, world_folder_of
    from magrathea.pretrained import shipped_worlds, user_path, world_folders
    from magrathea.world import World

    def load(source: str | Path) -> Any:
        return World.from_pretrained(source, device=device)

    shipped = shipped_worlds()
    world = str(agent) if world is None and agent is not None else world
    if world is None:
        if not shipped:
            raise MagratheaError("No world is shipped with this install; name one: magrathea play FOLDER.")
        return Catalog(shipped, load), None
    own = _world_id(world)
    if is_agent(world):
        agent, world = agent or world, str(world_folder_of(world))
    folders = world_folders(world)
    named = {f"{own}-{name}" if len(folders) > 1 else own: folder for name, folder in folders.items()}
    if agent is not None and own not in named:
        raise MagratheaError(f"'{world}' holds several worlds; name the one that the agent plays: {world}/NAME.")
    others = {name: folder for name, folder in shipped.items() if name not in named}
    catalog = Catalog(named | others, load, {} if agent is None else {own: user_path(agent)})
    for world_id in named:
        catalog.agent(world_id)  # so that a wrong name of it or of the world is reported in the terminal
    return catalog, own if own in named else None


def _world_id(name: str) -> str:
    """The name of a folder, or the last part of a hub id, such that it can be a part of an address."""
    path = Path(name).expanduser()
    last = path.resolve().name if path.name in ("", "..") else path.name
    return re.sub(r"[\s#?%&\\]", "-", last) or "world"


def play(
    world: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    open_browser: bool = True,
    *,
    prompt: str | None = None,
    device: str = "auto",
    store: str | Path | None = None,
    token: str | bool | None = None,
    public_url: str | None = None,
    max_active: int = Limits.active,
    agent: str | Path | None = None,
) -> None:
    """Serve worlds until interrupted.

    Args:
        world: a world's folder, hub id or shipped name, whose page is opened; it is offered beside the shipped worlds.
            An agent's folder stands for its world, which the agent may play.
        host, port: where to listen; port 0 takes any free one.
        open_browser: whether to open the page in this machine's browser.
        prompt: words that say which of the worlds' pages is opened, and at which start.
        device: where the model runs: "cpu", "cuda", or "auto" for a GPU if there is one.
        store: the file that keeps the sessions; by default "sessions.db" in `data_folder()`.
        token: what a visitor must send; True makes one once and keeps it in the store, None does so unless only this
            machine can connect.
        public_url: the address that visitors see, where a proxy or a forwarded port makes it another one.
        max_active: how many sessions may be played at a time.
        agent: folder of the agent that plays the world; the one in the world's folder, if not given.

    Raises MagratheaError if the token is empty, the public URL is none, the world cannot be loaded, the store cannot be
    used or the port is in use.
    """
    secret = None if isinstance(token, bool) else token
    check_token(secret)
    check_public_url(public_url)
    catalog, opened = open_catalog(world, device=device, agent=agent)
    opened, start = (opened, None) if prompt is None else catalog.find(prompt)
    listener = _listen(host, port)
    sessions = StoreThread(store if store is not None else data_folder() / "sessions.db")
    is_private = is_loopback(host) and (public_url is None or is_loopback(urlsplit(public_url).hostname or ""))
    if token is True or (secret is None and not is_private):
        secret = sessions.call(Store.setting, "token", secrets.token_urlsafe(18))
    name = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    base = (public_url or f"http://{name}:{listener.getsockname()[1]}").rstrip("/")
    path = f"/play/{quote(opened)}" if opened else "/"
    query = {name: value for name, value in (("start", start), ("token", secret)) if value not in (None, "")}
    url = base + path + (f"?{urlencode(query)}" if query else "")
    limits = Limits(active=max_active)
    app = create_app(catalog, store=sessions, token=secret, public_url=public_url, limits=limits)

    def announce() -> None:
        print(f"Magrathea is at {url} (Ctrl+C ends it; sessions are kept in {sessions.path})", flush=True)
        if secret is not None and len(secret) < GOOD_TOKEN_LENGTH:
            print(
                f"magrathea: the token has {len(secret)} characters and can be guessed; give at least "
                f"{GOOD_TOKEN_LENGTH}, or --token alone to have one made.",
                file=sys.stderr,
            )
        if open_browser:
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

    with suppress(KeyboardInterrupt):
        _AnnouncedServer(server_config(app), announce).run(sockets=[listener])


class _AnnouncedServer(uvicorn.Server):
    """Calls a function as soon as connections are accepted."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self.announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.announce()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it: a frame is sent at once
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = f"Cannot listen on {host}:{port} ({error}); choose another with --port or --host."
        raise MagratheaError(reason) from None
    return listener
