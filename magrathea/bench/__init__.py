"""Benchmarks: the speed of dreams and of training on this machine, relative to its matrix peak."""

from magrathea.bench.history import measure_history
from magrathea.bench.play import profile_steps
from magrathea.bench.run import bench

__all__ = ["bench", "measure_history", "profile_steps"]
