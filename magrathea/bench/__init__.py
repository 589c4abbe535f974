"""Bench: how fast a world dreams and learns on this machine, beside what the machine could do."""

from magrathea.bench.play import profile_steps
from magrathea.bench.run import bench

__all__ = ["bench", "profile_steps"]
