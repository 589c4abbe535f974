"""The layers that the transformer is made of: attention and feed-forward, the embedding of a step, and its output head.

N tokens of a step, P positions of a step, D width, H heads, 48 width of a head, E width of one token among those that
share a position, V vocabulary of a slot, C cells of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from magrathea.interfaces import MemoryOutputs, MemoryReadout
from magrathea.layout import Codec, Layout, Slot, group_tokens, ungroup_tokens
from magrathea.model.config import HEAD_WIDTH
from magrathea.model.pointer import Copies, PointerCopy

Codecs = Mapping[str, Codec]  # of the slots that have values, by name

KEEP_BIAS = 3.0  # log odds
POSITION_SCALE = 0.5  # of the vectors of positions, at first
VALUES_POSITION_SCALE = 0.05  # beside decoded values, which are small: convolutions must see them first
TIME_PERIOD = 64  # steps after which a rotary time repeats, exactly: a world can run for ever
# Pairs of numbers rotate; a third of them for each axis. Each axis keeps two pairs that do not, so that a head can also
# attend by content, wherever and whenever it is.
_TIME_FREQUENCIES = (0, 0, 1, 3, 6, 11, 19, 29)  # whole turns in TIME_PERIOD steps
_SPACE_ANGLES = (0.0, 0.0, 2.2, 1.4, 0.9, 0.5, 0.25, 0.12)  # radians for each row or column


# -- attention and feed-forward ---------------------------------------------------------------------------------------
class RotaryPositions(nn.Module):
    """Rotations for the queries and keys of a step's positions (Su et al. 2021), over the axes time, row and column."""

    time_rotations: Tensor
    space_rotations: Tensor

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        turns = torch.arange(TIME_PERIOD, dtype=torch.float64)[:, None] * torch.tensor(_TIME_FREQUENCIES)
        angles = torch.tensor(_SPACE_ANGLES, dtype=torch.float64)
        rows, columns = (coordinate[:, None] * angles for coordinate in _coordinates(layout).unbind(-1))
        self.register_buffer("time_rotations", _cos_sin(turns * (2 * math.pi / TIME_PERIOD)), persistent=False)
        self.register_buffer("space_rotations", _cos_sin(torch.cat([rows, columns], dim=-1)), persistent=False)

    def forward(self, time: Int[Tensor, "*steps"]) -> Float[Tensor, "2 *steps 1 P half"]:
        """Whole steps -> cosines and sines, for `apply_rotary`."""
        when = self.time_rotations[:, time % TIME_PERIOD].unsqueeze(-2)  # (2, ..., 1, 8)
        num_positions, num_pairs = self.space_rotations.shape[1:]
        where = self.space_rotations.view(2, *[1] * time.ndim, num_positions, num_pairs)
        shape = (2, *time.shape, num_positions)
        return torch.cat([when.expand(*shape, -1), where.expand(*shape, -1)], dim=-1).unsqueeze(-3)


def _cos_sin(angles: Tensor) -> Tensor:
    """(...) -> (2, ...) float32"""
    return torch.stack([angles.cos(), angles.sin()]).float()


def _coordinates(layout: Layout) -> Tensor:
    """(P, 2) row and column of every position; (0, 0) for a slot of one token."""
    places = [
        torch.cartesian_prod(torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64))
        for rows, columns in (slot.position_grid for slot in layout.token_slots)
    ]
    return torch.cat([place.reshape(-1, 2) for place in places])


def apply_rotary(x: Float[Tensor, "*n 48"], rotations: Float[Tensor, "2 *m 24"]) -> Float[Tensor, "*n 48"]:
    """Rotate queries or keys (..., H, P, 48), number i with number i + 24, by rotations (2, ..., 1, P, 24)."""
    cos, sin = rotations.to(x.dtype)
    left, right = x.chunk(2, dim=-1)
    return torch.cat([torch.addcmul(left * cos, right, sin, value=-1), torch.addcmul(left * sin, right, cos)], dim=-1)


def norm(x: Tensor) -> Tensor:
    """Layer norm without weights; the linear layer that follows has them. (Several times faster to learn through
    than the root-mean-square norm, which PyTorch does not fuse on CPUs.)"""
    return F.layer_norm(x, (x.shape[-1],))


class Linear(nn.Linear):
    """A linear layer without bias that computes in the type of its input, whatever its weights are kept in."""

    def __init__(self, num_in: int, num_out: int, scale: float = 1.0) -> None:
        super().__init__(num_in, num_out, bias=False)
        nn.init.normal_(self.weight, std=scale * num_in**-0.5)
        self._converted: tuple[tuple[int, int], Tensor] | None = None

    def forward(self, input: Float[Tensor, "*n I"]) -> Float[Tensor, "*n O"]:
        rows = input.flatten(0, -2)  # as one matrix, or PyTorch multiplies frozen weights in another order
        return F.linear(rows, self._weight_as(input.dtype)).view(*input.shape[:-1], self.out_features)

    def train(self, mode: bool = True) -> Linear:
        """Begin or end training; a fused optimizer changes weights without a trace, so nothing converted is kept."""
        self._converted = None
        super().train(mode)
        return self

    def _weight_as(self, dtype: torch.dtype) -> Float[Tensor, "O I"]:
        """The weight in a type; outside of training it is converted once, and again when it has changed."""
        weight = self.weight
        if weight.dtype == dtype or self.training or torch.is_grad_enabled() or weight.is_inference():
            return weight.to(dtype)
        state = weight.data_ptr(), weight._version
        if self._converted is None or self._converted[0] != state or self._converted[1].dtype != dtype:
            self._converted = state, weight.to(dtype)
        return self._converted[1]


class Attention(nn.Module):
    """The projections of attention among a step's positions and to past keys and values."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = width // HEAD_WIDTH
        self.logit_scale = nn.Parameter(torch.full((self.num_heads, 1, 1), 1.0))
        self.queries_keys_values = Linear(width, 3 * width)
        self.out = Linear(width, width, scale=0.2)

    def project(self, x: Float[Tensor, "*n P D"], rotations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Positions -> queries, keys and values, each (..., H, P, 48)."""
        heads = self.queries_keys_values(norm(x)).unflatten(-1, (3, self.num_heads, HEAD_WIDTH))
        heads = heads.movedim(-3, 0).transpose(-2, -3)  # (3, ..., H, P, 48)
        queries, keys = apply_rotary(norm(heads[:2]), rotations.unsqueeze(1))
        return queries * self.logit_scale.to(x.dtype), keys, heads[2]

    def merge_heads(self, attended: Float[Tensor, "*n H P 48"]) -> Float[Tensor, "*n P D"]:
        """What the heads attended to -> positions."""
        return self.out(attended.transpose(-2, -3).flatten(-2))


def attend(
    queries: Float[Tensor, "B H P 48"],
    keys: Float[Tensor, "B H K 48"],
    values: Float[Tensor, "B H K 48"],
    visible: Bool[Tensor, "B 1 1 K"] | None,
) -> Float[Tensor, "B H P 48"]:
    """Attention. On CPUs PyTorch's own takes half the time of two matrix products in bfloat16, but its gradient twice
    as long as theirs."""
    if queries.dtype != torch.bfloat16 or queries.device.type != "cpu" or not queries.requires_grad:
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=visible)
    scores = queries @ (keys * HEAD_WIDTH**-0.5).transpose(-2, -1)
    scores = scores if visible is None else scores.masked_fill(~visible, -math.inf)
    return scores.softmax(-1) @ values


class FeedForward(nn.Module):
    """Two linear layers with a squared rectifier between them (So et al. 2021)."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.up = Linear(width, ratio * width)
        self.down = Linear(ratio * width, width, scale=0.2)

    def forward(self, x: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
        return self.down(self.up(norm(x)).relu_().square())


# -- tokens to positions ----------------------------------------------------------------------------------------------
class StepEmbedding(nn.Module):
    """Tokens with holes -> positions. The tokens of a group are embedded side by side in one position. The positions of
    slots that have values are given."""

    position_rows: Tensor | None

    def __init__(self, layout: Layout, width: int, num_recent: int) -> None:
        super().__init__()
        self.layout = layout
        self.tokens = nn.ModuleList()
        self.merge = nn.ModuleList()
        self.recent_proj = nn.ModuleDict()
        for slot in layout.token_slots:
            if slot.name in layout.values_slots:
                self.tokens.append(nn.Identity())
                self.merge.append(nn.Identity())
                continue
            table = nn.Embedding(slot.vocab_size + 2, token_width(slot, width))  # tokens, absent, hole
            nn.init.normal_(table.weight, std=0.5)
            self.tokens.append(table)
            self.merge.append(Linear(width, width) if slot.tokens_per_position > 1 else nn.Identity())
            if num_recent:
                self.recent_proj[module_name(slot)] = Linear(num_recent * width, width)
        scale = VALUES_POSITION_SCALE if layout.values_slots else POSITION_SCALE
        self.position = nn.Parameter(torch.randn(layout.num_positions, width) * scale)
        self.register_buffer("position_rows", None, persistent=False)

    def share_position(self, table: nn.Parameter, rows: Int[Tensor, " P"]) -> None:
        """Read the vectors of positions from these rows of a table that other layouts read too."""
        self.position, self.position_rows = table, rows

    def forward(
        self,
        tokens: Int[Tensor, "*n N"],
        positions: Mapping[str, Tensor],
        hole_mask: Bool[Tensor, "*n N"] | None = None,
        recent: Int[Tensor, "*n R N"] | None = None,
    ) -> Float[Tensor, "*n P D"]:
        """Past steps -> their positions; or steps with holes (True in hole_mask), given the steps before, the newest
        first.

        positions: for each slot that has values.
        """
        parts = []
        for slot in self.layout.token_slots:
            span = self.layout.span(slot.name)
            known = tokens[..., span]
            if slot.name in positions:
                parts.append(positions[slot.name])
                continue
            if hole_mask is not None:
                known = known.masked_fill(hole_mask[..., span], slot.vocab_size + 1)
            x = self.embed_slot(slot, known)
            if recent is not None:
                before = self.embed_slot(slot, _or_absent(recent[..., span], slot)).transpose(-2, -3).flatten(-2)
                x = x + self.recent_proj[module_name(slot)](before)
            parts.append(x)
        rows = self.position_rows
        return torch.cat(parts, dim=-2) + (self.position if rows is None else self.position[rows])

    def embed_slot(self, slot: Slot, tokens: Int[Tensor, "*n C"]) -> Float[Tensor, "*n Q D"]:
        """The tokens of one slot -> its positions, without the positions' own vectors."""
        index = self.layout.token_slots.index(slot)
        return self.merge[index](self.tokens[index](group_tokens(tokens, slot)).flatten(-2))


def module_name(slot: Slot) -> str:
    """PyTorch allows no dots in names of modules and parameters."""
    return slot.name.replace(".", "_")


def _or_absent(tokens: Tensor, slot: Slot) -> Tensor:
    return torch.where(tokens < 0, slot.absent, tokens)


def token_width(slot: Slot, width: int) -> int:
    """E: how many of a position's D numbers each of its tokens has."""
    return width // slot.tokens_per_position


# -- positions to logits ----------------------------------------------------------------------------------------------
class StepHead(nn.Module):
    """Positions -> logits of slots' tokens.

    Most observation tokens are those of the same place in the previous step, or those that the memory predicts: the
    copy sources. For each source a token has a copy bias, added to the logit of the source's token, and a copy gate,
    E numbers that multiply the source token's vector, which is added to the features: a red door that opens stays red.
    What moves from one place of a picture to another is copied by `PrevFrameAttention`, what moves from one place of a
    sequence to another, in any step of the window, by `PointerCopy`.
    """

    def __init__(
        self,
        layout: Layout,
        width: int,
        memory: MemoryOutputs,
        window: int,
        values_widths: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.layout, self.memory_slots = layout, memory.slots
        self.slots, self.coded = layout.token_slots, frozenset(layout.values_slots)
        self.split = nn.ModuleList(
            Linear(width, width) if slot.tokens_per_position > 1 and slot.name not in self.coded else nn.Identity()
            for slot in self.slots
        )
        self.out = nn.ModuleList(
            Linear(values_widths.get(slot.name, token_width(slot, width)), slot.vocab_size, scale=0.1)
            for slot in self.slots
        )
        self.out_bias = nn.ParameterDict(
            {module_name(slot): _keep_bias(slot) for slot in self.slots if slot.name in self.coded}
        )

        def for_slots(has: Callable[[Slot], bool], make: Callable[[Slot, int], nn.Module]) -> nn.ModuleList:
            """For each slot a module of the slot and E, where it has one."""
            made = (make(slot, token_width(slot, width)) if has(slot) else nn.Identity() for slot in self.slots)
            return nn.ModuleList(made)

        sources, copied = self._num_sources, self._is_copied
        self.copy_bias = for_slots(copied, lambda slot, size: Linear(size, sources(slot), scale=0.0))
        self.copy_vectors = for_slots(copied, lambda slot, size: nn.Embedding(slot.vocab_size + 1, size))
        self.copy_gate = for_slots(copied, lambda slot, size: Linear(size, sources(slot) * size, scale=0.0))
        self.prev_frame_attention = for_slots(self._is_picture, PrevFrameAttention)
        self.pointers = nn.ModuleDict(
            {
                str(index): PointerCopy(slot, window, token_width(slot, width))
                for index, slot in enumerate(self.slots)
                if self._is_copied(slot) and slot.is_sequence
            }
        )

    def _is_copied(self, slot: Slot) -> bool:
        """Whether a slot's tokens mean the same in every step, so that they can be copied from the one before."""
        return slot.role == "observation" and slot.name not in self.coded

    def _is_picture(self, slot: Slot) -> bool:
        return self._is_copied(slot) and slot.is_grid and not slot.is_sequence

    def _num_sources(self, slot: Slot) -> int:
        return 1 + (slot.name in self.memory_slots)

    def copy_sources(self, previous: Int[Tensor, "*n N"], readout: MemoryReadout) -> dict[str, list[Tensor]]:
        """For each slot's name the tokens (..., its tokens) that may be copied: of the previous step, and predicted
        ones."""
        sources = {
            slot.name: [previous[..., self.layout.span(slot.name)]] if self._is_copied(slot) else []
            for slot in self.slots
        }
        for name in self.memory_slots & readout.predicted_tokens.keys():
            sources[name].append(readout.predicted_tokens[name])
        return sources

    def features(
        self,
        x: Float[Tensor, "*n P D"],
        given: Mapping[str, Tensor],
        sources: Mapping[str, Sequence[Tensor]],
        names: Collection[str],
    ) -> dict[str, Tensor]:
        """For the names of slots (..., its tokens, E), ready for its output table.

        Args:
            x: the positions.
            given: for slots that have values, what they are.
            sources: for each slot its copy sources.
            names: of the slots that are wanted.
        """
        x, start, features = norm(x), 0, {}
        for slot, split, attention, vectors in zip(
            self.slots, self.split, self.prev_frame_attention, self.copy_vectors, strict=True
        ):
            place = x[..., start : start + slot.num_positions, :]
            start += slot.num_positions
            if slot.name not in names:
                continue
            if slot.name in given:
                features[slot.name] = given[slot.name]
                continue
            feature = ungroup_tokens(split(place).unflatten(-1, (slot.tokens_per_position, -1)), slot)
            if self._is_picture(slot):
                feature = feature + attention(feature, vectors(sources[slot.name][0]).to(feature.dtype))
            features[slot.name] = feature
        return features

    def copies(self, features: Mapping[str, Tensor], recent: Tensor | None) -> dict[str, Copies]:
        """For the names of sequences what may be copied from the steps before (*n, R, N), the newest first."""
        found = {}
        for index, pointer in self.pointers.items():
            name = self.slots[int(index)].name
            if name in features:
                assert recent is not None
                found[name] = pointer(features[name], recent[..., self.layout.span(name)])
        return found

    def logits(
        self, index: int, features: Float[Tensor, "*n E"], sources: Sequence[Tensor], copies: Copies | None = None
    ) -> Float[Tensor, "*n V"]:
        """Features of tokens of the slot of this index, and the tokens (...) that may be copied -> logits."""
        logits = self._own_logits(index, features, sources)
        return logits if copies is None else copies.mix(logits)

    def _own_logits(self, index: int, features: Tensor, sources: Sequence[Tensor]) -> Tensor:
        if not sources:
            name = module_name(self.slots[index])
            logits = self.out[index](features)
            return logits + self.out_bias[name].to(logits.dtype) if name in self.out_bias else logits
        tokens = torch.stack(list(sources), dim=-1)
        bias = self.copy_bias[index](features)[..., : len(sources)]
        gates = self.copy_gate[index](features).unflatten(-1, (-1, features.shape[-1]))[..., : len(sources), :]
        vectors = self.copy_vectors[index](tokens).to(features.dtype)
        logits = self.out[index](features + (gates * vectors).sum(dim=-2))
        present = tokens < logits.shape[-1]
        return logits.scatter_add_(-1, tokens.clamp(max=logits.shape[-1] - 1), (bias * present).to(logits.dtype))

    def forward(
        self, features: Mapping[str, Tensor], sources: Mapping[str, Sequence[Tensor]], recent: Tensor | None = None
    ) -> dict[str, Tensor]:
        """For the names of slots their features (..., its tokens, E) and copy sources, and the steps before (*n, R, N)
        where there are sequences -> for the same names the logits (..., its tokens, V)."""
        copies = self.copies(features, recent)
        return {
            slot.name: self.logits(index, features[slot.name], sources[slot.name], copies.get(slot.name))
            for index, slot in enumerate(self.slots)
            if slot.name in features
        }


def _keep_bias(slot: Slot) -> nn.Parameter:
    """At first the token that keeps what was there is the likeliest."""
    bias = torch.zeros(slot.vocab_size)
    bias[0] = KEEP_BIAS
    return nn.Parameter(bias)


class PrevFrameAttention(nn.Module):
    """What a cell of a picture takes over from another cell of the previous picture: attention to the vectors of its
    tokens (Vaswani et al. 2017), and a gate for each of their E numbers, all closed at first."""

    def __init__(self, slot: Slot, token_width: int) -> None:
        super().__init__()
        self.queries, self.keys = (Linear(token_width, token_width) for _ in range(2))
        self.query_position, self.key_position = (
            nn.Parameter(torch.randn(slot.num_tokens, token_width) * 0.5) for _ in range(2)
        )
        self.copy_gate = Linear(token_width, token_width, scale=0.0)

    def forward(self, features: Float[Tensor, "*n C E"], vectors: Float[Tensor, "*n C E"]) -> Float[Tensor, "*n C E"]:
        """Features of cells, and the vectors of what they showed before -> what is added to the features."""
        queries = self.queries(features) + self.query_position.to(features.dtype)
        keys = self.keys(vectors) + self.key_position.to(features.dtype)
        return self.copy_gate(features) * F.scaled_dot_product_attention(queries, keys, vectors)
