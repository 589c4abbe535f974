"""A recurrent memory: matrices that every step updates by the gated delta rule (Yang et al. 2025, "Gated Delta
Networks", arXiv 2412.06464).

A head's matrix maps keys to values. A step decays it, then each of the step's positions replaces a part of the value
that is stored at its key. The positions of steps that are being filled read it with queries.

A key is a vector of the position, multiplied number by number by a vector of the *context*, which depends on the step
before and on the step itself (as roles are bound to fillers in Gayler 2003, arXiv cs/0412059). So even before training
a state returns what stood at a position after a step that looked like the last one. With keys of a position's own
content the memory learned nothing in any number of updates that was tried: the content of a hole cannot be queried.

All weights are learned with the model, through as many earlier steps as a training batch has (`num_earlier`).

B batch, T steps, P positions of a step, D width, H heads, E numbers of a key, 48 (HEAD_WIDTH) numbers of a value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from magrathea.interfaces import EpisodeReadout, MemoryOutputs, MemoryReadout, Recurrence
from magrathea.layout import Layout
from magrathea.memory.base import checked, reset_indices
from magrathea.model.config import HEAD_WIDTH, ModelConfig
from magrathea.model.layers import Linear, norm

MIN_DECAY_STEPS, MAX_DECAY_STEPS = 16.0, 4096.0  # time constants of the heads at initialization
WRITE_GATE_BIAS = -2.0  # logit of the share of a value that is replaced, at initialization


class DeltaRule(nn.Module):
    """The recurrence. The state (H, E, 48 + 1) has a matrix (E, 48) for each head, and one more column: the context
    vector of the last step. It computes in float32, whatever the model does.

    Args:
        width: D of the model.
        num_heads: H.
        key_width: E, as many values as a head can hold apart.
        num_positions: P.
    """

    def __init__(self, width: int, num_heads: int, key_width: int, num_positions: int) -> None:
        super().__init__()
        self.num_heads, self.key_width = num_heads, key_width
        self.position_keys = nn.Parameter(torch.randn(num_heads, num_positions, key_width))
        self.prev_context_proj = Linear(width, num_heads * key_width)
        # At initialization the context is that of the step before alone.
        self.write_context_proj = Linear(width, num_heads * key_width, scale=0.0)
        self.read_context_proj = Linear(width, num_heads * key_width, scale=0.0)
        self.values = Linear(width, num_heads * HEAD_WIDTH)
        self.write_gate = Linear(width, num_heads)
        self.decay_gate = Linear(width, num_heads, scale=0.1)
        decay_steps = torch.logspace(math.log10(MAX_DECAY_STEPS), math.log10(MIN_DECAY_STEPS), num_heads)
        self.decay_bias = nn.Parameter((1 / decay_steps).expm1().log())  # softplus of it is 1 / decay_steps
        self.write_bias = nn.Parameter(torch.full((num_heads,), WRITE_GATE_BIAS))
        self.out = Linear(num_heads * HEAD_WIDTH, width, scale=0.0)

    def empty(self) -> Float[Tensor, "H E value_and_context"]:
        """The state before any step."""
        return torch.zeros(self.num_heads, self.key_width, HEAD_WIDTH + 1, device=self.decay_bias.device)

    def states(
        self, encodings: Float[Tensor, "B T P D"], is_step: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B T H E value_and_context"]:
        """The states before each of the steps, of which those count where `is_step`."""
        context = self._context(self.prev_context_proj, encodings) * is_step[..., None, None]
        prev_context = F.pad(context, (0, 0, 0, 0, 1, 0))[:, :-1]
        updates = self._updates(encodings, prev_context, is_step)
        matrix, matrices = self.empty()[..., :-1].expand(len(encodings), -1, -1, -1), []
        for step in range(encodings.shape[1]):
            matrices.append(matrix)
            matrix = _apply_update(matrix, *(part[:, step] for part in updates))
        return torch.cat([torch.stack(matrices, dim=1), prev_context.unsqueeze(-1)], dim=-1)

    def write(
        self, state: Float[Tensor, "B H E value_and_context"], encodings: Float[Tensor, "B P D"]
    ) -> Float[Tensor, "B H E value_and_context"]:
        """The states after one more step."""
        is_step = torch.ones(len(encodings), 1, dtype=torch.bool, device=encodings.device)
        updates = self._updates(encodings[:, None], state[:, None, ..., -1], is_step)
        matrix = _apply_update(state[..., :-1], *(part[:, 0] for part in updates))
        return torch.cat([matrix, self._context(self.prev_context_proj, encodings).unsqueeze(-1)], dim=-1)

    def _updates(
        self,
        encodings: Float[Tensor, "B T P D"],
        prev_context: Float[Tensor, "B T H E"],
        is_step: Bool[Tensor, "B T"],
    ) -> tuple[
        Float[Tensor, "B T H P E"],
        Float[Tensor, "B T H 1 1"],
        Float[Tensor, "B T H P value"],
        Float[Tensor, "B T H P E"],
    ]:
        """Keys, decay, added and removed of the steps' updates of a matrix S: S ← decay S, then
        S ← S + keysᵀ (added - removed S).

        Replacing the values at P keys one after the other amounts to solving a triangular system, once for all steps.
        """
        x = encodings.float()
        keys = self._keys(prev_context + self._context(self.write_context_proj, x))
        strength = (self.write_gate(x) + self.write_bias).sigmoid().transpose(-1, -2).unsqueeze(-1)
        strength = strength * is_step[..., None, None, None]
        decay = torch.exp(-F.softplus(self.decay_gate(x.mean(dim=-2)) + self.decay_bias) * is_step[..., None])
        overlap = (strength * (keys @ keys.transpose(-1, -2))).tril(-1)
        values = self.values(x).unflatten(-1, (self.num_heads, HEAD_WIDTH)).transpose(-2, -3)
        right_side = strength * torch.cat([values, keys], dim=-1)
        solved = torch.linalg.solve_triangular(overlap, right_side, upper=False, unitriangular=True)
        added, removed = solved.split([HEAD_WIDTH, self.key_width], dim=-1)
        return keys, decay[..., None, None], added, removed

    def read(
        self, state: Float[Tensor, "B T H E value_and_context"], positions: Float[Tensor, "B T P D"]
    ) -> Float[Tensor, "B T P D"]:
        """What is added to the positions of steps that are being filled."""
        queries = self._keys(state[..., -1] + self._context(self.read_context_proj, norm(positions)))
        return self.out((queries @ state[..., :-1]).transpose(-2, -3).flatten(-2)).to(positions.dtype)

    def _context(self, proj: Linear, steps: Float[Tensor, "*steps P D"]) -> Float[Tensor, "*steps H E"]:
        """The part that steps have in a context vector."""
        return proj(steps.float().mean(dim=-2)).unflatten(-1, (self.num_heads, self.key_width))

    def _keys(self, context: Float[Tensor, "*steps H E"]) -> Float[Tensor, "*steps H P E"]:
        """The keys of a step's positions in a context, of length 1."""
        return F.normalize(self.position_keys * context.unsqueeze(-2), dim=-1)


def _apply_update(
    matrix: Float[Tensor, "B H E value"],
    keys: Float[Tensor, "B H P E"],
    decay: Float[Tensor, "B H 1 1"],
    added: Float[Tensor, "B H P value"],
    removed: Float[Tensor, "B H P E"],
) -> Float[Tensor, "B H E value"]:
    matrix = decay * matrix
    return matrix + keys.transpose(-1, -2) @ (added - removed @ matrix)


class RecurrentSpec:
    """The memory spec of a recurrence: nothing is fitted, for the model learns the recurrence."""

    size: ClassVar[int] = 48  # E
    size_is_learned: ClassVar[bool] = True

    @classmethod
    def outputs(cls, layout: Layout) -> MemoryOutputs:
        return MemoryOutputs(state=True)

    @classmethod
    def fit(cls, layout: Layout, episodes: Iterable[Int[Tensor, "_ N"]]) -> RecurrentSpec:
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

    def read_episode(self, tokens: Int[Tensor, "T N"], window: int) -> EpisodeReadout:
        return EpisodeReadout()


class RecurrentMemory:
    """The states of B worlds. Each is computed by itself, so that it does not depend on which others are in its batch.

    I batch indices, N tokens, P positions of a step, D width.
    """

    def __init__(self, batch_size: int, recurrence: Recurrence) -> None:
        self.recurrence = recurrence
        self._states = [recurrence.empty() for _ in range(batch_size)]

    def write(
        self, tokens: Int[Tensor, "I N"], encodings: Float[Tensor, "I P D"], batch_indices: Sequence[int]
    ) -> None:
        for index, encoding in zip(batch_indices, encodings.split(1), strict=True):
            self._states[index] = self.recurrence.write(self._states[index][None], encoding)[0]

    def read(
        self, tokens: Int[Tensor, "I N"], hole_mask: Bool[Tensor, "I N"], batch_indices: Sequence[int]
    ) -> MemoryReadout:
        return MemoryReadout(state=torch.stack([self._states[index] for index in batch_indices]))

    def reset(self, env_mask: Bool[Tensor, " B"] | None = None) -> None:
        for index in reset_indices(env_mask, len(self._states)):
            self._states[index] = self.recurrence.empty()

    def state_dict(self, batch_index: int) -> dict[str, Tensor]:
        """The state (H, E, 48 + 1)."""
        return {"state": self._states[batch_index]}

    def load_state_dict(self, batch_index: int, state: dict[str, Tensor]) -> None:
        empty = self.recurrence.empty()
        checked(state, "state", "f", tuple(empty.shape))
        self._states[batch_index] = empty.copy_(state["state"])
