"""The types of the command line's options, and what is read from their text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from magrathea.errors import MagratheaError

EnvId = Annotated[Positional[str], arg(metavar="ENV_ID")]
WorldName = Annotated[Positional[str], arg(metavar="WORLD")]
Folder = Annotated[Path, arg(metavar="FOLDER")]
DatasetFolder = Annotated[Positional[Path], arg(metavar="DATASET")]
Minutes = Annotated[float | None, arg(metavar="FLOAT")]
Number = Annotated[int | None, arg(metavar="INT")]
Names = Annotated[tuple[str, ...], arg(metavar="[WORLD ...]")]
Name = Annotated[str | None, arg(metavar="STR")]
Size = Literal["debug", "tiny", "small", "base"]


def numbers(text: str, option: str, example: str, most: int) -> list[int]:
    """Whole numbers given on the command line."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= most for part in parts):
        raise MagratheaError(f"Option {option} is '{text}'; give numbers from 1 to {most}, like {example}.")
    return [int(part) for part in parts]


def json_object(text: str) -> dict[str, Any]:
    """A JSON object given on the command line."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise MagratheaError(f"Option --env-kwargs is not JSON ({error}): {text!r}.") from error
    if not isinstance(value, dict):
        raise MagratheaError(f"Option --env-kwargs is {text!r}; give a JSON object, like '{{\"size\": 5}}'.")
    return value
