"""How tokens are drawn from their probabilities: each for itself, or such that neighbours make up for each other.

A creature that walks leaves one cell and arrives in another. If every cell draws for itself, it is often in neither or
in both: creatures vanish, or multiply, however good the probabilities are. In a balanced draw a cell that has drawn
gives its neighbours the probabilities of what it did not take, and takes from them that of what it took, so that near
every cell there are as many of each token as the probabilities say. Each token is drawn as often as before.

It is the local pivotal method of survey sampling (Deville and Tillé 1998; Grafström, Lundström and Schelin 2012), for
more than two outcomes.

Shapes: I steps, C cells, V tokens of the vocabulary; of a single step U cells that are in doubt, and S tokens that may
be drawn there.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MIN_DOUBT = 0.01  # cells whose likeliest token is surer than that draw for themselves
MIN_SHARE = 1e-4  # tokens that are less likely than that in all cells in doubt are not drawn there


def draw(weights: Float[Tensor, "*n V"], uniforms: Float[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Tokens drawn in proportion to weights, by inverting their cumulative sum at uniform numbers in 0…1; none whose
    weight is 0 is drawn."""
    sums = weights.cumsum(-1)
    total = sums[..., -1:].contiguous()
    picks = torch.searchsorted(sums, uniforms[..., None] * total, right=True)
    last = torch.searchsorted(sums, total)  # rounding must not go beyond it
    return torch.minimum(picks, last).squeeze(-1)


def draw_balanced(
    weights: Float[Tensor, "I C V"],
    open_cells: Bool[Tensor, "I C"],
    uniforms: Float[Tensor, "I C"],
    grid: tuple[int, int],
    reach: int,
) -> Int[Tensor, "I C"]:
    """A token for each cell.

    Args:
        weights: what the tokens of each cell are drawn in proportion to.
        open_cells: those that are to be drawn; what the result has elsewhere does not matter.
        uniforms: numbers in 0…1 that decide.
        grid: rows and columns of the C cells.
        reach: how far apart neighbours are at most, in rows and in columns.
    """
    picks = draw(weights, uniforms)
    doubt = (1 - weights.amax(-1) / weights.sum(-1)).masked_fill(~open_cells, 0)
    order, counts = doubt.argsort(dim=-1, descending=True, stable=True), (doubt > MIN_DOUBT).sum(-1)
    for step in (counts > 1).nonzero().flatten().tolist():
        cells = order[step, : counts[step]]
        shares = weights[step, cells].double().cpu().numpy()
        shares /= shares.sum(-1, keepdims=True)
        tokens = (shares > MIN_SHARE).any(0).nonzero()[0]
        near = _neighbours(grid, reach)[np.ix_(cells.cpu().numpy(), cells.cpu().numpy())]
        drawn = _balance(shares[:, tokens], near, uniforms[step, cells].double().cpu().numpy())
        picks[step, cells] = torch.from_numpy(tokens[drawn]).to(picks.device)
    return picks


def _balance(
    left: Float[np.ndarray, "U S"], near: Bool[np.ndarray, "U U"], uniforms: Float[np.ndarray, " U"]
) -> Int[np.ndarray, " U"]:
    """Draw one cell after the other; `left` are the probabilities that those not yet drawn are left with.

    For each token that a cell did not draw, its neighbours gain the probability that it had in the cell, and lose as
    much of the drawn one's. How much of it each neighbour takes over is the same whichever of the two tokens was drawn,
    so that no probability changes on average, and is as much as both probabilities of the neighbour allow in either
    case.
    """
    picks = np.zeros(len(left), np.int64)
    for cell, own in enumerate(left):
        sums = own.cumsum()
        pick = min(sums.searchsorted(uniforms[cell] * sums[-1], side="right"), sums.searchsorted(sums[-1]))
        picks[cell] = pick
        others = cell + 1 + near[cell, cell + 1 :].nonzero()[0]
        allowed = left[others] / np.maximum(1 - own, 1e-6)
        taken = np.minimum(allowed, allowed[:, pick, None])
        gains = taken / np.maximum(taken.sum(0), 1) * own
        gains[:, pick] = 0
        gains[:, pick] = -gains.sum(1)
        left[others] = np.maximum(left[others] + gains, 0)
    return picks


@cache
def _neighbours(grid: tuple[int, int], reach: int) -> Bool[np.ndarray, "C C"]:
    """Which cells of a grid are neighbours."""
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    apart = np.maximum(abs(rows[:, None] - rows), abs(columns[:, None] - columns))
    return (apart <= reach) & (apart > 0)
