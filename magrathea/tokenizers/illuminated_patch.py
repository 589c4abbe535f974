"""LitPatchTokenizer: an image is a light, and a grid of patches that are seen in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Self

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from magrathea.errors import MagratheaError
from magrathea.layout import LIGHT
from magrathea.tokenizers.base import Part, Tokenizer, not_fitted, require_tensor
from magrathea.tokenizers.illumination import Albedo, Illumination, encode
from magrathea.tokenizers.illumination_fit import AT_A_TIME, fit_lights
from magrathea.tokenizers.patch import PatchedTokenizer
from magrathea.tokenizers.patches import split
from magrathea.tokenizers.patchfit import sample_frames

_MAX_FRAMES = 4000


class IlluminatedPatchTokenizer(PatchedTokenizer):
    """Image Box (H, W, channels) or (H, W) of uint8 to a grid of patch codes as they are in plain light, and one token
    for the light of the whole picture, the brightest first.

    For worlds that have day and night: a tree is the same code at noon and at dusk, and what the night draws over it is
    neither kept nor foretold. The last code means that the light hides what is there. `patch` is the patch's (height,
    width) or side in pixels, or None: `fit` chooses. At most `num_codes` codes and `num_lights` lights are made.
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
            raise MagratheaError(f"LitPatchTokenizer needs num_lights >= 2, got {num_lights}; or use image 'patch'")
        self._num_lights = int(num_lights)
        self._fitted: tuple[Albedo, Illumination] | None = None

    @property
    def matter(self) -> Albedo:
        """The codes in plain light."""
        return self._require_fitted()[0]

    @property
    def lights(self) -> Illumination:
        """The lights, the brightest first."""
        return self._require_fitted()[1]

    def _require_fitted(self) -> tuple[Albedo, Illumination]:
        if self._fitted is None:
            raise not_fitted(self, "frames")
        return self._fitted

    @property
    def parts(self) -> dict[str, Part]:
        codes = self._shown_codes()
        return {
            "": Part(len(codes), self.patch_grid, codes.reshape(len(codes), -1)),
            LIGHT: Part(len(self.lights), (1, 1), self.lights.token_features()),
        }

    @property
    def vocab_size(self) -> int:
        return max(part.vocab_size for part in self.parts.values())

    @property
    def grid(self) -> tuple[int, int]:
        rows, columns = self.patch_grid
        return (1, rows * columns + 1)

    # -- verbs --------------------------------------------------------------------------------------------------------
    def fit(self, values: Any, *, seed: int = 0) -> Self:
        """Find codes and lights in frames (M, H, W[, channels]), of which 4,000 are looked at."""
        images = sample_frames(self._images_to_fit(values, seed), _MAX_FRAMES, seed)
        self._fitted = fit_lights(self._cut(images), self._num_codes, self._num_lights, seed)
        return self

    def _encode(self, values: np.ndarray) -> np.ndarray:
        images = self._images(values)
        tokens = np.empty((len(images), self.tokens_per_step), np.int64)
        for begin in range(0, len(images), AT_A_TIME):
            part = slice(begin, begin + AT_A_TIME)
            tokens[part, -1], tokens[part, :-1] = encode(self._cut(images[part]), self.matter, self.lights)
        return tokens

    def _decode(self, tokens: np.ndarray) -> np.ndarray:
        codes, images = self._shown_codes(), np.empty((len(tokens), *self.value_shape), np.uint8)
        for begin in range(0, len(tokens), AT_A_TIME):
            part = tokens[begin : begin + AT_A_TIME]
            shown = np.clip(np.round(self.lights.shine(codes[part[:, :-1]], part[:, -1])), 0, 255)
            images[begin : begin + AT_A_TIME] = self._joined(shown.astype(np.uint8).reshape(-1, codes[0].size))
        return images

    def _cut(self, images: np.ndarray) -> np.ndarray:
        """Images (M, H, W, c) -> patches (M, C, S, c)."""
        height, width = self.patch
        patches = split(images, self.patch)[:, : height * width * self._channels]
        return patches.reshape(len(images), -1, height * width, self._channels)

    def _shown_codes(self) -> np.ndarray:
        """(V + 1, S, c) the codes, and last what stands for anything that is hidden: their mean."""
        codes = self.matter.codes
        return np.concatenate([codes, np.zeros_like(codes[:1])])

    def check_tokens(self, tokens: Any) -> np.ndarray:
        array = super().check_tokens(tokens)
        for name, values in (("code", array[..., :-1]), ("light", array[..., -1:])):
            most = len(self.matter.codes) if name == "code" else len(self.lights) - 1
            if values.size and values.max() > most:
                raise MagratheaError(
                    f"LitPatchTokenizer.decode got {name} {values.max()}; they lie in 0..{most}; the light comes last"
                )
        return array

    # -- files --------------------------------------------------------------------------------------------------------
    def to_config(self) -> dict[str, Any]:
        patch, sizes = list(self.patch), {"num_codes": self._num_codes, "num_lights": self._num_lights}
        return {"type": self.type_name, "patch": patch} | sizes

    def tensors(self) -> dict[str, torch.Tensor]:
        arrays = {field.name: getattr(part, field.name) for part in self._require_fitted() for field in fields(part)}
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, torch.Tensor], space: gymnasium.Space) -> Tokenizer:
        assert isinstance(space, spaces.Box)
        sizes = {name: config[name] for name in ("num_codes", "num_lights")}
        tokenizer = cls(space, patch=tuple(config["patch"]), **sizes)
        dimensions = {"mean": 1, "codes": 3, "likely": 1, "gains": 4, "offsets": 3, "variance": 2, "visible": 2}
        found = {name: require_tensor(tensors, name, ndim, cls.__name__) for name, ndim in dimensions.items()}
        (rows, columns), (height, width), channels = tokenizer.patch_grid, tokenizer.patch, tokenizer._channels
        codes, lights, places = len(found["codes"]), len(found["gains"]), rows * columns
        shapes = {
            "mean": (channels,),
            "codes": (codes, height * width, channels),
            "likely": (codes,),
            "gains": (lights, places, channels, channels),
            "offsets": (lights, places, channels),
            "variance": (lights, places),
            "visible": (lights, places),
        }
        for name, shape in shapes.items():
            if found[name].shape != shape:
                raise MagratheaError(f"{cls.__name__} tensor '{name}' is {found[name].shape}, not {shape}; save again")
        matter = Albedo(**{field.name: found[field.name] for field in fields(Albedo)})
        tokenizer._fitted = matter, Illumination(**{field.name: found[field.name] for field in fields(Illumination)})
        return tokenizer
