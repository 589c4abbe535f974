"""Sound in spaces, its tokens, and from recording to a dream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sound_environments import FPS, RATE, SAMPLES, TONES, Bounce, record_bounces, train_bounces

from magrathea.cli import main as cli
from magrathea.data import Dataset, collect
from magrathea.data.make_env import environment_metadata, make_env
from magrathea.envs import DreamEnv, DreamVectorEnv
from magrathea.errors import MagratheaError
from magrathea.evaluate.sounds import mu_law, near_counts
from magrathea.evaluate.tones import (
    LEAST_LOUDNESS,
    dominant_frequencies,
    event_sounds,
    kind_table,
    loudness,
    same_frequency,
    tone_table,
)
from magrathea.session import Session
from magrathea.sounds import Sound, sound_of, sound_rates, sounds_of_other_lengths, with_sounds
from magrathea.space_config import space_from_config, space_to_config
from magrathea.spaces import check_space, checked_array, find_picture, index_batch, is_image
from magrathea.tokenizers import SoundTokenizer, tokenizer_for, tokenizer_from
from magrathea.tokenizers.sound_measures import MOST_SDR, mel_distance, si_sdr
from magrathea.world import World

KINDS = [((SAMPLES,), "uint8"), ((SAMPLES,), "int16"), ((SAMPLES, 2), "int16"), ((SAMPLES, 2), "float32")]


def sounds_in(space: Sound, num: int, seed: int = 0) -> np.ndarray:
    """Tones of several pitches and places; every fourth step is silent."""
    rng, times = np.random.default_rng(seed), np.arange(space.shape[0]) / space.sample_rate
    waves = np.zeros((num, space.num_channels, space.shape[0]), np.float32)
    for index in range(num):
        if index % 4:
            begin = rng.integers(space.shape[0] // 2)
            pitch = rng.choice([300, 500, 800, 1200])
            waves[index, :, begin:] = 0.5 * np.sin(2 * np.pi * pitch * times[begin:])
    return space.values(waves)


# -- spaces -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("shape", "dtype"), KINDS)
def test_values_become_waves_and_come_back(shape: tuple[int, ...], dtype: str) -> None:
    space = Sound(shape, dtype, RATE)
    values = sounds_in(space, 8)
    waves = space.waveform(values)
    assert (
        waves.shape == (8, space.num_channels, SAMPLES) and not waves[0].any() and 0.4 < np.abs(waves[1]).max() <= 0.6
    )
    np.testing.assert_array_equal(space.values(waves), values)
    assert all(value in space for value in values) and values.dtype == space.dtype
    assert space.values(9 * waves).max() == space.high.max()


def test_a_space_of_sound_is_stored_with_its_rate() -> None:
    space = spaces.Dict(eye=spaces.Box(0, 255, (8, 8, 3), np.uint8), ear=Sound((SAMPLES, 2), "int16", 44100))
    again = space_from_config(json.loads(json.dumps(space_to_config(space))))
    assert again == space and sound_rates(again) == {"ear": 44100}
    assert again != with_sounds(space, {"ear": 22050}, "It")
    with pytest.raises(MagratheaError, match="a config"):
        space_from_config({"type": "Sound", "shape": [4], "dtype": "int16", "sample_rate": -1})


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ({"mouth": RATE}, "'mouth', which"),
        ({"ear": 44100.5}, "sample rate of 44100.5"),
        ({"ear": 3}, "from 1,000"),
        ({"eye": RATE}, r"shape \(8, 8, 3\)"),
        ({"legs": RATE}, "which is Discrete"),
        ({"far": RATE}, "int64 is not known"),
        ([RATE], "no table"),
    ],
)
def test_what_cannot_be_sound_is_refused(rates: Any, words: str) -> None:
    parts = {"eye": spaces.Box(0, 255, (8, 8, 3), np.uint8), "ear": spaces.Box(0, 255, (40,), np.uint8)}
    space = spaces.Dict(legs=spaces.Discrete(2), far=spaces.Box(0, 9, (4,), np.int64), **parts)
    with pytest.raises(MagratheaError, match=words):
        with_sounds(space, rates, "The metadata")


def test_sound_that_does_not_last_as_long_as_its_step_is_noted(tmp_path: Path, capsys: Any) -> None:
    space = spaces.Dict(ear=Sound((SAMPLES,), "uint8", RATE))
    assert not sounds_of_other_lengths(space, FPS) and not sounds_of_other_lengths(space, 1.02 * FPS)
    collect(
        "sound_environments:recorded/Bounce-v0", 24, tmp_path / "data", num_processes=1, env_kwargs={"rate": 2 * RATE}
    )
    said = " ".join(capsys.readouterr().err.split())
    assert "Note: a step's sound 'ear' lasts 0.05 s (800 samples at 16,000 Hz), the step 0.1 s (render_fps 10)" in said
    assert "8,000 Hz and a render_fps of 20 would fit" in said


def test_sounds_of_mixed_lengths_are_named() -> None:
    with pytest.raises(MagratheaError, match=r"has shape \(700,\) where its space says \(800,\); pad it with silence"):
        checked_array(Sound((800,), "int16", RATE), np.zeros(700, np.int16), "An observation")


def test_sound_is_no_picture_and_may_be_long() -> None:
    stereo = spaces.Box(0, 255, (5000, 2), np.uint8)
    assert is_image(stereo) and not is_image(sound := with_sounds(stereo, {"": RATE}, "It"))
    assert find_picture(sound) is None and "sound" not in with_sounds(stereo, None, "It").__class__.__name__.lower()
    long = spaces.Box(-32768, 32767, (5000,), np.int16)
    check_space(with_sounds(long, {"": RATE}, "It"), "observation")
    with pytest.raises(MagratheaError, match="no declared sound"):
        check_space(long, "observation")


def test_an_environment_declares_its_sound_in_its_metadata() -> None:
    env = make_env("sound_environments:recorded/Bounce-v0", kind="stereo")
    assert environment_metadata(env)["sound_rates"] == {"ear": RATE}
    heard = sound_of(env.observation_space, env.reset(seed=0)[0])
    assert heard is not None and heard[0].sample_rate == RATE and heard[1].shape == (2, SAMPLES)
    plain = make_env("sound_environments:recorded/Bounce-v0", kind="plain")
    assert "sound_rates" not in environment_metadata(plain)
    assert not isinstance(tokenizer_for(plain.observation_space).leaves["ear"], SoundTokenizer)


# -- tokens -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("shape", "dtype"), KINDS)
def test_sound_comes_back_much_nearer_than_silence(shape: tuple[int, ...], dtype: str) -> None:
    space = Sound(shape, dtype, RATE)
    fitted = SoundTokenizer(space, sound_frames=8).fit(sounds_in(space, 200))
    values = sounds_in(space, 40, seed=1)
    tokens = fitted.encode(values)
    assert tokens.shape == (40, 16) and fitted.grid == (1, 16) and tokens.max() < fitted.vocab_size == 1001
    decoded = fitted.decode(tokens)
    np.testing.assert_array_equal(decoded[::4], values[::4])  # silence
    real, heard = (torch.from_numpy(space.waveform(each)) for each in (values, decoded))
    assert si_sdr(real, heard) > 5
    assert mel_distance(real, heard, RATE).mean() < 0.5 * mel_distance(real, torch.zeros_like(real), RATE).mean()
    again = tokenizer_from(fitted.to_config(), fitted.tensors(), space)
    np.testing.assert_array_equal(again.decode(tokens), decoded)
    np.testing.assert_array_equal(again.encode(values), tokens)


def test_sounds_that_recur_are_one_code_a_step_and_others_many() -> None:
    space = Sound((SAMPLES,), "int16", RATE)
    few = sounds_in(space, 12)
    again = few[np.random.default_rng(0).integers(12, size=200)]
    fitted = SoundTokenizer(space)
    with pytest.raises(MagratheaError, match="not fitted"):
        fitted.grid  # noqa: B018
    tokens = fitted.fit(again).encode(few)
    assert fitted.grid == (1, 1) and fitted.vocab_size == 257 and fitted.slot_specs[""].nothing == 0
    np.testing.assert_array_equal(fitted.decode(tokens), few)
    loaded = tokenizer_from(fitted.to_config(), fitted.tensors(), space)
    np.testing.assert_array_equal(loaded.encode(few), tokens)
    pitches = np.random.default_rng(0).choice([400, 800, 1200, 1600, 2400], (80, 1, 8)).repeat(SAMPLES // 8, axis=-1)
    melodies = space.values(0.5 * np.sin(2 * np.pi * pitches * np.arange(SAMPLES) / RATE).astype(np.float32))
    assert SoundTokenizer(space).fit(melodies).grid[1] > 1  # no two steps sound alike


def test_one_code_is_what_sounds_alike_whatever_its_phase() -> None:
    space, times = Sound((SAMPLES,), "int16", RATE), np.arange(SAMPLES) / RATE
    tones = [
        [0.5 * np.sin(2 * np.pi * pitch * times + phase) for phase in np.linspace(0, 6, 20)] for pitch in (400, 900)
    ]
    values = space.values(np.array(tones, np.float32).reshape(40, 1, SAMPLES))
    fitted = SoundTokenizer(space, sound_frames=1, sound_codes=1, sound_vocab_size=3).fit(values[::2])
    tokens = fitted.encode(values).reshape(2, 20)
    assert [len(set(row)) for row in tokens.tolist()] == [1, 1] and tokens[0, 0] != tokens[1, 0]
    assert same_frequency(space, fitted.decode(fitted.encode(values)), values).all()


def test_a_step_sounds_the_same_whatever_it_is_decoded_with() -> None:
    space = Sound((SAMPLES,), "int16", RATE)
    fitted = SoundTokenizer(space, sound_vocab_size=33).fit(sounds_in(space, 40))
    tokens = fitted.encode(sounds_in(space, 37))
    together = fitted.decode(tokens)
    for index in (0, 5, 36):
        np.testing.assert_array_equal(fitted.decode(tokens[index]), together[index])
    assert fitted.decode(tokens[:0]).shape == (0, SAMPLES)


def test_the_same_seed_fits_the_same_codec_and_only_silence_fits_too() -> None:
    space = Sound((SAMPLES,), "int16", RATE)
    one, other = (
        SoundTokenizer(space, sound_vocab_size=33).fit(sounds_in(space, 40), seed=4).tensors() for _ in range(2)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    silent = np.zeros((3, SAMPLES), np.int16)
    np.testing.assert_array_equal((fitted := SoundTokenizer(space).fit(silent)).decode(fitted.encode(silent)), silent)


def test_weights_that_do_not_fit_are_refused() -> None:
    space = Sound((SAMPLES,), "int16", RATE)
    fitted = SoundTokenizer(space, sound_vocab_size=33).fit(sounds_in(space, 8))
    tensors = fitted.tensors()
    tensors["books"] = tensors["books"][:1]
    with pytest.raises(MagratheaError, match="has books"):
        tokenizer_from(fitted.to_config(), tensors, space)
    with pytest.raises(MagratheaError, match="needs a Sound"):
        SoundTokenizer(spaces.Box(0, 255, (SAMPLES,), np.uint8))


# -- measures ---------------------------------------------------------------------------------------------------------
def test_distances_are_those_of_known_changes() -> None:
    wave = torch.sin(torch.arange(8000) * 0.3)[None] * 0.5
    noise = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    noise = noise - (noise @ wave.T) / wave.square().sum() * wave
    noisy = wave + noise * (wave.square().sum() / noise.square().sum()).sqrt() * 0.1
    assert abs(si_sdr(wave, noisy) - 20) < 0.1 and abs(si_sdr(wave, 3 * noisy) - 20) < 0.1
    assert si_sdr(wave, wave) == MOST_SDR and si_sdr(wave, 0 * wave) == 0
    assert mel_distance(wave, wave, RATE) == 0
    loud = torch.rand(1, 8000) * 0.5
    assert abs(float(mel_distance(loud, 0.1 * loud, RATE)) - 1) < 0.1  # a factor of ten


def test_mu_law_of_all_samples_and_many_bits_is_the_wave() -> None:
    wave = torch.sin(torch.arange(4000) * 0.05)[None] * 0.5
    assert si_sdr(wave, mu_law(wave, 4000, 8)) > 30
    assert si_sdr(wave, mu_law(wave, 400, 8)) > 25  # its pitch is far below the lower rate
    assert si_sdr(wave, mu_law(wave, 400, 2)) < 15


def test_onsets_are_near_events_or_by_chance() -> None:
    events = np.zeros(50, bool)
    events[[5, 20, 33]] = True
    assert near_counts(np.roll(events, 1), events)[:4].tolist() == [3, 3, 3, 3]
    assert near_counts(np.roll(events, 3), events)[:4].tolist() == [3, 0, 3, 0]
    assert 0 < near_counts(events, events)[4] < 1


def test_a_tone_is_told_from_another_and_from_that_of_another_event() -> None:
    space, times = Sound((SAMPLES,), "int16", RATE), np.arange(SAMPLES) / RATE

    def tone(pitch: float) -> np.ndarray:
        return space.values(0.5 * np.sin(2 * np.pi * pitch * times)[None].astype(np.float32))

    assert dominant_frequencies(space.waveform(tone(440.0))[None], RATE) == pytest.approx(440, abs=2)
    assert same_frequency(space, np.stack([tone(440), tone(440)]), np.stack([tone(450), tone(500)])).tolist() == [1, 0]
    silent, pitches = tone(0), {10: 400, 20: 900, 30: 410, 40: 910, 45: 700}
    sounds = np.stack([tone(pitches[step]) if step in pitches else silent for step in range(50)])
    events = np.zeros(50, np.int64)
    events[[10, 31]], events[[19, 40]] = 1, 2  # a step from its sound at most; none at 45
    found, kinds = event_sounds(space, sounds, events)
    assert kinds.tolist() == [1, 2, 1, 2] and (found[:, 0] == sounds[[10, 20, 30, 40]]).all()
    real = kind_table(space, found, kinds, found, kinds, themselves=True)
    assert real["nearest is of its kind"] == real["frequency"] == 1 and real["mel distance"] < 0.5 * real["of silence"]
    swapped = kind_table(space, found[[1, 0]], kinds[:2], found, kinds)
    assert swapped["nearest is of its kind"] == swapped["frequency"] == 0
    table = tone_table(
        space, sounds[1:], sounds[:-1], np.where(sounds[1:] == sounds[20], silent, sounds[1:]), sounds[1:]
    )
    assert table["begins"]["heard"] == 0.8 and table["begins"]["frequency, drawn"] == 1
    assert table["silent"]["heard"] == 0 and table["begins"]["mel, drawn"] < table["begins"]["mel, silence"]


# -- from recording to a dream ----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def sounding(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("sound")
    dataset = record_bounces("uint8", folder / "data")
    assert sound_rates(dataset.observation_space) == {"ear": RATE}
    return train_bounces(folder / "data", folder / "world")


@pytest.mark.slow
def test_a_world_with_sound_dreams_it(sounding: World) -> None:
    env = Bounce()
    assert sounding.observation_space == make_env("sound_environments:recorded/Bounce-v0").observation_space
    assert sounding.metadata["training"]["tokenizer"]["ear"]["si_sdr"] > 5
    session = Session(sounding, batch_size=2, seed=1)
    heard = []
    for _ in range(16):
        heard.append(session.step(np.zeros(2, np.int64)).observation["ear"])
    loud = (np.stack(heard) != 128).mean((1, 2))
    assert heard[0].shape == (2, SAMPLES) and heard[0].dtype == np.uint8
    assert loud.max() > 0.1 and loud.min() == 0  # a tone, and silence
    sounds, space = np.concatenate(heard), sounding.tokenizers["observation"].leaves["ear"].space
    found = dominant_frequencies(space.waveform(sounds[loudness(space, sounds) > LEAST_LOUDNESS]), RATE)
    assert np.abs(found[:, None] / list(TONES.values()) - 1).min(1).max() < 0.05
    seconds = Session.from_bytes(session.to_bytes(), sounding)
    one, other = session.step(np.zeros(2, np.int64)), seconds.step(np.zeros(2, np.int64))
    np.testing.assert_array_equal(one.observation["ear"], other.observation["ear"])
    assert env.observation_space["ear"].contains(index_batch(one.observation, 0)["ear"])


@pytest.mark.slow
def test_its_card_says_what_its_sounds_keep(sounding: World, tmp_path: Path) -> None:
    record_bounces("uint8", tmp_path / "data", steps=200)
    world = str(sounding.save_pretrained(tmp_path / "world"))
    asked = ["eval", world, str(tmp_path / "data"), "--minutes", "0.1", "--num-dreams", "4", "--card"]
    assert cli.main([*asked, "--out", str(tmp_path / "report")]) == 0
    assert (
        "- Tokenizer of `ear`: held-out sounds have a mel distance of 0.0" in (tmp_path / "world/README.md").read_text()
    )


@pytest.mark.slow
def test_dreams_with_sound_are_gymnasium_environments(sounding: World) -> None:
    env = DreamEnv(sounding)
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space and env.step(0)[0] in env.observation_space
    several = DreamVectorEnv(sounding, 3)
    assert several.reset(seed=0)[0]["ear"].shape == (3, SAMPLES)


@pytest.mark.slow
def test_sound_of_another_rate_is_another_space(sounding: World, tmp_path: Path) -> None:
    dataset = record_bounces("uint8", tmp_path / "data", steps=60)
    path = tmp_path / "data" / "data" / "metadata.json"
    about = json.loads(path.read_text())
    about["magrathea"]["sound_rates"] = {"ear": 16000}
    path.write_text(json.dumps(about))
    assert Dataset.open(dataset.folder).observation_space != sounding.observation_space
    about["magrathea"]["sound_rates"] = {"mouth": 16000}
    path.write_text(json.dumps(about))
    with pytest.raises(MagratheaError, match="'mouth', which"):
        Dataset.open(dataset.folder).observation_space  # noqa: B018
