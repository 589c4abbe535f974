"""Making environments: by their Gymnasium id, by what a dataset or a world remembers of them."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import gymnasium

from magrathea.data.folders import scratch_folder
from magrathea.data.wrappers import ResizeImages
from magrathea.errors import MagratheaError

VIZDOOM = "Vizdoom"
# Packages whose import registers ids that Gymnasium does not know by itself: part of the id -> module, extra package.
_REGISTERED_BY = {
    "ALE/": ("ale_py", "ale-py"),
    VIZDOOM: ("vizdoom.gymnasium_wrapper", "vizdoom"),
    "MiniGrid-": ("minigrid", "minigrid"),
    "BabyAI-": ("minigrid", "minigrid"),
}
# Keys, and the names of the actions that they stand for, the first that there is.
_KEYS = {
    "ArrowUp": ("up", "forward", "move_forward"),
    "ArrowDown": ("down", "backward", "move_backward"),
    "ArrowLeft": ("left", "turn_left", "move_left"),
    "ArrowRight": ("right", "turn_right", "move_right"),
    "w": ("up", "forward", "move_forward"),
    "s": ("down", "backward", "move_backward"),
    "a": ("left", "move_left", "turn_left"),
    "d": ("right", "move_right", "turn_right"),
    " ": ("fire", "do", "attack", "use", "toggle", "jump"),
}
_SPARE_KEYS = "1234567890qertyuiopfghjklzxcvbnm"
_ALE_FPS, _DOOM_FPS = 60, 35  # of the machine and of the game, whose frames an environment may skip


def register_environments() -> None:
    """Tell Gymnasium of the ready-made environments."""
    places = {"Crafter": "crafter:CrafterEnv", "MiniGrid": "minigrid:make_minigrid", "ViZDoom": "vizdoom:ViZDoomEnv"}
    for name, place in places.items():
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
    try:
        with scratch_folder() if env_id.startswith(VIZDOOM) else contextlib.nullcontext():
            env = gymnasium.make(env_id, disable_env_checker=True, **env_kwargs)
            if env_id.startswith(VIZDOOM):
                env.reset(seed=0)  # the game starts with the first reset, and writes files where it starts
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        line = str(error).split("\n")[0]
        raise MagratheaError(f"Environment '{env_id}' cannot be made: {line} Check the id, and its package.") from error
    except TypeError as error:
        raise MagratheaError(f"Environment '{env_id}' does not take these env_kwargs: {error}") from error
    if size is None:
        return env
    try:
        return ResizeImages(env, (size[0], size[1]) if len(size) == 2 else size)
    except MagratheaError:
        env.close()
        raise


def make_env_from_metadata(metadata: dict[str, Any]) -> gymnasium.Env:
    """The environment that a dataset or a world comes from."""
    env_id, kwargs = metadata.get("env_id"), dict(metadata.get("env_kwargs") or {})
    if not env_id:
        raise MagratheaError("Nothing is known of the environment that this comes from; its metadata has no env_id.")
    return make_env(env_id, **kwargs)


def environment_metadata(env: gymnasium.Env) -> dict[str, Any]:
    """What an environment says of itself: fps, action_names and key_map; the names and keys are made up if missing."""
    own = env.unwrapped.metadata or {}
    names = [str(name) for name in own.get("action_names") or _action_names(env)]
    keys = own.get("key_map") or _key_map(names)
    return {"fps": _fps(env), "action_names": names, "key_map": {str(key): int(keys[key]) for key in keys}}


def _fps(env: gymnasium.Env) -> float:
    """Steps per second at the environment's natural speed."""
    skipped = getattr(env.unwrapped, "_frameskip", None)
    if env.spec is not None and env.spec.id.startswith("ALE/") and isinstance(skipped, int):
        return _ALE_FPS / skipped
    if env.spec is not None and env.spec.id.startswith(VIZDOOM):
        return _DOOM_FPS / int(getattr(env.unwrapped, "frame_skip", 1))
    return float((env.unwrapped.metadata or {}).get("render_fps") or 10)


def _import(module: str, package: str, env_id: str) -> None:
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        raise MagratheaError(
            f"Environment '{env_id}' needs the package '{package}'; install it with 'pip install {package}'."
        ) from error
    if module == "ale_py":
        gymnasium.register_envs(imported)


def _action_names(env: gymnasium.Env) -> list[str]:
    if not isinstance(env.action_space, gymnasium.spaces.Discrete):
        return []
    inner: Any = env.unwrapped
    if hasattr(inner, "get_action_meanings"):
        return [str(name).lower() for name in inner.get_action_meanings()]
    if hasattr(inner, "button_map") and hasattr(inner, "game"):
        buttons = [button.name.lower() for button in inner.game.get_available_buttons() if "DELTA" not in button.name]
        pressed = [[name for name, down in zip(buttons, each, strict=True) if down] for each in inner.button_map]
        return ["+".join(names) or "noop" for names in pressed]
    return [f"action {index}" for index in range(int(env.action_space.n))]


def _key_map(names: list[str]) -> dict[str, int]:
    """Arrows and WASD for names of directions, space for what fires, and digits and letters for what is left."""
    keys: dict[str, int] = {}
    for key, wanted in _KEYS.items():
        found = [name for name in wanted if name in names]
        if found:
            keys[key] = names.index(found[0])
    spare = iter([key for key in _SPARE_KEYS if key not in keys])
    for index, name in enumerate(names):
        if index not in keys.values() and name != "noop":
            key = next(spare, None)
            if key is None:
                break
            keys[key] = index
    return keys
