"""The baseline: no memory beyond the window of steps that the model attends to anyway."""

from __future__ import annotations

from torch import Tensor


class WindowMemory:
    """Reads nothing: what is older than the model's window is forgotten."""

    def write(self, step: Tensor) -> None:
        pass

    def read(self, query: Tensor) -> Tensor:
        """(B, P, D) -> (B, 0, D)"""
        return query[:, :0]

    def reset(self, env_mask: Tensor | None = None) -> None:
        pass

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass
