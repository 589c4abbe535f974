"""The model: one masked, block-causal transformer over steps with holes.

A past step is final, so it is encoded once, alone, by a few layers, and projected to keys and values for every layer
that fills (as the cache of Sun et al. 2024, "You Only Cache Once", is). A step with holes starts from the encodings of
the previous step and of a prompt, and attends to itself, both ways, to the past steps of its window, and to the steps
that a memory gives. Training computes exactly what sampling computes.

Shapes: B batch, T steps, N tokens of a step, P positions of a step, D width, H heads, L layers, W window.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from magrathea.interfaces import NUM_FEATURES, MemoryReadout, MemorySpec, Recurrence
from magrathea.layout import Layout, Slot
from magrathea.model.action_context import ActionContext
from magrathea.model.config import HEAD_WIDTH, ModelConfig
from magrathea.model.convolution import ConvBlock
from magrathea.model.kv_cache import NO_KV_CACHE, Conditioning, KeysValues, KVCache, SegmentKVCache, StepEncoding
from magrathea.model.layers import (
    Attention,
    Codecs,
    FeedForward,
    Linear,
    RotaryPositions,
    StepEmbedding,
    StepHead,
    apply_rotary,
    attend,
    module_name,
    norm,
)
from magrathea.model.loss import loss_at_holes
from magrathea.model.prompt import WorldPrompt
from magrathea.model.values import ValuesSlot

FEATURES_SCALE = 4.0  # a few numbers concern all of a step
NO_READOUT = MemoryReadout()


class Block(nn.Module):
    """One layer of the transformer."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.attention = Attention(config.width)
        self.feed_forward = FeedForward(config.width, config.mlp_ratio)

    def forward(self, x: Float[Tensor, "B T P D"], rotations: Tensor, kv_cache: KVCache) -> Float[Tensor, "B T P D"]:
        queries, keys, values = self.attention.project(x, rotations)
        steps = zip(queries.unbind(1), keys.unbind(1), values.unbind(1), strict=True)
        attended = []
        for step, (query, own_keys, own_values) in enumerate(steps):
            all_keys, all_values, visible = kv_cache.attend(self.index, step, own_keys, own_values)
            attended.append(attend(query, all_keys, all_values, visible))
        heads = attended[0].unsqueeze(1) if len(attended) == 1 else torch.stack(attended, dim=1)
        x = x + self.attention.merge_heads(heads)
        return x + self.feed_forward(x)


class TrunkOutput(NamedTuple):
    """Steps with holes after all layers: their positions (B, T, P, D), the cells that the slots with values began with,
    and the projection of the step's means."""

    positions: Tensor
    cells: Mapping[ValuesSlot, Tensor]
    context: Tensor | None


class MaskedTransformer(nn.Module):
    """Fills the holes of a step, given the steps before it.

    Args:
        layout: the slots of a step.
        config: sizes.
        memory: the kind of memory whose readouts the model is given.
        codecs: of the slots that have values, by name.

    Attributes:
        event_weights: in training, how much tokens of rewards and endings weigh, see `loss_at_holes`.
    """

    absent: Tensor

    def __init__(
        self,
        layout: Layout,
        config: ModelConfig,
        memory: type[MemorySpec],
        codecs: Codecs = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.layout, self.config, self.num_heads = layout, config, config.num_heads
        self.event_weights: Mapping[str, Tensor] = {}
        self.attends_to_window = config.attends_to_window
        self.values = nn.ModuleDict(
            {
                module_name(slot): ValuesSlot(slot, layout, codecs[slot.name], config.num_recent, config.width)
                for slot in layout.token_slots
                if slot.name in codecs
            }
        )
        self.embedding = StepEmbedding(layout, config.width, config.num_recent)
        self.cell_slots = tuple(slot for slot in layout.token_slots if slot.name in codecs and slot.is_grid)
        num_blocks = config.num_conv_blocks if self.cell_slots else 0
        self.conv_blocks = nn.ModuleList(ConvBlock(config.width, config.width) for _ in range(2 * num_blocks))
        self.context_proj = Linear(2 * config.width, config.width) if num_blocks else None
        self.prompt_embedding = nn.Parameter(torch.randn(config.width) * 0.5)
        self.world_prompt = WorldPrompt(config.prompt, config.width) if config.prompt else None
        self.positions = RotaryPositions(layout)
        self.memory_layers = nn.ModuleList(Block(config, index) for index in range(config.num_memory_layers))
        outputs = memory.outputs(layout)
        attends_to_past = config.attends_to_window or outputs.steps
        self.past_kv_proj = Linear(config.width, 2 * config.num_layers * config.width) if attends_to_past else None
        self.prev_step_proj = Linear(config.width, config.width, scale=0.0) if config.attends_to_window else None
        self.goal_proj = Linear(config.width, config.width, scale=0.0)
        self.memory_grids = tuple(slot for slot in layout.slots if slot.name in outputs.slots and slot.is_grid)
        self.memory_proj = Linear(config.width, config.width, scale=0.0) if self.memory_grids else None
        self.feature_proj = Linear(NUM_FEATURES, config.width, scale=0.0) if outputs.features else None
        self.memory_step_embedding = nn.Parameter(torch.randn(config.width) * 0.5) if outputs.steps else None
        self.recurrence: Recurrence | None = memory.recurrence(config, layout)  # a module, where there is one
        is_encoded = config.attends_to_window or self.recurrence is not None
        self.num_encoded = layout.num_positions if is_encoded else 0
        self.layers = nn.ModuleList(Block(config, index) for index in range(config.num_layers))
        widths = {part.slot.name: part.width for part in self._values_slots()}
        self.head = StepHead(layout, config.width, outputs, config.window, widths)
        sequences = [slot for slot in layout.token_slots if slot.is_sequence and slot.role != "action"]
        self.sequence_slots = tuple(sequences) if config.sequence_context else ()
        self.action_contexts = nn.ModuleList(ActionContext(config.width) for _ in 2 * self.sequence_slots)
        self.register_buffer("absent", layout.absent_tokens, persistent=False)
        role_of_position = [slot.role for slot in layout.token_slots for _ in range(slot.num_positions)]
        in_cells = [slot in self.cell_slots for slot in layout.token_slots for _ in range(slot.num_positions)]
        roles = list(zip(role_of_position, in_cells, strict=True))
        self.action_positions = [i for i, (role, _) in enumerate(roles) if role == "action"]
        self.other_positions = [i for i, (role, is_cell) in enumerate(roles) if role != "action" and not is_cell]
        self.compute_dtype = torch.float32

    @property
    def codecs(self) -> Codecs:
        """Of the slots that have values, by name."""
        return {part.slot.name: part.codec for part in self._values_slots()}

    @property
    def device(self) -> torch.device:
        return self.prompt_embedding.device

    # -- the past -----------------------------------------------------------------------------------------------------
    def encode(
        self, tokens: Int[Tensor, "B T N"], marker: Float[Tensor, " D"] | None = None
    ) -> Float[Tensor, "B T P D"]:
        """Encode known steps, each by itself. A marker is added to those that do not stand in the window."""
        x = self.embedding(tokens, {part.slot.name: part.past_positions(tokens) for part in self._values_slots()})
        x = (x if marker is None else x + marker).to(self.compute_dtype)
        rotations = self.positions(torch.zeros(1, 1, dtype=torch.long, device=tokens.device))
        for layer in self.memory_layers:
            x = layer(x, rotations, NO_KV_CACHE)
        return norm(x)

    def keys_values(self, encodings: Float[Tensor, "B T P D"], time: Int[Tensor, "B T"]) -> KeysValues:
        """Encodings at times -> keys and values for all layers, each (L, B, T, H, P, 48)."""
        assert self.past_kv_proj is not None
        heads = self.past_kv_proj(encodings)
        heads = heads.unflatten(-1, (self.config.num_layers, 2, self.num_heads, HEAD_WIDTH))
        keys, values = heads.permute(4, 3, 0, 1, 5, 2, 6).unbind(0)  # (L, B, T, H, P, 48)
        return apply_rotary(norm(keys), self.positions(time)), values

    def encode_past(self, tokens: Int[Tensor, "B T N"], time: Int[Tensor, "B T"]) -> StepEncoding:
        """Final steps at times, as later steps attend to them; no positions of those that only show their tokens."""
        shape, dtype = tokens.shape[:2], self.compute_dtype
        if self.num_encoded:
            encodings = self.encode(tokens)
        else:
            encodings = torch.zeros(*shape, 0, self.config.width, dtype=dtype, device=tokens.device)
        if self.attends_to_window:
            return StepEncoding(tokens, encodings, *self.keys_values(encodings, time))
        none = encodings.new_zeros(self.config.num_layers, *shape, self.num_heads, 0, HEAD_WIDTH)
        return StepEncoding(tokens, encodings, none, none)

    def condition(
        self, readout: MemoryReadout, time: Int[Tensor, "B T"], prompt: Int[Tensor, "B N"] | None = None
    ) -> Conditioning:
        """The conditioning of steps at these times: the readout (B, T, ...) of a memory, and a prompt, which is a step
        to act toward."""
        encoded = None if prompt is None else self.encode(prompt[:, None], self.prompt_embedding)
        return Conditioning(readout, self._memory_steps(readout.steps, time), encoded)

    def _memory_steps(self, tokens: Int[Tensor, "B T K N"] | None, time: Int[Tensor, "B T"]) -> KeysValues | None:
        """Keys and values (L, B, T, H, K * P, 48) of the steps that a memory gives; they are placed before the window,
        the most relevant last."""
        if tokens is None or self.memory_step_embedding is None:
            return None
        ranks = torch.arange(tokens.shape[2], device=time.device)
        when = (time - self.config.window - 1)[..., None] - ranks
        encodings = self.encode(tokens.flatten(1, 2), self.memory_step_embedding)
        keys, values = (
            part.unflatten(2, when.shape[1:]).transpose(3, 4).flatten(4, 5)
            for part in self.keys_values(encodings, when.flatten(1))
        )
        return keys, values

    def segment_cache(
        self,
        tokens: Int[Tensor, "B T N"],
        first: int,
        prompt: Int[Tensor, "B N"] | None = None,
        readout: MemoryReadout = NO_READOUT,
        earlier: Int[Tensor, "B S N"] | None = None,
    ) -> SegmentKVCache:
        """The past of the steps from `first` on of segments at times 0, 1, …

        Args:
            tokens: the segments' steps.
            first: index of the first step that is filled.
            prompt: a step to act toward.
            readout: (B, T - first, ...) of a memory.
            earlier: the S steps before the segments, which a recurrence reads; absent tokens where there are none.
        """
        time = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[:2])
        past = self.encode_past(tokens, time)
        if self.recurrence is not None:
            before = tokens if earlier is None else torch.cat([earlier, tokens], dim=1)
            encoded = past.encodings if earlier is None else torch.cat([self.encode(earlier), past.encodings], dim=1)
            states = self.recurrence.states(encoded, (before != self.absent).any(-1))
            readout = replace(readout, state=states[:, first - tokens.shape[1] :])
        return SegmentKVCache(past, self.config.window, first, self.condition(readout, time[:, first:], prompt))

    # -- steps with holes ---------------------------------------------------------------------------------------------
    def trunk(
        self,
        tokens: Int[Tensor, "B T N"],
        hole_mask: Bool[Tensor, "B T N"],
        time: Int[Tensor, "B T"],
        kv_cache: KVCache,
    ) -> TrunkOutput:
        """Steps with holes at times, after all layers."""
        num_recent = self.config.num_recent
        recent = kv_cache.recent_tokens(tokens.shape[1], num_recent) if num_recent else None
        cells = {}
        if recent is not None:
            cells = {part: part.cells(tokens, hole_mask, recent, self.compute_dtype) for part in self._values_slots()}
        positions = {part.slot.name: part.positions(own) for part, own in cells.items()}
        x = self.embedding(tokens, positions, hole_mask, recent).to(self.compute_dtype)
        if self.prev_step_proj is not None:
            x = x + self.prev_step_proj(kv_cache.prev_encodings(tokens.shape[1]))
        x = self._add_conditioning(x, kv_cache)
        num_sequences = len(self.sequence_slots)
        x = self._add_action(x, self.action_contexts[:num_sequences])
        half, context = len(self.conv_blocks) // 2, self._context(x)
        x = self._convolve(x, self.conv_blocks[:half], context)
        rotations = self.positions(time)
        state = kv_cache.conditioning.readout.state
        for index, layer in enumerate(self.layers):
            x = layer(x, rotations, kv_cache)
            if index == 0 and self.recurrence is not None and state is not None:
                x = x + self.recurrence.read(state, x)  # after one layer all positions know the action
        x = self._convolve(x, self.conv_blocks[half:], self._context(x))
        x = self._add_action(x, self.action_contexts[num_sequences:])
        return TrunkOutput(x, cells, context)

    def features(
        self, trunk: TrunkOutput, sources: Mapping[str, Sequence[Tensor]], names: Collection[str]
    ) -> dict[str, Tensor]:
        """For the names of slots (B, T, its tokens, E), what its tokens are predicted from."""
        outputs = {
            part.slot.name: part.outputs(trunk.positions[:, :, self._positions_of(part.slot)], own, trunk.context)
            for part, own in trunk.cells.items()
            if part.slot.name in names
        }
        return self.head.features(trunk.positions, outputs, sources, names)

    @torch.no_grad()
    def state_features(self, trunk: Float[Tensor, "*n P D"], tokens: Int[Tensor, "*n N"]) -> Float[Tensor, "*n S F"]:
        """Final steps as an agent sees them: at the S positions of the observation the trunk's output of when they were
        predicted, and their encodings, F = 2 * D."""
        slots = self.layout.of_role("observation")
        where = slice(self._positions_of(slots[0]).start, self._positions_of(slots[-1]).stop)
        encodings = self.encode(tokens.flatten(0, -2)[:, None]).unflatten(0, tokens.shape[:-1]).squeeze(-3)
        return torch.cat([norm(trunk[..., where, :]), encodings[..., where, :]], dim=-1).float()

    def _values_slots(self) -> Iterable[ValuesSlot]:
        return self.values.values()  # type: ignore[return-value]

    def _context(self, x: Float[Tensor, "B T P D"]) -> Float[Tensor, "n D"] | None:
        """For each of the n = B * T steps a projection of the means of the action's and of all other positions, for the
        convolutions over the cells of pictures."""
        if self.context_proj is None:
            return None
        means = [norm(x[:, :, where].mean(2)) for where in (self.action_positions, self.other_positions)]
        return self.context_proj(torch.cat(means, dim=-1)).flatten(0, 1)

    def _add_action(self, x: Float[Tensor, "B T P D"], contexts: Iterable[nn.Module]) -> Float[Tensor, "B T P D"]:
        """Add what the action says to all positions of each text."""
        for slot, context in zip(self.sequence_slots, contexts, strict=True):
            added = context(x[:, :, self.action_positions])
            x = x + self._at_slot(slot, added.expand(-1, -1, slot.num_positions, -1))
        return x

    def _convolve(
        self, x: Float[Tensor, "B T P D"], blocks: Iterable[nn.Module], context: Tensor | None
    ) -> Float[Tensor, "B T P D"]:
        """Residual blocks over the positions of pictures that have values."""
        parts, end = [], 0
        for slot in self.cell_slots:
            where = self._positions_of(slot)
            cells = x[:, :, where].flatten(0, 1).transpose(1, 2).unflatten(2, slot.position_grid)
            for block in blocks:
                cells = block(cells, context)
            parts += [x[:, :, end : where.start], cells.flatten(2).transpose(1, 2).unflatten(0, x.shape[:2])]
            end = where.stop
        return torch.cat([*parts, x[:, :, end:]], dim=2)

    def _positions_of(self, slot: Slot) -> slice:
        start = self.layout.first_position(slot)
        return slice(start, start + slot.num_positions)

    @torch.no_grad()
    def with_values(self, tokens: Int[Tensor, "*n N"], previous: Int[Tensor, "*n N"]) -> Int[Tensor, "*n N"]:
        """Steps whose values are what their tokens make of those of the step before each."""
        tokens = tokens.clone()
        for part in self._values_slots():
            own, values = part.tokens_span, part.values_span
            tokens[..., values] = part.codec.decode(tokens[..., own], previous[..., values])
        return tokens

    def _add_conditioning(self, x: Float[Tensor, "B T P D"], kv_cache: KVCache) -> Float[Tensor, "B T P D"]:
        readout, prompt = kv_cache.conditioning.readout, kv_cache.conditioning.prompt
        if prompt is not None:
            x = x + self.goal_proj(prompt)
        if self.world_prompt is not None:
            x = x + self.world_prompt().to(x.dtype)
        if self.memory_proj is not None:
            for slot in self.memory_grids:
                if slot.name in readout.predicted_tokens:
                    predicted = self.embedding.embed_slot(slot, readout.predicted_tokens[slot.name]).to(x.dtype)
                    x = x + self._at_slot(slot, self.memory_proj(norm(predicted)))
        if self.feature_proj is not None and readout.features is not None:
            x = x + self.feature_proj(FEATURES_SCALE * readout.features.to(x.dtype)).unsqueeze(-2)
        return x

    def _at_slot(self, slot: Slot, positions: Tensor) -> Float[Tensor, "B T P D"]:
        """(B, T, positions of the slot, D) with zeros at the step's other positions."""
        start = self.layout.first_position(slot)
        return F.pad(positions, (0, 0, start, self.layout.num_positions - start - slot.num_positions))

    def predict(
        self,
        tokens: Int[Tensor, "B T N"],
        hole_mask: Bool[Tensor, "B T N"],
        time: Int[Tensor, "B T"],
        kv_cache: KVCache,
    ) -> dict[str, Tensor]:
        """Steps with holes at times -> what `logits` gives at their holes."""
        return self.logits(self.trunk(tokens, hole_mask, time, kv_cache), kv_cache, hole_mask)

    def logits(self, trunk: TrunkOutput, kv_cache: KVCache, holes: Bool[Tensor, "B T N"]) -> dict[str, Tensor]:
        """For the name of each slot that has a hole logits (B, T, its tokens, its vocabulary)."""
        previous = self._previous(kv_cache, trunk.positions.shape[1])
        sources = self.head.copy_sources(previous, kv_cache.conditioning.readout)
        slots = self.layout.token_slots
        names = {slot.name for slot in slots if holes[..., self.layout.span(slot.name)].any()}
        features = self.features(trunk, sources, names)
        logits = self.head(features, sources, self._recent(kv_cache, trunk.positions.shape[1]))
        for part in self._values_slots():
            if part.slot.name in names:
                logits[part.slot.name] = part.of_values(logits[part.slot.name], previous)
        return logits

    def _recent(self, kv_cache: KVCache, num_steps: int) -> Int[Tensor, "B T R N"] | None:
        """The steps of the window before each of those that are filled, where their sequences may be copied."""
        return kv_cache.recent_tokens(num_steps, self.config.window) if self.head.pointers else None

    def _previous(self, kv_cache: KVCache, num_steps: int) -> Int[Tensor, "B T N"]:
        """The step before each of those that are filled; absent tokens where there is none."""
        previous = kv_cache.recent_tokens(num_steps, 1)[..., 0, :]
        return torch.where(previous < 0, self.absent, previous)

    # -- training -----------------------------------------------------------------------------------------------------
    def forward(
        self,
        past_tokens: Int[Tensor, "B T N"],
        tokens: Int[Tensor, "B F N"],
        hole_mask: Bool[Tensor, "B F N"],
        prompt: Int[Tensor, "B N"] | None = None,
        first: int = 0,
        readout: MemoryReadout = NO_READOUT,
        earlier: Int[Tensor, "B S N"] | None = None,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The training loss of a batch of segments: cross-entropy at the holes, summed, and the sum of their weights.

        Args:
            past_tokens: what the model is shown of the past.
            tokens: the F = T - first true steps.
            hole_mask: True = hole; holes whose token is absent have no loss.
            prompt, first, readout, earlier: as of `segment_cache`.
        """
        kv_cache = self.segment_cache(past_tokens, first, prompt, readout, earlier)
        time = torch.arange(first, past_tokens.shape[1], device=tokens.device).expand(tokens.shape[:2])
        before = self._previous(kv_cache, tokens.shape[1])
        sources = self.head.copy_sources(before, kv_cache.conditioning.readout)
        names = [slot.name for slot in self.layout.token_slots]
        features = self.features(self.trunk(tokens, hole_mask, time, kv_cache), sources, names)
        copies = self.head.copies(features, self._recent(kv_cache, tokens.shape[1]))
        previous = F.pad(past_tokens, (0, 0, 1, -1))[:, first:]
        values = {part.slot.name: part for part in self._values_slots()}
        return loss_at_holes(
            self.head, values, features, sources, copies, tokens, hole_mask, previous, self.event_weights
        )
