"""Making environments: by their Gymnasium id, by what a dataset or a world remembers of them."""

from __future__ import annotations

import importlib
import os
import tempfile
from typing import Any

import gymnasium
import numpy as np

from magrathea.errors import MagratheaError

# Packages whose import registers ids that Gymnasium does not know by itself: part of the id -> module, extra package.
_REGISTERED_BY = {
    "ALE/": ("ale_py", "ale-py"),
    "Vizdoom": ("vizdoom.gymnasium_wrapper", "vizdoom"),
    "MiniGrid-": ("minigrid", "minigrid"),
    "BabyAI-": ("minigrid", "minigrid"),
}
_WASD = {"up": ("ArrowUp", "w"), "down": ("ArrowDown", "s"), "left": ("ArrowLeft", "a"), "right": ("ArrowRight", "d")}


def register_environments() -> None:
    """Tell Gymnasium of the ready-made environments."""
    for name, place in (("Crafter", "crafter:CrafterEnv"), ("MiniGrid", "minigrid:make_minigrid")):
        env_id = f"magrathea/{name}-v0"
        if env_id not in gymnasium.registry:
            gymnasium.register(env_id, entry_point=f"magrathea.data.{place}")


def make_env(env_id: str, *, size: tuple[int, int] | None = None, **env_kwargs: Any) -> gymnasium.Env:
    """A Gymnasium environment.

    Args:
        env_id: as Gymnasium knows it, or "module:id".
        size: (height, width) in pixels that an image observation is resized to.
        env_kwargs: given to the environment.

    Raises:
        MagratheaError: for an id that is unknown, or whose package is not installed.
    """
    register_environments()
    for part, (module, package) in _REGISTERED_BY.items():
        if env_id.startswith(part):
            _import(module, package, env_id)
    if "Vizdoom" in env_id:
        os.chdir(_scratch_folder())  # it writes its files wherever it is
    try:
        env = gymnasium.make(env_id, disable_env_checker=True, **env_kwargs)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        line = str(error).split("\n")[0]
        raise MagratheaError(f"Environment '{env_id}' cannot be made: {line} Check the id, and its package.") from error
    except TypeError as error:
        raise MagratheaError(f"Environment '{env_id}' does not take these options: {error}") from error
    return env if size is None else _resized(env, size)


def make_env_from_metadata(metadata: dict[str, Any]) -> gymnasium.Env:
    """The environment that a dataset or a world comes from."""
    env_id, kwargs = metadata.get("env_id"), dict(metadata.get("env_kwargs") or {})
    if not env_id:
        raise MagratheaError("Nothing is known of the environment that this comes from; its metadata has no env_id.")
    if kwargs.get("size") is not None:
        kwargs["size"] = tuple(kwargs["size"])
    return make_env(env_id, **kwargs)


def environment_metadata(env: gymnasium.Env) -> dict[str, Any]:
    """What an environment says of itself: fps, action_names and key_map; the names and keys are made up if missing."""
    own = env.unwrapped.metadata or {}
    names = [str(name) for name in own.get("action_names") or _action_names(env)]
    keys = own.get("key_map") or _key_map(names)
    fps = own.get("render_fps") or own.get("video.frames_per_second") or 10
    return {"fps": float(fps), "action_names": names, "key_map": {str(key): int(keys[key]) for key in keys}}


def _import(module: str, package: str, env_id: str) -> None:
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        raise MagratheaError(
            f"Environment '{env_id}' needs the package '{package}'; install it with 'pip install {package}'."
        ) from error
    if module == "ale_py":
        gymnasium.register_envs(imported)


def _resized(env: gymnasium.Env, size: tuple[int, int]) -> gymnasium.Env:
    space = env.observation_space
    if not (isinstance(space, gymnasium.spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)):
        raise MagratheaError(f"Only image observations can be resized, and this one is {space}; leave out --size.")
    return gymnasium.wrappers.ResizeObservation(env, (int(size[0]), int(size[1])))


def _scratch_folder() -> str:
    folder = os.path.join(tempfile.gettempdir(), "magrathea-vizdoom")
    os.makedirs(folder, exist_ok=True)
    return folder


def _action_names(env: gymnasium.Env) -> list[str]:
    if not isinstance(env.action_space, gymnasium.spaces.Discrete):
        return []
    meanings = getattr(env.unwrapped, "get_action_meanings", None)
    if meanings is not None:
        return [str(name).lower() for name in meanings()]
    return [f"action {index}" for index in range(int(env.action_space.n))]


def _key_map(names: list[str]) -> dict[str, int]:
    """Arrows and WASD for names of directions, space for 'fire' or 'do', and digits and letters for what is left."""
    keys: dict[str, int] = {}
    for index, name in enumerate(names):
        for key in _WASD.get(name, (" ",) if name in ("fire", "do", "attack", "use") else ()):
            keys[key] = index
    spare = [key for key in "1234567890qertyuiopfghjklzxcvbnm" if key not in keys]
    for index in range(len(names)):
        if index not in keys.values() and spare and names[index] != "noop":
            keys[spare.pop(0)] = index
    return keys
