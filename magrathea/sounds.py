"""Sound in spaces: a Box with a sample rate, how an environment declares it, and its values as waveforms within ±1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from magrathea.errors import MagratheaError, one_line

SOUND_RATES = "sound_rates"  # in metadata: samples per second of the parts of an observation that are sound, by key
RATES = (1_000, 384_000)  # samples per second
MOST_SAMPLES = 2**18  # of a step, of all channels
MOST_CHANNELS = 8
LENGTH_TOLERANCE = 0.05  # of how long a sound lasts, as a share of its step
SILENCE = {"int16": 0, "uint8": 128, "float32": 0}  # by dtype, the value of no sound
FULL_SCALE = {"int16": 32768, "uint8": 128, "float32": 1}  # by dtype, how far the loudest sample is from it


class Sound(spaces.Box):
    """The sound of a step: a Box (samples,) or (samples, channels) of int16, uint8 (128 is silence) or float32 (±1).

    Args:
        shape: samples and channels.
        dtype: of the samples.
        sample_rate: samples per second.

    Raises:
        MagratheaError: for another shape, dtype or rate.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, sample_rate: int) -> None:
        name = np.dtype(dtype).name
        if name not in SILENCE:
            raise MagratheaError(f"Sound of {name} is not known; give int16, uint8 or float32.")
        if (
            len(shape) not in (1, 2)
            or not 0 < np.prod(shape) <= MOST_SAMPLES
            or max(shape[1:], default=1) > MOST_CHANNELS
        ):
            raise MagratheaError(
                f"Sound has shape {tuple(shape)}; give (samples,) or (samples, channels), at most {MOST_CHANNELS} "
                f"channels and {MOST_SAMPLES:,} numbers."
            )
        whole = isinstance(sample_rate, int | np.integer) and not isinstance(sample_rate, bool)
        if not whole or not RATES[0] <= sample_rate <= RATES[1]:
            raise MagratheaError(
                f"Sound has a sample rate of {one_line(repr(sample_rate), 50)}; give a whole number of samples per "
                f"second from {RATES[0]:,} to {RATES[1]:,}."
            )
        middle, scale = SILENCE[name], FULL_SCALE[name]
        super().__init__(middle - scale, middle + scale - (name != "float32"), tuple(shape), np.dtype(dtype).type)
        self.sample_rate = int(sample_rate)

    @property
    def num_channels(self) -> int:
        return self.shape[1] if len(self.shape) == 2 else 1

    def __repr__(self) -> str:
        return f"Sound({self.shape}, {self.dtype}, {self.sample_rate} Hz)"

    def __eq__(self, other: Any) -> bool:
        return super().__eq__(other) and getattr(other, "sample_rate", None) == self.sample_rate

    def waveform(self, values: np.ndarray) -> np.ndarray:
        """Values (..., *shape) as float32 (..., channels, samples) within about ±1, 0 for silence."""
        name = np.dtype(self.dtype).name
        array = (np.asarray(values, np.float32) - SILENCE[name]) / FULL_SCALE[name]
        return array[..., None, :] if len(self.shape) == 1 else np.swapaxes(array, -1, -2)

    def values(self, waveform: np.ndarray) -> np.ndarray:
        """The inverse of `waveform`, for any numbers, which are clipped."""
        name = np.dtype(self.dtype).name
        array = waveform[..., 0, :] if len(self.shape) == 1 else np.swapaxes(waveform, -1, -2)
        scaled = np.asarray(array, np.float32) * FULL_SCALE[name] + SILENCE[name]
        scaled = scaled if name == "float32" else np.round(scaled)
        return np.clip(scaled, self.low.flat[0], self.high.flat[0]).astype(self.dtype)


def with_sounds(space: spaces.Space, rates: Any, what: str) -> spaces.Space:
    """A space in which the parts that metadata declares as sound are `Sound`.

    Args:
        space: of observations.
        rates: samples per second by the key of the part, "outer/inner" where it is nested and "" for the space itself;
            None declares none.
        what: begins the errors: what the metadata is of.

    Raises:
        MagratheaError: for keys of no part, and for parts that cannot be sound.
    """
    if rates is None:
        return space
    if not isinstance(rates, Mapping):
        raise MagratheaError(f"{what} has {SOUND_RATES} that are no table of keys and sample rates; correct them.")
    found: set[str] = set()
    changed = _with_sounds(space, rates, "", found, what)
    if unknown := sorted(set(map(str, rates)) - found):
        raise MagratheaError(f"{what} declares the sound '{unknown[0]}', which {space} does not have; correct the key.")
    return changed


def _with_sounds(space: spaces.Space, rates: Mapping[str, Any], key: str, found: set[str], what: str) -> spaces.Space:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = {name: _with_sounds(part, rates, _below(key, name), found, what) for name, part in _parts_of(space)}
        return spaces.Dict(parts) if isinstance(space, spaces.Dict) else spaces.Tuple(list(parts.values()))
    if key not in rates:
        return space
    found.add(key)
    if not isinstance(space, spaces.Box):
        raise MagratheaError(f"{what} declares '{key}' as sound, which is {space}; give a Box.")
    try:
        return Sound(space.shape, space.dtype, rates[key])
    except MagratheaError as error:
        raise MagratheaError(f"{what}, '{key}': {error}") from error


def sounds_of(space: spaces.Space, key: str = "") -> Iterator[tuple[str, Sound]]:
    """(key, space) of every sound of a space, as `with_sounds` names them."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for name, part in _parts_of(space):
            yield from sounds_of(part, _below(key, name))
    elif isinstance(space, Sound):
        yield key, space


def sound_rates(space: spaces.Space) -> dict[str, int]:
    """The sample rates of a space's sounds by key."""
    return {key: sound.sample_rate for key, sound in sounds_of(space)}


def sounds_of_other_lengths(space: spaces.Space, fps: float) -> list[str]:
    """In words, which sounds of a space do not last as long as a step of 1 / fps seconds, and what would fit."""
    found = []
    for key, sound in sounds_of(space):
        samples = sound.shape[0]
        if abs(samples / sound.sample_rate * fps - 1) > LENGTH_TOLERANCE:
            found.append(
                f"a step's sound '{key}' lasts {samples / sound.sample_rate:.3g} s ({samples:,} samples at "
                f"{sound.sample_rate:,} Hz), the step {1 / fps:.3g} s (render_fps {fps:.3g}), so that it is heard with "
                f"gaps or cut off; correct one of them: {round(samples * fps):,} Hz and a render_fps of "
                f"{sound.sample_rate / samples:.3g} would fit."
            )
    return found


def sound_of(space: spaces.Space, value: Any) -> tuple[Sound, np.ndarray] | None:
    """The first sound of a space, and its waveform (channels, samples) in a value; None where there is none."""
    for key, sound in sounds_of(space):
        for name in filter(None, key.split("/")):
            value = value[int(name) if isinstance(value, tuple | list) else name]
        return sound, sound.waveform(np.asarray(value))
    return None


def _parts_of(space: spaces.Dict | spaces.Tuple) -> list[tuple[Any, spaces.Space]]:
    return list(space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces))


def _below(key: str, name: Any) -> str:
    return f"{key}/{name}" if key else str(name)
