"""The cycle clock: the cycle that recordings go through, and the phase that is filtered from illumination tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from magrathea.errors import MagratheaError
from magrathea.layout import Layout, Slot
from magrathea.memory import CycleClockSpec
from magrathea.memory.cycle_clock import find_cycle

LENGTH, NUM_LEVELS = 40, 9
SLOTS = (
    Slot(name="action", role="action", vocab_size=3),
    Slot(name="observation", role="observation", vocab_size=5, grid=(4, 5)),
    Slot(name="observation/light", role="observation", vocab_size=NUM_LEVELS),
    Slot(name="reward", role="reward", vocab_size=2),
    Slot(name="terminated", role="terminated", vocab_size=2),
)
LAYOUT = Layout(SLOTS)


def day(begin: int, num_steps: int, seed: int, length: int = LENGTH) -> torch.Tensor:
    """Steps (T, N) of a world that darkens and brightens through the same illumination levels, from a phase on."""
    rng = np.random.default_rng(seed)
    dark = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(begin, begin + num_steps) % length) / length)
    light = np.clip(np.round(dark * (NUM_LEVELS - 1) + rng.normal(0, 0.3, num_steps)), 0, NUM_LEVELS - 1)
    steps = rng.integers(2, size=(num_steps, LAYOUT.num_tokens))
    steps[:, LAYOUT.span("observation/light")] = light[:, None]
    return torch.from_numpy(steps)


@pytest.fixture(scope="module")
def clock() -> CycleClockSpec:
    return CycleClockSpec.fit(LAYOUT, [day(0, 130, seed) for seed in range(12)])


def phase(features: np.ndarray) -> float:
    """The share 0…1 of a cycle."""
    return float(np.angle(features[0] + 1j * features[1]) / (2 * np.pi)) % 1


def test_the_length_of_the_cycle_is_found(clock: CycleClockSpec) -> None:
    assert len(clock.cycle.phase_prior) == LENGTH


def test_earlier_steps_tell_dusk_from_dawn(clock: CycleClockSpec) -> None:
    """At these phases it is as dark as at another phase; the steps before tell which of them it is."""
    for begin, seed in ((5, 100), (17, 101), (30, 102)):
        memory = clock.new(1)
        for step in day(begin, 30, seed):
            memory.write(step[None], step[None], [0])
        features = memory.read(step[None], torch.zeros(1, len(step), dtype=torch.bool), [0]).features[0].numpy()
        error = abs(phase(features) - (begin + 30) % LENGTH / LENGTH)
        assert min(error, 1 - error) < 3 / LENGTH and np.hypot(*features[:2]) > 0.9


def test_features_are_near_zero_before_the_first_step(clock: CycleClockSpec) -> None:
    step = day(0, 1, 0)
    features = clock.new(2).read(step.repeat(2, 1), torch.zeros(2, step.shape[1], dtype=torch.bool), [0, 1]).features
    assert features.abs().max() < 0.3


def test_a_running_memory_reads_the_same_as_an_episode(clock: CycleClockSpec) -> None:
    steps, memory = day(0, 50, 7), clock.new(3)
    recorded = clock.read_episode(steps).features
    holes = torch.zeros(1, steps.shape[1], dtype=torch.bool)
    for index, step in enumerate(steps):
        assert torch.equal(memory.read(step[None], holes, [1]).features[0], recorded[index, 0])
        memory.write(step[None], step[None], [1])
    assert torch.equal(memory.read(step[None], holes, [0]).features[0], recorded[0, 0])


def test_tensors_restore_a_spec(clock: CycleClockSpec, tmp_path: Path) -> None:
    save_file(clock.tensors(), tmp_path / "clock.safetensors")
    loaded = CycleClockSpec.from_tensors(LAYOUT, load_file(tmp_path / "clock.safetensors"))
    assert torch.equal(loaded.read_episode(day(0, 9, 1)).features, clock.read_episode(day(0, 9, 1)).features)


@pytest.mark.parametrize("num_steps", [30, 130])
def test_recordings_without_a_cycle_are_refused(num_steps: int) -> None:
    constant = [day(0, num_steps, seed, length=10_000) for seed in range(12)]
    with pytest.raises(MagratheaError, match="no cycle"):
        CycleClockSpec.fit(LAYOUT, constant)


def test_a_slow_change_in_one_direction_is_no_cycle() -> None:
    rising = np.minimum(np.arange(200) // 10, NUM_LEVELS - 1)
    with pytest.raises(MagratheaError, match="no cycle"):
        find_cycle([rising] * 10, NUM_LEVELS)


def test_tensors_of_another_version_are_refused(clock: CycleClockSpec) -> None:
    with pytest.raises(MagratheaError, match="another version"):
        CycleClockSpec.from_tensors(LAYOUT, clock.tensors() | {"precision": torch.zeros(2, 2)})


def test_the_next_illumination_is_predicted(clock: CycleClockSpec) -> None:
    """Better than by repeating the last one."""
    right = stays = 0
    for seed in range(5):
        steps = day(11, 60, 200 + seed)
        light = steps[:, LAYOUT.span("observation/light")][:, 0]
        predicted = clock.read_episode(steps).predicted_tokens["observation/light"][:, 1, 0]
        right += int((predicted[20:] == light[20:]).sum())
        stays += int((light[19:-1] == light[20:]).sum())
    assert right > 1.2 * stays


def test_layouts_without_an_illumination_slot_are_refused() -> None:
    dark = Layout(tuple(slot for slot in SLOTS if slot.name != "observation/light"))
    with pytest.raises(MagratheaError, match="lit_patch"):
        CycleClockSpec.fit(dark, [torch.zeros(100, dark.num_tokens, dtype=torch.long)])
