"""Default keys for the actions of an environment or a world: KeyboardEvent.key of a US keyboard -> an action."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

NOOP_NAMES = ("noop", "no-op", "no_op", "nothing", "do nothing", "idle", "none", "stay", "wait", "coast")
SPARE_KEYS = "1234567890qertyuiopfghjklzxcvbnm"
_WORDS = {
    "ArrowUp": ("up", "forward"),
    "ArrowDown": ("down", "backward"),
    "ArrowLeft": ("left",),
    "ArrowRight": ("right",),
    "w": ("up", "forward"),
    "s": ("down", "backward"),
    "a": ("left",),
    "d": ("right",),
    " ": ("fire", "do", "attack", "use", "toggle", "jump", "shoot", "flap"),
}


def noop_index(names: Sequence[str]) -> int | None:
    """The index of the action that does nothing, known by its name, or None."""
    lowered = [name.lower() for name in names]
    return next((lowered.index(name) for name in NOOP_NAMES if name in lowered), None)


def default_keys(names: Sequence[str]) -> dict[str, int]:
    """Keys for named actions: arrows and WASD for directions, space for fire or use, digits and letters for the others,
    as far as there are keys. The action that does nothing has none."""
    words = [name.lower().replace("_", " ").split() for name in names]
    keys: dict[str, int] = {}
    for key, wanted in _WORDS.items():
        found = _first_with(words, wanted)
        if found is not None:
            keys[key] = found
    spare, noop = _spare(keys), noop_index(names)
    for index in range(len(names)):
        if index != noop and index not in keys.values():
            key = next(spare, None)
            if key is None:
                break
            keys[key] = index
    return keys


def _first_with(words: Sequence[Sequence[str]], wanted: Sequence[str]) -> int | None:
    """The action whose name has one of these words and the fewest others."""
    having = [index for index, own in enumerate(words) if any(word in own for word in wanted)]
    return min(having, key=lambda index: len(words[index]), default=None)


def _spare(keys: dict[str, int]) -> Iterator[str]:
    return iter([key for key in SPARE_KEYS if key not in keys])
