"""PatchTokenizer: an image is a grid of patches, each the number of its nearest neighbour in a codebook."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from magrathea.errors import MagratheaError
from magrathea.spaces import is_image
from magrathea.tokenizers.base import Tokenizer, not_fitted, require_tensor
from magrathea.tokenizers.codebook import nearest_codes, one_hot
from magrathea.tokenizers.patches import choose_patch, join, patch_pair, split, unique_rows
from magrathea.tokenizers.patchfit import MOST_LABELS, fit_codebook, sample_frames

_FRAMES_AT_A_TIME = 256


class PatchedTokenizer(Tokenizer):
    """What tokenizers have in common that cut an image Box (H, W, channels) or (H, W) of uint8 into a grid of patches.

    `patch` is the patch's (height, width) or side in pixels, or None: `fit` chooses.
    """

    space: spaces.Box

    def __init__(self, space: spaces.Box, patch: int | Sequence[int] | None, num_codes: int) -> None:
        name = type(self).__name__
        if not is_image(space):
            raise MagratheaError(f"{name} needs an image Box (H, W, 1|3|4) or (H, W) of uint8, got {space}")
        if num_codes < 2:
            raise MagratheaError(f"{name} needs num_codes >= 2, got {num_codes}")
        self.space = space
        height, width = self.value_shape[:2]
        self._channels = self.value_shape[2] if len(self.value_shape) == 3 else 1
        if patch is not None:
            patch = patch_pair(patch)
            if height % patch[0] or width % patch[1]:
                raise MagratheaError(f"patch={patch} does not divide the {height}x{width} image; give divisors of both")
        self._patch = patch
        self._num_codes = int(num_codes)

    @property
    def patch(self) -> tuple[int, int]:
        """(height, width) of a patch in pixels."""
        if self._patch is None:
            raise not_fitted(self, "frames")
        return self._patch

    @property
    def patch_grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        return (self.value_shape[0] // self.patch[0], self.value_shape[1] // self.patch[1])

    def _images_to_fit(self, values: Any, seed: int) -> np.ndarray:
        """Frames to fit to as images (M, H, W, channels), when the patch has been chosen."""
        frames = self.check_values(values)
        if frames.ndim != len(self.value_shape) + 1 or len(frames) == 0:
            name = type(self).__name__
            raise MagratheaError(f"{name}.fit got shape {frames.shape}; give frames (M, H, W, channels), M > 0")
        if self._patch is None:
            self._patch = choose_patch(self._images(sample_frames(frames, 512, seed)))
        return self._images(frames)

    def _images(self, values: np.ndarray) -> np.ndarray:
        return values.reshape(-1, *self.value_shape[:2], self._channels)

    def _joined(self, patches: np.ndarray) -> np.ndarray:
        """Patches in reading order -> values (M, *space.shape)."""
        return join(patches, *self.patch_grid, self.patch, self._channels).reshape(-1, *self.value_shape)

    def _accepts(self, dtype: np.dtype) -> bool:
        return dtype == np.uint8


class PatchTokenizer(PatchedTokenizer):
    """Image Box (H, W, channels) or (H, W) of uint8 to a grid of patch codes (Dedieu et al. 2025, arXiv 2502.01591).

    `patch` is the patch's (height, width) or side in pixels, or None: `fit` chooses. The codebook holds at most
    `num_codes` patches of uint8; a code is the nearest by squared distance, and the lower number in a tie; where pixels
    are labels (one channel of at most 16 values), it is the one from which the fewest pixels differ.
    """

    type_name = "patch"

    def __init__(self, space: spaces.Box, *, patch: int | Sequence[int] | None = None, num_codes: int = 1024) -> None:
        super().__init__(space, patch, num_codes)
        self._codebook: np.ndarray | None = None

    @property
    def codebook(self) -> np.ndarray:
        """The codes, uint8 (K, patch height, patch width, channels)."""
        if self._codebook is None or self._patch is None:
            raise not_fitted(self, "frames")
        return self._codebook.reshape(-1, *self._patch, self._channels)

    @property
    def vocab_size(self) -> int:
        return len(self.codebook)

    @property
    def grid(self) -> tuple[int, int]:
        return self.patch_grid

    # -- verbs --------------------------------------------------------------------------------------------------------
    def fit(self, values: Any, *, previous: Any = None, seed: int = 0) -> Self:
        """Make the codebook from frames (M, H, W[, channels]); M may be tens of thousands, memory-mapped is fine."""
        images = self._images_to_fit(values, seed)
        self._codebook = fit_codebook(images, self.patch, self._num_codes, seed)
        return self

    def token_features(self) -> np.ndarray:
        return self.codebook.reshape(self.vocab_size, -1).astype(np.float32)

    def _encode(self, values: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
        images, codes = self._images(values), self.codebook.reshape(self.vocab_size, -1)
        tokens = np.empty((len(images), self.tokens_per_step), np.int64)
        for begin in range(0, len(images), _FRAMES_AT_A_TIME):
            chunk = images[begin : begin + _FRAMES_AT_A_TIME]
            patches = split(chunk, self.patch)
            tokens[begin : begin + len(chunk)] = self._encode_patches(patches, codes).reshape(len(chunk), -1)
        return tokens

    def _encode_patches(self, patches: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Each different patch is compared with the codebook once."""
        unique = unique_rows(patches)
        different, values = patches[unique.first, : codes.shape[1]], np.unique(codes)
        if self._channels == 1 and len(values) <= MOST_LABELS:
            different, codes = one_hot(different, values), one_hot(codes, values)
        return nearest_codes(different, codes)[unique.inverse]

    def _decode(self, tokens: np.ndarray) -> np.ndarray:
        return self._joined(self.codebook[tokens.reshape(-1)])

    # -- files --------------------------------------------------------------------------------------------------------
    def to_config(self) -> dict[str, Any]:
        return {"type": self.type_name, "patch": list(self.patch), "num_codes": self._num_codes}

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"codebook": torch.from_numpy(self.codebook.copy())}

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, torch.Tensor], space: gymnasium.Space) -> Tokenizer:
        assert isinstance(space, spaces.Box)
        tokenizer = cls(space, patch=tuple(config["patch"]), num_codes=config["num_codes"])
        codebook = require_tensor(tensors, "codebook", 4, "PatchTokenizer")
        expected = (*tokenizer.patch, tokenizer._channels)
        if codebook.shape[1:] != expected or codebook.dtype != np.uint8:
            raise MagratheaError(
                f"PatchTokenizer codebook is {codebook.dtype} {codebook.shape}, not uint8 (K, {expected}); save again"
            )
        tokenizer._codebook = codebook.reshape(len(codebook), math.prod(expected)).copy()
        return tokenizer
