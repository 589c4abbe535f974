"""What a world remembers beyond the steps that it attends to."""

from magrathea import plugins
from magrathea.errors import MagratheaError
from magrathea.interfaces import NUM_FEATURES, EpisodeReadout, Memory, MemoryReadout, MemorySpec, Recurrence
from magrathea.memory.combined import combination
from magrathea.memory.cycle_clock import CycleClockSpec
from magrathea.memory.pose_retrieval import PoseRetrievalSpec
from magrathea.memory.recurrent import RecurrentSpec
from magrathea.memory.retrieval import RetrievalSpec
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
    "places": SpatialMapSpec,
    "retrieval": RetrievalSpec,
    "retrieval-pose": PoseRetrievalSpec,
    "recurrent": RecurrentSpec,
    "clock": CycleClockSpec,
}


def memory_class(name: str) -> type[MemorySpec]:
    """A memory of Magrathea's own, or one that another package offers as entry point of `magrathea.memories`; with a
    size behind it where it has one ("retrieval:256"), and several joined by "+" ("places+recurrent")."""
    kinds = {part: _kind(part) for part in name.split("+")}
    return kinds[name] if name in kinds else combination(kinds)


def of_size(name: str, size: int) -> str:
    """The name of a memory whose parts that have a size are of this one: "places+clock" and 100 is
    "places:100+clock". Raises MagratheaError where there is none, or its size is that of learned weights."""
    plain = [part.partition(":")[0] for part in name.split("+")]
    kinds = {part: _kind(part) for part in plain}
    if not any(map(_can_be_of_any_size, kinds.values())):
        raise MagratheaError(f"The memory '{name}' has no size that could be changed without learning anew.")
    return "+".join(f"{part}:{size}" if _can_be_of_any_size(kinds[part]) else part for part in plain)


def _can_be_of_any_size(kind: type[MemorySpec]) -> bool:
    return hasattr(kind, "size") and not issubclass(kind, RecurrentSpec)


def _kind(name: str) -> type[MemorySpec]:
    plain, _, size = name.partition(":")
    kind: type[MemorySpec] = load_plugin(plugins.MEMORIES, plain, MemorySpec, MEMORIES)
    if not size:
        return kind
    if not hasattr(kind, "size") or not size.isdecimal() or int(size) < 1:
        raise MagratheaError(f"Memory '{name}' has no such size; write '{plain}', or 'retrieval:256'.")
    return type(kind.__name__, (kind,), {"size": int(size)})
