"""Evaluation: what a world is worth, measured on episodes that it was not trained on."""

from magrathea.evaluate.drift_report import drift_report, evaluate_drift
from magrathea.evaluate.memory import (
    compare_memories,
    compare_sizes,
    evaluate_memory,
    memory_report,
    write_comparison,
)
from magrathea.evaluate.orders import compare_orders
from magrathea.evaluate.run import evaluate

__all__ = [
    "compare_memories",
    "compare_orders",
    "compare_sizes",
    "drift_report",
    "evaluate",
    "evaluate_drift",
    "evaluate_memory",
    "memory_report",
    "write_comparison",
]
