"""Weights that had other names when the first worlds were saved.

Files may hold either name. A world's fingerprint is of the first names, so that sessions that were saved before a
weight was renamed still know their world.
"""

from __future__ import annotations

FIRST_NAMES = {
    "prev_step_proj": "carry",
    "goal_proj": "aim",
    "feature_proj": "told",
    "memory_proj": "recall",
    "memory_step_embedding": "recalled_embedding",
    "past_kv_proj": "past_keys_values",
    "logit_scale": "sharpness",
    "copy_bias": "gates",
    "copy_gate": "passes",
    "copy_vectors": "vectors",
    "prev_frame_attention": "looks",
    "query_position": "here",
    "key_position": "there",
    "position_keys": "places",
    "prev_context_proj": "before",
    "write_context_proj": "now",
    "read_context_proj": "next",
    "write_gate": "strength",
    "write_bias": "strength_bias",
    "decay_gate": "fade",
    "decay_bias": "fade_bias",
}
"""Part of a weight's name -> what that part was called first."""
CURRENT_NAMES = {first: current for current, first in FIRST_NAMES.items()}


def current_name(weight: str) -> str:
    """The name of a weight today, whichever it was saved with."""
    return ".".join(CURRENT_NAMES.get(part, part) for part in weight.split("."))


def first_name(weight: str) -> str:
    """The name that a weight had first."""
    return ".".join(FIRST_NAMES.get(part, part) for part in weight.split("."))
