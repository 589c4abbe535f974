"""Environments with sound that tests record; other processes make them by "sound_environments:ID"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from magrathea.data import Dataset, collect
from magrathea.train import load_settings, train
from magrathea.world import World

RATE, FPS, SIDE, LENGTH = 8000, 10.0, 16, 24
SAMPLES = int(RATE / FPS)
TONES = {"left": 400.0, "right": 1000.0}


class Bounce(gymnasium.Env):
    """A dot that flies to and fro; each wall answers with a tone of its own, of half a step.

    Args:
        kind: dtype of the sound, "uint8" or "int16" with one channel, or "stereo" of int16, or "plain": not declared.
        rate: samples per second, as declared.
    """

    metadata = {"render_modes": [], "render_fps": FPS, "sound_rates": {"ear": RATE}}

    def __init__(self, kind: str = "uint8", rate: int = RATE) -> None:
        self.metadata = self.metadata | {"sound_rates": {"ear": rate}}
        shape = (SAMPLES, 2) if kind == "stereo" else (SAMPLES,)
        self.kind, dtype = kind, np.int16 if kind in ("int16", "stereo") else np.uint8
        limits = (0, 255) if dtype == np.uint8 else (-32768, 32767)
        ear = spaces.Box(*limits, shape, dtype)
        self.observation_space = spaces.Dict(eye=spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8), ear=ear)
        self.action_space = spaces.Discrete(2)
        if kind == "plain":
            self.metadata = {key: value for key, value in self.metadata.items() if key != "sound_rates"}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.place, self.speed, self.num_steps = int(self.np_random.integers(2, SIDE - 3)), 2, 0
        return self._seen(""), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.num_steps += 1
        self.place += self.speed
        wall = "left" if self.place <= 0 else "right" if self.place >= SIDE - 2 else ""
        if wall:
            self.place, self.speed = int(np.clip(self.place, 0, SIDE - 2)), -self.speed
        return self._seen(wall), float(bool(wall)), False, self.num_steps == LENGTH, {}

    def _seen(self, wall: str) -> Any:
        picture = np.full((SIDE, SIDE, 3), 20, np.uint8)
        picture[6:8, self.place : self.place + 2] = 230
        return {"eye": picture, "ear": tone(self.observation_space["ear"], wall)}


def tone(space: Any, wall: str) -> np.ndarray:
    """What a wall sounds like."""
    times = np.arange(SAMPLES) / RATE
    wave = 0.6 * np.sin(2 * np.pi * TONES.get(wall, 0) * times) * (times < 0.5 / FPS)
    if len(space.shape) == 2:
        wave = np.stack([wave, wave if wall == "left" else 0 * wave], axis=1)
    return np.round(wave * 120 + 128 if space.dtype == np.uint8 else wave * 30000).astype(space.dtype)


def record_bounces(kind: str, out: Path, steps: int = 300) -> Dataset:
    return collect("sound_environments:recorded/Bounce-v0", steps, out, num_processes=1, env_kwargs={"kind": kind})


def train_bounces(dataset: Path, out: Path, steps: int = 400) -> World:
    settings = load_settings(size="debug", steps=steps, num_starts=4)
    train(dataset, out, settings, device="cpu")
    return World.from_pretrained(out)


gymnasium.register("recorded/Bounce-v0", entry_point=Bounce)
