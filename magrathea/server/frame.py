"""What a step of a dream shows: from rows of results to pictures and figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from magrathea.server.engine import Row
from magrathea.server.picture import Painter
from magrathea.spaces import row_of


@dataclass(frozen=True)
class StepFrame:
    """What one step of the dream gave, ready to be shown."""

    picture: np.ndarray | None = None  # uint8 (H, W, 3)
    uncertainty: np.ndarray | None = None  # uint8 (rows, columns), 255 = no idea
    action: int | None = None
    reward: float = 0.0
    terminated: bool = False
    num_passes: int = 0

    @property
    def header(self) -> dict[str, Any]:
        """What a frame says of it."""
        return {
            "action": self.action,
            "reward": round(self.reward, 4),
            "terminated": self.terminated,
            "passes": self.num_passes,
        }

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """The pictures that a frame has of it."""
        pictures = {"picture": self.picture, "uncertainty": self.uncertainty}
        return {name: picture for name, picture in pictures.items() if picture is not None}


NO_FRAME = StepFrame()  # before there is any


def frame_of(row: Row, action: int, painter: Painter) -> StepFrame:
    """The step that an action brought."""
    result, index = row.result, row.index
    uncertainty = result.uncertainty.get(painter.slot) if painter.slot else None
    if uncertainty is not None:
        share = np.clip(np.asarray(uncertainty[index], dtype=np.float32), 0, 1)
        uncertainty = np.rint(255 * share).astype(np.uint8)
    reward = float(result.reward[index])
    return StepFrame(
        picture=painter.paint(row_of(result.observation, index)),
        uncertainty=uncertainty,
        action=action,
        reward=reward if math.isfinite(reward) else 0.0,
        terminated=bool(result.terminated[index]),
        num_passes=int(result.num_passes[index]),
    )


def still_of(world: Any, tokens: Any, is_start: bool, painter: Painter) -> StepFrame:
    """The step (N,) that a session is on when it begins, wakes or branches."""
    return StepFrame(
        picture=painter.paint(row_of(world.decode_observation(tokens[None]), 0)),
        terminated=not is_start and bool(world.decode_terminated(tokens[None])[0]),
    )
