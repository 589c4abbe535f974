"""The pages: their bodies lie in `static/`, and one head serves all."""

from __future__ import annotations

from functools import cache
from html import escape
from pathlib import Path

from starlette.responses import HTMLResponse

STATIC = Path(__file__).parent / "static"
HEAD = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1, viewport-fit=cover">
  <meta name="color-scheme" content="dark light">
  <title>{title}</title>
  <link rel="icon" href="/static/icon.svg" type="image/svg+xml">
  <link rel="stylesheet" href="/static/style.css">
{script}</head>
"""
TITLES = {"index": "Magrathea", "play": "Magrathea", "sessions": "Kept dreams · Magrathea", "card": "Model card"}


@cache
def page(name: str) -> HTMLResponse:
    """The page whose body is `static/NAME.html` and whose script is `static/NAME.js`."""
    script = f'  <script type="module" src="/static/{name}.js"></script>\n'
    return HTMLResponse(whole(TITLES[name], (STATIC / f"{name}.html").read_text("utf-8"), script))


def whole(title: str, body: str, script: str = "") -> str:
    """A page: its title in plain text, its body and its script element as HTML."""
    return HEAD.format(title=escape(title), script=script) + body + "</html>\n"
