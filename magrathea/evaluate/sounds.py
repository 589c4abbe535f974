"""Sounds: the codec against mu-law at equal bits, dreamt sound against silence and repeating, whether it comes with
what is seen, and what picture and sound say of each other."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optree
import torch
from torch import Tensor

from magrathea import masks
from magrathea.errors import MagratheaError
from magrathea.evaluate.environment_hooks import visible_events
from magrathea.evaluate.images import squared_error
from magrathea.evaluate.recordings import Options, Subject
from magrathea.evaluate.rollouts import Rollouts, choose_starts, context_and_least, roll_out
from magrathea.evaluate.segments import segment_batches, teacher_forced_logits
from magrathea.evaluate.slots import leaf_of, picture_slot, pictures_of, slot_tokenizer
from magrathea.evaluate.tones import (
    LEAST_LOUDNESS,
    NEAR,
    event_sounds,
    kind_table,
    loudness,
    next_sounds,
    onsets,
    tone_table,
)
from magrathea.layout import Slot
from magrathea.progress import Stages
from magrathea.spaces import find_picture, leaf_spaces_of, to_rgb
from magrathea.tokenizers import SoundTokenizer
from magrathea.tokenizers.report import one_wave
from magrathea.tokenizers.sound_measures import mel_distance, si_sdr
from magrathea.world import World

HORIZON = 32
SPANS = {"steps 1 to 4": (1, 4), "5 to 16": (5, 16), "17 to 32": (17, 32)}
MU = 255.0
SAMPLE_BITS = range(1, 9)  # of mu-law
DREAM_SHARE = 0.6  # of the time
TONE_SHARE = 0.5  # of what the dreams leave


@dataclass
class SoundResult:
    """What was measured of one sound of a world's observations.

    Attributes:
        slot: its name.
        bits_per_step, num_steps: of the codec; steps of held-out episodes that it was measured on.
        codec: by codec its SI-SDR in dB and its mel distance.
        num_dreams: dreams of HORIZON steps.
        mel: by span of steps and source the mel distance from what was recorded.
        heard: by source the share of steps in which something is heard.
        agrees: by span the share of steps in which dream and recording are both heard or both not, and of the
            recording's last step, repeated.
        tones: of recorded steps that are drawn again, given those before, see `tone_table`.
        kinds: of "dreams" and "reality" how sounds that begin near a visible event are like recorded ones of its kind,
            see `kind_table`.
        onsets: in "dreams" and "reality" the share of onsets that have a visible event near them, of events that have
            an onset near them, how many there are, and the share of onsets near events that are shifted in time.
        parts: by what is filled and what is known, see `_Measure.parts`.
    """

    slot: str
    bits_per_step: float = 0.0
    num_steps: int = 0
    codec: dict[str, dict[str, float]] = field(default_factory=dict)
    num_dreams: int = 0
    mel: dict[str, dict[str, float]] = field(default_factory=dict)
    heard: dict[str, float] = field(default_factory=dict)
    agrees: dict[str, dict[str, float]] = field(default_factory=dict)
    onsets: dict[str, dict[str, float]] = field(default_factory=dict)
    tones: dict[str, dict[str, float]] = field(default_factory=dict)
    kinds: dict[str, dict[str, float]] = field(default_factory=dict)
    parts: dict[str, dict[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate_sounds(world: str | Path | World, dataset: str | Path, options: Options) -> list[SoundResult]:
    """Measure every sound of a world's observations on held-out episodes; arguments as of `Subject`.

    Raises:
        MagratheaError: for a world without sound.
    """
    subject = Subject(world, dataset, options, may_cut=True)
    leaves = subject.world.tokenizers["observation"].leaves
    slots = [
        slot
        for slot in subject.world.layout.of_role("observation")
        if isinstance(leaves.get(slot.name.partition("/")[2]), SoundTokenizer)
    ]
    if not slots:
        name = subject.world.metadata.get("name", "?")
        raise MagratheaError(f"World '{name}' observes no sound; use 'magrathea eval'.")
    results = []
    with Stages() as stages:
        for slot in slots:
            measure = _Measure(subject, slot)
            stages.begin(f"codec of '{slot.name}'")
            measure.codec()
            stages.begin(f"dreams of '{slot.name}'")
            measure.dreams()
            stages.begin(f"next sounds of '{slot.name}'")
            measure.tones()
            stages.begin(f"'{slot.name}' by holes")
            measure.parts()
            results.append(measure.result)
    return results


def sound_table(result: SoundResult) -> str:
    """The results as tables."""
    lines = [f"{result.slot}: {result.bits_per_step:.0f} bits a step, {result.num_steps:,} held-out steps", ""]
    lines += _table("codec", result.codec)
    lines += [f"{result.num_dreams} dreams of {HORIZON} steps; heard in " + _shares(result.heard), ""]
    lines += _table("mel distance from the recording", result.mel)
    lines += _table("heard or not as in the recording", result.agrees)
    lines += _table(f"onsets within ±{NEAR} step of what is seen", result.onsets) if result.onsets else []
    lines += _table("sounds that begin at an event", result.kinds) if result.kinds else []
    lines += _table("a step's sound, given those before", result.tones)
    return "\n".join(lines + _table("filled", result.parts)).rstrip()


def _shares(shares: dict[str, float]) -> str:
    return ", ".join(f"{share:.1%} of the {name}'s steps" for name, share in shares.items())


def _table(title: str, rows: dict[str, dict[str, float]]) -> list[str]:
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [f"| {title} | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(f"{row[c]:.3f}" if c in row else "" for c in columns) + " |")
    return [*lines, ""]


class _Measure:
    """Measures one slot."""

    def __init__(self, subject: Subject, slot: Slot) -> None:
        tokenizer = slot_tokenizer(subject.world, slot)
        assert isinstance(tokenizer, SoundTokenizer)
        self.subject, self.world, self.slot, self.tokenizer = subject, subject.world, slot, tokenizer
        self.space, self.result = tokenizer.space, SoundResult(slot.name, tokenizer.bits_per_step)
        keys = [key for key, _ in leaf_spaces_of(self.world.observation_space)]
        self.leaf = keys.index(slot.name.partition("/")[2])
        self.env_id = str(self.world.metadata.get("env_id") or "")

    # -- the codec ----------------------------------------------------------------------------------------------------
    def codec(self) -> None:
        """Codec and mu-law of as many bits on whole episodes."""
        found: dict[str, list[tuple[float, float]]] = {}
        for recording in self.subject.recordings:
            sounds = leaf_of(recording.episode.observation, self.slot)
            real = one_wave(self.space, sounds)
            self.result.num_steps += len(sounds)
            coded = {"codec": one_wave(self.space, self.tokenizer.decode(self.tokenizer.encode(sounds)))}
            for bits in SAMPLE_BITS:
                num = int(self.tokenizer.bits_per_step * len(sounds) / bits / len(real))
                coded[f"mu-law, {bits} bits a sample"] = mu_law(real, num, bits)
            coded["silence"] = torch.zeros_like(real)
            for name, wave in coded.items():
                distance = float(mel_distance(real, wave, self.space.sample_rate))
                found.setdefault(name, []).append((si_sdr(real, wave), distance))
        means = {name: np.mean(each, axis=0) for name, each in found.items()}
        laws = [name for name in means if name.startswith("mu-law")]
        kept = ["codec", max(laws, key=lambda name: means[name][0]), min(laws, key=lambda name: means[name][1])]
        for name in dict.fromkeys([*kept, "silence"]):
            self.result.codec[name] = dict(zip(("SI-SDR", "mel distance"), map(float, means[name]), strict=True))

    # -- dreams -------------------------------------------------------------------------------------------------------
    def dreams(self) -> None:
        """Dreams under the recorded actions, and onsets in them and in the recordings."""
        options, budget = self.subject.options, self.subject.budget.part(DREAM_SHARE)
        context, least = context_and_least(self.subject.recordings, self.world.config.model.window)
        starts = choose_starts(
            self.subject.recordings, context, HORIZON, options.num_dreams, options.seed, least, HORIZON // 2
        )
        rollouts = roll_out(self.world, self.subject.recordings, starts, HORIZON, budget=budget, seed=options.seed)
        self.result.num_dreams = len(rollouts.starts)
        real, dream = (each.observation[self.leaf] for each in (rollouts.real, rollouts.dream))
        whole = rollouts.valid.all(1)
        if whole.any():
            self._compare(real[whole], dream[whole])
        self._onsets(rollouts, real, dream)

    def _compare(self, real: np.ndarray, dream: np.ndarray) -> None:
        """Sounds (R, 1 + H, *shape) of dreams and recordings."""
        guesses = {
            "dream": dream,
            "silence": self._silence(real),
            "repeating": np.broadcast_to(real[:, :1], real.shape),
        }
        loud = {
            name: loudness(self.space, sounds) > LEAST_LOUDNESS
            for name, sounds in (guesses | {"recording": real}).items()
        }
        self.result.heard = {name: float(loud[name][:, 1:].mean()) for name in ("dream", "recording")}
        for span, (first, last) in SPANS.items():
            steps, rate = slice(first, last + 1), self.space.sample_rate
            pairs = {
                name: [
                    float(mel_distance(one_wave(self.space, a[steps]), one_wave(self.space, b[steps]), rate))
                    for a, b in zip(real, sounds, strict=True)
                ]
                for name, sounds in guesses.items()
            }
            self.result.mel[span] = {name: float(np.mean(each)) for name, each in pairs.items()}
            self.result.agrees[span] = {
                name: float((loud[name][:, steps] == loud["recording"][:, steps]).mean()) for name in guesses
            }

    def _silence(self, sounds: np.ndarray) -> np.ndarray:
        return self.space.values(np.zeros_like(self.space.waveform(sounds)))

    def _onsets(self, rollouts: Rollouts, real: np.ndarray, dream: np.ndarray) -> None:
        path = find_picture(self.world.observation_space)
        if path is None:
            return
        picture = [key for key, _ in leaf_spaces_of(self.world.observation_space)].index("/".join(map(str, path)))
        for name, steps, sounds in (("reality", rollouts.real, real), ("dreams", rollouts.dream, dream)):
            counts, begun = np.zeros(5), []
            for index, length in enumerate(rollouts.valid.sum(1)):
                frames = to_rgb(_channels(steps.observation[picture][index, : length + 1]))
                events = visible_events(self.env_id, frames)
                if events is None:
                    return
                heard = sounds[index, : length + 1]
                counts += near_counts(onsets(self.space, heard), events > 0)
                begun.append(event_sounds(self.space, heard, events))
            num_onsets, with_event, num_events, with_onset, by_chance = counts
            self.result.onsets[name] = {
                "onsets with an event": with_event / max(1, num_onsets),
                "the same by chance": by_chance / max(1, num_onsets),
                "events with an onset": with_onset / max(1, num_events),
                "onsets": num_onsets,
                "events": num_events,
            }
            if name == "dreams":
                found, kinds = (np.concatenate(each) for each in zip(*begun, strict=True))
                recorded, recorded_kinds = self._recorded_kinds(picture)
                self.result.kinds["dreams"] = kind_table(self.space, found, kinds, recorded, recorded_kinds)

    def _recorded_kinds(self, picture: int) -> tuple[np.ndarray, np.ndarray]:
        """Sounds that begin near an event in the held-out episodes, and the events' kinds; `kinds` gets how each is
        like the others."""
        begun = []
        for recording in self.subject.recordings:
            steps = optree.tree_leaves(recording.episode.observation)
            events = visible_events(self.env_id, to_rgb(_channels(steps[picture])))
            assert events is not None
            begun.append(event_sounds(self.space, steps[self.leaf], events))
        sounds, kinds = (np.concatenate(each) for each in zip(*begun, strict=True))
        self.result.kinds["reality"] = kind_table(self.space, sounds, kinds, sounds, kinds, themselves=True)
        return sounds, kinds

    # -- tones --------------------------------------------------------------------------------------------------------
    def tones(self) -> None:
        """Whether a step's sound that is drawn, given the recorded steps before, is that of the recording."""
        budget = self.subject.budget.part(TONE_SHARE)
        drawn = next_sounds(self.world, self.subject.recordings, self.slot, budget, self.subject.options.seed)
        real, before, guesses = (np.concatenate(each) for each in zip(*drawn, strict=True))
        coded = self.tokenizer.decode(self.tokenizer.encode(real))
        self.result.tones = tone_table(self.space, real, before, guesses, coded)

    # -- parts of an observation --------------------------------------------------------------------------------------
    @torch.inference_mode()
    def parts(self) -> None:
        """The sound of a step, given what is before it and the action, with and without its picture: bits of its
        tokens, and whether the likeliest are heard as recorded; the picture, with and without its sound: gain in dB
        over repeating the last one."""
        layout, budget, shown = self.world.layout, self.subject.budget, picture_slot(self.world)
        if shown is None:
            return
        unknown = masks.forward_dynamics(layout)
        spans = {name: layout.span(name) for name in (self.slot.name, shown.name)}
        without = {name: unknown.clone() for name in spans}  # all but the part of this name is unknown
        for name, span in spans.items():
            without[name][span] = False
        tallies: dict[str, list[np.ndarray]] = {}
        for batch in segment_batches(self.subject.recordings, self.world.config.model.window, chunk=4):
            valid = torch.from_numpy(batch.valid)
            for hole_mask, known, part in (
                (unknown, "the past", "sound"),
                (without[shown.name], "the past and the picture", "sound"),
                (unknown, "the past", "picture"),
                (without[self.slot.name], "the past and the sound", "picture"),
            ):
                readout = batch.readout.select_known_action(hole_mask, layout)
                logits = teacher_forced_logits(self.world, batch.tokens, hole_mask, batch.first, readout, batch.earlier)
                tally = self._sound_tally if part == "sound" else self._picture_tally
                found = tally(batch.tokens, batch.first, logits, shown)[valid.numpy()]
                tallies.setdefault(f"{part} from {known}", []).append(found.sum(0))
            if budget.spent():
                break
        for name, each in tallies.items():
            sums = np.sum(each, axis=0)
            if name.startswith("sound"):
                figures = {"bits": sums[0], "heard or not as recorded": sums[1], "steps": sums[2] * sums[2]}
                self.result.parts[name] = {key: float(value / sums[2]) for key, value in figures.items()}
            else:
                decibels = 10 * np.log10(max(sums[0], 1e-9) / max(sums[1], 1e-9))
                self.result.parts[name] = {"gain, dB": float(decibels), "steps": float(sums[2])}

    def _sound_tally(self, tokens: Tensor, first: int, logits: dict[str, Tensor], shown: Slot) -> np.ndarray:
        """(B, C, 3): bits of the sound, whether it is heard as recorded, and 1."""
        target = tokens[:, first:, self.world.layout.span(self.slot.name)]
        own = logits[self.slot.name].cpu().log_softmax(-1)
        bits = -own.gather(-1, target[..., None])[..., 0].sum(-1) / np.log(2)
        heard = [
            loudness(self.space, self.tokenizer.decode(each.numpy())) > LEAST_LOUDNESS
            for each in (own.argmax(-1), target)
        ]
        return np.stack([bits.numpy(), heard[0] == heard[1], np.ones(bits.shape)], axis=-1)

    def _picture_tally(self, tokens: Tensor, first: int, logits: dict[str, Tensor], shown: Slot) -> np.ndarray:
        """(B, C, 3): squared errors of repeating the last picture and of the likeliest, and 1."""
        layout, guesses = self.world.layout, tokens[:, first:].clone()
        guesses[..., layout.span(shown.name)] = logits[shown.name].argmax(-1).cpu()
        device = self.world.device
        filled = self.world.model.with_values(guesses.to(device), tokens[:, first - 1 : -1].to(device)).cpu()
        real, before, drawn = (
            pictures_of(self.world, shown, each.numpy())
            for each in (tokens[:, first:], tokens[:, first - 1 : -1], filled)
        )
        flat = [each.reshape(-1, *each.shape[2:]) for each in (real, before, drawn)]
        errors = [squared_error(each, flat[0]) for each in flat[1:]]
        return np.stack([*errors, np.ones(len(errors[0]))], axis=-1).reshape(*real.shape[:2], 3)


def _channels(pictures: np.ndarray) -> np.ndarray:
    return pictures[..., None] if pictures.ndim == 3 else pictures


def near_counts(onsets: np.ndarray, events: np.ndarray) -> np.ndarray:
    """(5,) numbers of onsets, of those near an event, of events, of those near an onset, and of onsets that are near an
    event on average when the events are shifted, around the end, by every number of steps. Both (T,)."""

    def near(these: np.ndarray, those: np.ndarray) -> int:
        padded = np.pad(those, NEAR)
        wide = np.any([padded[shift : shift + len(those)] for shift in range(2 * NEAR + 1)], axis=0)
        return int((these & wide).sum())

    shifted = [near(onsets, np.roll(events, shift)) for shift in range(len(events))]
    return np.array([onsets.sum(), near(onsets, events), events.sum(), near(events, onsets), np.mean(shifted)])


# -- mu-law -----------------------------------------------------------------------------------------------------------
def mu_law(waves: Tensor, num_samples: int, bits: int) -> Tensor:
    """Waves (C, n) of a lower sample rate, num_samples each, of so many bits each (ITU-T G.711), at the first rate."""
    length, spectrum = waves.shape[-1], torch.fft.rfft(waves)
    num_samples = max(2, min(num_samples, length))
    fewer = torch.fft.irfft(spectrum[:, : num_samples // 2 + 1], num_samples) * (num_samples / length)
    levels = 2**bits - 1
    squeezed = fewer.clamp(-1, 1).sign() * torch.log1p(MU * fewer.abs().clamp(max=1)) / np.log1p(MU)
    rounded = ((squeezed + 1) / 2 * levels).round() / levels * 2 - 1
    widened = rounded.sign() * torch.expm1(rounded.abs() * np.log1p(MU)) / MU
    padded = torch.zeros_like(spectrum)
    padded[:, : num_samples // 2 + 1] = torch.fft.rfft(widened)
    return torch.fft.irfft(padded, length) * (length / num_samples)
