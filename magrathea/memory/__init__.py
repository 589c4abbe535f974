"""What a world remembers beyond the steps that it attends to."""

from importlib.metadata import entry_points

from magrathea.errors import MagratheaError
from magrathea.memory.base import Memory, MemoryKind, Recall
from magrathea.memory.places import PlaceMemory, Places
from magrathea.memory.window import Window, WindowMemory

__all__ = ["Memory", "MemoryKind", "PlaceMemory", "Places", "Recall", "Window", "WindowMemory", "memory_named"]

MEMORIES: dict[str, type[MemoryKind]] = {"window": Window, "places": Places}


def memory_named(name: str) -> type[MemoryKind]:
    """A memory of Magrathea's own, or one that another package offers as entry point of `magrathea.memories`."""
    if name in MEMORIES:
        return MEMORIES[name]
    offered = {point.name: point for point in entry_points(group="magrathea.memories")}
    if name not in offered:
        raise MagratheaError(f"Unknown memory '{name}'; choose one of {', '.join([*MEMORIES, *offered])}.")
    kind: type[MemoryKind] = offered[name].load()
    return kind
