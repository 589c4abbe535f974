"""The clock: the cycle that recordings show, and the hour that pictures tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_memory_places import layout_of

from magrathea.errors import MagratheaError
from magrathea.memory import Clock
from magrathea.memory.cycle import find_cycle

LENGTH, NUM_TOKENS, LAYOUT = 40, 5, layout_of(4, 5)


def day(begin: int, num_steps: int, seed: int, length: int = LENGTH) -> torch.Tensor:
    """Steps (T, N) of a world whose pictures darken and brighten alike, grain by grain, from an hour on."""
    dice = np.random.default_rng(seed)
    dark = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(begin, begin + num_steps) % length) / length)
    span = LAYOUT.span(LAYOUT.picture.name)
    steps = np.stack([np.array([slot.vocab_size for slot in LAYOUT.slots for _ in range(slot.num_tokens)])] * num_steps)
    steps[:, LAYOUT.span("action")] = 0
    is_dark = dice.random((num_steps, LAYOUT.picture.num_tokens)) < dark[:, None]
    steps[:, span] = np.where(is_dark, 4, dice.integers(3, size=is_dark.shape))
    return torch.from_numpy(steps)


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock.fit(LAYOUT, [day(0, 130, seed) for seed in range(12)])


def hour(features: np.ndarray) -> float:
    """0…1 of a cycle"""
    return float(np.angle(features[0] + 1j * features[1]) / (2 * np.pi)) % 1


def test_the_length_of_the_cycle_is_found(clock: Clock) -> None:
    assert len(clock.cycle.usual) == LENGTH


def test_pictures_that_dusk_and_dawn_share_tell_the_hour_in_time(clock: Clock) -> None:
    """A step at which it is as dark as at another hour; what came before it tells which of them it is."""
    for begin, seed in ((5, 100), (17, 101), (30, 102)):
        memory = clock.new(1)
        for step in day(begin, 30, seed):
            memory.write(step[None], step[None], [0])
        features = memory.read(step[None], torch.zeros(1, len(step), dtype=torch.bool), [0]).features[0].numpy()
        apart = abs(hour(features) - (begin + 30) % LENGTH / LENGTH)
        assert min(apart, 1 - apart) < 3 / LENGTH and np.hypot(*features[:2]) > 0.9


def test_nothing_is_told_where_nothing_was_seen(clock: Clock) -> None:
    step = day(0, 1, 0)
    features = clock.new(2).read(step.repeat(2, 1), torch.zeros(2, step.shape[1], dtype=torch.bool), [0, 1]).features
    assert features.abs().max() < 0.3


def test_training_and_dreaming_read_the_same(clock: Clock) -> None:
    steps, memory = day(0, 50, 7), clock.new(3)
    recorded = clock.recall_episode(steps).features
    holes = torch.zeros(1, steps.shape[1], dtype=torch.bool)
    for index, step in enumerate(steps):
        assert torch.equal(memory.read(step[None], holes, [1]).features[0], recorded[index, 0])
        memory.write(step[None], step[None], [1])
    assert torch.equal(memory.read(step[None], holes, [0]).features[0], recorded[0, 0])


def test_a_clock_is_saved(clock: Clock, tmp_path: Path) -> None:
    save_file(clock.tensors(), tmp_path / "clock.safetensors")
    loaded = Clock.from_tensors(LAYOUT, load_file(tmp_path / "clock.safetensors"))
    assert torch.equal(loaded.recall_episode(day(0, 9, 1)).features, clock.recall_episode(day(0, 9, 1)).features)


@pytest.mark.parametrize("num_steps", [30, 130])
def test_recordings_without_a_cycle_are_refused(num_steps: int) -> None:
    still = [day(0, num_steps, seed, length=10_000) for seed in range(12)]
    with pytest.raises(MagratheaError, match="no cycle"):
        Clock.fit(LAYOUT, still)


def test_a_slow_change_that_never_turns_is_no_cycle() -> None:
    dice = np.random.default_rng(0)
    rising = [np.sqrt(np.arange(200) / 50)[:, None].clip(max=1) + dice.normal(0, 0.1, (200, 3)) for _ in range(10)]
    with pytest.raises(MagratheaError, match="no cycle"):
        find_cycle([np.float32(each) for each in rising])
