"""Running dreams: a batch of worlds with their logs, their memories and their random generators."""

from magrathea.session.session import Session
from magrathea.session.step_result import StepResult

__all__ = ["Session", "StepResult"]
