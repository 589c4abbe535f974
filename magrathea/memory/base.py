"""What several memories share."""

from __future__ import annotations

from torch import Tensor


def reset_indices(env_mask: Tensor | None, batch_size: int) -> list[int]:
    """The batch indices that a reset concerns: where env_mask (B,) is True, or all."""
    return list(range(batch_size)) if env_mask is None else env_mask.nonzero().flatten().tolist()
