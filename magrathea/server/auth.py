"""Who may use the server: pages of its own origin and, where other machines can reach it, whoever has the token."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse

from magrathea.errors import MagratheaError
from magrathea.server.rate_limiter import RateLimiters

STATIC = Path(__file__).parent / "static"
COOKIE = "magrathea"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
CLOSE_REFUSED = 1008  # WebSocket close code: policy violation
OPEN_PATHS = ("/static/", "/health")
GOOD_TOKEN_LENGTH = 16  # characters; a shorter one can be guessed
HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host name or address."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_token(token: str | None) -> None:
    """Raises MagratheaError for a token that everybody has; None is no token."""
    if token is not None and not token.strip():
        raise MagratheaError(
            f"The token is empty; give one of at least {GOOD_TOKEN_LENGTH} characters, or --token alone to have one "
            "made."
        )


def check_public_url(url: str | None) -> None:
    """Raises MagratheaError for what is not the address of a server's root, such as "https://dreams.example:8443"."""
    if url is None:
        return
    try:
        parts = urlsplit(url)
        is_root = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.path in ("", "/")
        is_root = is_root and not (parts.query or parts.fragment or parts.username) and (parts.port or 1) > 0
    except ValueError:
        is_root = False
    if not is_root:
        raise MagratheaError(
            f"The public URL {url!r} is not the address of a server; give one without a path, like "
            "https://dreams.example:8443."
        )


def visitor_of(scope: Any) -> str:
    """What a visitor is known by: the address that a connection comes from; in IPv6 the network of one visitor."""
    address = (scope.get("client") or ("",))[0]
    return ":".join(address.split(":")[:4]) if ":" in address else address


class Auth:
    """Middleware that refuses requests from pages of other sites and, given a token, requests without it.

    A token is sent as `?token=…` (a cookie keeps it then) or as `Authorization: Bearer …`. Without a token the server
    answers only to names of this machine, which prevents DNS rebinding, and to that of `public_url`, the address that
    visitors see where a proxy stands between. Adds headers that let pages load nothing from elsewhere, and make
    browsers ask again for changed files.
    """

    def __init__(self, app: Any, token: str | None = None, public_url: str | None = None) -> None:
        self.app, self.token = app, token
        self._public = None if public_url is None else _netloc(public_url)
        self._is_https = public_url is not None and public_url.startswith("https:")
        self._wrong_tokens = RateLimiters(rate=0.5, burst=10)
        self._cookie = hashlib.sha256(f"magrathea {token}".encode()).hexdigest()
        self._page = (STATIC / "token.html").read_text("utf-8")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
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
        """The response that refuses a request, or None if it is allowed."""
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        names = {host, self._public} - {None}  # a proxy may send another host than the page's, or drop its port
        if self.token is None and host != self._public and not is_loopback(re.sub(r":\d+$", "", host)):
            return PlainTextResponse("This server answers only to names of its own machine.", 421)
        origin = headers.get("origin")
        changes = scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS
        if changes and origin is not None and _netloc(origin) not in names:
            return PlainTextResponse("Pages of other sites may not use this server.", 403)
        if self.token is None or scope["path"].startswith(OPEN_PATHS):
            return None
        return self._check_token(scope, headers, self.token)

    def _check_token(self, scope: Any, headers: Headers, token: str) -> Any:
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = next((value for name, value in query if name == "token"), None)
        cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        credentials = [value for value in (given, cookie, bearer) if value]
        guesses = self._wrong_tokens.of(visitor_of(scope))
        if credentials and guesses.seconds_left() > 0:
            return PlainTextResponse("Too many wrong tokens; try again in a few seconds.", 429)
        if (given is None and _equal(cookie, self._cookie)) or _equal(bearer, token):
            return None
        if given is not None and _equal(given, token):
            if scope["type"] == "websocket":
                return None
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            response = RedirectResponse("/" + scope["path"].lstrip("/") + (f"?{rest}" if rest else ""), 303)
            response.set_cookie(
                COOKIE, self._cookie, max_age=90 * 86400, secure=self._is_https, httponly=True, samesite="lax"
            )
            return response
        for _ in credentials:
            guesses.take()
        notice = "That token is wrong." if given else "Enter the token to continue."
        return HTMLResponse(self._page.replace("{notice}", notice), 401)


def _netloc(origin: str) -> str | None:
    """The host and port of an origin, without its scheme's own port; None if it has none."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    return parts.netloc.lower().removesuffix({"http": ":80", "https": ":443"}.get(parts.scheme, " "))


def _equal(left: str, right: str) -> bool:
    return hmac.compare_digest(left.encode(), right.encode())
