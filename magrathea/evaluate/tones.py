"""Tones: whether a sound that is drawn has the dominant frequency of the recorded one, and the sound of its kind of
event. M sounds, C channels, n samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Generator, Tensor

from magrathea import masks
from magrathea.evaluate.recordings import Budget, Recording
from magrathea.evaluate.segments import segment_batches, teacher_forced_logits
from magrathea.evaluate.slots import leaf_of
from magrathea.layout import Slot
from magrathea.sampler import derive_seed, fill
from magrathea.sounds import Sound
from magrathea.tokenizers.sound_measures import mel_distance, mel_distances
from magrathea.world import World

LOUDER = 2.0  # times the loudness of the step before, from which a sound begins
LEAST_LOUDNESS = 0.01  # root mean square of a step's sound that is heard, of full scale
NEAR = 1  # steps between an event and its sound
SAME_FREQUENCY = 0.05  # share by which dominant frequencies may differ
LEAST_FREQUENCY = 100.0  # Hz; lower is where a wave that lies on one side of 0 begins and ends
FFT_SAMPLES = 16384  # that shorter sounds are padded to, so that frequencies are told apart finely
ONSET_STEPS = 2  # of a sound that begins, by which its kind is told


# -- what is heard ----------------------------------------------------------------------------------------------------
def loudness(space: Sound, sounds: np.ndarray) -> np.ndarray:
    """Sounds (…, *shape) as root mean squares (…)."""
    return np.sqrt(np.square(space.waveform(sounds)).mean((-1, -2)))


def onsets(space: Sound, sounds: np.ndarray) -> np.ndarray:
    """(T,) in which steps of sounds (T, *shape) one begins: it is heard, and louder than in the step before."""
    now = loudness(space, sounds)
    before = np.concatenate([[np.inf], now[:-1]])
    return (now > LEAST_LOUDNESS) & (now > LOUDER * before)


def dominant_frequencies(waves: np.ndarray, rate: int) -> np.ndarray:
    """Waves (M, C, n) -> (M,) the frequency in Hz of the highest peak of the channels' mean spectrum, from
    LEAST_FREQUENCY on."""
    shaped = torch.from_numpy(waves) * torch.hann_window(waves.shape[-1])
    length = max(FFT_SAMPLES, waves.shape[-1])
    lowest = round(LEAST_FREQUENCY * length / rate)
    spectra = torch.fft.rfft(shaped, length).abs().mean(1)[:, lowest:]
    return ((lowest + spectra.argmax(-1)) * (rate / length)).numpy()


def same_frequency(space: Sound, these: np.ndarray, those: np.ndarray) -> np.ndarray:
    """(M,) whether the dominant frequencies of sounds (M, *shape) are those of others, within SAME_FREQUENCY."""
    found, wanted = (dominant_frequencies(space.waveform(each), space.sample_rate) for each in (these, those))
    return np.abs(found - wanted) <= SAME_FREQUENCY * wanted


# -- the next step ----------------------------------------------------------------------------------------------------
def next_sounds(
    world: World, recordings: Sequence[Recording], slot: Slot, budget: Budget, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Sounds (M, *shape) of recorded steps, of those before them, and as they are drawn in one pass, given the recorded
    steps before and the action; until the budget is spent."""
    layout, tokenizer = world.layout, world.tokenizers["observation"].leaves[slot.name.partition("/")[2]]
    hole_mask = masks.forward_dynamics(layout)
    settings = replace(world.config.fill, order="one_shot", event_threshold=None)
    for number, batch in enumerate(segment_batches(recordings, world.config.model.window, chunk=4)):
        readout = batch.readout.select_known_action(hole_mask, layout)
        logits = teacher_forced_logits(world, batch.tokens, hole_mask, batch.first, readout, batch.earlier)
        flat = {name: each.flatten(0, 1).cpu() for name, each in logits.items()}
        steps = batch.tokens[:, batch.first :].flatten(0, 1)
        rngs = [Generator().manual_seed(derive_seed(seed + number, "step", index)) for index in range(len(steps))]
        holes = hole_mask.expand(steps.shape)
        filled = fill(partial(_given, flat), steps, holes, layout, settings, rngs)
        valid = batch.valid.ravel()
        drawn = tokenizer.decode(filled.tokens[:, layout.span(slot.name)].numpy()[valid])
        heard = [leaf_of(recordings[index].episode.observation, slot) for index in batch.episodes]
        real, before = (
            np.concatenate(
                [own[steps[inside] - back] for own, steps, inside in zip(heard, batch.steps, batch.valid, strict=True)]
            )
            for back in (0, 1)
        )
        yield real, before, drawn
        if budget.spent():
            return


def _given(logits: dict[str, Tensor], tokens: Tensor, holes: Tensor, chosen: Tensor | None) -> dict[str, Tensor]:
    """A prediction that is known already, for a single pass of `fill`."""
    return logits


def tone_table(
    space: Sound, real: np.ndarray, before: np.ndarray, drawn: np.ndarray, coded: np.ndarray
) -> dict[str, dict[str, float]]:
    """By whether a sound begins in a recorded step, goes on, or there is none: the share of steps in which one is
    drawn; the share of those in which its dominant frequency is the recorded one, of a sound that is `coded` too, and
    of repeating the step before; and the mel distances from what was recorded. Sounds (M, *shape)."""
    heard = loudness(space, real) > LEAST_LOUDNESS
    begins = heard & (loudness(space, real) > LOUDER * loudness(space, before))
    guesses = {"drawn": drawn, "codec": coded, "repeating": before, "silence": space.values(0 * space.waveform(real))}
    table = {}
    for name, here in (("begins", begins), ("goes on", heard & ~begins), ("silent", ~heard)):
        row = {"steps": float(here.sum())}
        is_heard = {guess: loudness(space, sounds[here]) > LEAST_LOUDNESS for guess, sounds in guesses.items()}
        if here.any():
            row["heard"] = float(is_heard["drawn"].mean())
        if name != "silent" and here.any():
            for guess in ("drawn", "codec", "repeating"):
                both = is_heard[guess]
                if both.any():
                    agree = same_frequency(space, guesses[guess][here][both], real[here][both])
                    row[f"frequency, {guess}"] = float(agree.mean())
            for guess, sounds in guesses.items():
                first, second = (torch.from_numpy(space.waveform(each[here])) for each in (real, sounds))
                row[f"mel, {guess}"] = float(mel_distance(first, second, space.sample_rate).mean())
        table[name] = row
    return table


# -- the sound of an event --------------------------------------------------------------------------------------------
def event_sounds(space: Sound, sounds: np.ndarray, events: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first steps (M, ONSET_STEPS, *shape) of what begins within NEAR steps of an event, and the kinds (M,) of the
    nearest one.

    Args:
        sounds: (T, *shape) of steps that follow one another.
        events: (T,) kinds of events, 0 for none.
    """
    found, kinds = [], []
    for step in np.flatnonzero(onsets(space, sounds)):
        near = [step + shift for shift in sorted(range(-NEAR, NEAR + 1), key=abs)]
        kind = next((events[other] for other in near if 0 <= other < len(events) and events[other]), 0)
        if kind and step + ONSET_STEPS <= len(sounds):
            found.append(sounds[step : step + ONSET_STEPS])
            kinds.append(kind)
    return np.array(found, sounds.dtype).reshape(-1, ONSET_STEPS, *sounds.shape[1:]), np.array(kinds, np.int64)


def kind_table(
    space: Sound,
    sounds: np.ndarray,
    kinds: np.ndarray,
    references: np.ndarray,
    reference_kinds: np.ndarray,
    themselves: bool = False,
) -> dict[str, float]:
    """How sounds of events (M, ONSET_STEPS, *shape) are like recorded ones (R, ONSET_STEPS, *shape): the share whose
    nearest is of their kind of event, and what it is by chance; and of the nearest of their kind the share that has
    their dominant frequency, their mel distance, and that of silence. {} where there are none.

    Args:
        themselves: the sounds are the references; each is held against the others.
    """
    if len(sounds) == 0 or len(references) < 2:
        return {}
    waves, others = (_joined(space, each) for each in (sounds, references))
    distances = mel_distances(waves, others, space.sample_rate)
    same = torch.from_numpy(kinds[:, None] == reference_kinds)
    if themselves:
        distances.fill_diagonal_(torch.inf)
        same.fill_diagonal_(False)
    right = torch.from_numpy(reference_kinds)[distances.argmin(1)] == torch.from_numpy(kinds)
    known = same.any(1)
    nearest = distances.masked_fill(~same, torch.inf)[known].argmin(1)
    wanted, found = others[nearest], waves[known]
    frequencies = [dominant_frequencies(each.numpy(), space.sample_rate) for each in (found, wanted)]
    agree = np.abs(frequencies[0] - frequencies[1]) <= SAME_FREQUENCY * frequencies[1]
    return {
        "sounds": float(len(kinds)),
        "nearest is of its kind": float(right.float().mean()),
        "the same by chance": float(same.float().mean()),
        "frequency": float(agree.mean()),
        "mel distance": float(distances[known, nearest].mean()),
        "of silence": float(mel_distance(torch.zeros_like(wanted), wanted, space.sample_rate).mean()),
    }


def _joined(space: Sound, sounds: np.ndarray) -> Tensor:
    """Sounds (M, S, *shape) of S steps that follow one another as waves (M, C, S * samples)."""
    waves = space.waveform(sounds)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(waves, 1, 2).reshape(len(waves), waves.shape[2], -1)))
