"""An exact measure of remembering: is what was seen before shown again as it was?"""

from magrathea.evaluate.memory.run import (
    compare_memories,
    compare_sizes,
    evaluate_memory,
    memory_report,
    write_comparison,
)

__all__ = ["compare_memories", "compare_sizes", "evaluate_memory", "memory_report", "write_comparison"]
