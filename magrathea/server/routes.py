"""The HTTP routes and the WebSocket of one server: pages, worlds, sessions. Queries and bodies are validated here."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

import gymnasium
import msgspec
from msgspec import Meta, Struct
from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from magrathea.errors import MagratheaError
from magrathea.server.auth import STATIC, visitor_of
from magrathea.server.catalog import Catalog
from magrathea.server.env_mirror import why_unavailable
from magrathea.server.frame import Renderer
from magrathea.server.live_session import LiveSession
from magrathea.server.player import Player
from magrathea.server.protocol import ErrorMessage, Number, ProtocolError, Seed, WorldMessage
from magrathea.server.rate_limiter import RateLimiter, RateLimiters
from magrathea.server.session_manager import SessionManager
from magrathea.server.session_pool import SessionPool
from magrathea.server.store import MissingSession, Store, StoredSession
from magrathea.server.viewers import Viewer

CLOSE_TRY_LATER = 1013  # WebSocket close code
MAX_BODY_BYTES = 4096  # of a request that carries no file
MESSAGES_PER_SECOND, ERRORS_PER_SECOND = 200.0, 5.0  # of one connection

log = logging.getLogger(__name__)

Query = TypeVar("Query", bound=Struct)


class _NumberConvertor(Convertor[int]):
    """A number in a path, which JavaScript and SQLite can hold."""

    regex = "[0-9]{1,15}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("number", _NumberConvertor())


class Named(Struct):
    """A session's name, one line; the body that renames it, and the query of an upload."""

    name: Annotated[str, Meta(max_length=80)] = ""

    def __post_init__(self) -> None:
        if not self.name.isprintable():
            raise ValueError("`name` must be one line of printable characters")
        self.name = self.name.strip()


class ForkBody(Named):
    """A step of a branch to fork from; by default, where the session is."""

    branch: Number | None = None
    step: Number | None = None


class FindQuery(Struct):
    """Words that say which world is wanted."""

    prompt: Annotated[str, Meta(max_length=500)] = ""


class PlayQuery(Struct):
    """The session to play; without one, the seed and start state of a new one."""

    session: str | None = None
    seed: Seed = 0
    start: Number | None = None


class Routes:
    """The routes of one server. What cannot be done is answered with 4xx and one line that says why.

    Args:
        make_env: makes the real environment of a world.
    """

    def __init__(
        self,
        catalog: Catalog,
        manager: SessionManager,
        pool: SessionPool,
        make_env: Callable[[Any], gymnasium.Env],
    ) -> None:
        self.catalog, self.manager, self.pool, self.limits = catalog, manager, pool, manager.limits
        self._make_env = make_env
        rate = self.limits.new_per_second
        self._new_sessions = RateLimiters(rate, burst=4 * rate)
        self._uploads = Counter[str]()  # under way, by visitor
        self._why_unavailable: dict[str, asyncio.Task[str]] = {}

    def all(self) -> list[Route | WebSocketRoute]:
        """The routes for Starlette."""
        session = "/api/sessions/{session}"
        return [
            Route("/", self.home),
            Route("/play/{world}", self.page),
            Route("/card/{world}", self.page),
            Route("/sessions", self.page),
            Route("/health", self.health),
            Route("/api/worlds", self.worlds),
            Route("/api/find", self.find),
            Route("/api/worlds/{world}", self.world),
            Route("/api/worlds/{world}/card", self.card),
            Route("/api/worlds/{world}/agent/card", self.agent_card),
            Route("/api/worlds/{world}/starts/{index:number}.png", self.start_picture),
            WebSocketRoute("/api/worlds/{world}/play", self.play),
            Route("/api/sessions", self.sessions, methods=["GET"]),
            Route("/api/sessions", self.upload, methods=["POST"]),
            Route(session, self.session, methods=["GET"]),
            Route(session, self.rename, methods=["PATCH"]),
            Route(session, self.delete, methods=["DELETE"]),
            Route(f"{session}/fork", self.fork, methods=["POST"]),
            Route(f"{session}/file", self.download, methods=["GET"]),
            Route(f"{session}/branches/{{branch:number}}", self.delete_branch, methods=["DELETE"]),
            Route(f"{session}/branches/{{branch:number}}/steps/{{step:number}}.png", self.step_picture),
            Route(f"{session}/branches/{{branch:number}}/steps/{{step:number}}.gif", self.clip),
            Route(f"{session}/branches/{{branch:number}}/steps/{{step:number}}.mp4", self.clip_with_sound),
            Route(f"{session}/branches/{{branch:number}}/steps/{{step:number}}.json", self.transcript),
        ]

    # -- pages --------------------------------------------------------------------------------------------------------
    async def home(self, _: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def page(self, request: Request) -> Response:
        """The page that is named by the first part of the path."""
        if "world" in request.path_params:
            self._world_id(request)
        return FileResponse(STATIC / f"{request.url.path.split('/')[1]}.html")

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    # -- worlds -------------------------------------------------------------------------------------------------------
    async def worlds(self, _: Request) -> Response:
        """What is known of the worlds without loading them, which takes a second or more."""
        return JSONResponse(await run_in_threadpool(self.catalog.listing))

    async def find(self, request: Request) -> Response:
        """The id of the world, and the stored start, that words are nearest to."""
        world_id, start = await run_in_threadpool(self.catalog.find, _query(request, FindQuery).prompt)
        return JSONResponse({"world": world_id, "start": start})

    async def world(self, request: Request) -> Response:
        world_id = self._world_id(request)
        return JSONResponse(msgspec.to_builtins(self.catalog.describe(world_id, await self._load(world_id))))

    async def card(self, request: Request) -> Response:
        text = self.catalog.card(self._world_id(request))
        if text is None:
            raise HTTPException(404, "This world has no model card.")
        return PlainTextResponse(text)

    async def agent_card(self, request: Request) -> Response:
        text = self.catalog.agent_card(self._world_id(request))
        if text is None:
            raise HTTPException(404, "This world has no agent with a card.")
        return PlainTextResponse(text)

    async def start_picture(self, request: Request) -> Response:
        """The last step of a stored start state."""
        world, index = await self._load(self._world_id(request)), request.path_params["index"]
        if index >= world.num_starts:
            raise HTTPException(404, f"This world has {world.num_starts} start states.")
        renderer = Renderer(world.observation_space)
        png = await run_in_threadpool(renderer.png, world, world.starts[index][-1:])
        return Response(png, media_type="image/png")

    def _world_id(self, request: HTTPConnection) -> str:
        world_id = request.path_params["world"]
        if world_id not in self.catalog:
            raise HTTPException(404, f"No world '{world_id}' here.")
        return world_id

    async def _load(self, world_id: str) -> Any:
        return await run_in_threadpool(self.catalog.world, world_id)

    # -- sessions -----------------------------------------------------------------------------------------------------
    async def sessions(self, request: Request) -> Response:
        """The sessions (of one world) that have steps, several branches or a name."""
        found = await self.manager.store.run(Store.sessions, request.query_params.get("world"))
        return JSONResponse([self._with_activity(session) for session in found if not session.untouched])

    async def session(self, request: Request) -> Response:
        return await self._session_response(request.path_params["session"])

    async def _session_response(self, session: str, status: int = 200) -> Response:
        return JSONResponse(self._with_activity(await self.manager.store.run(Store.session, session)), status)

    def _with_activity(self, found: StoredSession) -> dict[str, Any]:
        player = self.pool.player(found.id)
        return asdict(found) | {"active": player is not None, "viewers": len(player.viewers) if player else 0}

    async def rename(self, request: Request) -> Response:
        body, session = await self._body(request, Named), request.path_params["session"]
        await self.manager.store.run(Store.session, session)
        await self.manager.store.run(Store.rename, session, body.name)
        await self._refresh(session)
        return await self._session_response(session)

    async def delete(self, request: Request) -> Response:
        found = await self.manager.store.run(Store.session, request.path_params["session"])
        await self.pool.evict(found.id, "This session was deleted.")
        await self.manager.store.run(Store.delete, found.id)
        return Response(status_code=204)

    async def delete_branch(self, request: Request) -> Response:
        session = request.path_params["session"]
        await self.manager.store.run(Store.delete_branch, session, request.path_params["branch"])
        await self._refresh(session)
        return Response(status_code=204)

    async def _refresh(self, session: str) -> None:
        player = self.pool.player(session)
        if player:
            await player.refresh()

    async def fork(self, request: Request) -> Response:
        body = await self._body(request, ForkBody)
        self._allow_new_session(request)
        visitor, session = visitor_of(request.scope), request.path_params["session"]
        forked = await self.manager.fork(session, body.branch, body.step, body.name, visitor)
        return await self._session_response(forked, 201)

    async def download(self, request: Request) -> Response:
        found = await self.manager.store.run(Store.session, request.path_params["session"])
        file = await self.manager.download(await self._load(found.world), found.id)
        name = re.sub("[^A-Za-z0-9]", "-", found.name or found.world)
        headers = {"content-disposition": f'attachment; filename="{name}.mwsession"'}
        return Response(file, media_type="application/octet-stream", headers=headers)

    async def upload(self, request: Request) -> Response:
        """A session file as the body; its world is the one of this server that it was made in."""
        name, visitor, limits = _query(request, Named).name, visitor_of(request.scope), self.limits
        self._allow_new_session(request)
        if self._uploads.total() >= limits.uploads or self._uploads[visitor] >= limits.share(limits.uploads):
            raise MagratheaError(f"This server takes {limits.uploads} uploads at a time; try again in a minute.")
        self._uploads[visitor] += 1
        try:
            file = await _limited_body(request, limits.upload_bytes, limits.upload_seconds)
            return await self._add_upload(file, name, visitor)
        finally:
            self._uploads -= Counter([visitor])

    async def _add_upload(self, file: bytes, name: str, visitor: str) -> Response:
        """Add the file to the first world that takes it."""
        refused = MagratheaError("This server has no world.")
        for world_id in self.catalog:
            try:
                added = await self.manager.upload(world_id, await self._load(world_id), file, name, visitor)
                return await self._session_response(added, 201)
            except MagratheaError as error:
                refused = error
        raise refused

    async def step_picture(self, request: Request) -> Response:
        return Response(await self._of_step(request, self.manager.picture), media_type="image/png")

    async def clip(self, request: Request) -> Response:
        return Response(await self._of_step(request, self.manager.clip), media_type="image/gif")

    async def clip_with_sound(self, request: Request) -> Response:
        return Response(await self._of_step(request, self.manager.clip_with_sound), media_type="video/mp4")

    async def transcript(self, request: Request) -> Response:
        return Response(await self._of_step(request, self.manager.transcript), media_type="application/json")

    async def _of_step(self, request: Request, make: Callable[[Any, str, int, int], Awaitable[bytes]]) -> bytes:
        """What is made of a world, a session, a branch and a step."""
        session, branch, step = (request.path_params[name] for name in ("session", "branch", "step"))
        found = await self.manager.store.run(Store.session, session)
        return await make(await self._load(found.world), session, branch, step)

    async def _body(self, request: Request, kind: type[Query]) -> Query:
        """The JSON body of a request, by default an empty object. Raises MagratheaError if it is not valid."""
        data = await _limited_body(request, MAX_BODY_BYTES, self.limits.body_seconds)
        try:
            return msgspec.json.decode(data or b"{}", type=kind)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise MagratheaError(f"Request body refused: {error}.") from None

    def _allow_new_session(self, connection: HTTPConnection) -> None:
        if not self._new_sessions.of(visitor_of(connection.scope)).allow():
            raise MagratheaError("Too many new sessions at once; try again in a few seconds.")

    # -- playing ------------------------------------------------------------------------------------------------------
    async def play(self, websocket: WebSocket) -> None:
        """One viewer's connection, from its first message to its last."""
        await websocket.accept()
        world_id = websocket.path_params["world"]
        try:
            world = await self._load(world_id)
            agent = await run_in_threadpool(self.catalog.agent, world_id)
            session, player = await self._player(websocket, world_id, world, agent)
            viewer = player.attach()
        except MagratheaError as error:
            refusal = msgspec.json.encode(ErrorMessage(str(error), fatal=True))
            await websocket.send_text(refusal.decode())
            await websocket.close(CLOSE_TRY_LATER)
            return
        self.pool.connected(session)
        viewer.send(WorldMessage(session, self.catalog.describe(world_id, world)))
        player.send_session()
        sender = asyncio.create_task(viewer.send_all(websocket))
        try:
            self._check_env(world_id, world, player)
            with suppress(MagratheaError):  # where the disk is full, what is there can still be seen
                await self.manager.store.run(Store.touch, session)
            await _receive(websocket, player, viewer)
        finally:
            sender.cancel()
            player.detach(viewer)
            self.pool.disconnected(session)
            with suppress(asyncio.CancelledError):
                await sender

    async def _player(self, websocket: WebSocket, world_id: str, world: Any, agent: Any) -> tuple[str, Player]:
        """The id and the player of the session that a connection asks for."""
        query, visitor = _query(websocket, PlayQuery), visitor_of(websocket.scope)
        if query.start is not None and query.start >= world.num_starts:
            raise MagratheaError(f"`start` must be from 0 to {world.num_starts - 1}, not {query.start}.")
        session, is_new = query.session, not query.session
        if session:
            found = await self.manager.store.run(Store.session, session)
            if found.world != world_id:
                raise MissingSession("This session is not here: it belongs to another world.")
        else:
            self.pool.make_room(visitor)
            self._allow_new_session(websocket)
            session = await self.manager.add(world_id, visitor)

        def make_player() -> Player:
            live = LiveSession(self.manager, world, session)
            make_env = self._make_env
            return Player(live, is_new=is_new, seed=query.seed, start=query.start, make_env=make_env, agent=agent)

        return session, await self.pool.join(session, make_player, visitor)

    def _check_env(self, world_id: str, world: Any, player: Player) -> None:
        """Check once for a world whether its real environment can be made; tell the player if it cannot."""
        if world_id not in self._why_unavailable:
            check = run_in_threadpool(why_unavailable, world, self._make_env)
            self._why_unavailable[world_id] = asyncio.create_task(check)

        def tell(task: asyncio.Task[str]) -> None:
            if not task.cancelled() and task.result():
                player.mark_mirror_unavailable(task.result())

        self._why_unavailable[world_id].add_done_callback(tell)


async def _receive(websocket: WebSocket, player: Player, viewer: Viewer) -> None:
    """Handle a viewer's messages until it disconnects."""
    messages, errors = RateLimiter(MESSAGES_PER_SECOND), RateLimiter(ERRORS_PER_SECOND)
    while True:
        event = await websocket.receive()
        if event["type"] == "websocket.disconnect":
            return
        try:
            if not messages.allow():
                raise ProtocolError(f"More than {MESSAGES_PER_SECOND:g} messages a second; this one was ignored.")
            text = event.get("text")
            player.handle(player.decoder.decode(event.get("bytes") or b"" if text is None else text), viewer)
        except ProtocolError as error:
            if errors.allow():
                viewer.send(ErrorMessage(str(error)))


async def _refuse(connection: HTTPConnection, error: Exception) -> Response | None:
    """The answer to a request that cannot be done, in one line."""
    reason = " ".join(str(error).split())
    if isinstance(error, OSError):  # this machine's fault: its disk, or too many open files
        log.warning("%s: %s", connection.url.path, reason)
    if connection.scope["type"] == "websocket" or isinstance(error, ClientDisconnect):
        return None
    if isinstance(error, OSError):
        return PlainTextResponse("The server cannot read or write what it needs; try again in a moment.", 503)
    return PlainTextResponse(reason, 404 if isinstance(error, MissingSession) else 400)


HANDLERS: dict[Any, Any] = {MagratheaError: _refuse, OSError: _refuse, ClientDisconnect: _refuse}
"""What answers the errors of the routes, for Starlette."""


def _query(connection: HTTPConnection, kind: type[Query]) -> Query:
    """The query of a request; empty values count as not given. Raises MagratheaError if it is not valid."""
    given = {name: value for name, value in connection.query_params.items() if value}
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise MagratheaError(f"Query refused: {error}.") from None


async def _limited_body(request: Request, max_bytes: int, seconds: float) -> bytes:
    """The body of a request; one that is too large is answered with 413 before it is read whole, one that is too slow
    with 408."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > max_bytes:
                    raise HTTPException(413, f"The request is larger than {max_bytes} bytes, the most allowed.")
                parts.append(part)
    except TimeoutError:
        raise HTTPException(408, f"The request took longer than {seconds:g} seconds.") from None
    return b"".join(parts)
