"""What a world remembers beyond the steps that it attends to."""

from magrathea.memory.base import Memory
from magrathea.memory.window import WindowMemory

__all__ = ["Memory", "WindowMemory"]
