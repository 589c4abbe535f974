"""The web server: pages, pictures of the worlds, and one WebSocket per player."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
import webbrowser
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gymnasium
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from magrathea.app.catalog import Catalog, describe, start_png
from magrathea.app.player import Player
from magrathea.app.protocol import MAX_SEED, ProtocolError, RateLimit, parse_message
from magrathea.app.reality import make_environment, why_absent
from magrathea.app.seats import LINGER, Seats
from magrathea.app.viewer import Viewer
from magrathea.errors import MagratheaError

STATIC = Path(__file__).parent / "static"
CLOSE_TRY_LATER, CLOSE_REFUSED = 1013, 1008
HEADERS = [
    (b"content-security-policy", b"default-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]

log = logging.getLogger(__name__)


def create_app(
    catalog: Catalog,
    *,
    only: str | None = None,
    max_players: int = 8,
    make_session: Callable[..., Any] | None = None,
    make_env: Callable[[Any], gymnasium.Env] = make_environment,
) -> Starlette:
    """The web application: ``only`` opens that world at "/" in place of the start page."""
    dreamer = ThreadPoolExecutor(1, thread_name_prefix="dream")

    def make_player(world: Any, **options: Any) -> Player:
        return Player(world, make_session or _session_class(), dreamer, make_env=make_env, **options)

    seats = Seats(max_players, make_player)
    site = Site(catalog, seats, only, make_env)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(_sweep(seats))
        yield
        sweeper.cancel()
        await seats.close()
        dreamer.shutdown(wait=False, cancel_futures=True)

    routes = [
        Route("/", site.home),
        Route("/play/{world}", site.play_page),
        Route("/card/{world}", site.card_page),
        Route("/health", site.health),
        Route("/api/worlds", site.worlds),
        Route("/api/worlds/{world}", site.world),
        Route("/api/worlds/{world}/card", site.card),
        Route("/api/worlds/{world}/starts/{index:int}.png", site.start_picture),
        WebSocketRoute("/api/worlds/{world}/play", site.socket),
        Mount("/static", StaticFiles(directory=STATIC), name="static"),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, middleware=[Middleware(SafeHeaders)])
    app.state.seats = seats
    return app


class SafeHeaders:
    """Adds headers that let pages load nothing from elsewhere, and makes browsers ask again for changed files."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS, (b"cache-control", b"no-cache")]
            await send(message)

        await self.app(scope, receive, send_with_headers)


class Site:
    """The routes of one server."""

    def __init__(
        self, catalog: Catalog, seats: Seats, only: str | None, make_env: Callable[[Any], gymnasium.Env]
    ) -> None:
        self.catalog = catalog
        self.seats = seats
        self.only = only
        self._make_env = make_env
        self._absent: dict[str, asyncio.Task[str]] = {}

    async def home(self, _: Request) -> Response:
        if self.only:
            return RedirectResponse(f"/play/{self.only}")
        return FileResponse(STATIC / "index.html")

    async def play_page(self, request: Request) -> Response:
        self._known(request)
        return FileResponse(STATIC / "play.html")

    async def card_page(self, request: Request) -> Response:
        self._known(request)
        return FileResponse(STATIC / "card.html")

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok", "players": len(self.seats), "worlds": list(self.catalog)})

    async def worlds(self, _: Request) -> Response:
        return JSONResponse([await self._description(world_id) for world_id in self.catalog])

    async def world(self, request: Request) -> Response:
        return JSONResponse(await self._description(self._known(request)))

    async def card(self, request: Request) -> Response:
        text = self.catalog.card(self._known(request))
        if text is None:
            raise HTTPException(404, "This world has no model card.")
        return PlainTextResponse(text)

    async def start_picture(self, request: Request) -> Response:
        world = await run_in_threadpool(self.catalog.world, self._known(request))
        index = request.path_params["index"]
        if index >= world.num_starts:
            raise HTTPException(404, f"This world has {world.num_starts} start states.")
        return Response(await run_in_threadpool(start_png, world, index), media_type="image/png")

    def _known(self, request: Request) -> str:
        world_id = request.path_params["world"]
        if world_id not in self.catalog:
            raise HTTPException(404, f"No world '{world_id}' here.")
        return world_id

    async def _description(self, world_id: str) -> dict[str, Any]:
        try:
            world = await run_in_threadpool(self.catalog.world, world_id)
        except MagratheaError as error:
            return {"id": world_id, "name": world_id, "error": str(error)}
        return describe(world, world_id, has_card=self.catalog.card(world_id) is not None)

    async def socket(self, websocket: WebSocket) -> None:
        """One player's connection: ``?seed=``, ``?start=`` and, to come back to a dream, ``?ticket=``."""
        if not _same_origin(websocket):
            await websocket.close(CLOSE_REFUSED)
            return
        await websocket.accept()
        world_id = websocket.path_params["world"]
        try:
            world = await run_in_threadpool(self.catalog.world, world_id)
            options = _options(websocket, int(world.num_starts))
            ticket, player, resumed = self.seats.join(world_id, world, websocket.query_params.get("ticket"), **options)
        except MagratheaError as error:
            await websocket.send_json({"type": "error", "reason": str(error), "fatal": True})
            await websocket.close(CLOSE_TRY_LATER)
            return
        description = describe(world, world_id, has_card=self.catalog.card(world_id) is not None)
        viewer = player.attach()
        viewer.say({"type": "world", "ticket": ticket, "resumed": resumed, "world": description})
        self._look_for_reality(world_id, world, player)
        sender = asyncio.create_task(_send(websocket, viewer))
        try:
            await _receive(websocket, player, viewer)
        finally:
            sender.cancel()
            player.detach(viewer)
            self.seats.leave(world_id, ticket)
            with suppress(asyncio.CancelledError):
                await sender

    def _look_for_reality(self, world_id: str, world: Any, player: Player) -> None:
        """Find out once for a world whether its real environment can be had, and tell the player if it cannot."""
        if world_id not in self._absent:
            self._absent[world_id] = asyncio.create_task(run_in_threadpool(why_absent, world, self._make_env))

        def tell(task: asyncio.Task[str]) -> None:
            if not task.cancelled() and task.result():
                player.rule_out_reality(task.result())

        self._absent[world_id].add_done_callback(tell)


async def _send(websocket: WebSocket, viewer: Viewer) -> None:
    with suppress(WebSocketDisconnect, RuntimeError, OSError):
        while True:
            item = await viewer.take()
            await (websocket.send_text(item) if isinstance(item, str) else websocket.send_bytes(item))


async def _receive(websocket: WebSocket, player: Player, viewer: Viewer) -> None:
    limit, complaints = RateLimit(), RateLimit(per_second=5)
    while True:
        event = await websocket.receive()
        if event["type"] == "websocket.disconnect":
            return
        try:
            if not limit.allow():
                raise ProtocolError(f"more than {limit.per_second:g} messages a second; this one was ignored")
            text = event.get("text")
            message = parse_message(event.get("bytes") or b"" if text is None else text, player.schema)
            player.handle(message, viewer)
        except ProtocolError as error:
            if complaints.allow():
                viewer.say({"type": "error", "reason": str(error)})


def _same_origin(websocket: WebSocket) -> bool:
    origin = websocket.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == websocket.headers.get("host")


def _options(websocket: WebSocket, num_starts: int) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, high in (("seed", MAX_SEED), ("start", num_starts - 1)):
        text = websocket.query_params.get(name)
        if text:
            if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= high):
                raise MagratheaError(f"'{name}' must be an integer from 0 to {high}, not '{text[:20]}'.")
            options[name] = int(text)
    return options


def _session_class() -> Callable[..., Any]:
    from magrathea.session import Session

    return Session


async def _sweep(seats: Seats) -> None:
    while True:
        await asyncio.sleep(LINGER / 4)
        seats.sweep()


def catalog_of(world: str | None, *, device: str = "auto") -> tuple[Catalog, str | None]:
    """The worlds to offer: the shipped ones, or only the one named (a folder, a hub id or a shipped name)."""
    import torch

    from magrathea.hub import shipped_worlds
    from magrathea.world import World

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"

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
    max_players: int = 8,
) -> None:
    """Serve the page until interrupted: the start page, or the page of the one world named.

    Args:
        world: a world's folder, hub id or shipped name; None offers all shipped worlds.
        host, port: where to listen; port 0 takes any free one.
        open_browser: whether to open the page in this machine's browser.
        device: where the model runs: "cpu", "cuda", or "auto" for a GPU if there is one.
        max_players: how many dreams may run at a time.

    Raises MagratheaError if the world cannot be loaded or the port is in use.
    """
    catalog, only = catalog_of(world, device=device)
    listener = _listen(host, port)
    url = f"http://{host if host not in ('0.0.0.0', '::') else 'localhost'}:{listener.getsockname()[1]}/"
    app = create_app(catalog, only=only, max_players=max_players)
    config = uvicorn.Config(app, log_level="warning", ws_max_size=1 << 16, timeout_graceful_shutdown=2)
    print(f"Magrathea is at {url} (Ctrl+C ends it)", flush=True)
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
