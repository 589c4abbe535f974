"""The cycle clock: the phase of a periodic world, such as day and night, filtered from its illumination tokens.

No single picture tells dusk from dawn. Recordings that start at the same phase show how long the cycle is, and how
likely each illumination is at each of its steps. A running world's phase is then the hidden state of a hidden Markov
model that advances by one at every step (Rabiner 1989, "A tutorial on hidden Markov models").

The layout needs a slot for the illumination token, as the tokenizer 'lit_patch' has.

L steps of the cycle (phases), K illumination tokens (the last is the absent one), T steps of an episode, S steps of all
episodes, I batch indices, N tokens of a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.interfaces import NUM_FEATURES, EpisodeReadout, MemoryOutputs, MemoryReadout
from magrathea.layout import Layout, Slot
from magrathea.memory.base import checked, checked_number, reset_indices
from magrathea.model.config import ModelConfig

NUM_HARMONICS = NUM_FEATURES // 2  # of the phase: the features are their means under the posterior
RESTART_PROB = 1e-5  # that the phase after a step is any, as likely as the prior says
MIN_CYCLE = 8  # steps
MIN_EXPLAINED = 0.1  # share of the variance of later steps that the first cycle must explain
SMOOTHING = 1 / 60  # of a cycle, the standard deviation of the kernel that smooths the emission probabilities
UNSEEN_PROB = 0.01  # added to the probability of each illumination at each phase

STORED_NAMES = {"emission_probs": "brings", "next_illumination": "follows", "phase_prior": "usual"}
"""Attribute of `Cycle` -> its name in the files of worlds."""


@dataclass(frozen=True)
class Cycle:
    """The cycle that recordings go through.

    Attributes:
        emission_probs: float64, the probabilities of the illumination tokens at each phase.
        next_illumination: int16, the token that most often followed another, at each phase of the later one; the
            commonest at that phase where that other was never seen.
        phase_prior: float64, the share of recorded steps at each phase.
    """

    emission_probs: Float[np.ndarray, "L K"]
    next_illumination: Int[np.ndarray, "L K"]
    phase_prior: Float[np.ndarray, " L"]

    def likelihoods(self, illumination: int) -> Float[np.ndarray, " L"]:
        """The likelihood of each phase, given an illumination token."""
        return self.emission_probs[:, illumination] + UNSEEN_PROB


@dataclass(frozen=True)
class CycleClockSpec:
    """The memory spec of a cycle clock: the cycle that recordings go through."""

    layout: Layout
    cycle: Cycle

    @classmethod
    def fit(cls, layout: Layout, episodes: Iterable[Int[Tensor, "_ N"]]) -> CycleClockSpec:
        """Find the cycle of recorded episodes, each from its beginning; raises MagratheaError where there is none."""
        num_tokens = illumination_slot(layout).absent + 1
        return cls(layout, find_cycle([illumination_of(tokens, layout) for tokens in episodes], num_tokens))

    @classmethod
    def from_tensors(cls, layout: Layout, tensors: dict[str, Tensor]) -> CycleClockSpec:
        if set(tensors) != set(STORED_NAMES.values()):
            raise MagratheaError(
                "This world's cycle clock was stored by another version, which used no illumination tokens; train the "
                "world again."
            )
        num_tokens, prior = illumination_slot(layout).absent + 1, checked(tensors, "usual", "f", (None,), 0, 1)
        if not 0.5 < prior.sum() < 2:
            raise MagratheaError("This world's cycle clock has no phases; take a copy of the world that is whole.")
        emission_probs = checked(tensors, "brings", "f", (len(prior), num_tokens), 0, 1)
        following = checked(tensors, "follows", "i", emission_probs.shape, 0, num_tokens - 1)
        return cls(layout, Cycle(emission_probs, following, prior))

    @classmethod
    def outputs(cls, layout: Layout) -> MemoryOutputs:
        return MemoryOutputs(slots=(illumination_slot(layout).name,), features=True)

    @classmethod
    def recurrence(cls, config: ModelConfig, layout: Layout) -> None:
        return None

    def tensors(self) -> dict[str, Tensor]:
        return {stored: torch.from_numpy(getattr(self.cycle, name)) for name, stored in STORED_NAMES.items()}

    def new(self, batch_size: int, model: Any = None) -> CycleClockMemory:
        return CycleClockMemory(self, batch_size)

    def read_episode(self, tokens: Int[Tensor, "T N"], window: int = 0) -> EpisodeReadout:
        """The readouts before each step of a recorded episode."""
        memory, features, illumination = self.new(1), [], []
        for step in tokens:
            features.append(memory.features(0))
            illumination.append([memory.predict(0)])
            memory.write(step[None], step[None], [0])
        predicted, stacked = torch.tensor(illumination), torch.from_numpy(np.stack(features))
        return EpisodeReadout(
            {illumination_slot(self.layout).name: predicted[:, None].repeat(1, 2, 1)},
            features=stacked[:, None].repeat(1, 2, 1),
        )


class CycleClockMemory:
    """The running clocks of B worlds: the posterior of the next step's phase, and the last illumination token."""

    def __init__(self, spec: CycleClockSpec, batch_size: int) -> None:
        self.cycle, self.layout, self._slot = spec.cycle, spec.layout, illumination_slot(spec.layout)
        angles = 2 * np.pi / len(self.cycle.phase_prior) * np.arange(len(self.cycle.phase_prior))
        waves = [wave(k * angles) for k in range(1, NUM_HARMONICS + 1) for wave in (np.cos, np.sin)]
        self._waves = np.stack(waves)  # (NUM_FEATURES, L)
        self._posterior = np.tile(self.cycle.phase_prior, (batch_size, 1))
        self._illumination = np.full(batch_size, self._slot.absent, np.int64)

    def reset(self, env_mask: Bool[Tensor, " B"] | None = None) -> None:
        batch_indices = reset_indices(env_mask, len(self._posterior))
        self._posterior[batch_indices], self._illumination[batch_indices] = self.cycle.phase_prior, self._slot.absent

    def write(self, tokens: Int[Tensor, "I N"], encodings: Tensor, batch_indices: Sequence[int]) -> None:
        """Filter the phase by the illumination of final steps."""
        for index, token in zip(batch_indices, illumination_of(tokens, self.layout).tolist(), strict=True):
            posterior = self._posterior[index] * self.cycle.likelihoods(token)
            posterior = np.roll(posterior / posterior.sum(), 1)
            self._posterior[index] = (1 - RESTART_PROB) * posterior + RESTART_PROB * self.cycle.phase_prior
            self._illumination[index] = token

    def read(
        self, tokens: Int[Tensor, "I N"], hole_mask: Bool[Tensor, "I N"], batch_indices: Sequence[int]
    ) -> MemoryReadout:
        """The predicted illumination tokens of the next steps, and features of the phase."""
        predicted = torch.tensor([[self.predict(index)] for index in batch_indices])
        features = torch.from_numpy(np.stack([self.features(index) for index in batch_indices]))
        return MemoryReadout({self._slot.name: predicted}, features=features)

    def predict(self, batch_index: int) -> int:
        """The most likely illumination token of the next step."""
        phase = self._posterior[batch_index].argmax()
        return int(self.cycle.next_illumination[phase, self._illumination[batch_index]])

    def features(self, batch_index: int) -> Float[np.ndarray, " F"]:
        """(NUM_FEATURES,) float32, cosines and sines of the next step's phase; near 0 where it may be any."""
        return (self._waves @ self._posterior[batch_index]).astype(np.float32)

    def state_dict(self, batch_index: int) -> dict[str, Tensor]:
        """The posterior and the last token, under the names that session files have."""
        return {
            "hours": torch.from_numpy(self._posterior[batch_index].copy()),
            "light": torch.tensor(self._illumination[batch_index]),
        }

    def load_state_dict(self, batch_index: int, state: dict[str, Tensor]) -> None:
        posterior = checked(state, "hours", "f", self.cycle.phase_prior.shape, 0, 2)
        if not 0.5 < posterior.sum() < 2:
            raise MagratheaError("A cycle clock in a file has no phases; take a copy of the file that is whole.")
        self._illumination[batch_index] = checked_number(state, "light", 0, self._slot.absent)
        self._posterior[batch_index] = posterior


def illumination_slot(layout: Layout) -> Slot:
    """The slot of the illumination token; raises MagratheaError where the layout has none."""
    slots = [slot for slot in layout.of_role("observation") if slot.name.endswith("/light")]
    if not slots:
        raise MagratheaError(
            "This world's pictures have no illumination token to find the phase of a cycle by; use the image tokenizer "
            "'lit_patch', or leave out the memory 'cycle_clock'."
        )
    return slots[0]


def illumination_of(tokens: Int[Tensor, "S N"], layout: Layout) -> Int[np.ndarray, " S"]:
    """The illumination tokens of steps."""
    return tokens.numpy()[:, layout.span(illumination_slot(layout).name).start]


# -- fitting ----------------------------------------------------------------------------------------------------------
def find_cycle(episodes: Sequence[Int[np.ndarray, " _"]], num_tokens: int) -> Cycle:
    """The cycle of the illumination tokens of recorded episodes, each from its beginning; raises MagratheaError where
    there is none."""
    tokens = np.concatenate(episodes)
    time = np.concatenate([np.arange(len(episode)) for episode in episodes])
    length = _cycle_length(np.eye(num_tokens)[tokens], time)
    counts = np.zeros((length, num_tokens))
    np.add.at(counts, (time % length, tokens), 1)
    num_steps = counts.sum(axis=1)
    distance = np.minimum(np.arange(length), length - np.arange(length))
    kernel = np.exp(-0.5 * (distance / (SMOOTHING * length)) ** 2)
    smoothed = kernel[(np.arange(length)[:, None] - np.arange(length)) % length] @ counts
    pairs = np.zeros((length, num_tokens, num_tokens))
    for episode in episodes:
        np.add.at(pairs, (np.arange(1, len(episode)) % length, episode[:-1], episode[1:]), 1)
    commonest = np.broadcast_to(counts.argmax(axis=1)[:, None], counts.shape)
    return Cycle(
        smoothed / smoothed.sum(axis=1, keepdims=True),
        np.where(pairs.any(axis=2), pairs.argmax(axis=2), commonest).astype(np.int16),
        (num_steps + 1e-6) / (num_steps + 1e-6).sum(),
    )


def _cycle_length(one_hot: Float[np.ndarray, "S K"], time: Int[np.ndarray, " S"]) -> int:
    """The number of steps after which illumination repeats: of all lengths that whose first cycle explains most of the
    variance of later steps."""
    num_steps = int(time.max()) + 1
    counts = np.bincount(time, minlength=num_steps).astype(float)
    sums, squares = (
        np.stack([np.bincount(time, column, minlength=num_steps) for column in values.T], axis=1)
        for values in (one_hot, one_hot * one_hot)
    )
    best = (0.0, 0)
    for length in range(MIN_CYCLE, num_steps):
        later = slice(length, None)
        first = (sums[:length] / counts[:length, None])[np.arange(length, num_steps) % length]
        residual = (squares[later] - 2 * first * sums[later] + counts[later, None] * first**2).sum()
        variance = (squares[later].sum(axis=0) - sums[later].sum(axis=0) ** 2 / counts[later].sum()).sum()
        if variance - residual > MIN_EXPLAINED * variance:
            best = max(best, (variance - residual, -length))
    if not best[1]:
        raise MagratheaError(
            "These recordings go through no cycle, such as day and night, at least twice; leave out the memory "
            "'cycle_clock'."
        )
    return -best[1]
