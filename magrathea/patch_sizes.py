"""Sizes of patches that divide a picture into 49 to 256 tokens."""

from __future__ import annotations

import math

from magrathea.errors import MagratheaError

FAR = 3  # doublings of the number of tokens
MAX_PADDING = 32  # pixels


def patch_choices(height: int, width: int) -> list[tuple[int, int]]:
    """Patch sizes that divide a picture, are nearly square and give 49..256 tokens (or as near to that as there is)."""
    least, shapes = _best_patches(height, width)
    if least > FAR:  # e.g. 61x61: one token or 3,721
        raise MagratheaError(
            f"A {height}x{width} image has no patch size that gives 49 to 256 tokens; resize it, as "
            """'--env-kwargs {"size": [64, 64]}' does, or pass patch=(h, w)"""
        )
    return shapes


def padded_size(height: int, width: int) -> tuple[int, int]:
    """(height, width), or where it has no `patch_choices` the least size above it that has patches of 49..256 tokens;
    itself where that is more than MAX_PADDING away."""
    if _best_patches(height, width)[0] <= FAR:
        return height, width
    larger = [(height + down, width + right) for down in range(MAX_PADDING) for right in range(MAX_PADDING)]
    fitting = (size for size in sorted(larger, key=math.prod) if _best_patches(*size)[0] == 0)
    return next(fitting, (height, width))


def _best_patches(height: int, width: int) -> tuple[float, list[tuple[int, int]]]:
    """How many doublings patches miss 49..256 tokens by at least, and the sizes that do so, largest first."""
    if height * width < 49:
        return 0, [(1, 1)]
    shapes = [
        (patch_height, patch_width)
        for patch_height in _divisors(height)
        for patch_width in _divisors(width)
        if 0.5 <= patch_height / patch_width <= 2
    ]
    distance = {shape: _away_from_range(height * width // math.prod(shape)) for shape in shapes}
    least = min(distance.values(), default=math.inf)
    return least, sorted((shape for shape in shapes if distance[shape] <= least), key=math.prod, reverse=True)


def _divisors(number: int) -> list[int]:
    return [value for value in range(1, number + 1) if number % value == 0]


def _away_from_range(num_tokens: int) -> float:
    """How many doublings a number of tokens is away from 49..256."""
    return max(0.0, math.log2(49 / num_tokens), math.log2(num_tokens / 256))
