"""Pictures as instructions: each cell keeps, moves or draws, given the picture of the step before.

As in video codecs, where a predicted frame is written as motion from a frame that the decoder already holds. The first
M tokens of a cell are offsets (dy, dx): the cell shows what stood that far above and left of it; the first of them is
(0, 0), which keeps the cell. The other K tokens draw a code, which is a cell's pixels.

B pictures, H rows and W columns of pixels, c channels, Q = H * W * c values of a picture, C cells, p pixels of a cell,
M offsets, K codes, V = M + K tokens.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from magrathea.tokenizers.codebook import cluster_means

TOLERANCE = 1.5e-4  # mean squared error, of values in 0…1, that is never seen
OTHER = 1e-3  # from which a cell counts as changed when offsets and codes are fitted
EXACT = 3e-4  # up to which an offset draws such a cell exactly
ALIKE = 3e-3  # up to which an offset draws such a cell
CHANGE_SCALE = 4.0  # of a change of pixels beside the pixels, in what the model sees
MARGIN = 2.5  # tokens whose error is up to so many times the least are equally good: noise is twice as far from noise
_PIXELS_AT_A_TIME = 2**21  # compared at a time


class MotionCodec(nn.Module):
    """Decodes and compares the tokens of pictures.

    Args:
        shape: (H, W, c) of a picture.
        cell: (height, width) of a cell in pixels; cells at the far edges may reach beyond the picture.
        offsets: (M, 2) rows and columns, the first (0, 0).
        codes: (K, p * c) uint8.
    """

    offsets: Tensor
    codes: Tensor
    cell_rows: Tensor
    cell_columns: Tensor
    pixel_index: Tensor
    moved_pixels: Tensor
    is_keep: Tensor

    def __init__(self, shape: tuple[int, int, int], cell: tuple[int, int], offsets: Tensor, codes: Tensor) -> None:
        super().__init__()
        self.shape, self.cell = shape, cell
        self.grid = grid_of_cells(shape, cell)
        self._cell_length = cell[0] * cell[1] * shape[2]
        self.num_features = 2 * self._cell_length
        self.register_buffer("offsets", offsets.long(), persistent=False)
        self.register_buffer("codes", codes, persistent=False)
        rows, columns = _cell_pixels(self.grid, cell)
        self.register_buffer("cell_rows", rows, persistent=False)
        self.register_buffer("cell_columns", columns, persistent=False)
        self.register_buffer("pixel_index", _pixel_index(shape, self.grid, cell), persistent=False)
        where = (rows[:, None] - self.offsets[:, :1]).clamp(0, shape[0] - 1) * shape[1]  # (C, M, p)
        where = where + (columns[:, None] - self.offsets[:, 1:]).clamp(0, shape[1] - 1)
        self.register_buffer("moved_pixels", where.int(), persistent=False)
        self.register_buffer("is_keep", torch.arange(self.vocab_size) == 0, persistent=False)

    @property
    def num_offsets(self) -> int:
        return len(self.offsets)

    @property
    def vocab_size(self) -> int:
        return len(self.offsets) + len(self.codes)

    # -- cells --------------------------------------------------------------------------------------------------------
    def cells(self, values: Int[Tensor, "*n Q"]) -> Int[Tensor, "*n C P"]:
        """Pictures -> the values of their cells; beyond an edge the last row and column go on."""
        height, width, channels = self.shape
        rows, columns = (size * side for size, side in zip(self.grid, self.cell, strict=True))
        picture = values.reshape(-1, height, width, channels)
        for axis, (have, need) in enumerate(((height, rows), (width, columns)), start=1):
            if have < need:
                last = picture.narrow(axis, have - 1, 1)
                picture = torch.cat([picture, *[last] * (need - have)], dim=axis)
        picture = picture.reshape(-1, self.grid[0], self.cell[0], self.grid[1], self.cell[1], channels)
        return picture.transpose(2, 3).reshape(*values.shape[:-1], self.grid[0] * self.grid[1], self._cell_length)

    def picture(self, cells: Int[Tensor, "*n C P"]) -> Int[Tensor, "*n Q"]:
        """The inverse of `cells`."""
        pixels = cells.reshape(*cells.shape[:-2], len(self.cell_rows) * self.cell_rows.shape[1], self.shape[2])
        return pixels.index_select(-2, self.pixel_index).flatten(-2)

    def features(self, values: Int[Tensor, "*n S Q"]) -> Float[Tensor, "*n S-1 C K"]:
        """What the model sees of pictures: their cells' pixels, about in -0.4…0.6, and how they changed, scaled."""
        pixels = self._pixels(values)
        now, before = pixels[..., :-1, :, :], pixels[..., 1:, :, :]
        return torch.cat([now - 0.4, (now - before) * CHANGE_SCALE], dim=-1)

    def _pixels(self, values: Int[Tensor, "*n Q"]) -> Float[Tensor, "*n C P"]:
        """The cells of pictures, in 0…1."""
        return self.cells(values.to(torch.uint8)).float() / 255

    def _gather(self, values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Pixels at rows and columns (..., C, p), which may be beyond the edges, of pictures (..., Q): (..., C, P)."""
        height, width, channels = self.shape
        where = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
        pixels = values.reshape(*values.shape[:-1], height * width, channels)
        index = where.expand(*values.shape[:-1], *where.shape[-2:]).flatten(-2)
        taken = pixels.gather(-2, index[..., None].expand(*index.shape, channels))
        return taken.reshape(*index.shape[:-1], where.shape[-2], where.shape[-1] * channels)

    # -- tokens -------------------------------------------------------------------------------------------------------
    def decode(self, tokens: Int[Tensor, "*n C"], previous: Int[Tensor, "*n Q"]) -> Int[Tensor, "*n Q"]:
        """The pictures that tokens make of those of the step before."""
        moves = tokens < self.num_offsets
        offsets = self.offsets[tokens.clamp(max=self.num_offsets - 1)]  # (..., C, 2)
        moved = self._gather(previous, self.cell_rows - offsets[..., :1], self.cell_columns - offsets[..., 1:])
        drawn = self.codes[(tokens - self.num_offsets).clamp(0, len(self.codes) - 1)].to(moved.dtype)
        return self.picture(torch.where(moves[..., None], moved, drawn))

    def changed_cells(
        self, values: Int[Tensor, "B Q"], previous: Int[Tensor, "B Q"], least: float
    ) -> tuple[Bool[Tensor, "B C"], Float[Tensor, "k P"]]:
        """Where the mean squared error of keeping a cell, of values in 0…1, is above `least`, and those cells."""
        target = self._pixels(values)
        changed = (target - self._pixels(previous)).square().mean(-1) > least
        return changed, target[changed]

    def _errors(
        self, values: Int[Tensor, "B Q"], previous: Int[Tensor, "B Q"]
    ) -> tuple[Bool[Tensor, "B C"], Float[Tensor, "k V"]]:
        """Which cells changed, and the mean squared error of every token in them, of values in 0…1."""
        changed, target = self.changed_cells(values, previous, TOLERANCE)
        if not len(target):
            return changed, target.new_zeros(0, self.vocab_size)
        moved = self._offset_errors(target, previous, *changed.nonzero(as_tuple=True))
        return changed, torch.cat([moved, self._code_errors(target)], dim=-1)

    def _offset_errors(self, target: Tensor, previous: Tensor, batch: Tensor, cell: Tensor) -> Tensor:
        """(n, M) errors of the offsets for cells (n, P) with these indices."""
        height, width, channels = self.shape
        pixels = previous.reshape(-1, channels).float() / 255
        parts = []
        at_a_time = max(1, _PIXELS_AT_A_TIME // (self.num_offsets * target.shape[1]))
        for some in torch.arange(len(batch), device=batch.device).split(at_a_time):
            index = self.moved_pixels[cell[some]] + (batch[some] * (height * width)).int()[:, None, None]
            shown = pixels.index_select(0, index.flatten()).view(*index.shape[:2], -1)
            parts.append((shown - target[some][:, None]).square_().mean(-1))
        return torch.cat(parts)

    def _code_errors(self, target: Float[Tensor, "n P"]) -> Float[Tensor, "n K"]:
        codes = self.codes.float() / 255
        squares = target.square().sum(-1, keepdim=True) + codes.square().sum(-1)
        return (squares - 2 * target @ codes.T).clamp(min=0) / target.shape[-1]

    def log_likelihood(
        self, log_probs: Float[Tensor, "B C V"], values: Int[Tensor, "B Q"], previous: Int[Tensor, "B Q"]
    ) -> tuple[Float[Tensor, "B C"], Bool[Tensor, "B C"]]:
        """Of all tokens that make a cell equally well, and where the one that keeps it is none of them."""
        changed, good = self.equivalents(values, previous)
        made = log_probs[changed].masked_fill(~good, -math.inf).logsumexp(-1)
        is_change = torch.zeros_like(changed).masked_scatter(changed, ~good[:, 0])
        return log_probs[..., 0].masked_scatter(changed, made), is_change

    def keeps(self, previous: Int[Tensor, "*n Q"]) -> Bool[Tensor, " V"]:
        """Which token keeps a cell: it alone is learned where a cell is kept."""
        return self.is_keep

    def merge_alike(self, logits: Float[Tensor, "*n C V"], previous: Int[Tensor, "*n Q"]) -> Float[Tensor, "*n C V"]:
        """The logits as they are: of tokens that draw the same a model is free to learn one."""
        return logits

    def equivalents(
        self, values: Int[Tensor, "B Q"], previous: Int[Tensor, "B Q"]
    ) -> tuple[Bool[Tensor, "B C"], Bool[Tensor, "k V"]]:
        """Which cells changed, and for these k cells, in their order, the tokens that make each of them equally well.
        Unchanged cells are kept."""
        changed, errors = self._errors(values, previous)
        return changed, errors <= MARGIN * errors.amin(-1, keepdim=True) + TOLERANCE

    def encode(self, values: Int[Tensor, "B Q"], previous: Int[Tensor, "B Q"]) -> Int[Tensor, "B C"]:
        """The best token of every cell: the one that keeps it, where that is as good as any."""
        changed, errors = self._errors(values, previous)
        least, best = errors.min(-1)
        tokens = torch.zeros(changed.shape, dtype=torch.long, device=changed.device)
        tokens[changed] = torch.where(errors[:, 0] <= MARGIN * least + TOLERANCE, 0, best)
        return tokens

    def encode_alone(self, values: Int[Tensor, "B Q"]) -> Int[Tensor, "B C"]:
        """The code nearest to every cell of pictures without one before."""
        target = self._pixels(values)
        return self.num_offsets + self._code_errors(target.flatten(0, 1)).argmin(-1).view(target.shape[:2])


def grid_of_cells(shape: tuple[int, ...], cell: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of cells that cover a picture (H, W, c)."""
    return -(-shape[0] // cell[0]), -(-shape[1] // cell[1])


def _cell_pixels(grid: tuple[int, int], cell: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Row and column (C, p) of every pixel of every cell."""
    rows, columns = torch.meshgrid(torch.arange(grid[0] * cell[0]), torch.arange(grid[1] * cell[1]), indexing="ij")
    by_cell = (
        x.reshape(grid[0], cell[0], grid[1], cell[1]).transpose(1, 2).reshape(grid[0] * grid[1], -1)
        for x in (rows, columns)
    )
    return tuple(by_cell)  # type: ignore[return-value]


def _pixel_index(shape: tuple[int, int, int], grid: tuple[int, int], cell: tuple[int, int]) -> Tensor:
    """(H * W) where each pixel of a picture stands among the pixels of its cells."""
    rows, columns = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
    number = (rows // cell[0]) * grid[1] + columns // cell[1]
    return (number * (cell[0] * cell[1]) + rows % cell[0] * cell[1] + columns % cell[1]).flatten()


# -- fitting ----------------------------------------------------------------------------------------------------------
def fit_offsets(
    values: Int[Tensor, "B Q"],
    previous: Int[Tensor, "B Q"],
    shape: tuple[int, int, int],
    cell: tuple[int, int],
    candidates: Int[Tensor, "M 2"],
    most: int,
    least_gain: float,
    generator: torch.Generator,
    num_cells: int = 1500,
) -> Tensor:
    """The offsets (M, 2) that draw most of the cells that change, chosen one after the other while each draws a share
    of `least_gain` more; the first is (0, 0)."""
    keep = torch.zeros(1, 2, dtype=torch.long)
    codec = MotionCodec(shape, cell, candidates, torch.zeros(1, cell[0] * cell[1] * shape[2], dtype=torch.uint8))
    changed, target = codec.changed_cells(values, previous, OTHER)
    if not len(target):
        return keep
    some = torch.randperm(len(target), generator=generator)[:num_cells]
    batch, index = (where[some] for where in changed.nonzero(as_tuple=True))
    draws = codec._offset_errors(target[some], previous, batch, index) < ALIKE
    return torch.cat([keep, candidates[_greedy_cover(draws, most - 1, least_gain * len(draws))[0]]])


def _greedy_cover(draws: Bool[Tensor, "n M"], most: int, least: float) -> tuple[list[int], Bool[Tensor, " n"]]:
    """At most `most` of M offsets that draw most of n cells, chosen one after the other while each draws `least` more
    cells; and which cells none of them draws."""
    left, chosen = torch.ones(len(draws), dtype=torch.bool), []
    while len(chosen) < most:
        gains = (draws & left[:, None]).sum(0)
        best = int(gains.argmax())
        if gains[best] < least:
            break
        chosen.append(best)
        left &= ~draws[:, best]
    return chosen, left


def share_moved(codec: MotionCodec, values: Int[Tensor, "B Q"], previous: Int[Tensor, "B Q"], most: int) -> float:
    """The share of the cells that change which at most `most` offsets draw exactly, chosen anew for each picture; 0
    where none changes. (Among many offsets there is often one that draws an edge of a turning road.)"""
    changed, target = codec.changed_cells(values, previous, OTHER)
    num_drawn, of_picture = 0, target.split(changed.sum(-1).tolist())
    for picture in changed.any(-1).nonzero().flatten().tolist():
        cells = changed[picture].nonzero().flatten()
        errors = codec._offset_errors(of_picture[picture], previous[picture, None], torch.zeros_like(cells), cells)
        _, left = _greedy_cover(errors < EXACT, most, 1)
        num_drawn += int((~left).sum())
    return num_drawn / max(1, int(changed.sum()))


def fit_codes(cells: Tensor, num_codes: int, num_rounds: int, generator: torch.Generator) -> Tensor:
    """At most `num_codes` codes uint8 (K, P) for cells (n, P) uint8: k-means (Lloyd 1982), in which a code without
    cells takes the place of the cell that is drawn worst."""
    different = torch.unique(cells, dim=0)
    if len(different) <= num_codes:
        return different
    values = cells.float()
    codes = different[torch.randperm(len(different), generator=generator)[:num_codes]].float()
    for _ in range(num_rounds):
        distance, nearest = [], []
        norms = codes.square().sum(-1)
        for part in values.split(8192):
            least, index = (norms - 2 * part @ codes.T).min(-1)
            distance.append(least + part.square().sum(-1))
            nearest.append(index)
        assigned = torch.cat(nearest)
        codes = torch.from_numpy(cluster_means(values.numpy(), assigned.numpy(), codes.numpy()))
        empty = (torch.bincount(assigned, minlength=num_codes) == 0).nonzero().flatten()
        codes[empty] = values[torch.cat(distance).topk(len(empty)).indices]
    return codes.round().to(torch.uint8).unique(dim=0)


def candidate_offsets(shape: tuple[int, ...], near: int = 8, far: int = 24, slim: int = 2) -> Int[Tensor, "M 2"]:
    """Offsets that are tried: all up to `near` pixels, and up to `far` along one axis; never (0, 0)."""
    reach = [min(far, size - 1) for size in shape[:2]]
    rows, columns = torch.meshgrid(*(torch.arange(-size, size + 1) for size in reach), indexing="ij")
    offsets = torch.stack([rows.flatten(), columns.flatten()], dim=-1)
    size = offsets.abs()
    wanted = (size.amax(-1) <= near) | (size.amin(-1) <= slim)
    return offsets[wanted & (size.amax(-1) > 0)]
