"""The plug-in point of memories."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Memory(Protocol):
    """Carries the past forward: h' = f(h, step). Works on a batch of worlds; costs the same however long they live.

    B worlds, P positions of a step, D width, M memory tokens.
    """

    def write(self, step: Tensor) -> None:
        """Take in the encoding (B, P, D) of a step that is final."""
        ...

    def read(self, query: Tensor) -> Tensor:
        """What matters to the step that follows the one encoded as `query` (B, P, D) -> (B, M, D); M may be 0."""
        ...

    def reset(self, env_mask: Tensor | None = None) -> None:
        """Forget all, in the worlds where env_mask (B,) is True, or in every one."""
        ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...
