"""The web server: pages, pictures of the worlds, and one WebSocket per player."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import gymnasium
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from magrathea.errors import MagratheaError
from magrathea.server.auth import CLOSE_REFUSED, Auth
from magrathea.server.catalog import Catalog, describe, start_png
from magrathea.server.env_mirror import make_environment, why_absent
from magrathea.server.pages import STATIC, page
from magrathea.server.player import Player
from magrathea.server.protocol import MAX_SEED, ProtocolError, RateLimit, parse_message
from magrathea.server.session_manager import Limits, LiveSession, SessionManager
from magrathea.server.session_pool import LINGER, SessionPool
from magrathea.server.sessions import SessionRoutes
from magrathea.server.store import Store
from magrathea.server.viewer import Viewer

CLOSE_TRY_LATER = 1013
KEEP_UNTOUCHED = 86400.0  # seconds that a session in which nothing was done is kept where its server stopped


def create_app(
    catalog: Catalog,
    *,
    only: str | None = None,
    store: Store | None = None,
    limits: Limits | None = None,
    token: str | None = None,
    session_class: Any = None,
    make_env: Callable[[Any], gymnasium.Env] = make_environment,
) -> Starlette:
    """The web application.

    Args:
        only: opens that world at "/" in place of the start page.
        store: where sessions live on; without one they end with the process.
        token: what a visitor must show; without one, only this machine may visit.
    """
    limits = limits or Limits()
    library = SessionManager(store or Store(), session_class or _session_class(), limits)
    seats = SessionPool(limits.awake)
    sessions = SessionRoutes(catalog, library, seats)
    site = Site(catalog, library, seats, sessions, only, make_env)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(_sweep(seats, library.store))
        yield
        sweeper.cancel()
        await seats.close()
        await library.close()

    routes = [
        Route("/", site.home),
        Route("/play/{world}", site.play_page),
        Route("/card/{world}", site.card_page),
        Route("/sessions", site.sessions_page),
        Route("/health", site.health),
        Route("/api/worlds", site.worlds),
        Route("/api/worlds/{world}", site.world),
        Route("/api/worlds/{world}/card", site.card),
        Route("/api/worlds/{world}/starts/{index:int}.png", site.start_picture),
        WebSocketRoute("/api/worlds/{world}/play", site.socket),
        *sessions.routes(),
        Mount("/static", StaticFiles(directory=STATIC), name="static"),
    ]
    return Starlette(routes=routes, lifespan=lifespan, middleware=[Middleware(Auth, token=token)])


class Site:
    """The routes of one server."""

    def __init__(
        self,
        catalog: Catalog,
        library: SessionManager,
        seats: SessionPool,
        sessions: SessionRoutes,
        only: str | None,
        make_env: Callable[[Any], gymnasium.Env],
    ) -> None:
        self.catalog, self.library, self.seats, self.sessions = catalog, library, seats, sessions
        self.only = only
        self._make_env = make_env
        self._absent: dict[str, asyncio.Task[str]] = {}

    async def home(self, _: Request) -> Response:
        if self.only:
            return RedirectResponse(f"/play/{self.only}")
        return page("index")

    async def play_page(self, request: Request) -> Response:
        self._known(request)
        return page("play")

    async def sessions_page(self, _: Request) -> Response:
        return page("sessions")

    async def card_page(self, request: Request) -> Response:
        self._known(request)
        return page("card")

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
        return self._describe(world_id, world)

    async def socket(self, websocket: WebSocket) -> None:
        """One visitor's connection: ``?session=`` to come to a session, ``?seed=`` and ``?start=`` for a new one."""
        await websocket.accept()
        world_id = websocket.path_params["world"]
        try:
            world = await run_in_threadpool(self.catalog.world, world_id)
            session, player = await self._player(websocket, world_id, world)
            viewer = player.attach()
        except MagratheaError as error:
            await websocket.send_json({"type": "error", "reason": str(error), "fatal": True})
            await websocket.close(CLOSE_TRY_LATER)
            return
        self.seats.stay(session)
        self.library.store.touch(session)
        viewer.say({"type": "world", "session": session, "world": self._describe(world_id, world)})
        player.tell()
        self._look_for_reality(world_id, world, player)
        sender = asyncio.create_task(_send(websocket, viewer))
        try:
            await _receive(websocket, player, viewer)
        finally:
            sender.cancel()
            player.detach(viewer)
            self.seats.leave(session)
            with suppress(asyncio.CancelledError):
                await sender

    async def _player(self, websocket: WebSocket, world_id: str, world: Any) -> tuple[str, Player]:
        """The session that a visitor asks for, awake."""
        session, options = websocket.query_params.get("session"), _options(websocket, int(world.num_starts))
        is_new = not session
        if session:
            found = await run_in_threadpool(self.library.store.session, session)
            if found.world != world_id:
                raise MagratheaError("This session is not here: it is one of another world.")
        else:
            self.seats.make_room()
            self.sessions.allow_new()
            session = await run_in_threadpool(self.library.add, world_id)

        def make_player() -> Player:
            life = LiveSession(self.library, world, session)
            return Player(life, is_new=is_new, make_env=self._make_env, **options)

        return session, await self.seats.join(session, make_player)

    def _describe(self, world_id: str, world: Any) -> dict[str, Any]:
        return describe(world, world_id, has_card=self.catalog.card(world_id) is not None)

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
            if item is None:
                await websocket.close(CLOSE_REFUSED)
                return
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


def _options(websocket: WebSocket, num_starts: int) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, high in (("seed", MAX_SEED), ("start", num_starts - 1)):
        text = websocket.query_params.get(name)
        if text:
            if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= high):
                raise MagratheaError(f"'{name}' must be an integer from 0 to {high}, not '{text[:20]}'.")
            options[name] = int(text)
    return options


def _session_class() -> Any:
    from magrathea.session import Session

    return Session


async def _sweep(seats: SessionPool, store: Store) -> None:
    while True:
        store.delete_untouched(time.time() - KEEP_UNTOUCHED)
        await asyncio.sleep(LINGER / 4)
        seats.sweep()
