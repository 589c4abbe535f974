"""What a world remembers beyond the steps that it attends to."""

from importlib.metadata import entry_points

from magrathea.errors import MagratheaError
from magrathea.memory.base import NUM_FEATURES, Memory, MemoryKind, Part, Recall, Recorded, Recurrence
from magrathea.memory.clock import Clock
from magrathea.memory.combined import combination
from magrathea.memory.places import PlaceMemory, Places
from magrathea.memory.pose_retrieval import PoseRetrieval
from magrathea.memory.recurrent import Recurrent
from magrathea.memory.retrieval import Retrieval
from magrathea.memory.window import Window, WindowMemory

__all__ = [
    "NUM_FEATURES",
    "Clock",
    "Memory",
    "MemoryKind",
    "Part",
    "PlaceMemory",
    "Places",
    "PoseRetrieval",
    "Recall",
    "Recorded",
    "Recurrence",
    "Recurrent",
    "Retrieval",
    "Window",
    "WindowMemory",
    "memory_named",
    "of_size",
]

MEMORIES: dict[str, type[MemoryKind]] = {
    "window": Window,
    "places": Places,
    "retrieval": Retrieval,
    "retrieval-pose": PoseRetrieval,
    "recurrent": Recurrent,
    "clock": Clock,
}


def memory_named(name: str) -> type[MemoryKind]:
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


def _can_be_of_any_size(kind: type[MemoryKind]) -> bool:
    return hasattr(kind, "size") and "state" not in kind.recalls


def _kind(name: str) -> type[MemoryKind]:
    plain, _, size = name.partition(":")
    kind = MEMORIES.get(plain) or _offered(plain)
    if not size:
        return kind
    if not hasattr(kind, "size") or not size.isdecimal() or int(size) < 1:
        raise MagratheaError(f"Memory '{name}' has no such size; write '{plain}', or 'retrieval:256'.")
    return type(kind.__name__, (kind,), {"size": int(size)})


def _offered(name: str) -> type[MemoryKind]:
    offered = {point.name: point for point in entry_points(group="magrathea.memories")}
    if name not in offered:
        raise MagratheaError(f"Unknown memory '{name}'; choose one of {', '.join([*MEMORIES, *offered])}.")
    kind: type[MemoryKind] = offered[name].load()
    return kind
