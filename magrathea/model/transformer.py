"""The model: one masked, block-causal transformer over steps with holes.

A past step is final, so it is encoded once, alone, by a few layers, and turned into keys and values for every layer
that fills (as the cache of Sun et al. 2024, "You Only Cache Once", is). A step with holes starts from the encoding of
the step before it, and of a prompt, and attends to itself, both ways, to the past steps of its window, and to what a
memory reads. Training sees just what sampling sees.

Shapes: B batch, T steps, N tokens of a step, P positions of a step, D width, H heads, L layers, W window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magrathea.layout import Layout, Slot
from magrathea.memory import NUM_FEATURES, MemoryReadout, Recurrence, memory_spec
from magrathea.model.config import HEAD_WIDTH, ModelConfig
from magrathea.model.embedding import StepEmbedding, StepHead, principal_components
from magrathea.model.kv_cache import NO_KV_CACHE, KVCache, SegmentKVCache
from magrathea.model.layers import Attention, FeedForward, Linear, RotaryPositions, apply_rotary, norm

FEATURES_SCALE = 4.0  # a few numbers have much to say to all of a step


class Block(nn.Module):
    """One layer of the transformer, over (B, T, P, D)."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.attention = Attention(config.width)
        self.feed_forward = FeedForward(config.width, config.mlp_ratio)

    def forward(self, x: Tensor, turns: Tensor, past: KVCache) -> Tensor:
        queries, keys, values = self.attention.project(x, turns)
        steps = zip(queries.unbind(1), keys.unbind(1), values.unbind(1), strict=True)
        attended = []
        for step, (query, own_keys, own_values) in enumerate(steps):
            all_keys, all_values, seen = past.join(self.index, step, own_keys, own_values)
            attended.append(F.scaled_dot_product_attention(query, all_keys, all_values, attn_mask=seen))
        x = x + self.attention.gather(attended[0].unsqueeze(1) if len(attended) == 1 else torch.stack(attended, dim=1))
        return x + self.feed_forward(x)


class MaskedTransformer(nn.Module):
    """Fills the holes of a step, given the steps before it."""

    absent: Tensor

    def __init__(self, layout: Layout, config: ModelConfig) -> None:
        super().__init__()
        self.layout, self.config = layout, config
        self.embedding = StepEmbedding(layout, config.width)
        self.prompt_embedding = nn.Parameter(torch.randn(config.width) * 0.5)
        self.positions = RotaryPositions(layout)
        self.memory_layers = nn.ModuleList(Block(config, index) for index in range(config.num_memory_layers))
        self.past_kv_proj = Linear(config.width, 2 * config.num_layers * config.width)
        self.prev_step_proj = Linear(config.width, config.width, scale=0.0)  # learns to begin as a copy
        self.goal_proj = Linear(config.width, config.width, scale=0.0)
        memory = memory_spec(config.memory)
        self.memory_proj = Linear(config.width, config.width, scale=0.0) if "picture" in memory.recalls else None
        self.feature_proj = Linear(NUM_FEATURES, config.width, scale=0.0) if "features" in memory.recalls else None
        recalls_steps = "steps" in memory.recalls
        self.memory_step_embedding = nn.Parameter(torch.randn(config.width) * 0.5) if recalls_steps else None
        self.recurrence: Recurrence | None = memory.recurrence(config, layout)  # a module, where there is one
        self.layers = nn.ModuleList(Block(config, index) for index in range(config.num_layers))
        self.head = StepHead(layout, config.width, memory.recalls)
        absent = torch.cat([torch.full((slot.num_tokens,), slot.absent) for slot in layout.slots])
        self.register_buffer("absent", absent, persistent=False)
        self.compute_dtype = torch.float32

    @torch.no_grad()
    def init_from_features(self, slot: Slot, token_features: Tensor) -> None:
        """Before training: numbers (V, F) that are close for tokens of a slot that look alike are half of what the
        tokens' vectors begin with, so that what is learned of one holds for those that look like it."""
        index = self.layout.slots.index(slot)
        for part in (self.embedding.tokens, self.head.copy_vectors, self.head.out):
            table = part[index].get_parameter("weight")[: slot.vocab_size]
            alike = principal_components(token_features, table.shape[1])
            table.copy_((table + alike * (table.std() / alike.std().clamp(min=1e-6))) * 0.5**0.5)

    @property
    def device(self) -> torch.device:
        return self.prompt_embedding.device

    def encode(self, tokens: Tensor, mark: Tensor | None = None) -> Tensor:
        """Known steps, each by itself: tokens (B, T, N) -> encodings (B, T, P, D). A mark (D,) is added to those that
        do not stand in the window."""
        x = self.embedding(tokens)
        x = (x if mark is None else x + mark).to(self.compute_dtype)
        turns = self.positions(torch.zeros(1, 1, dtype=torch.long, device=tokens.device))
        for layer in self.memory_layers:
            x = layer(x, turns, NO_KV_CACHE)
        return norm(x)

    def keys_values(self, encodings: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Encodings (B, T, P, D) at times (B, T) -> keys and values for all layers, each (L, B, T, H, P, 48)."""
        heads = self.past_kv_proj(encodings)
        heads = heads.unflatten(-1, (self.config.num_layers, 2, self.config.num_heads, HEAD_WIDTH))
        keys, values = heads.permute(4, 3, 0, 1, 5, 2, 6).unbind(0)  # (L, B, T, H, P, 48)
        return apply_rotary(norm(keys), self.positions(time)), values

    def remember(self, tokens: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Final steps (B, T, N) at times (B, T) -> their encodings (B, T, P, D), and their keys and values for every
        layer (L, B, T, H, P, 48)."""
        encodings = self.encode(tokens)
        return encodings, *self.keys_values(encodings, time)

    def prompt(self, tokens: Tensor) -> Tensor:
        """A prompt (B, N), which is a step that has not happened -> its encodings (B, 1, P, D)."""
        return self.encode(tokens[:, None], self.prompt_embedding)

    def recalled_steps(self, tokens: Tensor | None, time: Tensor) -> tuple[Tensor, Tensor] | None:
        """What steps at times (B, T) may attend to beside the window: steps (B, T, K, N) that a memory recalls stand
        before it, the one that matters most last. Keys and values (L, B, T, H, K * P, 48), or None without such."""
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

    def segment(
        self,
        tokens: Tensor,
        first: int,
        prompt: Tensor | None = None,
        recalled: MemoryReadout = MemoryReadout(),  # noqa: B008 (it never changes)
        earlier: Tensor | None = None,
    ) -> SegmentKVCache:
        """The past of the steps first… of segments (B, T, N), at times 0…, by a prompt (B, N), what is recalled
        (B, T - first, ...), and the steps (B, E, N) before the segments, which a recurrence carries; absent tokens
        where there are none."""
        time = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[:2])
        encodings, keys, values = self.remember(tokens, time)
        if self.recurrence is not None:
            before = tokens if earlier is None else torch.cat([earlier, tokens], dim=1)
            encoded = encodings if earlier is None else torch.cat([self.encode(earlier), encodings], dim=1)
            states = self.recurrence.states(encoded, (before != self.absent).any(-1))
            recalled = replace(recalled, state=states[:, first - tokens.shape[1] :])
        extra = self.recalled_steps(recalled.steps, time[:, first:])
        goal = None if prompt is None else self.prompt(prompt)
        return SegmentKVCache(tokens, encodings, keys, values, self.config.window, first, extra, recalled, goal)

    def fill_positions(self, tokens: Tensor, hole_mask: Tensor, time: Tensor, past: KVCache) -> Tensor:
        """Steps with holes (B, T, N) at times (B, T) -> their positions' last states (B, T, P, D)."""
        x = self.embedding(tokens, hole_mask).to(self.compute_dtype) + self.prev_step_proj(
            past.step_before(tokens.shape[1])
        )
        recalled = past.recalled
        if past.prompt is not None:
            x = x + self.goal_proj(past.prompt)
        if self.memory_proj is not None and recalled.picture is not None:
            x = x + self._at_picture(self.memory_proj(norm(self._picture(recalled.picture))))
        if self.feature_proj is not None and recalled.features is not None:
            x = x + self.feature_proj(FEATURES_SCALE * recalled.features.to(x.dtype)).unsqueeze(-2)
        turns = self.positions(time)
        for index, layer in enumerate(self.layers):
            x = layer(x, turns, past)
            if index == 0 and self.recurrence is not None and recalled.state is not None:
                x = x + self.recurrence.read(recalled.state, x)  # by now all positions know of the action
        return x

    def _picture(self, tokens: Tensor) -> Tensor:
        """Pictures (B, T, C) -> their positions (B, T, those of a picture, D)."""
        return self.embedding.of_slot(self.layout.picture, tokens).to(self.compute_dtype)

    def _at_picture(self, places: Tensor) -> Tensor:
        """(B, T, positions of a picture, D) -> (B, T, P, D), 0 at the step's other positions."""
        slot, start = self.layout.picture, self.layout.first_position(self.layout.picture)
        return F.pad(places, (0, 0, start, self.layout.num_positions - start - slot.num_positions))

    def predict(self, tokens: Tensor, hole_mask: Tensor, time: Tensor, past: KVCache) -> dict[str, Tensor]:
        """Steps with holes (B, T, N) at times (B, T) -> for each slot logits (B, T, its tokens, its vocabulary)."""
        x = self.fill_positions(tokens, hole_mask, time, past)
        return self.head(x, self._copied(past, tokens.shape[1]))

    def _copied(self, past: KVCache, num_steps: int) -> list[list[Tensor]]:
        """For each slot the tokens (B, num_steps, its tokens) that may be copied into the steps that are filled."""
        before = past.tokens_before(num_steps)
        return self.head.sources(torch.where(before < 0, self.absent, before), past.recalled)

    def forward(
        self,
        past_tokens: Tensor,
        tokens: Tensor,
        hole_mask: Tensor,
        prompt: Tensor | None = None,
        first: int = 0,
        recalled: MemoryReadout = MemoryReadout(),  # noqa: B008 (it never changes)
        earlier: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The training loss of a batch of segments: cross-entropy at the holes, summed, and their weight.

        Args:
            past_tokens: (B, T, N) what the model is shown of the past.
            tokens: (B, T - first, N) the true steps.
            hole_mask: (B, T - first, N) True = hole; holes whose token is absent are not learned.
            prompt: (B, N) or None.
            first: index of the first step that is filled.
            recalled: (B, T - first, ...) what a memory recalls for the steps that are filled.
            earlier: (B, E, N) the steps before, for a recurrence; absent tokens where there are none.
        """
        past = self.segment(past_tokens, first, prompt, recalled, earlier)
        time = torch.arange(first, past_tokens.shape[1], device=tokens.device).expand(tokens.shape[:2])
        sources = self._copied(past, tokens.shape[1])
        features = self.head.with_prev_frame(
            self.head.features(self.fill_positions(tokens, hole_mask, time, past)), sources
        )
        return self._loss(features, sources, tokens, hole_mask)

    def _loss(
        self, features: Sequence[Tensor], copied: Sequence[Sequence[Tensor]], tokens: Tensor, hole_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        total = torch.zeros((), device=tokens.device)
        num_holes = torch.zeros((), device=tokens.device)
        for index, (slot, feature, sources) in enumerate(zip(self.layout.slots, features, copied, strict=True)):
            span = self.layout.span(slot.name)
            target = tokens[..., span]
            holes = hole_mask[..., span] & (target < slot.vocab_size)
            weight = max(1.0, self.layout.num_tokens / (10 * slot.num_tokens))  # no slot is under a tenth of a step
            logits = self.head.logits(index, feature[holes], [source[holes] for source in sources]).float()
            total = total + weight * F.cross_entropy(logits, target[holes], reduction="sum")
            num_holes = num_holes + weight * holes.sum()
        return total, num_holes
