"""How keys, buttons and sliders make an action of any action space.

An action is a row of numbers, its components: one of a Discrete space, and of a Box, MultiDiscrete or MultiBinary space
one for each of its entries; those of the parts of a Dict or Tuple space follow each other. A button, while it is held,
gives some components a value; a slider gives one. Components that nothing sets are neutral. Texts are written. Of an
action whose name joins those of others, as "right fire" does, these buttons are held together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optree
from gymnasium import spaces

from magrathea.action_keys import SPARE_KEYS, default_keys, noop_index
from magrathea.errors import MagratheaError
from magrathea.server.protocol import AxisInfo, ButtonInfo, TextInputInfo
from magrathea.spaces import checked_array, first_outside, leaf_spaces_of, space_tree, text_array

MAX_CHOICES = 64  # buttons of one entry of a MultiDiscrete space
_ARROWS = (("ArrowLeft", "ArrowRight"), ("ArrowDown", "ArrowUp"))  # for lower and higher of the first two numbers


@dataclass(frozen=True)
class _Component:
    """One number of an action.

    Attributes:
        name: as the page shows it, "" for the only one.
        low, high: the least and the greatest value.
        neutral: its value where nothing sets it.
        is_range: whether it may have any value between, and not whole ones alone.
    """

    name: str
    low: float
    high: float
    neutral: float
    is_range: bool


@dataclass(frozen=True)
class _Button:
    name: str
    keys: tuple[str, ...]
    values: Mapping[int, float]  # of the components that it sets


class ActionInputs:
    """The buttons and sliders of a world.

    Args:
        space: of actions.
        metadata: of the world. "action_names" name the actions of a Discrete space, or else the components; "key_map"
            says for a key the action, a number or a list of all components.

    Attributes:
        buttons: of the page.
        has_noop: whether there is an action while nothing is held; there is none where texts are written.
        texts: the spaces of the action's texts, in their order.
    """

    def __init__(self, space: spaces.Space, metadata: Mapping[str, Any]) -> None:
        self.space = space
        leaves = list(leaf_spaces_of(space))
        self.texts = [leaf for _, leaf in leaves if isinstance(leaf, spaces.Text)]
        self._text_names = [key for key, leaf in leaves if isinstance(leaf, spaces.Text)]
        names, keys = metadata.get("action_names") or [], metadata.get("key_map") or {}
        if isinstance(space, spaces.Discrete):
            self._components = [_Component("", int(space.start), int(space.start) + int(space.n) - 1, 0, False)]
            self.buttons, noop = _of_discrete(space, names, keys)
            self.has_noop = noop is not None
            self._neutral = [float(space.start) + (noop or 0)]
            self._joined = _joined_actions([button.name for button in self.buttons])
        else:
            self._joined = {}
            self._components = list(_components(space, names))
            self.buttons = _presets(keys, self._components) or _of_components(self._components)
            self.has_noop = not self.texts
            self._neutral = [component.neutral for component in self._components]
        self._axes = [index for index, component in enumerate(self._components) if component.is_range]

    @property
    def num_axes(self) -> int:
        return len(self._axes)

    def buttons_info(self) -> list[ButtonInfo]:
        """The buttons, as the page is told."""
        return [ButtonInfo(index, button.name, list(button.keys)) for index, button in enumerate(self.buttons)]

    def axes_info(self) -> list[AxisInfo]:
        """The sliders, as the page is told."""
        parts = [self._components[index] for index in self._axes]
        return [AxisInfo(n, part.name, part.low, part.high, part.neutral) for n, part in enumerate(parts)]

    def texts_info(self) -> list[TextInputInfo]:
        """The texts that are written, as the page is told."""
        pairs = enumerate(zip(self._text_names, self.texts, strict=True))
        return [TextInputInfo(index, name, int(space.max_length)) for index, (name, space) in pairs]

    def check_text(self, index: int, text: str) -> None:
        """Raises MagratheaError for a text that the space of this index does not have."""
        outside = first_outside(self.texts[index], text_array(text))
        if outside is not None:
            raise MagratheaError(f"What you wrote {outside}; write something else.")
        checked_array(self.texts[index], text, "What you wrote")

    def compatible(self, buttons: Iterable[int]) -> tuple[int, ...]:
        """Of buttons, the most wanted first, those that can be held at once: each component is set by one, or by
        several whose names are joined in that of an action."""
        chosen: list[int] = []
        taken: set[int] = set()
        for button in buttons:
            sets = self.buttons[button].values.keys()
            if button not in chosen and (taken.isdisjoint(sets) or frozenset((*chosen, button)) in self._joined):
                chosen.append(button)
                taken |= sets
        return tuple(chosen)

    def action(
        self, buttons: Sequence[int], axes: Mapping[int, float] | None = None, texts: Mapping[int, str] | None = None
    ) -> Any:
        """The action of the space while these compatible buttons are held and sliders stand at these values, with
        these texts; those that are not given are as short as may be."""
        values = list(self._neutral)
        for axis, value in (axes or {}).items():
            component = self._components[self._axes[axis]]
            values[self._axes[axis]] = min(max(value, component.low), component.high)
        joined = self._joined.get(frozenset(buttons))
        for button in buttons if joined is None else (joined,):
            for component, value in self.buttons[button].values.items():
                values[component] = value
        written = [(texts or {}).get(index, _shortest(space)) for index, space in enumerate(self.texts)]
        return _build(self.space, values, written)

    def buttons_of(self, action: Any) -> list[int]:
        """The buttons that are held while an action is taken; of numbers that may have any value, those of the side on
        which they are by more than half."""
        values = self._values(action)
        return [
            index
            for index, button in enumerate(self.buttons)
            if all(_is_near(self._components[i], values[i], target) for i, target in button.values.items())
        ]

    def words(self, action: Any) -> str:
        """An action in words: the names of its buttons, and of numbers that may have any value these."""
        values = self._values(action)
        ranges = [
            f"{part.name} {value:.2f}".strip().replace("-", "−")
            for part, value in zip(self._components, values, strict=True)
            if part.is_range
        ]
        names = [self.buttons[index].name for index in self.buttons_of(action)]
        return ", ".join(ranges or names) or "nothing"

    def _values(self, action: Any) -> list[float]:
        parts = [np.ravel(np.asarray(part)) for part in optree.tree_leaves(action) if not isinstance(part, str)]
        return np.concatenate(parts).astype(float).tolist()


def _is_near(part: _Component, value: float, target: float) -> bool:
    if part.is_range and target != part.neutral:
        return (value - part.neutral) / (target - part.neutral) > 0.5
    return value == target


def _of_discrete(space: spaces.Discrete, names: Sequence[Any], keys: Mapping[str, Any]) -> tuple[list[_Button], Any]:
    """A button for every action of a Discrete space, and the index of the one that does nothing."""
    count, first = int(space.n), int(space.start)
    named = [str(name) for name in names][:count]
    named += [f"action {index}" for index in range(len(named), count)]
    given = {key: int(action) - first for key, action in keys.items() if not isinstance(action, list)}
    used = {key: index for key, index in given.items() if 0 <= index < count} or default_keys(named)
    of_action: dict[int, list[str]] = {}
    for key, index in used.items():
        of_action.setdefault(index, []).append(key)
    buttons = [_Button(name, tuple(of_action.get(i, ())), {0: float(first + i)}) for i, name in enumerate(named)]
    return buttons, noop_index(named)


def _joined_actions(names: Sequence[str]) -> dict[frozenset[int], int]:
    """The actions whose names are made of the names of several others ("right fire"), by the indices of these."""
    words = {name.lower(): index for index, name in enumerate(names)}
    parts = {index: name.lower().split() for index, name in enumerate(names)}
    return {
        frozenset(words[word] for word in own): index
        for index, own in parts.items()
        if len(own) > 1 and all(word in words for word in own)
    }


def _components(space: spaces.Space, names: Sequence[Any]) -> Iterable[_Component]:
    index = 0
    for key, leaf in leaf_spaces_of(space):
        lows, highs, is_range = _limits(leaf)
        for entry, (low, high) in enumerate(zip(lows, highs, strict=True)):
            own = key or "number"
            name = str(names[index]) if index < len(names) else own if len(lows) == 1 else f"{own} {entry + 1}"
            neutral = min(max(0.0, low), high) if is_range else low
            yield _Component(name, low, high, neutral, is_range)
            index += 1


def _limits(leaf: spaces.Space) -> tuple[list[float], list[float], bool]:
    """The least and greatest values of all entries of a space, and whether they may lie between whole numbers."""
    match leaf:
        case spaces.Discrete():
            return [float(leaf.start)], [float(leaf.start + leaf.n - 1)], False
        case spaces.MultiDiscrete():
            first = np.asarray(leaf.start, float).ravel()
            return first.tolist(), (first + leaf.nvec.ravel() - 1).tolist(), False
        case spaces.MultiBinary():
            count = math.prod(leaf.shape)
            return [0.0] * count, [1.0] * count, False
        case spaces.Box():
            low = np.where(np.isfinite(leaf.low.astype(float)), leaf.low.astype(float), -1.0).ravel()
            high = np.where(np.isfinite(leaf.high.astype(float)), leaf.high.astype(float), 1.0).ravel()
            return low.tolist(), np.maximum(low, high).tolist(), True
    return [], [], False


def _presets(keys: Mapping[str, Any], components: Sequence[_Component]) -> list[_Button]:
    """A button for every action of all components that the key map names."""
    of_values: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for key, action in keys.items():
        if isinstance(action, list) and len(action) == len(components):
            pairs = zip(components, action, strict=True)
            limited = [min(max(float(value), part.low), part.high) for part, value in pairs]
            sets = tuple((i, v) for i, v in enumerate(limited) if v != components[i].neutral)
            if sets:
                of_values.setdefault(sets, []).append(key)
    return [
        _Button(", ".join(_says(components[i], v) for i, v in sets), tuple(own), dict(sets))
        for sets, own in of_values.items()
    ]


def _of_components(components: Sequence[_Component]) -> list[_Button]:
    """Buttons for every component: up and down of a number that may have any value, and every other value of a choice.

    The first two numbers have the arrows, a choice of two the space bar, and all others digits and letters.
    """
    arrows, spare, space_bar = iter(_ARROWS), iter(SPARE_KEYS), iter([(" ",)])
    buttons = []
    for index, part in enumerate(components):
        if part.is_range:
            values = [value for value in (part.low, part.high) if value != part.neutral]
            given = next(arrows, ())[-len(values) :] if values else ()
        else:
            values = [part.low + 1 + n for n in range(min(MAX_CHOICES, int(part.high - part.low)))]
            given = next(space_bar, ()) if len(values) == 1 else ()
        keys = given or [next(spare, None) for _ in values]
        for key, value in zip(keys, values, strict=True):
            buttons.append(_Button(_says(part, value), () if key is None else (key,), {index: value}))
    return buttons


def _says(part: _Component, value: float) -> str:
    """What a button does, in words."""
    if not part.is_range and part.high - part.low == 1:
        return part.name
    if part.is_range and value in (part.low, part.high) and part.low < part.neutral < part.high:
        return f"{part.name} {'−' if value == part.low else '+'}"
    if part.is_range and value in (part.low, part.high):
        return part.name
    return f"{part.name} {value:g}"


def _shortest(space: spaces.Text) -> str:
    return space.min_length * (" " if " " in space.character_set else space.characters[0])


def _build(space: spaces.Space, values: Sequence[float], texts: Sequence[str]) -> Any:
    """A value of the space from its components and texts."""
    left, written = iter(values), iter(texts)

    def part(leaf: Any) -> Any:
        if isinstance(leaf, spaces.Text):
            return next(written)
        if isinstance(leaf, spaces.Discrete):
            return int(next(left))
        numbers = np.array([next(left) for _ in range(math.prod(leaf.shape))])
        return numbers.reshape(leaf.shape).astype(leaf.dtype)

    return optree.tree_map(part, space_tree(space))  # in the order of leaf_spaces_of
