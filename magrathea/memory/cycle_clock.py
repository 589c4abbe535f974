"""The hour of a world that turns: where in its cycle it stands, as its pictures tell.

Day and night come round, and no picture alone tells dusk from dawn. Recordings that begin alike show how long a cycle
is, and what pictures it brings at which of its steps. A running world's hour is then filtered from what was seen since
it began: a hidden Markov model (Rabiner 1989) whose state goes on by one at every step.

A picture tells of the hour by its light, so the clock needs a tokenizer that gives light a token of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.interfaces import NUM_FEATURES, EpisodeReadout, MemoryOutputs, MemoryReadout
from magrathea.layout import Layout, Slot
from magrathea.memory.base import reset_indices
from magrathea.memory.cycle import Cycle, find_cycle
from magrathea.model.config import ModelConfig

HARMONICS = NUM_FEATURES // 2  # of the hour: the model is given their means over all hours that it may be
SLIPS = 1e-5  # chance that the world is not where a step should have led it


@dataclass(frozen=True)
class CycleClockSpec:
    """What a memory of the hour knows before anything has happened: the cycle."""

    layout: Layout
    cycle: Cycle

    @classmethod
    def fit(cls, layout: Layout, episodes: Iterable[Tensor]) -> CycleClockSpec:
        """Learn from the tokens (T, N) of recorded episodes, each from its beginning; raises MagratheaError where they
        show no cycle."""
        num_values = illumination_slot(layout).absent + 1
        return cls(layout, find_cycle([illumination_of(tokens, layout) for tokens in episodes], num_values))

    @classmethod
    def from_tensors(cls, layout: Layout, tensors: dict[str, Tensor]) -> CycleClockSpec:
        if set(tensors) != {field.name for field in fields(Cycle)}:
            raise MagratheaError(
                "This world's clock is another version's, which read no lights: train the world again."
            )
        return cls(layout, Cycle(**{name: tensor.numpy() for name, tensor in tensors.items()}))

    @classmethod
    def outputs(cls, layout: Layout) -> MemoryOutputs:
        return MemoryOutputs(slots=(illumination_slot(layout).name,), features=True)

    @classmethod
    def recurrence(cls, config: ModelConfig, layout: Layout) -> None:
        return None

    def tensors(self) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array) for name, array in vars(self.cycle).items()}

    def new(self, batch_size: int, model: Any = None) -> CycleClockMemory:
        return CycleClockMemory(self, batch_size)

    def read_episode(self, tokens: Tensor, window: int = 0) -> EpisodeReadout:
        memory, features, lights = self.new(1), [], []
        for step in tokens:
            features.append(memory.features(0))
            lights.append([memory.light(0)])
            memory.write(step[None], step[None], [0])
        predicted, features = torch.tensor(lights), torch.from_numpy(np.stack(features))
        return EpisodeReadout(
            {illumination_slot(self.layout).name: predicted[:, None].repeat(1, 2, 1)},
            features=features[:, None].repeat(1, 2, 1),
        )


class CycleClockMemory:
    """The hours of B running worlds: of each, how likely every hour is for its next step, and its last light."""

    def __init__(self, clock: CycleClockSpec, batch_size: int) -> None:
        self.cycle, self.batch_size = clock.cycle, batch_size
        self.layout, self._slot = clock.layout, illumination_slot(clock.layout)
        angles = 2 * np.pi / len(self.cycle.usual) * np.arange(len(self.cycle.usual))
        waves = [wave(k * angles) for k in range(1, HARMONICS + 1) for wave in (np.cos, np.sin)]
        self._waves = np.stack(waves)
        self.reset()

    def reset(self, env_mask: Tensor | None = None) -> None:
        if env_mask is None:
            self._hours = np.tile(self.cycle.usual, (self.batch_size, 1))
            self._lights = np.zeros(self.batch_size, np.int64)
        batch_indices = reset_indices(env_mask, self.batch_size)
        self._hours[batch_indices], self._lights[batch_indices] = self.cycle.usual, self._slot.absent

    def write(self, tokens: Tensor, encodings: Tensor, batch_indices: Sequence[int]) -> None:
        """Steps (R, N) of these worlds are final."""
        for index, light in zip(batch_indices, illumination_of(tokens, self.layout).tolist(), strict=True):
            hours = self._hours[index] * self.cycle.likelihoods(light)
            hours = np.roll(hours / hours.sum(), 1)
            self._hours[index], self._lights[index] = (1 - SLIPS) * hours + SLIPS * self.cycle.usual, light

    def read(self, tokens: Tensor, hole_mask: Tensor, batch_indices: Sequence[int]) -> MemoryReadout:
        lights = torch.tensor([[self.light(index)] for index in batch_indices])
        features = torch.from_numpy(np.stack([self.features(index) for index in batch_indices]))
        return MemoryReadout({self._slot.name: lights}, features=features)

    def light(self, index: int) -> int:
        """The light in which a world's next step will be seen, most likely."""
        return int(self.cycle.follows[self._hours[index].argmax(), self._lights[index]])

    def features(self, index: int) -> np.ndarray:
        """(NUM_FEATURES,) float32, the hour of a world's next step; near 0 where it may be any."""
        return (self._waves @ self._hours[index]).astype(np.float32)

    def state_dict(self, batch_index: int) -> dict[str, Tensor]:
        return {
            "hours": torch.from_numpy(self._hours[batch_index].copy()),
            "light": torch.tensor(self._lights[batch_index]),
        }

    def load_state_dict(self, batch_index: int, state: dict[str, Tensor]) -> None:
        self._hours[batch_index], self._lights[batch_index] = state["hours"].numpy(), int(state["light"])


def illumination_slot(layout: Layout) -> Slot:
    """The slot of the illumination token; raises MagratheaError where the layout has none."""
    slots = [slot for slot in layout.of_role("observation") if slot.name.endswith("/light")]
    if not slots:
        raise MagratheaError(
            "This world's pictures have no illumination token to tell the time of the cycle by: use the image "
            "tokenizer 'lit_patch', or leave out the memory 'cycle_clock'."
        )
    return slots[0]


def illumination_of(tokens: Tensor, layout: Layout) -> np.ndarray:
    """Steps (S, N) -> their illumination tokens (S,)."""
    return tokens.numpy()[:, layout.span(illumination_slot(layout).name).start]
