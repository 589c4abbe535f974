"""Memories: what a world remembers beyond the steps that its model attends to. `memory_class` finds one by name."""

from magrathea import plugins
from magrathea.errors import MagratheaError, one_line
from magrathea.interfaces import NUM_FEATURES, EpisodeReadout, Memory, MemoryReadout, MemorySpec, Recurrence
from magrathea.memory.base import combination
from magrathea.memory.cycle_clock import CycleClockSpec
from magrathea.memory.recurrent import RecurrentSpec
from magrathea.memory.retrieval import PoseRetrievalSpec, RetrievalSpec
from magrathea.memory.spatial_map.memory import SpatialMapMemory, SpatialMapSpec
from magrathea.memory.window import WindowMemory, WindowSpec
from magrathea.plugins import load_plugin

__all__ = [
    "NUM_FEATURES",
    "CycleClockSpec",
    "EpisodeReadout",
    "Memory",
    "MemoryReadout",
    "MemorySpec",
    "PoseRetrievalSpec",
    "Recurrence",
    "RecurrentSpec",
    "RetrievalSpec",
    "SpatialMapMemory",
    "SpatialMapSpec",
    "WindowMemory",
    "WindowSpec",
    "memory_class",
    "of_size",
]

MEMORIES: dict[str, type[MemorySpec]] = {
    "window": WindowSpec,
    "spatial_map": SpatialMapSpec,
    "retrieval": RetrievalSpec,
    "retrieval-pose": PoseRetrievalSpec,
    "recurrent": RecurrentSpec,
    "cycle_clock": CycleClockSpec,
}
FIRST_NAMES = {"places": "spatial_map", "clock": "cycle_clock"}
"""Name of a memory in older worlds and recipes -> its name in `MEMORIES`. A world keeps the name that it was stored
with, which is part of its fingerprint and of the names of its stored tensors."""


def memory_class(name: str) -> type[MemorySpec]:
    """The spec class of a memory.

    Args:
        name: of one of `MEMORIES`, or of an entry point `magrathea.memories` of another package; with a size after it
            where it has one ("retrieval:256"); or several, joined by "+" ("spatial_map+recurrent").

    Raises:
        MagratheaError: for a name or a size that does not exist.
    """
    kinds = {part: _kind(part) for part in name.split("+")}
    return kinds[name] if name in kinds else combination(kinds)


def of_size(name: str, size: int) -> str:
    """The name of a memory with the size of its parts changed: "spatial_map+cycle_clock" and 100 give
    "spatial_map:100+cycle_clock".

    Raises:
        MagratheaError: where no part has a size that can be changed without training the world again.
    """
    kinds = {part: _kind(part) for part in name.split("+")}
    if not any(map(_can_be_of_any_size, kinds.values())):
        raise MagratheaError(f"The memory '{name}' has no size that could be changed without training anew.")
    return "+".join(
        f"{part.partition(':')[0]}:{size}" if _can_be_of_any_size(kind) else part for part, kind in kinds.items()
    )


def _can_be_of_any_size(kind: type[MemorySpec]) -> bool:
    """Whether a world can run with another size than it was trained with: its spec has a `size`, and does not say that
    `size_is_learned`, as that of weights is."""
    return hasattr(kind, "size") and not getattr(kind, "size_is_learned", False)


def _kind(name: str) -> type[MemorySpec]:
    plain, _, size = name.partition(":")
    kind: type[MemorySpec] = load_plugin(plugins.MEMORIES, FIRST_NAMES.get(plain, plain), MemorySpec, MEMORIES)
    if not size:
        return kind
    if not hasattr(kind, "size") or not size.isdecimal() or len(size) > 8 or int(size) < 1:
        raise MagratheaError(f"Memory '{one_line(name, 100)}' has no such size; write '{plain}', or 'retrieval:256'.")
    return type(kind.__name__, (kind,), {"size": int(size)})
