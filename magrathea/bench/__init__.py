"""Bench: how fast a world dreams and learns on this machine, beside what the machine could do."""

from magrathea.bench.history import measure_history
from magrathea.bench.play import profile_steps
from magrathea.bench.run import bench

__all__ = ["bench", "measure_history", "profile_steps"]
