"""Evaluation: what a world is worth, measured on episodes that it was not trained on."""

from magrathea.evaluate.orders import compare_orders
from magrathea.evaluate.run import evaluate

__all__ = ["compare_orders", "evaluate"]
