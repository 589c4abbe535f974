"""A state of matrices that every step changes: the gated delta rule (Yang et al. 2025, "Gated Delta Networks").

A head's state maps keys to values. A step fades it, then each of its positions replaces what its key stood for by a
part of its value. Positions of later steps read by queries of their own. Everything is learned with the model, through
as many steps before a segment as training shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magrathea.config import HEAD_WIDTH, ModelConfig
from magrathea.layout import Layout
from magrathea.memory.base import Part, Recall, Recorded, Recurrence, rows_of
from magrathea.nn import Linear, norm

SHORTEST, LONGEST = 16.0, 4096.0  # steps in which the heads' states fade to a third, before they learn
STRENGTH = -2.0  # of the logit of how much of a value is replaced, before that learns


class DeltaRule(nn.Module):
    """The recurrence: H heads of matrices (key width, 48). It computes in float32, whatever the model does.

    Args:
        width: D of the model.
        num_heads: H.
        key_width: numbers of a key; a head can hold as many things apart.
    """

    def __init__(self, width: int, num_heads: int, key_width: int) -> None:
        super().__init__()
        self.num_heads, self.key_width = num_heads, key_width
        self.keys = Linear(width, num_heads * key_width)
        self.values = Linear(width, num_heads * HEAD_WIDTH)
        self.strength = Linear(width, num_heads)
        self.fade = Linear(width, num_heads, scale=0.1)
        steps = torch.logspace(math.log10(LONGEST), math.log10(SHORTEST), num_heads)
        self.fade_bias = nn.Parameter((1 / steps).expm1().log())  # softplus of it is 1 / steps
        self.strength_bias = nn.Parameter(torch.full((num_heads,), STRENGTH))
        self.queries = Linear(width, num_heads * key_width)
        self.out = Linear(num_heads * HEAD_WIDTH, width, scale=0.0)  # begins as nothing

    def empty(self) -> Tensor:
        """(H, key width, 48)"""
        return torch.zeros(self.num_heads, self.key_width, HEAD_WIDTH, device=self.fade_bias.device)

    def states(self, encodings: Tensor, is_step: Tensor) -> Tensor:
        """The states (B, T, H, key width, 48) before each of the steps (B, T, P, D) where is_step (B, T)."""
        keys, fade, added, removed = self._changes(encodings, is_step)
        state, states = self.empty().expand(len(encodings), -1, -1, -1), []
        for step in range(encodings.shape[1]):
            states.append(state)
            state = _changed(state, *(part[:, step] for part in (keys, fade, added, removed)))
        return torch.stack(states, dim=1)

    def write(self, state: Tensor, encodings: Tensor) -> Tensor:
        """The states (B, H, key width, 48) after one step (B, P, D)."""
        is_step = torch.ones(len(encodings), 1, dtype=torch.bool, device=encodings.device)
        return _changed(state, *(part[:, 0] for part in self._changes(encodings[:, None], is_step)))

    def _changes(self, encodings: Tensor, is_step: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What steps (B, T, P, D) do to a state S: S ← fade S, then S ← S + keysᵀ (added - removed S). Keys and removed
        (B, T, H, P, key width), added (B, T, H, P, 48), fade (B, T, H, 1, 1).

        To replace the values of P keys one after the other is to solve a triangular system, once for all states.
        """
        x = encodings.float()
        keys = F.normalize(self._heads(self.keys(x)), dim=-1)
        values = self._heads(self.values(x))
        strength = (self.strength(x) + self.strength_bias).sigmoid().transpose(-1, -2).unsqueeze(-1)
        strength = strength * is_step[..., None, None, None]
        fade = torch.exp(-F.softplus(self.fade(x.mean(dim=-2)) + self.fade_bias) * is_step[..., None])
        overlap = (strength * (keys @ keys.transpose(-1, -2))).tril(-1)
        told = strength * torch.cat([values, keys], dim=-1)
        solved = torch.linalg.solve_triangular(overlap, told, upper=False, unitriangular=True)
        added, removed = solved.split([HEAD_WIDTH, self.key_width], dim=-1)
        return keys, fade[..., None, None], added, removed

    def read(self, state: Tensor, positions: Tensor) -> Tensor:
        """What positions (B, T, P, D) look up in states (B, T, H, key width, 48): (B, T, P, D)."""
        queries = F.normalize(self._heads(self.queries(norm(positions).float())), dim=-1)
        return self.out((queries @ state).transpose(-2, -3).flatten(-2)).to(positions.dtype)

    def _heads(self, x: Tensor) -> Tensor:
        """(..., P, H * E) -> (..., H, P, E)"""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)


def _changed(state: Tensor, keys: Tensor, fade: Tensor, added: Tensor, removed: Tensor) -> Tensor:
    state = fade * state
    return state + keys.transpose(-1, -2) @ (added - removed @ state)


class Recurrent:
    """Knows nothing by itself: its recurrence is learned with the model."""

    recalls: ClassVar[tuple[Part, ...]] = ("state",)
    size: ClassVar[int] = 48  # numbers of a key

    @classmethod
    def fit(cls, layout: Layout, episodes: Iterable[Tensor]) -> Recurrent:
        return cls()

    @classmethod
    def from_tensors(cls, layout: Layout, tensors: dict[str, Tensor]) -> Recurrent:
        return cls()

    @classmethod
    def recurrence(cls, config: ModelConfig) -> DeltaRule:
        return DeltaRule(config.width, config.num_heads, cls.size)

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def new(self, batch_size: int, model: Any) -> RecurrentMemory:
        return RecurrentMemory(batch_size, model.recurrence)

    def recall_episode(self, tokens: Tensor, window: int) -> Recorded:
        return Recorded()


class RecurrentMemory:
    """The states of B worlds. Each is computed by itself, so that it does not depend on which others are beside it."""

    def __init__(self, batch_size: int, recurrence: Recurrence) -> None:
        self.recurrence = recurrence
        self._states = [recurrence.empty() for _ in range(batch_size)]

    def write(self, tokens: Tensor, encodings: Tensor, rows: Sequence[int]) -> None:
        for row, encoding in zip(rows, encodings.split(1), strict=True):
            self._states[row] = self.recurrence.write(self._states[row][None], encoding)[0]

    def read(self, tokens: Tensor, hole_mask: Tensor, rows: Sequence[int]) -> Recall:
        return Recall(state=torch.stack([self._states[row] for row in rows]))

    def reset(self, env_mask: Tensor | None = None) -> None:
        for row in rows_of(env_mask, len(self._states)):
            self._states[row] = self.recurrence.empty()

    def state_dict(self, row: int) -> dict[str, Tensor]:
        """The matrices (H, key width, 48)."""
        return {"state": self._states[row]}

    def load_state_dict(self, row: int, state: dict[str, Tensor]) -> None:
        self._states[row] = self.recurrence.empty().copy_(state["state"])
