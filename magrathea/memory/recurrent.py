"""A state of matrices that every step changes: the gated delta rule (Yang et al. 2025, "Gated Delta Networks").

A head's state maps keys to values. A step fades it, then each of its positions replaces what its key stood for by a
part of its value. Steps that are filled read by queries of their own.

A key says *where* in *which situation*: a vector of the position, times one of the situation (as roles are bound to
fillers in Gayler 2003, arXiv cs/0412059), which the step before and the step itself tell. So even before it has learned
a state gives what stood here after a step that looked like the last one. With keys made of a position's own content it
does not learn in any number of updates that was tried: what is asked for cannot be known from what is not filled yet.

Everything is learned with the model, through as many steps before a segment as training shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magrathea.interfaces import EpisodeReadout, MemoryOutputs, MemoryReadout, Recurrence
from magrathea.layout import Layout
from magrathea.memory.base import reset_indices
from magrathea.model.config import HEAD_WIDTH, ModelConfig
from magrathea.model.layers import Linear, norm

SHORTEST, LONGEST = 16.0, 4096.0  # steps in which the heads' states fade to a third, before they learn
STRENGTH = -2.0  # of the logit of how much of a value is replaced, before that learns


class DeltaRule(nn.Module):
    """The recurrence: H heads of matrices (key width, 48), each with one more column: what the last step tells of the
    situation. It computes in float32, whatever the model does.

    Args:
        width: D of the model.
        num_heads: H.
        key_width: numbers of a key; a head can hold as many things apart.
        num_positions: P of a step.
    """

    def __init__(self, width: int, num_heads: int, key_width: int, num_positions: int) -> None:
        super().__init__()
        self.num_heads, self.key_width = num_heads, key_width
        self.places = nn.Parameter(torch.randn(num_heads, num_positions, key_width))
        self.before = Linear(width, num_heads * key_width)
        self.now = Linear(width, num_heads * key_width, scale=0.0)  # at first a situation is the step before it
        self.next = Linear(width, num_heads * key_width, scale=0.0)
        self.values = Linear(width, num_heads * HEAD_WIDTH)
        self.strength = Linear(width, num_heads)
        self.fade = Linear(width, num_heads, scale=0.1)
        steps = torch.logspace(math.log10(LONGEST), math.log10(SHORTEST), num_heads)
        self.fade_bias = nn.Parameter((1 / steps).expm1().log())  # softplus of it is 1 / steps
        self.strength_bias = nn.Parameter(torch.full((num_heads,), STRENGTH))
        self.out = Linear(num_heads * HEAD_WIDTH, width, scale=0.0)  # begins as nothing

    def empty(self) -> Tensor:
        """(H, key width, 48 + 1)"""
        return torch.zeros(self.num_heads, self.key_width, HEAD_WIDTH + 1, device=self.fade_bias.device)

    def states(self, encodings: Tensor, is_step: Tensor) -> Tensor:
        """The states (B, T, H, key width, 48 + 1) before each of the steps (B, T, P, D) where is_step (B, T)."""
        feature_proj = self._told(self.before, encodings) * is_step[..., None, None]
        before = F.pad(feature_proj, (0, 0, 0, 0, 1, 0))[:, :-1]
        changes = self._changes(encodings, before, is_step)
        matrix, states = self.empty()[..., :-1].expand(len(encodings), -1, -1, -1), []
        for step in range(encodings.shape[1]):
            states.append(matrix)
            matrix = _changed(matrix, *(part[:, step] for part in changes))
        return torch.cat([torch.stack(states, dim=1), before.unsqueeze(-1)], dim=-1)

    def write(self, state: Tensor, encodings: Tensor) -> Tensor:
        """The states (B, H, key width, 48 + 1) after one step (B, P, D)."""
        is_step = torch.ones(len(encodings), 1, dtype=torch.bool, device=encodings.device)
        changes = self._changes(encodings[:, None], state[:, None, ..., -1], is_step)
        matrix = _changed(state[..., :-1], *(part[:, 0] for part in changes))
        return torch.cat([matrix, self._told(self.before, encodings).unsqueeze(-1)], dim=-1)

    def _changes(self, encodings: Tensor, before: Tensor, is_step: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What steps (B, T, P, D) do to a matrix S: S ← fade S, then S ← S + keysᵀ (added - removed S). Keys and
        removed (B, T, H, P, key width), added (B, T, H, P, 48), fade (B, T, H, 1, 1).

        To replace the values of P keys one after the other is to solve a triangular system, once for all matrices.
        """
        x = encodings.float()
        keys = self._at_places(before + self._told(self.now, x))
        strength = (self.strength(x) + self.strength_bias).sigmoid().transpose(-1, -2).unsqueeze(-1)
        strength = strength * is_step[..., None, None, None]
        fade = torch.exp(-F.softplus(self.fade(x.mean(dim=-2)) + self.fade_bias) * is_step[..., None])
        overlap = (strength * (keys @ keys.transpose(-1, -2))).tril(-1)
        values = self.values(x).unflatten(-1, (self.num_heads, HEAD_WIDTH)).transpose(-2, -3)
        feature_proj = strength * torch.cat([values, keys], dim=-1)
        solved = torch.linalg.solve_triangular(overlap, feature_proj, upper=False, unitriangular=True)
        added, removed = solved.split([HEAD_WIDTH, self.key_width], dim=-1)
        return keys, fade[..., None, None], added, removed

    def read(self, state: Tensor, positions: Tensor) -> Tensor:
        """What positions (B, T, P, D) look up in states (B, T, H, key width, 48 + 1): (B, T, P, D)."""
        queries = self._at_places(state[..., -1] + self._told(self.next, norm(positions)))
        return self.out((queries @ state[..., :-1]).transpose(-2, -3).flatten(-2)).to(positions.dtype)

    def _told(self, by: Linear, steps: Tensor) -> Tensor:
        """What steps (..., P, D) tell of a situation (..., H, key width)."""
        return by(steps.float().mean(dim=-2)).unflatten(-1, (self.num_heads, self.key_width))

    def _at_places(self, situation: Tensor) -> Tensor:
        """Situations (..., H, key width) -> the keys (..., H, P, key width) of a step's positions there."""
        return F.normalize(self.places * situation.unsqueeze(-2), dim=-1)


def _changed(matrix: Tensor, keys: Tensor, fade: Tensor, added: Tensor, removed: Tensor) -> Tensor:
    matrix = fade * matrix
    return matrix + keys.transpose(-1, -2) @ (added - removed @ matrix)


class RecurrentSpec:
    """Knows nothing by itself: its recurrence is learned with the model."""

    size: ClassVar[int] = 48  # numbers of a key

    @classmethod
    def outputs(cls, layout: Layout) -> MemoryOutputs:
        return MemoryOutputs(state=True)

    @classmethod
    def fit(cls, layout: Layout, episodes: Iterable[Tensor]) -> RecurrentSpec:
        return cls()

    @classmethod
    def from_tensors(cls, layout: Layout, tensors: dict[str, Tensor]) -> RecurrentSpec:
        return cls()

    @classmethod
    def recurrence(cls, config: ModelConfig, layout: Layout) -> DeltaRule:
        return DeltaRule(config.width, config.num_heads, cls.size, layout.num_positions)

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def new(self, batch_size: int, model: Any) -> RecurrentMemory:
        return RecurrentMemory(batch_size, model.recurrence)

    def read_episode(self, tokens: Tensor, window: int) -> EpisodeReadout:
        return EpisodeReadout()


class RecurrentMemory:
    """The states of B worlds. Each is computed by itself, so that it does not depend on which others are beside it."""

    def __init__(self, batch_size: int, recurrence: Recurrence) -> None:
        self.recurrence = recurrence
        self._states = [recurrence.empty() for _ in range(batch_size)]

    def write(self, tokens: Tensor, encodings: Tensor, batch_indices: Sequence[int]) -> None:
        for index, encoding in zip(batch_indices, encodings.split(1), strict=True):
            self._states[index] = self.recurrence.write(self._states[index][None], encoding)[0]

    def read(self, tokens: Tensor, hole_mask: Tensor, batch_indices: Sequence[int]) -> MemoryReadout:
        return MemoryReadout(state=torch.stack([self._states[index] for index in batch_indices]))

    def reset(self, env_mask: Tensor | None = None) -> None:
        for index in reset_indices(env_mask, len(self._states)):
            self._states[index] = self.recurrence.empty()

    def state_dict(self, batch_index: int) -> dict[str, Tensor]:
        """The matrices (H, key width, 48 + 1)."""
        return {"state": self._states[batch_index]}

    def load_state_dict(self, batch_index: int, state: dict[str, Tensor]) -> None:
        self._states[batch_index] = self.recurrence.empty().copy_(state["state"])
