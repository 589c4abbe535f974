"""Slots of an evaluation: where a role's tokens stand, what a slot's values are, which one holds the pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from magrathea.layout import Layout, Role, Slot
from magrathea.tokenizers import PatchedTokenizer, Tokenizer
from magrathea.world import World


def picture_slot(world: World) -> Slot | None:
    """The first observation slot that holds pictures (rows, columns, channels) of uint8, if there is one."""
    for slot in world.layout.of_role("observation"):
        if not slot.is_grid:
            continue
        space = slot_tokenizer(world, slot).space
        shape = getattr(space, "shape", None) or ()
        if len(shape) == 3 and getattr(space, "dtype", None) == np.uint8 and min(shape[:2]) >= 16:
            return slot
    return None


def leaf_key(world: World, slot: Slot) -> str:
    """The key of the leaf of the observation that a slot's tokens are of; "" where it has no leaves."""
    key = slot.name.partition("/")[2]
    return key if key in world.tokenizers["observation"].leaves else key.rpartition("/")[0]


def leaf_of(observation: Any, slot: Slot) -> np.ndarray:
    """The arrays of an observation slot out of an observation, by the leaf's key; a light's are the picture's."""
    for key in filter(None, slot.name.partition("/")[2].split("/")):
        if isinstance(observation, dict):
            observation = observation[key]
        elif isinstance(observation, tuple):
            observation = observation[int(key)]
    return np.asarray(observation)


def pictures_of(world: World, slot: Slot, tokens: np.ndarray) -> np.ndarray:
    """tokens (…, N) -> pictures (…, rows, columns, channels) uint8 of one slot."""
    return slot_tokenizer(world, slot).decode(tokens[..., leaf_span(world, slot)])


def leaf_span(world: World, slot: Slot) -> slice:
    """The place of all tokens of the leaf that begins with a slot: those of its light follow."""
    start = world.layout.span(slot.name).start
    return slice(start, start + slot_tokenizer(world, slot).tokens_per_step)


def slot_tokenizer(world: World, slot: Slot) -> Tokenizer:
    """The leaf tokenizer of an observation slot."""
    return world.tokenizers["observation"].leaves[leaf_key(world, slot)]


def patch_size(tokenizer: Tokenizer, slot: Slot) -> tuple[int, int] | None:
    """Rows and columns in pixels of the patch that a token of this slot draws, or None where tokens are not patches."""
    shape = getattr(tokenizer.space, "shape", None) or ()
    if not isinstance(tokenizer, PatchedTokenizer) or slot.num_tokens == 1 or len(shape) != 3:
        return None
    if shape[0] % slot.grid[0] or shape[1] % slot.grid[1]:
        return None
    return shape[0] // slot.grid[0], shape[1] // slot.grid[1]


def role_span(layout: Layout, role: Role) -> slice:
    """The place of all tokens of a role, which stand side by side."""
    spans = [layout.span(slot.name) for slot in layout.of_role(role)]
    return slice(spans[0].start, spans[-1].stop)


def action_scores(layout: Layout, logits: dict[str, Tensor], targets: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Whether the likeliest action is the one taken (all its tokens), and the taken one's cross-entropy in nats: both
    (B, C). Steps whose action is absent score as the token 0; leave them out."""
    right, surprise = [], []
    for slot in layout.of_role("action"):
        target = targets[..., layout.span(slot.name)]
        chances = logits[slot.name].cpu().log_softmax(-1)
        right.append((chances.argmax(-1) == target).all(-1))
        known = target.clamp(max=slot.vocab_size - 1)
        surprise.append(-chances.gather(-1, known[..., None]).squeeze(-1).sum(-1))
    return torch.stack(right).all(0).numpy(), torch.stack(surprise).sum(0).numpy()
