"""Play a world in the browser: the server runs the model, the page draws and sends keys."""

from __future__ import annotations

from magrathea.server.server import create_app, play

__all__ = ["create_app", "play"]
