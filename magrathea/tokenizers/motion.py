"""MotionTokenizer: pictures as instructions that say how each cell is made of the picture of the step before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Self

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from magrathea.errors import MagratheaError
from magrathea.settings import Range, check_value
from magrathea.spaces import is_image
from magrathea.tokenizers.base import VALUES, SlotSpec, Tokenizer, not_fitted, require_tensor
from magrathea.tokenizers.motion_codec import (
    OTHER,
    MotionCodec,
    candidate_offsets,
    fit_codes,
    fit_offsets,
    grid_of_cells,
    share_moved,
)
from magrathea.tokenizers.patches import patch_pair

NUM_POSITIONS = 72  # about so many positions has a picture
MOST_CELLS = 1200
_SMALL_SIDES = 6, 4, 3, 2  # in pixels, of cells at most half as high and wide as a position
_OFFSETS_OF_A_PICTURE = 3
_EXACT_SHARE = 0.75  # of the cells that change, drawn exactly by these, from which cells are smaller than positions
_SHARE_MARGIN = 0.03  # by which more of them has to be drawn with smaller cells
_MOST_SIDE = 64
_MOST_GROUP = 64
_FRAMES_AT_A_TIME = 64
_FITTING_PAIRS = 400
_CELL_PAIRS = 400  # and cells, that offsets are fitted to in order to choose the size of a cell
_SHARE_PAIRS = 100
_FITTING_CELLS = 60_000
_MOST_TILES = 256  # different cells of pictures that are made of tiles
_FEWER_TILES = 0.5  # as many as there are of default cells, at most
_LEAST_GAIN = 0.003  # share of changed cells that an offset draws, and those before it do not


class MotionTokenizer(Tokenizer):
    """Image Box of uint8 to one token for each cell, which keeps the cell, moves something there from the picture of
    the step before, or draws a code (see `MotionCodec`). The decoded pixels follow the tokens.

    Args:
        space: (H, W, 1|3|4) or (H, W).
        cell: pixels of a cell's side, or (height, width). By default `fit` chooses: such that a picture has about 72 of
            them, the tiles that it is made of where it is, or smaller ones where offsets draw most of what changes
            exactly, as in games of sprites.
        group: rows and columns of cells that share a position of the model; by default such that a picture has about
            72 positions.
        num_codes: most codes.
        num_offsets: most offsets, (0, 0) included.
    """

    type_name = "motion"

    def __init__(
        self,
        space: spaces.Box,
        *,
        cell: int | Sequence[int] | None = None,
        group: int | Sequence[int] | None = None,
        num_codes: int = 512,
        num_offsets: int = 64,
    ) -> None:
        if not is_image(space):
            raise MagratheaError(f"MotionTokenizer needs an image Box (H, W, 1|3|4) or (H, W) of uint8, got {space}")
        check_value("num_codes", num_codes, Annotated[int, Range(1, 2**16)])
        check_value("num_offsets", num_offsets, Annotated[int, Range(1, 2**12)])
        self.space = space
        height, width, *rest = self.value_shape
        self._shape = height, width, (rest[0] if rest else 1)
        self._cell = None if cell is None else patch_pair(cell)
        self._group = None if group is None else patch_pair(group)
        if self._cell and (max(self._cell) > _MOST_SIDE or self._cell[0] > height or self._cell[1] > width):
            raise MagratheaError(f"cell={self._cell} does not fit pictures of {height}x{width}; give a smaller one")
        if self._group and math.prod(self._group) > _MOST_GROUP:
            raise MagratheaError(f"group={self._group} has more than {_MOST_GROUP} cells; give a smaller one")
        self._num_codes, self._num_offsets = num_codes, num_offsets
        self._codec: MotionCodec | None = None

    # -- sizes --------------------------------------------------------------------------------------------------------
    @property
    def codec(self) -> MotionCodec:
        if self._codec is None:
            raise not_fitted(self, "frames")
        return self._codec

    @property
    def vocab_size(self) -> int:
        return max(256, self.codec.vocab_size)

    @property
    def grid(self) -> tuple[int, int]:
        return (1, math.prod(self.codec.grid) + math.prod(self._shape))

    @property
    def slot_specs(self) -> dict[str, SlotSpec]:
        height, width, channels = self._shape
        group = self._group or group_for_cell(self.codec.cell, self._shape)
        return {
            "": SlotSpec(self.codec.vocab_size, self.codec.grid, group=group),
            VALUES: SlotSpec(256, (height, width * channels), codec=self.codec),
        }

    # -- learning -----------------------------------------------------------------------------------------------------
    def fit(self, values: Any, *, previous: Any = None, seed: int = 0) -> Self:
        """Choose offsets and codes for frames (M, *shape), given those of the step before each."""
        frames = self.check_values(values)
        before = frames if previous is None else self.check_values(previous)
        if frames.ndim != len(self.value_shape) + 1 or not len(frames) or before.shape != frames.shape:
            raise MagratheaError("MotionTokenizer.fit got no frames; give (M, *space.shape) with M > 0, twice")
        generator = torch.Generator().manual_seed(seed)
        pairs = torch.randperm(len(frames), generator=generator)[:_FITTING_PAIRS].numpy()
        now, then = self._flat(frames[pairs]), self._flat(before[pairs])
        cell = self._cell or _fit_cell(now, then, self._shape, generator)
        offsets = fit_offsets(
            now,
            then,
            self._shape,
            cell,
            candidate_offsets(self._shape),
            self._num_offsets,
            _LEAST_GAIN,
            generator,
        )
        codec = _codec_of_offsets(self._shape, cell, offsets)
        more = torch.randperm(len(frames), generator=generator)[: 4 * _FITTING_PAIRS].numpy()
        cells = codec.cells(self._flat(frames[more])).flatten(0, 1)
        new, old = codec.cells(now), codec.cells(then)
        changed = new[((new - old).float() / 255).square().mean(-1) > OTHER]
        cells = cells[torch.randperm(len(cells), generator=generator)[: _FITTING_CELLS // 3]]
        changed = changed[torch.randperm(len(changed), generator=generator)[: 2 * _FITTING_CELLS // 3]]
        codes = fit_codes(torch.cat([cells, changed]).to(torch.uint8), self._num_codes, 10, generator)
        self._codec = MotionCodec(self._shape, cell, offsets, codes)
        return self

    def _flat(self, frames: np.ndarray) -> torch.Tensor:
        """(M, *shape) -> (M, Q) int64"""
        return torch.from_numpy(frames.reshape(len(frames), -1)).long()

    # -- tokens -------------------------------------------------------------------------------------------------------
    def _encode(self, values: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
        parts = []
        for begin in range(0, len(values), _FRAMES_AT_A_TIME):
            some = slice(begin, begin + _FRAMES_AT_A_TIME)
            now = self._flat(values[some])
            tokens = (
                self.codec.encode_alone(now) if previous is None else self.codec.encode(now, self._flat(previous[some]))
            )
            parts.append(torch.cat([tokens, now], dim=-1).numpy())
        return np.concatenate(parts) if parts else np.zeros((0, self.tokens_per_step), np.int64)

    def _decode(self, tokens: np.ndarray) -> np.ndarray:
        return tokens[:, -math.prod(self._shape) :]

    # -- files --------------------------------------------------------------------------------------------------------
    def to_config(self) -> dict[str, Any]:
        return {
            "type": self.type_name,
            "cell": list(self.codec.cell),
            "group": None if self._group is None else list(self._group),
            "num_codes": self._num_codes,
            "num_offsets": self._num_offsets,
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"offsets": self.codec.offsets.int().clone(), "codes": self.codec.codes.clone()}

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, torch.Tensor], space: gymnasium.Space) -> Tokenizer:
        assert isinstance(space, spaces.Box)
        options = {name: config[name] for name in ("cell", "num_codes", "num_offsets")}
        tokenizer = cls(space, group=config.get("group"), **options)
        assert tokenizer._cell is not None
        offsets = require_tensor(tensors, "offsets", 2, "MotionTokenizer")
        codes = require_tensor(tensors, "codes", 2, "MotionTokenizer")
        length = tokenizer._cell[0] * tokenizer._cell[1] * tokenizer._shape[2]
        fits = (
            offsets.dtype == np.int32
            and offsets.shape[1] == 2
            and len(offsets) <= tokenizer._num_offsets
            and not offsets[0].any()
            and np.abs(offsets).max() < 2**15
            and codes.dtype == np.uint8
            and codes.shape[1] == length
            and len(codes) <= tokenizer._num_codes
        )
        if not fits:
            raise MagratheaError(f"MotionTokenizer has offsets or codes that do not fit {space}; save it again")
        tokenizer._codec = MotionCodec(
            tokenizer._shape, tokenizer._cell, torch.from_numpy(offsets), torch.from_numpy(codes)
        )
        return tokenizer


def choose_position(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width in pixels of a position, square or as near to it as the picture (H, W, c) allows, with which it
    has about 72 of them: one that divides both sides where there is such a one."""
    height, width = shape[:2]
    wanted = math.sqrt(height * width / NUM_POSITIONS)
    sides = [side for side in range(1, _MOST_SIDE + 1) if wanted / 1.3 <= side <= wanted * 1.3] or [1]
    best = min(sides, key=lambda side: (bool(height % side or width % side), abs(math.log(side / wanted))))
    return min(best, height), min(best, width)


def group_for_cell(cell: tuple[int, int], shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of cells for a position of about the default size."""
    rows, columns = (max(1, round(size / side)) for size, side in zip(choose_position(shape), cell, strict=True))
    return min(rows, 8), min(columns, 8)


def _fit_cell(
    values: torch.Tensor, previous: torch.Tensor, shape: tuple[int, int, int], generator: torch.Generator
) -> tuple[int, int]:
    """The cell for pictures (B, Q), given those before: the tile that they are made of, else a whole position, or a
    smaller one where three offsets draw most of what changes in a picture exactly, the largest with which they draw
    about as much as with any."""
    position = choose_position(shape)
    if tile := _fit_tile(values[:_CELL_PAIRS], shape, position):
        return tile
    smaller = [(side, side) for side in _SMALL_SIDES if 2 * side <= min(position)]
    cells = [position, *(cell for cell in smaller if math.prod(grid_of_cells(shape, cell)) <= MOST_CELLS)]
    now, before = values[:_CELL_PAIRS], previous[:_CELL_PAIRS]
    shares = {}
    for cell in cells:
        offsets = fit_offsets(
            now, before, shape, cell, candidate_offsets(shape), 64, _LEAST_GAIN, generator, num_cells=_CELL_PAIRS
        )
        codec = _codec_of_offsets(shape, cell, offsets)
        shares[cell] = share_moved(codec, now[:_SHARE_PAIRS], before[:_SHARE_PAIRS], _OFFSETS_OF_A_PICTURE)
    most = max(shares.values())
    if most < _EXACT_SHARE:
        return position
    return next(cell for cell, share in shares.items() if share >= most - _SHARE_MARGIN)


def _fit_tile(values: torch.Tensor, shape: tuple[int, int, int], position: tuple[int, int]) -> tuple[int, int] | None:
    """The square cell that pictures (B, Q) are made of, as a game of tiles draws them: with it they have few different
    cells, far fewer than with cells of the default position. None where there is none of about that size."""
    height, width = shape[:2]
    sides = [side for side in range(2, min(height, width) + 1) if height % side == width % side == 0]
    near = [side for side in sides if NUM_POSITIONS / 2 <= height * width / side**2 <= 2 * NUM_POSITIONS]
    numbers = {(side, side): _num_different(values, shape, (side, side)) for side in near}
    best = min(numbers, key=lambda cell: numbers[cell], default=position)
    if best == position or numbers[best] > _MOST_TILES:
        return None
    return best if numbers[best] <= _FEWER_TILES * _num_different(values, shape, position) else None


def _num_different(values: torch.Tensor, shape: tuple[int, int, int], cell: tuple[int, int]) -> int:
    """How many different cells pictures (B, Q) have."""
    codec = _codec_of_offsets(shape, cell, torch.zeros(1, 2, dtype=torch.int32))
    return len(torch.unique(codec.cells(values).flatten(0, 1).to(torch.uint8), dim=0))


def _codec_of_offsets(shape: tuple[int, int, int], cell: tuple[int, int], offsets: torch.Tensor) -> MotionCodec:
    """A codec that has no codes yet."""
    return MotionCodec(shape, cell, offsets, torch.zeros(1, cell[0] * cell[1] * shape[2], dtype=torch.uint8))
