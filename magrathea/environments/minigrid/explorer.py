"""A scripted MiniGrid player that shows what every action does, for collecting data."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from minigrid.utils.baby_ai_bot import BabyAIBot

from magrathea.environments.minigrid.env import DROP, FORWARD, PICK_UP, TOGGLE, TURN_LEFT

# Drawn for each episode: the share of time that follows the expert, and how often its advice is replaced.
STYLES = ((1.0, 0.04), (0.7, 0.1), (0.3, 0.1))
MOVES = (0.22, 0.22, 0.44, 0.03, 0.03, 0.04, 0.02)  # probabilities of random actions
USEFUL = 0.4  # probability of an action on the object ahead
DROPS = 0.5  # probability of dropping what is carried, where nothing is ahead


class Explorer:
    """Policy that alternates between BabyAI's expert and random actions.

    A third of the episodes is the expert's, so that missions are accomplished often enough; in the others it also
    explores the rooms and uses the objects in them.
    """

    def __init__(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        self.env: Any = env.unwrapped
        self.rng = rng
        self._share, self._noise = STYLES[int(rng.integers(len(STYLES)))]
        self._bot: Any = None
        self._seen: np.ndarray | None = None
        self._left, self._follows, self._held, self._hold_left = 0, False, FORWARD, 0
        self._last: int | None = None
        self._frees_hands = False

    def __call__(self, observation: Any, info: dict[str, Any]) -> int:
        if self._left == 0:
            self._left, self._follows = int(self.rng.integers(5, 30)), bool(self.rng.random() < self._share)
            if self._share < 1:
                self._drop_expert()
        self._left -= 1
        advice = self._advice() if self._follows else None
        self._last = self._random() if advice is None or self.rng.random() < self._noise else advice
        return self._last

    def _drop_expert(self) -> None:
        """Drop the expert, whose plan is invalid after other actions; the next one is given what it has seen."""
        if self._bot is not None:
            self._seen, self._bot = self._bot.vis_mask, None

    def _advice(self) -> int | None:
        """The expert's action; None where it fails, as it may after random actions."""
        if not hasattr(self.env, "instrs"):
            return None
        self._frees_hands = self._frees_hands and self.env.carrying is not None
        if self._frees_hands:
            return DROP if self._ahead() is None else TURN_LEFT
        try:
            if self._bot is None:
                self._bot, self._last = BabyAIBot(self.env), None
                if self._seen is not None:
                    self._bot.vis_mask = self._seen
            return int(self._bot.replan(self._last))
        except Exception:  # its assertions may fail after random actions; a new expert starts from here
            self._drop_expert()
            self._frees_hands = True
            return None

    def _random(self) -> int:
        if self._held == FORWARD and self.rng.random() < 0.8 and not self._is_free():
            self._hold_left = 0
        if self._hold_left == 0:
            useful = self._useful()
            if useful is not None and self.rng.random() < USEFUL:
                return useful
            self._held = int(self.rng.choice(len(MOVES), p=MOVES))
            if self._held == FORWARD and self.rng.random() < 0.8 and not self._is_free():
                self._held = int(self.rng.integers(2))
            self._hold_left = int(self.rng.integers(1, 6 if self._held == FORWARD else 3))
        self._hold_left -= 1
        return self._held

    def _ahead(self) -> Any:
        return self.env.grid.get(*self.env.front_pos)

    def _is_free(self) -> bool:
        return self._ahead() is None or self._ahead().can_overlap()

    def _useful(self) -> int | None:
        """The action that uses the object ahead, or sometimes drops what is carried; None if there is none."""
        ahead = self._ahead()
        if ahead is None:
            return DROP if self.env.carrying is not None and self.rng.random() < DROPS else None
        if ahead.type in ("door", "box"):
            return TOGGLE
        return PICK_UP if ahead.can_pickup() else None
