"""The sessions of a server over HTTP: list, name, fork, delete, download, upload, and look back."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from magrathea.errors import MagratheaError
from magrathea.server.catalog import Catalog
from magrathea.server.protocol import RateLimit
from magrathea.server.session_manager import SessionManager
from magrathea.server.session_pool import SessionPool
from magrathea.server.store import StoredSession

MAX_BODY = 4096  # bytes of a request that carries no file
Handler = Callable[[Request], Awaitable[Response]]


class SessionRoutes:
    """Requests about sessions. What cannot be done is answered with 4xx and one line that says why."""

    def __init__(self, catalog: Catalog, library: SessionManager, seats: SessionPool) -> None:
        self.catalog, self.library, self.seats = catalog, library, seats
        rate = library.limits.new_per_second
        self.new_ones = RateLimit(per_second=rate, burst=4 * rate)

    def routes(self) -> list[Route]:
        def route(path: str, method: str, handler: Handler) -> Route:
            return Route(f"/api/sessions{path}", _plain(handler), methods=[method])

        return [
            route("", "GET", self.listed),
            route("", "POST", self.upload),
            route("/{session}", "GET", self.one),
            route("/{session}", "PATCH", self.rename),
            route("/{session}", "DELETE", self.delete),
            route("/{session}/fork", "POST", self.fork),
            route("/{session}/file", "GET", self.download),
            route("/{session}/branches/{branch:int}", "DELETE", self.delete_branch),
            route("/{session}/branches/{branch:int}/steps/{step:int}.png", "GET", self.picture),
        ]

    def allow_new(self) -> None:
        """Raises MagratheaError if too many sessions were made just now."""
        if not self.new_ones.allow():
            raise MagratheaError("Too many new sessions at once; try again in a few seconds.")

    async def listed(self, request: Request) -> Response:
        """Those in which something was done."""
        sessions = await run_in_threadpool(self.library.store.sessions, request.query_params.get("world"))
        return JSONResponse([self._described(found) for found in sessions if not found.untouched])

    async def one(self, request: Request) -> Response:
        return JSONResponse(self._described(self.library.store.session(request.path_params["session"])))

    def _described(self, found: StoredSession) -> dict[str, Any]:
        player = self.seats.player(found.id)
        return asdict(found) | {"awake": player is not None, "viewers": len(player.audience.viewers) if player else 0}

    async def rename(self, request: Request) -> Response:
        found = self.library.store.session(request.path_params["session"])
        self.library.store.rename(found.id, self._name((await _body(request)).get("name", "")))
        player = self.seats.player(found.id)
        if player:
            player.tell()
        return JSONResponse(self._described(self.library.store.session(found.id)))

    def _name(self, name: Any) -> str:
        if not isinstance(name, str) or not name.isprintable() or len(name) > self.library.limits.name_letters:
            raise MagratheaError(f"A name is a line of at most {self.library.limits.name_letters} letters.")
        return name.strip()

    async def delete(self, request: Request) -> Response:
        found = self.library.store.session(request.path_params["session"])
        await self.seats.dismiss(found.id, "This session was deleted.")
        await run_in_threadpool(self.library.store.delete, found.id)
        return Response(status_code=204)

    async def delete_branch(self, request: Request) -> Response:
        session, branch = request.path_params["session"], request.path_params["branch"]
        await run_in_threadpool(self.library.store.delete_branch, session, branch)
        player = self.seats.player(session)
        if player:
            player.tell()
        return Response(status_code=204)

    async def fork(self, request: Request) -> Response:
        """``{"branch", "step", "name"}``; without a step, from where the session is."""
        found = self.library.store.session(request.path_params["session"])
        asked = await _body(request)
        branch, step = asked.get("branch", found.head), asked.get("step", found.num_steps)
        if type(branch) is not int or type(step) is not int:
            raise MagratheaError("'branch' and 'step' are whole numbers.")
        name = self._name(asked.get("name", ""))
        self.allow_new()
        forked = await run_in_threadpool(self.library.fork, found.id, branch, step, name)
        return JSONResponse(self._described(self.library.store.session(forked)), 201)

    async def download(self, request: Request) -> Response:
        found = self.library.store.session(request.path_params["session"])
        world = await self._world(found.world)
        file = await run_in_threadpool(self.library.download, world, found.id)
        letters = "".join(
            letter if letter.isascii() and letter.isalnum() else "-" for letter in found.name or found.world
        )
        headers = {"content-disposition": f'attachment; filename="{letters}.mwsession"'}
        return Response(file, media_type="application/octet-stream", headers=headers)

    async def upload(self, request: Request) -> Response:
        """A session file as the body; ``?name=``. Its world is the one of this server that it was made in."""
        name = self._name(request.query_params.get("name", ""))
        self.allow_new()
        file = await _limited(request, self.library.limits.upload_bytes)
        added = await run_in_threadpool(self._upload, file, name)
        return JSONResponse(self._described(self.library.store.session(added)), 201)

    def _upload(self, file: bytes, name: str) -> str:
        refused = MagratheaError("This server has no world.")
        for world_id in self.catalog:
            try:
                return self.library.upload(world_id, self.catalog.world(world_id), file, name)
            except MagratheaError as error:
                refused = error
        raise refused

    async def picture(self, request: Request) -> Response:
        found = self.library.store.session(request.path_params["session"])
        branch, step = request.path_params["branch"], request.path_params["step"]
        world = await self._world(found.world)

        def paint() -> bytes:
            self.library.check_step(found.id, branch, step)
            return self.library.picture(world, branch, step)

        return Response(await run_in_threadpool(paint), media_type="image/png")

    async def _world(self, world_id: str) -> Any:
        return await run_in_threadpool(self.catalog.world, world_id)


def _plain(handler: Handler) -> Handler:
    """Answers with the reason, in plain text, where something cannot be done."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except MagratheaError as error:
            missing = "is not here" in str(error)
            raise HTTPException(404 if missing else 400, str(error)) from error

    return answer


async def _body(request: Request) -> dict[str, Any]:
    data = await _limited(request, MAX_BODY)
    try:
        body = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise MagratheaError("The request must be a JSON object.")
    return body


async def _limited(request: Request, most: int) -> bytes:
    """The body of a request; one that is too large is refused before it is read whole."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise HTTPException(413, f"This is larger than {most} bytes, the most that is taken.")
        parts.append(part)
    return b"".join(parts)
