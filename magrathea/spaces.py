"""Gymnasium spaces as JSON, and values of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from magrathea.errors import MagratheaError


def _bound(bound: np.ndarray) -> Any:
    """A bound as one number where it is the same everywhere; JSON has no infinities, so they are written as text."""
    values = np.asarray(bound, dtype=np.float64)
    written = np.vectorize(lambda value: value if np.isfinite(value) else str(value), otypes=[object])(values)
    return written.flat[0] if (values == values.flat[0]).all() else written.tolist()


def _read_bound(written: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return np.broadcast_to(np.asarray(written, dtype=object).astype(np.float64).astype(dtype), shape)


def space_to_config(space: spaces.Space) -> dict[str, Any]:
    """A JSON-able description of a space; raises MagratheaError for kinds that no tokenizer knows."""
    if isinstance(space, spaces.Box):
        limits = {"low": _bound(space.low), "high": _bound(space.high)}
        return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **limits}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else [int(size) for size in space.n]}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {key: space_to_config(part) for key, part in space.spaces.items()}}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [space_to_config(part) for part in space.spaces]}
    raise MagratheaError(
        f"Space {space} has no tokenizer; use Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple."
    )


def space_from_config(config: dict[str, Any]) -> spaces.Space:
    """The space that `space_to_config` described."""
    kind = config.get("type")
    if kind == "Box":
        shape, dtype = tuple(config["shape"]), np.dtype(config["dtype"])
        low, high = (_read_bound(config[side], shape, dtype) for side in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(config["n"], start=config["start"])
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(np.array(config["nvec"]), start=np.array(config["start"]))
    if kind == "MultiBinary":
        return spaces.MultiBinary(config["n"])
    if kind == "Dict":
        return spaces.Dict({key: space_from_config(part) for key, part in config["spaces"].items()})
    if kind == "Tuple":
        return spaces.Tuple([space_from_config(part) for part in config["spaces"]])
    raise MagratheaError(f"Unknown kind of space '{kind}' in a world's config; it was made by another version.")


def row_of(values: Any, row: int | slice) -> Any:
    """A copy of one row, or of a part, of values of a space: arrays (B, ...), or a dict or tuple of such."""
    if isinstance(values, Mapping):
        return {key: row_of(part, row) for key, part in values.items()}
    if isinstance(values, tuple):
        return tuple(row_of(part, row) for part in values)
    part = values[row]
    return part.copy() if isinstance(part, np.ndarray) else part
