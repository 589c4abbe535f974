"""IlluminatedPatchTokenizer: a picture as patch codes independent of the illumination, and one token for it.

M frames, K illuminations, C cells, S pixels of a patch, c channels, V codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Self

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from magrathea.environments.crafter.illumination import FRAMES_AT_A_TIME, Albedo, Illumination, encode
from magrathea.environments.crafter.illumination_fit import fit_illumination
from magrathea.errors import MagratheaError
from magrathea.tokenizers.base import SlotSpec, Tokenizer, not_fitted, require_tensor
from magrathea.tokenizers.patch import PatchedTokenizer
from magrathea.tokenizers.patches import split
from magrathea.tokenizers.patchfit import sample_frames

LIGHT = "light"  # name of the part, and so of its slot
_MAX_FIT_FRAMES = 4000
_STORED_NAMES = {"log_prior": "likely"}  # tensors whose names in files differ from the attributes'
_NUM_DIMENSIONS = {"mean": 1, "codes": 3, "log_prior": 1, "gains": 4, "offsets": 3, "variance": 2, "visible": 2}


class IlluminatedPatchTokenizer(PatchedTokenizer):
    """Image Box (H, W, channels) or (H, W) of uint8 to a grid of patch codes under a reference illumination, and one
    token for the illumination of the whole picture, brightest first.

    For worlds with day and night: a tree has the same code at noon and at dusk, and noise that the night draws over it
    is not encoded. The last code means that the cell is hidden in the dark.

    Args:
        space: of the pictures.
        patch: (height, width) or side of a patch in pixels; None lets `fit` choose.
        num_codes, num_lights: the most codes and illuminations that `fit` makes.
    """

    type_name = "lit_patch"

    def __init__(
        self,
        space: spaces.Box,
        *,
        patch: int | Sequence[int] | None = None,
        num_codes: int = 1024,
        num_lights: int = 32,
    ) -> None:
        super().__init__(space, patch, num_codes)
        if num_lights < 2:
            raise MagratheaError(f"{type(self).__name__} needs num_lights >= 2, got {num_lights}; or use image 'patch'")
        self._num_lights = int(num_lights)
        self._fitted: tuple[Albedo, Illumination] | None = None

    @property
    def albedo(self) -> Albedo:
        """The codes, independent of the illumination."""
        return self._require_fitted()[0]

    @property
    def illumination(self) -> Illumination:
        """The illuminations, brightest first."""
        return self._require_fitted()[1]

    def _require_fitted(self) -> tuple[Albedo, Illumination]:
        if self._fitted is None:
            raise not_fitted(self, "frames")
        return self._fitted

    @property
    def slot_specs(self) -> dict[str, SlotSpec]:
        codes = self._codes_and_hidden()
        return {
            "": SlotSpec(len(codes), self.patch_grid, codes.reshape(len(codes), -1)),
            LIGHT: SlotSpec(len(self.illumination), (1, 1), self.illumination.token_features()),
        }

    @property
    def vocab_size(self) -> int:
        return max(part.vocab_size for part in self.slot_specs.values())

    @property
    def grid(self) -> tuple[int, int]:
        rows, columns = self.patch_grid
        return (1, rows * columns + 1)

    # -- verbs --------------------------------------------------------------------------------------------------------
    def fit(self, values: Any, *, previous: Any = None, seed: int = 0) -> Self:
        """Find codes and illuminations in frames (M, H, W[, channels]), of which at most 4,000 are used."""
        images = sample_frames(self._images_to_fit(values, seed), _MAX_FIT_FRAMES, seed)
        self._fitted = fit_illumination(self._cut(images), self._num_codes, self._num_lights, seed)
        return self

    def _encode(self, values: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
        images = self._images(values)
        tokens = np.empty((len(images), self.tokens_per_step), np.int64)
        for begin in range(0, len(images), FRAMES_AT_A_TIME):
            part = slice(begin, begin + FRAMES_AT_A_TIME)
            tokens[part, -1], tokens[part, :-1] = encode(self._cut(images[part]), self.albedo, self.illumination)
        return tokens

    def _decode(self, tokens: np.ndarray) -> np.ndarray:
        codes, images = self._codes_and_hidden(), np.empty((len(tokens), *self.value_shape), np.uint8)
        for begin in range(0, len(tokens), FRAMES_AT_A_TIME):
            part = tokens[begin : begin + FRAMES_AT_A_TIME]
            values = np.clip(np.round(self.illumination.render(codes[part[:, :-1]], part[:, -1])), 0, 255)
            images[begin : begin + FRAMES_AT_A_TIME] = self._joined(values.astype(np.uint8).reshape(-1, codes[0].size))
        return images

    def _cut(self, images: np.ndarray) -> np.ndarray:
        """Images (M, H, W, c) -> patches (M, C, S, c)."""
        height, width = self.patch
        patches = split(images, self.patch)[:, : height * width * self._channels]
        return patches.reshape(len(images), -1, height * width, self._channels)

    def _codes_and_hidden(self) -> np.ndarray:
        """(V + 1, S, c) the codes, and last the picture of a hidden cell: the codes' mean."""
        codes = self.albedo.codes
        return np.concatenate([codes, np.zeros_like(codes[:1])])

    def check_tokens(self, tokens: Any) -> np.ndarray:
        array = super().check_tokens(tokens)
        for name, values in (("code", array[..., :-1]), ("light", array[..., -1:])):
            most = len(self.albedo.codes) if name == "code" else len(self.illumination) - 1
            if values.size and values.max() > most:
                raise MagratheaError(
                    f"{type(self).__name__}.decode got {name} {values.max()}; they lie in 0..{most}; "
                    "the light comes last"
                )
        return array

    # -- files --------------------------------------------------------------------------------------------------------
    def to_config(self) -> dict[str, Any]:
        patch, sizes = list(self.patch), {"num_codes": self._num_codes, "num_lights": self._num_lights}
        return {"type": self.type_name, "patch": patch} | sizes

    def tensors(self) -> dict[str, torch.Tensor]:
        arrays = {field.name: getattr(part, field.name) for part in self._require_fitted() for field in fields(part)}
        return {
            _STORED_NAMES.get(name, name): torch.from_numpy(np.ascontiguousarray(array))
            for name, array in arrays.items()
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, torch.Tensor], space: gymnasium.Space) -> Tokenizer:
        assert isinstance(space, spaces.Box)
        sizes = {name: config[name] for name in ("num_codes", "num_lights")}
        tokenizer = cls(space, patch=tuple(config["patch"]), **sizes)
        found = {name: tokenizer._stored(tensors, name, ndim) for name, ndim in _NUM_DIMENSIONS.items()}
        for name, shape in tokenizer._shapes(len(found["codes"]), len(found["gains"])).items():
            if found[name].shape != shape:
                raise MagratheaError(
                    f"{cls.__name__} tensor '{_STORED_NAMES.get(name, name)}' is {found[name].shape}, not {shape}; "
                    "save it again"
                )
        albedo = Albedo(**{field.name: found[field.name] for field in fields(Albedo)})
        tokenizer._fitted = albedo, Illumination(**{field.name: found[field.name] for field in fields(Illumination)})
        return tokenizer

    def _stored(self, tensors: dict[str, torch.Tensor], name: str, ndim: int) -> np.ndarray:
        return require_tensor(tensors, _STORED_NAMES.get(name, name), ndim, type(self).__name__)

    def _shapes(self, num_codes: int, num_illuminations: int) -> dict[str, tuple[int, ...]]:
        """What the tensors' shapes must be."""
        (rows, columns), (height, width), channels = self.patch_grid, self.patch, self._channels
        per_cell = (num_illuminations, rows * columns)
        return {
            "mean": (channels,),
            "codes": (num_codes, height * width, channels),
            "log_prior": (num_codes,),
            "gains": (*per_cell, channels, channels),
            "offsets": (*per_cell, channels),
            "variance": per_cell,
            "visible": per_cell,
        }
