"""The allowed values of settings and command-line options, said once in their types and checked by one function.

A setting is a field of a frozen dataclass or an option of a command, and its type says what it may be:

    steps: Annotated[int, Range(1, 1000)]

`check` refuses a dataclass that holds anything else; `check_value` a single value. Both raise a `MagratheaError` that
names the setting, the value that was given and the values that are allowed.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from magrathea.errors import MagratheaError, one_line


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, both included; with `above`, `low` itself is excluded."""

    low: float
    high: float
    above: bool = False

    def __contains__(self, value: Any) -> bool:
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        return f"{'above' if self.above else 'from'} {self.low:g} to {_plain(self.high)}"


@dataclass(frozen=True)
class Pattern:
    """A text that a regular expression matches from end to end; `words` say the same for people."""

    regex: str
    words: str

    def __contains__(self, value: Any) -> bool:
        return re.fullmatch(self.regex, value) is not None

    def __str__(self) -> str:
        return self.words


Count = Annotated[int, Range(1, 10**9)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Share = Annotated[float, Range(0, 1)]
Positive = Annotated[float, Range(0, 10**6, above=True)]
DeviceName = Annotated[str, Pattern(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:N")]


def check(settings: Any) -> None:
    """Check every field of a dataclass; raises MagratheaError for the first one that its type does not allow."""
    hints = _hints(type(settings))
    for setting in fields(settings):
        check_value(setting.name, getattr(settings, setting.name), hints[setting.name])


def check_value(name: str, value: Any, kind: Any) -> None:
    """Check one value; raises MagratheaError, which calls it by the name, where its type does not allow it."""
    if not _allows(kind, value):
        raise MagratheaError(f"{name} is {_shown(value)}; give {_description(kind)}.")


@cache
def _hints(owner: type) -> dict[str, Any]:
    return get_type_hints(owner, include_extras=True)


def _allows(kind: Any, value: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Annotated:
        limits = (limit for limit in arguments[1:] if isinstance(limit, Range | Pattern))
        return _allows(arguments[0], value) and all(value in limit for limit in limits)
    if origin in (Union, types.UnionType):
        return any(_allows(one, value) for one in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and all(_allows(arguments[0], element) for element in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_allows(arguments[1], element) for element in value.values())
    if kind is None:
        return value is None
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _description(kind: Any) -> str:
    """The values that a type allows, in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        limits = [limit for limit in arguments[1:] if isinstance(limit, Range | Pattern)]
        patterns = [str(limit) for limit in limits if isinstance(limit, Pattern)]
        return " and ".join(patterns) or " ".join([_description(arguments[0]), *map(str, limits)])
    if origin in (Union, types.UnionType):
        return " or ".join(_description(one) for one in arguments if one is not types.NoneType)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        return f"{_description(arguments[0])} for each"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a table" if arguments[1] is Any else f"a table with {_description(arguments[1])} for each key"
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return words.get(kind, f"a {getattr(kind, '__name__', kind)}")


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return one_line(" ".join(map(_shown, value)) or "empty", 200)
    return one_line(repr(value) if isinstance(value, str) else value, 200)


def _plain(number: float) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)
