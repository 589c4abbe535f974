"""Environments with texts that tests record; other processes make them by "text_environments:ID"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from magrathea.data import Dataset, collect
from magrathea.train import load_settings, train
from magrathea.world import World

LETTERS = "".join(map(chr, range(32, 127))) + "\n—éè→😀"
PLACES = ("a warm kitchen", "a dark cellar", "the café — très chic", "a roof → sky 😀")
COMMANDS = ("go east", "go west", "look")
LENGTH = 12


class Rooms(gymnasium.Env):
    """Four rooms in a row, told in words.

    Args:
        kind: "text" observes the words alone and acts in words; "both" observes a picture beside them.
    """

    metadata = {"render_modes": [], "render_fps": 4}

    def __init__(self, kind: str = "text") -> None:
        self.kind = kind
        text = spaces.Text(80, charset=LETTERS)
        picture = spaces.Box(0, 255, (16, 16, 3), np.uint8)
        self.observation_space: spaces.Space = text if kind == "text" else spaces.Dict(picture=picture, words=text)
        self.action_space: spaces.Space = spaces.Text(20, charset=LETTERS) if kind == "text" else spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.place, self.num_steps = int(self.np_random.integers(len(PLACES))), 0
        return self._seen("You wake up."), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        command = action if self.kind == "text" else COMMANDS[action]
        assert isinstance(command, str)
        self.num_steps += 1
        before = self.place
        self.place = min(max(self.place + {"go east": 1, "go west": -1}.get(command, 0), 0), len(PLACES) - 1)
        words = "You walk." if self.place != before else "Nothing happens."
        return self._seen(words), float(self.place == 3), False, self.num_steps == LENGTH, {}

    def _seen(self, words: str) -> Any:
        text = f"{words}\nYou are in {PLACES[self.place]}."
        if self.kind == "text":
            return text
        picture = np.full((16, 16, 3), 60 * self.place, np.uint8)
        return {"picture": picture, "words": text}


def commander(env: gymnasium.Env, rng: np.random.Generator) -> Any:
    """Policy: one of the commands that do something."""
    return lambda observation, info: COMMANDS[int(rng.integers(len(COMMANDS)))]


def record_rooms(kind: str, out: Path) -> Dataset:
    policy = "text_environments:commander" if kind == "text" else "random"
    name = "text_environments:recorded/Rooms-v0"
    return collect(name, 200, out, policy=policy, num_processes=1, env_kwargs={"kind": kind})


def train_rooms(dataset: Path, out: Path) -> World:
    train(dataset, out, load_settings(size="debug", steps=600, num_starts=4), device="cpu")
    return World.from_pretrained(out)


gymnasium.register("recorded/Rooms-v0", entry_point=Rooms)
