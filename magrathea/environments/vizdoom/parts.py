"""What ViZDoom's rooms can be observed by: picture, depth, labels, sound and position; and what makes the sound."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import vizdoom
from gymnasium import spaces

from magrathea.data.pictures import resize
from magrathea.environments.vizdoom.levels import NO_EFFECTS, TICS, check_can_sound
from magrathea.errors import MagratheaError

PARTS = ("depth", "labels", "picture", "position", "sound")
SOUND_RATE = 11_025  # samples per second, of two channels
CLASSES = {
    "column": ("TallGreenColumn", "TallRedColumn", "ShortGreenColumn"),
    "tree": ("TorchTree", "BigTree"),
    "head": ("HeadOnAStick",),
    "stalagmite": ("Stalagtite",),
    "vest": ("GreenArmor",),
    "lamp": ("SawLamp",),
    "column of light": ("LiftColumn",),
    "fire": ("FireBarrel",),
}  # name -> the game's objects
LEVELS = {
    kind: round(255 * number / len(CLASSES)) for number, kinds in enumerate(CLASSES.values(), start=1) for kind in kinds
}  # object -> its grey level among the labels, where all else is 0

SOURCES = {"D": "SawLamp", "G": "LiftColumn", "H": "FireBarrel"}  # room -> the thing that sounds in it, always
_SOURCE_STATES = {
    "SawLamp": ("TLMP", "weapons/sawfull", 0.5),
    "LiftColumn": ("ELEC", "plats/pt1_mid", 1.0),
    "FireBarrel": ("FCAN", "vile/firecrkl", 0.5),
}  # its sprite, its sound, which is repeated, and how loud that is


def check_parts(parts: tuple[str, ...]) -> None:
    """Raises MagratheaError for what is no part of an observation, and for sound where no library makes it."""
    for part in parts:
        if part not in PARTS:
            raise MagratheaError(f"ViZDoom's rooms are not observed by '{part}'; name some of: {', '.join(PARTS)}.")
    if "sound" in parts:
        check_can_sound("magrathea/ViZDoom-v0", 'leave "sound" out of the parts')


def part_space(part: str, size: tuple[int, int]) -> spaces.Space:
    """The space of a part: pictures (height, width, 3), depth and labels (height, width), sound (samples, 2) int16,
    and the position (4,): x and y in units of the map, sine and cosine of the angle."""
    if part == "position":
        return spaces.Box(np.array([-2048, -2048, -1, -1], np.float32), np.array([2048, 2048, 1, 1], np.float32))
    if part == "sound":
        return spaces.Box(-32768, 32767, (SOUND_RATE * TICS // vizdoom.DEFAULT_TICRATE, 2), np.int16)
    return spaces.Box(0, 255, (*size, 3) if part == "picture" else size, np.uint8)


def read_part(part: str, state: vizdoom.GameState, size: tuple[int, int]) -> np.ndarray:
    """A part of what is observed, in its space."""
    if part == "position":
        x, y, angle = np.asarray(state.game_variables, float)
        return np.array([x, y, math.sin(math.radians(angle)), math.cos(math.radians(angle))], np.float32)
    if part == "sound":
        assert state.audio_buffer is not None
        return state.audio_buffer.astype(np.int16)
    if part == "labels":
        return _label_picture(state, size)
    if part == "depth":
        assert state.depth_buffer is not None
        return resize(state.depth_buffer, size)
    return resize(state.screen_buffer, size)


def _label_picture(state: vizdoom.GameState, size: tuple[int, int]) -> np.ndarray:
    """The grey level of the class of the object that each pixel shows, of every so many pixels one, so that no levels
    are mixed."""
    assert state.labels_buffer is not None
    levels = np.zeros(256, np.uint8)
    for label in state.labels or []:
        levels[label.value] = LEVELS.get(label.object_name, 0)
    rows, columns = ((np.arange(n) + 0.5) * m / n for n, m in zip(size, state.labels_buffer.shape, strict=True))
    return levels[state.labels_buffer[rows.astype(int)[:, None], columns.astype(int)]]


def set_up(game: vizdoom.DoomGame, parts: tuple[str, ...], folder: Path) -> None:
    """Have a game that is not started yet give these parts, and with sound the things that make it."""
    game.set_depth_buffer_enabled("depth" in parts)
    game.set_labels_buffer_enabled("labels" in parts)
    if "sound" in parts:
        game.set_audio_buffer_enabled(True)
        game.set_audio_buffer_size(TICS)
        game.set_audio_sampling_rate(vizdoom.SamplingRate.SR_11025)
        file = folder / "sounding-things.wad"
        _write_wad(file, "DECORATE", "\n".join(_actor(name) for name in _SOURCE_STATES).encode())
        game.add_game_args(f"{NO_EFFECTS} -file {file}")


def _actor(name: str) -> str:
    """A thing that stands there and repeats a sound, in the game's own language of things."""
    sprite, sound, volume = _SOURCE_STATES[name]
    return (
        f"actor {name}\n{{\nRadius 16\nHeight 40\n+SOLID\nStates\n{{\nSpawn:\n{sprite} A 1\n"
        f'{sprite} A 1 A_PlaySound("{sound}", CHAN_BODY, {volume}, true)\n{sprite} A -1\nStop\n}}\n}}\n'
    )


def _write_wad(file: Path, name: str, content: bytes) -> None:
    """A file of the game's format that holds one lump."""
    header = struct.pack("<4sII", b"PWAD", 1, 12 + len(content))
    file.write_bytes(header + content + struct.pack("<II8s", 12, len(content), name.encode()))
