"""Plug-ins: what installed packages, Magrathea itself among them, offer through entry points.

A package offers an environment family, a tokenizer or a memory with an entry point in its pyproject.toml:

    [project.entry-points."magrathea.environments"]
    my_game = "my_package.plugin:PLUGIN"
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from magrathea.errors import MagratheaError, one_line

ENVIRONMENTS = "magrathea.environments"
"""Entry point group: objects of `EnvironmentPlugin`."""
TOKENIZERS = "magrathea.tokenizers"
"""Entry point group: subclasses of `magrathea.tokenizers.Tokenizer`, named by their `type_name`."""
MEMORIES = "magrathea.memories"
"""Entry point group: subclasses of `magrathea.memory.MemorySpec`."""

_NOUNS = {ENVIRONMENTS: "environment plug-in", TOKENIZERS: "tokenizer type", MEMORIES: "memory"}


@dataclass(frozen=True, kw_only=True)
class EnvironmentPlugin:
    """A family of environments. References are "module:attribute" strings, so that nothing is imported before use.

    Attributes:
        name: of the family, equal to the name of its entry point.
        package: the package to install for it ("pip install …"), "" where none is needed.
        env_ids: Gymnasium ids to register -> the class or function that makes the environment.
        id_prefixes: how other Gymnasium ids of the family begin -> the module whose import registers them.
        make: function (env_id, **env_kwargs) -> environment that makes the ids of `id_prefixes`; `gymnasium.make`, if
            None. It may complete the environment's `metadata`: "render_fps", "action_names", "key_map" (key -> action).
        policies: names for `--policy` -> functions (env, rng) -> policy, see `magrathea.data.policies`.
        recipe_folder: folder whose *.toml files are recipes, known by their names without the ending.
        describe_cells: function (infos, frames, tokens, grid, window) -> `magrathea.evaluate.cells.Cells` or None,
            which sorts the cells of an episode's pictures by what the privileged state says of them.
        visible_tiles: function (infos, frames, tokens, grid) -> `magrathea.evaluate.cells.VisibleTiles` or None, which
            says how the pictures of an episode show a map.
        picture_status: function (picture) -> what the page says of a picture (height, width, 3) uint8, such as
            "Asleep"; "" for nothing.
        visible_events: function (env_id, frames) -> (T,) integers or None, which says in which of an episode's pictures
            (T, height, width, 3) something happens that makes a sound: the number of its kind, 0 for nothing.
        picture_events: function (frames) -> name -> (T,) float, which says what happens in the steps between pictures
            (T + 1, height, width, 3): 1 or 0, and NaN where they do not tell.
        text_checks: function (env, texts, commands) -> name -> (T, 2), which compares T + 1 texts of an episode and the
            T commands between them with each other and with the environment, reset to the episode: how many statements
            of each step's text are right, and how many there are.
        resample: function (env, seed) that redraws the random choices of a running environment from here on; its
            Gymnasium generator is replaced, if None.

    Raises:
        MagratheaError: for a reference that is not of the form "module:attribute".
    """

    name: str
    package: str = ""
    env_ids: Mapping[str, str] = field(default_factory=dict)
    id_prefixes: Mapping[str, str] = field(default_factory=dict)
    make: str | None = None
    policies: Mapping[str, str] = field(default_factory=dict)
    recipe_folder: Path | None = None
    describe_cells: str | None = None
    visible_tiles: str | None = None
    picture_status: str | None = None
    visible_events: str | None = None
    picture_events: str | None = None
    text_checks: str | None = None
    resample: str | None = None

    def __post_init__(self) -> None:
        pictures = (self.describe_cells, self.visible_tiles, self.picture_status)
        events = (self.visible_events, self.picture_events, self.text_checks)
        for reference in (
            *self.env_ids.values(),
            *self.policies.values(),
            self.make,
            self.resample,
            *pictures,
            *events,
        ):
            if reference is not None and not all(reference.partition(":")):
                raise MagratheaError(f"Plug-in '{self.name}' refers to '{reference}'; write it as 'module:attribute'.")

    def has(self, env_id: str) -> bool:
        """Whether the Gymnasium id is one of the family."""
        return env_id in self.env_ids or env_id.startswith(tuple(self.id_prefixes))


@cache
def _found(group: str) -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name, []).append(point)
    return found


def plugin_names(group: str) -> list[str]:
    """Names of the entry points of a group, sorted."""
    return sorted(_found(group))


def load_plugin(group: str, name: str, kind: type, built_in: Mapping[str, Any] | None = None) -> Any:
    """The plug-in of a name: one of `built_in`, or an entry point, which is imported.

    Args:
        group: ENVIRONMENTS, TOKENIZERS or MEMORIES.
        name: of the plug-in.
        kind: the class that it must be an instance or a subclass of.
        built_in: plug-ins that need no entry point, by name.

    Raises:
        MagratheaError: for a name that nothing offers or that is taken twice, and for a plug-in that cannot be imported
            or is not of that kind.
    """
    built_in = built_in or {}
    points = _found(group).get(name, [])
    owners = [*(["magrathea"] if name in built_in else []), *sorted(_owner(point) for point in points)]
    if not owners:
        known = ", ".join([*built_in, *plugin_names(group)]) or "none"
        raise MagratheaError(f"Unknown {_NOUNS[group]} '{one_line(name, 100)}'; installed are {known}.")
    if len(owners) > 1:
        raise MagratheaError(
            f"The {_NOUNS[group]} '{name}' is offered by several packages ({', '.join(owners)}); keep one."
        )
    if name in built_in:
        return built_in[name]
    (point,) = points
    try:
        plugin = point.load()
    except Exception as error:  # another package's code, which may raise anything
        raise MagratheaError(
            f"The {_NOUNS[group]} '{name}' cannot be loaded from '{point.value}' ({type(error).__name__}: {error}); "
            f"repair or uninstall the package '{_owner(point)}'."
        ) from error
    if not (isinstance(plugin, kind) or (isinstance(plugin, type) and issubclass(plugin, kind))):
        raise MagratheaError(f"The {_NOUNS[group]} '{name}' ('{point.value}') is no {kind.__name__}; correct it.")
    return plugin


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown"


@cache
def environment_plugins() -> tuple[EnvironmentPlugin, ...]:
    """The environment families that are installed, by name; warns of each that cannot be loaded and leaves it out."""
    plugins = []
    for name in plugin_names(ENVIRONMENTS):
        try:
            plugins.append(load_plugin(ENVIRONMENTS, name, EnvironmentPlugin))
        except MagratheaError as error:
            warnings.warn(str(error), RuntimeWarning, stacklevel=2)
    return tuple(plugins)


def environment_plugin(env_id: str) -> EnvironmentPlugin | None:
    """The family of a Gymnasium id; None where no plug-in knows it."""
    return next((plugin for plugin in environment_plugins() if plugin.has(env_id)), None)


def load_reference(reference: str) -> Any:
    """The object that "module:attribute" names; raises ImportError or AttributeError where there is none."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)
