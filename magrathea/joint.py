"""Several worlds with one set of weights: their joint layout, their files, and which of them a text means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optree
import torch
from torch import Tensor

from magrathea.errors import MagratheaError, one_line
from magrathea.layout import ROLES, Role
from magrathea.model.joint import JointModel, Part, join
from magrathea.pretrained import write_worlds
from magrathea.words import similarities
from magrathea.world import World


def joint_model(worlds: Sequence[World]) -> tuple[JointModel, list[Part]]:
    """The worlds' models, which share their weights from here on, and the part of the joint layout that each has.

    Worlds share the slots of a role where their spaces and their tokenizers for it are equal. Raises MagratheaError for
    models of other sizes.
    """
    if len({replace(world.config.model, prompt="") for world in worlds}) > 1:
        raise MagratheaError("Worlds that share their weights have models of other sizes; give them the same.")
    kinds: list[dict[Role, int]] = [
        {role: next(i for i, other in enumerate(worlds) if _tokenize_alike(world, other, role)) for role in ROLES}
        for world in worlds
    ]
    parts = join([world.layout for world in worlds], kinds)
    return JointModel([world.model for world in worlds], parts), parts


def _tokenize_alike(world: World, other: World, role: Role) -> bool:
    own, others = world.tokenizers[role], other.tokenizers[role]
    tensors, other_tensors = own.tensors(), others.tensors()
    return own is others or (
        own.space == others.space
        and own.to_config() == others.to_config()
        and world.layout.of_role(role) == other.layout.of_role(role)
        and tensors.keys() == other_tensors.keys()
        and all(torch.equal(tensor, other_tensors[name]) for name, tensor in tensors.items())
    )


def save_worlds(
    worlds: Mapping[str, World], parts: Sequence[Part], weights: Mapping[str, Tensor], folder: str | Path
) -> Path:
    """Write worlds by name into one folder, atomically, with their joint weights, which are kept as bfloat16."""
    members = {}
    for (name, world), part in zip(worlds.items(), parts, strict=True):
        files = world.files()
        own = {file: tensors for file, tensors in files.tensors.items() if file != "model"}
        members[name] = replace(files, config=files.config | {"joint_slots": list(part.names)}, tensors=own)
    kept = {name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}
    return write_worlds(members, parts[0].joint.to_config(), kept, folder)


# -- words ------------------------------------------------------------------------------------------------------------
def text_of(config: Mapping[str, Any]) -> str:
    """What a world's config.json says of it in words: its prompt, its names, description and actions."""
    model, metadata = config.get("model") or {}, config.get("metadata") or {}
    return f"{model.get('prompt') or ''} {default_prompt(metadata)}".strip()


def default_prompt(metadata: Mapping[str, Any]) -> str:
    """The names, the description and the actions of a world in words."""
    names = [metadata.get(key) for key in ("name", "env_id", "description")]
    return " ".join(str(part) for part in [*names, *(metadata.get("action_names") or [])] if part)


def choose_world(prompt: str, texts: Mapping[str, str]) -> str:
    """The name of the world whose text (`text_of`) is nearest to a prompt; raises MagratheaError where none has a word
    of it."""
    found = similarities(prompt, list(texts.values()))
    if not found or max(found) <= 0:
        known = "; ".join(f"{name}: {text[:60]}" for name, text in texts.items())
        raise MagratheaError(f"No world here is about '{one_line(prompt, 100)}'; use words of one of them: {known}.")
    return list(texts)[int(np.argmax(found))]


def choose_start(world: World, prompt: str) -> int | None:
    """The stored start whose texts are nearest to a prompt, such as a mission; None where none has a word of it."""
    if not world.num_starts:
        return None
    last = world.decode_observation(world.starts[:, -1])
    leaves = [np.asarray(leaf) for leaf in optree.tree_leaves(last)]
    texts = [
        " ".join(map(str, parts)) for parts in zip(*(leaf for leaf in leaves if leaf.dtype == object), strict=True)
    ]
    found = similarities(prompt, texts)
    return int(np.argmax(found)) if found and max(found) > 0 else None
