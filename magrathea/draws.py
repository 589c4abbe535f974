"""How tokens are drawn from their probabilities: each for itself, or such that neighbours make up for each other.

A creature that walks leaves one cell and arrives in another. If every cell draws for itself, it is often in neither or
in both: creatures vanish, or multiply, however good the probabilities are. In a balanced draw a cell that has drawn
gives its neighbours the probabilities of what it did not take, and takes from them that of what it took, so that near
every cell there are as many of each token as the probabilities say. Each token is drawn as often as before.

It is the local pivotal method of survey sampling (Deville and Tillé 1998; Grafström, Lundström and Schelin 2012), for
more than two outcomes.

Shapes: I steps, C cells, V tokens of the vocabulary, K neighbours of a cell.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

MIN_DOUBT = 0.01  # cells whose likeliest token is surer than that draw last, and change no others


def draw(weights: Float[Tensor, "*n V"], uniforms: Float[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Tokens drawn in proportion to weights, by inverting their cumulative sum at uniform numbers in 0…1; none whose
    weight is 0 is drawn."""
    sums = weights.cumsum(-1)
    total = sums[..., -1:].contiguous()
    picks = torch.searchsorted(sums, uniforms[..., None] * total, right=True)
    last = torch.searchsorted(sums, total)  # rounding must not go beyond it
    return torch.minimum(picks, last).squeeze(-1)


def draw_balanced(
    probabilities: Float[Tensor, "I C V"],
    open_cells: Bool[Tensor, "I C"],
    uniforms: Float[Tensor, "I C"],
    grid: tuple[int, int],
    reach: int,
) -> Int[Tensor, "I C"]:
    """A token for each cell.

    Args:
        probabilities: of each cell's tokens, or weights in proportion to them.
        open_cells: those that are to be drawn; what the result has elsewhere does not matter.
        uniforms: numbers in 0…1 that decide.
        grid: rows and columns of the C cells.
        reach: how far apart neighbours are at most, in rows and in columns.
    """
    # a cell beyond the last stands for neighbours outside of the grid
    left = F.pad(probabilities / probabilities.sum(-1, keepdim=True), (0, 0, 0, 1))
    is_open = F.pad(open_cells, (0, 1))
    beside, steps = _neighbours(grid, reach).to(left.device), torch.arange(len(left), device=left.device)
    doubt = (1 - probabilities.amax(-1) / probabilities.sum(-1)).masked_fill(~open_cells, 0)
    num_turns, order = (doubt > MIN_DOUBT).sum(-1), doubt.argsort(dim=-1, descending=True, stable=True)
    for turn in range(int(num_turns.max())):
        has_turn, cell = turn < num_turns, order[:, turn]
        own, others = left[steps, cell], beside[cell]
        drawn = draw(own, uniforms[steps, cell])
        result = F.one_hot(drawn, own.shape[-1]).to(own.dtype)
        left[steps, cell] = torch.where(has_turn[:, None], result, own)
        is_open[steps, cell] &= ~has_turn
        takes_part = is_open[steps[:, None], others] & has_turn[:, None]
        theirs = left[steps[:, None], others] * takes_part[..., None]
        left[steps[:, None], others] += _exchange(own, drawn, theirs)
    return draw(left[:, :-1].clamp(min=0), uniforms)


def _exchange(
    own: Float[Tensor, "I V"], drawn: Int[Tensor, " I"], theirs: Float[Tensor, "I K V"]
) -> Float[Tensor, "I K V"]:
    """What the probabilities of the K neighbours of a cell gain and lose, once it has drawn.

    For every other token they gain its probability in the cell, and lose as much of the drawn one's. How much of it
    each neighbour takes over is the same whichever of the two tokens was drawn, so that no probability changes on
    average, and is as much as both probabilities of the neighbour allow in either case.
    """
    drawn_there = drawn[:, None, None].expand(-1, theirs.shape[1], 1)
    allowed = theirs / (1 - own).clamp(min=1e-6)[:, None]
    shares = torch.minimum(allowed, allowed.gather(-1, drawn_there))
    gains = shares / shares.sum(1, keepdim=True).clamp(min=1) * own[:, None]
    gains = gains.scatter(-1, drawn_there, 0)
    return gains.scatter(-1, drawn_there, -gains.sum(-1, keepdim=True))


@cache
def _neighbours(grid: tuple[int, int], reach: int) -> Int[Tensor, "C+1 K"]:
    """The neighbours of each cell, in rows; C stands for those outside of the grid."""
    rows, columns = grid
    numbers = torch.full((rows + 2 * reach, columns + 2 * reach), rows * columns)
    numbers[reach : reach + rows, reach : reach + columns] = torch.arange(rows * columns).view(grid)
    size = 2 * reach + 1
    windows = numbers.unfold(0, size, 1).unfold(1, size, 1).flatten(2).flatten(0, 1)
    return windows[:, torch.arange(size**2) != size**2 // 2]
