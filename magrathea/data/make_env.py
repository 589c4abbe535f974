"""Making environments by their Gymnasium id, or by the metadata of a dataset or a world."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import AddRenderObservation

from magrathea.action_keys import default_keys
from magrathea.data.counters import KeepCounters
from magrathea.data.pictures import ConvertPictures, changes_of
from magrathea.errors import FOREIGN_ERRORS, MagratheaError, Terminated, one_line
from magrathea.plugins import EnvironmentPlugin, environment_plugin, environment_plugins, load_reference
from magrathea.sounds import SOUND_RATES, sound_rates, with_sounds
from magrathea.spaces import COUNTERS

# Keys -> names of actions, of which the first that the environment has is taken.
OLD_API = (
    "speaks the API of the old package gym; wrap it with Shimmy: pip install 'shimmy[gym-v21]', and register "
    "gymnasium.make('GymV21Environment-v0', env_id=...)"
)
DRAWN = "rgb_array"  # the render mode of pictures
MAX_FPS = 1000
MAX_DESCRIPTION = 300  # characters
_PLAIN_TEXT = re.compile(r"[\w .+-]{0,100}")  # of an argument that a file gives: names no module and no path
_named: set[str] = set()  # ids that the user of this process has named


def register_environments() -> None:
    """Register the ids of all environment plug-ins with Gymnasium; warns of an id that something else has taken."""
    for plugin in environment_plugins():
        for env_id, reference in plugin.env_ids.items():
            if env_id not in gymnasium.registry:
                gymnasium.register(env_id, entry_point=reference)
            elif gymnasium.registry[env_id].entry_point != reference:
                message = f"Plug-in '{plugin.name}' cannot register '{env_id}', which is taken; rename one of the two."
                warnings.warn(message, RuntimeWarning, stacklevel=2)


def make_env(
    env_id: str,
    /,
    *,
    pixels: bool = False,
    size: tuple[int, int] | None = None,
    counters: Sequence[str] | None = None,
    **env_kwargs: Any,
) -> gymnasium.Env:
    """A Gymnasium environment, whose pictures are in the form that tokenizers learn.

    Args:
        env_id: as Gymnasium knows it, or "module:id".
        pixels: whether the observation is the picture that the environment draws, in place of its own.
        size: (height, width) in pixels that pictures are resized to; without it, only those are changed that have
            another form than uint8 (height, width[, 1|3|4]), or that no patch size divides (`ConvertPictures`).
        counters: names of whole numbers in `info` that become part of the observation (`KeepCounters`).
        env_kwargs: given to the environment.

    Raises:
        MagratheaError: for an id that is unknown, or whose package is not installed, and for pixels of an environment
            that draws none.
    """
    name_environment(env_id)
    plugin = environment_plugin(env_id)
    if pixels:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame looks for a screen even where none is shown
        env_kwargs = {"render_mode": DRAWN} | env_kwargs
    try:
        env = _make(plugin, env_id, env_kwargs)
    except ImportError as error:
        if plugin is not None and plugin.package:
            raise MagratheaError(
                f"Environment '{env_id}' needs the package '{plugin.package}'; "
                f"install it with 'pip install {plugin.package}'."
            ) from error
        raise _cannot_be_made(env_id, error) from error
    except TypeError as error:
        if "gymnasium.Env" in str(error):  # gymnasium.make refuses what does not inherit from it
            raise MagratheaError(f"Environment '{env_id}' {OLD_API}.") from error
        raise _cannot_be_made(env_id, error) from error
    except (MagratheaError, Terminated):
        raise
    except FOREIGN_ERRORS as error:
        raise _cannot_be_made(env_id, error) from error
    try:
        _check_has_spaces(env, env_id)
        if (env.unwrapped.metadata or {}).get(SOUND_RATES) is not None:
            env = DeclareSounds(env)
        env = _drawn(env, env_id) if pixels else env
        if size is not None or changes_of(env.observation_space):
            env = ConvertPictures(env, size)
        return env if counters is None else KeepCounters(env, counters)
    except BaseException:
        close_env(env)
        raise


def draws_pictures(env: gymnasium.Env) -> bool:
    """Whether an environment says that it can be made with `pixels`."""
    return DRAWN in ((env.unwrapped.metadata or {}).get("render_modes") or ())


def _drawn(env: gymnasium.Env, env_id: str) -> gymnasium.Env:
    """An environment that observes what it draws."""
    try:
        return AddRenderObservation(env, render_only=True)
    except Terminated:
        raise
    except FOREIGN_ERRORS as error:
        raise MagratheaError(
            f"Environment '{env_id}' draws no pictures ({one_line(error, 200).rstrip('.')}); leave out pixels."
        ) from error


class DeclareSounds(gymnasium.Wrapper, gymnasium.utils.RecordConstructorArgs):
    """Makes parts of the observation space `Sound`, as the environment's metadata declares: "sound_rates", a table of
    their keys and sample rates. Observations stay as they are."""

    def __init__(self, env: gymnasium.Env) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        rates = (env.unwrapped.metadata or {}).get(SOUND_RATES)
        self.observation_space = with_sounds(env.observation_space, rates, "The environment's metadata")


def close_env(env: gymnasium.Env) -> None:
    """Close an environment, whatever state it is in and whatever that raises: nothing of it is needed any more."""
    try:
        env.close()
    except Terminated:
        raise
    except FOREIGN_ERRORS:
        pass


@contextmanager
def closed_after(env: gymnasium.Env) -> Iterator[gymnasium.Env]:
    """Close an environment at the end of the block, by `close_env`."""
    try:
        yield env
    finally:
        close_env(env)


def make_env_from_metadata(metadata: dict[str, Any]) -> gymnasium.Env:
    """The environment that a dataset or a world comes from.

    A file cannot name code to run: its id must be one that is registered, that a plug-in offers, or that the user has
    named (`name_environment`), and text among its arguments can be no module and no path.

    Raises:
        MagratheaError: for other ids and arguments, and whatever `make_env` refuses.
    """
    env_id, kwargs = metadata.get("env_id"), metadata.get("env_kwargs") or {}
    if not env_id or not isinstance(env_id, str):
        raise MagratheaError("The recordings name no environment (no env_id), as those of 'magrathea collect' do.")
    is_offered = ":" not in env_id and (env_id in gymnasium.registry or environment_plugin(env_id) is not None)
    if not is_offered and env_id not in _named:
        raise MagratheaError(
            f"Environment {env_id[:100]!r} is named by a file, and no installed package offers it, so it is not made; "
            f"if you trust it, name it yourself: --env-id {env_id[:100]}"
        )
    if not isinstance(kwargs, dict) or not all(isinstance(key, str) and key.isidentifier() for key in kwargs):
        raise MagratheaError(f"The env_kwargs of '{env_id}' in the file are no table of arguments; use make_env.")
    for text in _texts(kwargs):
        if not _PLAIN_TEXT.fullmatch(text):
            raise MagratheaError(
                f"The file gives environment '{env_id}' the argument {text[:100]!r}, which may name a module or "
                "a path; make the environment yourself, with make_env."
            )
    return make_env(env_id, **kwargs)


def name_environment(env_id: str) -> None:
    """Allow worlds and datasets to make an environment of this id, "module:id" included, in this process. For ids that
    the user gave; `make_env` and `collect` do it for theirs."""
    _named.add(env_id)


def _texts(value: Any) -> Iterator[str]:
    """Every text within a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def environment_metadata(env: gymnasium.Env) -> dict[str, Any]:
    """fps, action_names, key_map, description, counters and sample rates of an environment, from its own metadata;
    missing names and keys are generated, and a missing description is the first paragraph of its documentation.

    Raises:
        MagratheaError: where its metadata has something else under these names.
    """
    own = env.unwrapped.metadata or {}
    try:
        names = [str(name) for name in own.get("action_names") or _action_names(env)]
        keys = _key_map(env, names)
        fps = float(own.get("render_fps") or 10)
        if not 0 < fps <= MAX_FPS:
            raise ValueError(f"render_fps is {fps:g}; it must be above 0 and at most {MAX_FPS}")
    except (TypeError, ValueError, AttributeError) as error:
        raise MagratheaError(
            f"The metadata of the environment has render_fps, action_names or key_map of another kind ({error}); give "
            "a number, a list of names and a table of keys and actions."
        ) from error
    described = {"description": description} if (description := _description(env)) else {}
    counters = {COUNTERS: env.counters} if isinstance(env, KeepCounters) else {}
    rates = sound_rates(env.observation_space)
    sounds = {SOUND_RATES: rates} if rates else {}
    return {"fps": fps, "action_names": names, "key_map": keys} | described | counters | sounds


def _description(env: gymnasium.Env) -> str:
    """What the environment is about: its metadata's "description", else the first paragraph of its documentation."""
    inner: Any = env.unwrapped
    given = (inner.metadata or {}).get("description")
    if given is not None:
        return _shortened(str(given))
    lines = inspect.cleandoc(type(inner).__doc__ or "").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).strip()
    return _shortened(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text.split("\n\n")[0]))


def _shortened(text: str) -> str:
    """A text as one line of at most MAX_DESCRIPTION characters, cut between words."""
    return textwrap.shorten(text, MAX_DESCRIPTION, placeholder=" …")


def _make(plugin: EnvironmentPlugin | None, env_id: str, env_kwargs: dict[str, Any]) -> gymnasium.Env:
    if plugin is not None and env_id not in plugin.env_ids:
        for prefix, module in plugin.id_prefixes.items():
            if env_id.startswith(prefix):
                importlib.import_module(module)
        if plugin.make is not None:
            return load_reference(plugin.make)(env_id, **env_kwargs)
    return gymnasium.make(env_id, disable_env_checker=True, **env_kwargs)


def _check_has_spaces(env: gymnasium.Env, env_id: str) -> None:
    for name in ("observation_space", "action_space"):
        if not isinstance(getattr(env, name, None), gymnasium.Space):
            raise MagratheaError(f"Environment '{env_id}' has no {name}; set it to a Gymnasium space.")


def _cannot_be_made(env_id: str, error: BaseException) -> MagratheaError:
    return MagratheaError(
        f"Environment '{env_id}' cannot be made ({one_line(error).rstrip('.')}); check the id, its package and the "
        "env_kwargs."
    )


def _action_names(env: gymnasium.Env) -> list[str]:
    if not isinstance(env.action_space, gymnasium.spaces.Discrete):
        return []
    inner: Any = env.unwrapped
    if hasattr(inner, "get_action_meanings"):
        return [str(name).lower() for name in inner.get_action_meanings()]
    return [f"action {index}" for index in range(int(env.action_space.n))]


def _key_map(env: gymnasium.Env, names: list[str]) -> dict[str, int | list[float]]:
    """For each key the action, or its numbers: what the environment says of itself, else by the actions' names."""
    inner: Any = env.unwrapped
    given = (inner.metadata or {}).get("key_map")
    if not given and hasattr(inner, "get_keys_to_action"):
        pairs = ((_single_key(keys), action) for keys, action in inner.get_keys_to_action().items())
        arrows = {key: action for key, action in default_keys(names).items() if key.startswith("Arrow")}
        given = arrows | {key: action for key, action in pairs if key is not None}
    if given:
        return {str(key): _numbers(action) for key, action in given.items()}
    return dict(default_keys(names)) if isinstance(env.action_space, gymnasium.spaces.Discrete) else {}


def _single_key(keys: Any) -> str | None:
    """The one key of a combination as Gymnasium's `get_keys_to_action` has it, a text or code points; else None."""
    parts = [keys] if isinstance(keys, int) else list(keys)  # a text is a combination of its letters
    if len(parts) != 1:
        return None
    return chr(parts[0]) if isinstance(parts[0], int) else str(parts[0])


def _numbers(action: Any) -> int | list[float]:
    """An action of a key map: an index, or the numbers of an action of several."""
    values = np.asarray(action, dtype=float)
    if not np.isfinite(values).all():
        raise ValueError(f"the action {action!r} of a key is not finite")
    return int(values) if values.ndim == 0 else values.ravel().tolist()
