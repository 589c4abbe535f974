"""The tensors of several parts in one file, named "part/tensor"."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def join_tensors(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all parts, by name, in one dict."""
    return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def tensors_of_part(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """What `join_tensors` was given for a part."""
    prefix = f"{part}/"
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
