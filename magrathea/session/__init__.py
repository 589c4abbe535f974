"""Running dreams: a batch of worlds with their logs, their memories and their random generators."""

from magrathea.session.session import Session
from magrathea.world import StepResult

__all__ = ["Session", "StepResult"]
