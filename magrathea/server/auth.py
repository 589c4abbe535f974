"""Who may use the server: pages of its own origin and, where it can be reached from elsewhere, who has the token."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse

from magrathea.server.pages import whole
from magrathea.server.protocol import RateLimit

COOKIE = "magrathea"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
CLOSE_REFUSED = 1008
OPEN_PATHS = ("/static/", "/health")
HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
ASK = """<body><main class="start-page">
<h1>This server asks for its token</h1><p class="lead">{words} It is in the address that was printed when the server
started.</p><form class="new-session" method="get"><input name="token" type="password" aria-label="Token"
autocomplete="current-password" required autofocus><button class="accent">Go in</button></form></main></body>
"""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host name or address."""
    name = host.strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Auth:
    """Refuses what other sites' pages ask for and, given a token, who does not show it.

    A token is shown as ``?token=…`` (then a cookie keeps it) or as ``Authorization: Bearer …``. Without one, the
    server answers only to names of this machine, so that no other site can pass for it by its own name.
    Adds headers that let pages load nothing from elsewhere, and makes browsers ask again for changed files.
    """

    def __init__(self, app: Any, token: str | None = None) -> None:
        self.app, self.token = app, token
        self._guesses = RateLimit(per_second=0.5, burst=10)
        self._pass = hashlib.sha256(f"magrathea {token}".encode()).hexdigest()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS, (b"cache-control", b"no-cache")]
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self.app(scope, receive, send_with_headers)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": CLOSE_REFUSED})
        else:
            await refusal(scope, receive, send_with_headers)

    def _refusal(self, scope: Any) -> Any:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.token is None and not is_loopback(re.sub(r":\d+$", "", host)):
            return PlainTextResponse("This server answers only to names of its own machine.", 421)
        origin = headers.get("origin")
        changes = scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS
        if changes and origin is not None and urlsplit(origin).netloc != host:
            return PlainTextResponse("Pages of other sites may not use this server.", 403)
        if self.token is None or scope["path"].startswith(OPEN_PATHS):
            return None
        return self._ask(scope, headers)

    def _ask(self, scope: Any, headers: Headers) -> Any:
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = next((value for name, value in query if name == "token"), None)
        cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if given is None and _same(cookie, self._pass):
            return None
        assert self.token is not None
        if _same(bearer, self.token) or (
            given is not None and scope["type"] == "websocket" and _same(given, self.token)
        ):
            return None
        if given is not None and _same(given, self.token):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            response = RedirectResponse("/" + scope["path"].lstrip("/") + (f"?{rest}" if rest else ""), 303)
            response.set_cookie(COOKIE, self._pass, max_age=90 * 86400, httponly=True, samesite="lax")
            return response
        if (given or bearer) and not self._guesses.allow():
            return PlainTextResponse("Too many wrong tokens; try again in a few seconds.", 429)
        words = "That was not it." if given else "Only who has it may come in."
        return HTMLResponse(whole("Magrathea", ASK.format(words=words)), 401)


def _same(left: str, right: str) -> bool:
    return hmac.compare_digest(left.encode(), right.encode())
