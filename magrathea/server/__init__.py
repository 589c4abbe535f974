"""Play a world in the browser: the server dreams, the page draws and sends keys."""

from __future__ import annotations

from magrathea.server.serve import play
from magrathea.server.server import create_app

__all__ = ["create_app", "play"]
