"""Seeds as a function of a seed and of what they are for, so that random number generators have no state to keep."""

from __future__ import annotations

import hashlib
from typing import Literal

Purpose = Literal["step", "action", "start", "episode"]


def derive_seed(seed: int, purpose: Purpose, number: int = 0) -> int:
    """A pseudo-random number in 0…2^63 - 1, the same for the same arguments on every machine."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
