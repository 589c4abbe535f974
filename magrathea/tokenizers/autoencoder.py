"""MaskedAutoencoderTokenizer: a learned code for each patch of an image, drawn with its neighbours in view."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Self

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from magrathea.devices import resolve_device
from magrathea.errors import MagratheaError
from magrathea.settings import Range, check_value
from magrathea.spaces import is_image
from magrathea.tokenizers.base import Tokenizer, not_fitted
from magrathea.tokenizers.masked_autoencoder import HEAD_WIDTH, MaskedAutoencoder
from magrathea.tokenizers.patches import patch_pair
from magrathea.tokenizers.scalar_quantization import ScalarQuantizer

_FRAMES_AT_A_TIME = 64
_WARM_UP_STEPS = 50
_DEFAULT_STEPS = 1000
_NUM_BEGINNING_FRAMES = 512


class MaskedAutoencoderTokenizer(Tokenizer):
    """Image Box of uint8 to a grid of codes of a `MaskedAutoencoder`: for textured worlds, where patches never repeat.

    Args:
        space: (H, W, 1|3|4) or (H, W). Images that patches do not tile are continued by their last row and column.
        patch: pixels of a patch's side, or (height, width).
        levels: values of each number of a latent; their product is the size of the vocabulary.
        width: of the transformers, a multiple of 32.
        num_layers: of the encoder, and as many of the decoder.
        max_mask_ratio: each training image hides a share of its patches that is drawn from 0 to this.
        batch_size, learning_rate: of `fit`.
        steps, minutes: how long `fit` learns, one of the two. Only steps make the same seed the same tokenizer.
    """

    type_name = "autoencoder"

    def __init__(
        self,
        space: spaces.Box,
        *,
        patch: int | Sequence[int] = 8,
        levels: Sequence[int] = (8, 5, 5, 5),
        width: int = 96,
        num_layers: int = 2,
        max_mask_ratio: float = 0.6,
        batch_size: int = 32,
        learning_rate: float = 2e-3,
        steps: int | None = None,
        minutes: float | None = None,
    ) -> None:
        if not is_image(space):
            raise MagratheaError(
                f"MaskedAutoencoderTokenizer needs an image Box (H, W, 1|3|4) or (H, W) of uint8, got {space}"
            )
        for name, value, most in (("width", width, 8192), ("num_layers", num_layers, 64)):
            check_value(name, value, Annotated[int, Range(1, most)])
        if width < HEAD_WIDTH or width % HEAD_WIDTH or num_layers < 1 or batch_size < 1:
            raise MagratheaError(
                "MaskedAutoencoderTokenizer needs width a multiple of 32, num_layers and batch_size >= 1"
            )
        if not 0 <= max_mask_ratio < 1 or not learning_rate > 0:
            raise MagratheaError("MaskedAutoencoderTokenizer needs max_mask_ratio in [0, 1) and learning_rate > 0")
        _check_length(steps, minutes)
        self.space = space
        self._patch = patch_pair(patch)
        self._channels = self.value_shape[2] if len(self.value_shape) == 3 else 1
        self._levels = tuple(int(level) for level in levels)
        self._width, self._num_layers = int(width), int(num_layers)
        self._max_mask_ratio, self._batch_size, self._learning_rate = max_mask_ratio, batch_size, learning_rate
        self._steps, self._minutes = steps, minutes
        self._vocab_size = ScalarQuantizer(self._levels).num_codes
        self._model: MaskedAutoencoder | None = None

    # -- sizes --------------------------------------------------------------------------------------------------------
    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def grid(self) -> tuple[int, int]:
        height, width = self.value_shape[:2]
        return (-(-height // self._patch[0]), -(-width // self._patch[1]))

    @property
    def model(self) -> MaskedAutoencoder:
        """The networks, in float32 on the CPU."""
        if self._model is None:
            raise not_fitted(self, "frames")
        return self._model

    def _new_model(self) -> MaskedAutoencoder:
        patch_length = math.prod(self._patch) * self._channels
        return MaskedAutoencoder(self.grid, patch_length, self._levels, self._width, self._num_layers)

    def token_features(self) -> np.ndarray:
        quantizer = ScalarQuantizer(self._levels)
        return quantizer.values(torch.arange(self.vocab_size)).numpy()

    # -- verbs --------------------------------------------------------------------------------------------------------
    def fit(
        self,
        values: Any,
        *,
        previous: Any = None,
        seed: int = 0,
        steps: int | None = None,
        minutes: float | None = None,
    ) -> Self:
        """Learn from frames (M, H, W[, channels]) for `steps` or `minutes`, or else as long as the constructor says.

        On a CUDA device where there is one. M may be tens of thousands, memory-mapped is fine.
        """
        frames = self.check_values(values)
        if frames.ndim != len(self.value_shape) + 1 or len(frames) == 0:
            raise MagratheaError(
                f"MaskedAutoencoderTokenizer.fit got shape {frames.shape}; give frames (M, H, W, channels), M > 0"
            )
        _check_length(steps, minutes)
        if steps is None and minutes is None:
            steps, minutes = self._steps, self._minutes
        share = _share_done(_DEFAULT_STEPS if steps is None and minutes is None else steps, minutes)
        device, _ = resolve_device("auto")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self._new_model()
            sample = frames[np.linspace(0, len(frames) - 1, min(len(frames), _NUM_BEGINNING_FRAMES)).astype(int)]
            model.init_from_patches(self._patches(sample).flatten(0, 1))
            self._learn(model.to(device), frames, share, np.random.default_rng(seed))
        self._model = model.to("cpu").eval().requires_grad_(False)
        return self

    def _learn(
        self, model: MaskedAutoencoder, frames: np.ndarray, share: Callable[[int], float], rng: np.random.Generator
    ) -> None:
        """AdamW on the mean of absolute and of squared errors; the learning rate warms up and falls to nothing."""
        device = model.mask_token.device
        optimizer = torch.optim.AdamW(model.parameters(), lr=self._learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
        step = 0
        while (done := share(step)) < 1:
            rate = self._learning_rate * min(1.0, (step + 1) / _WARM_UP_STEPS) * (1 + math.cos(math.pi * done)) / 2
            optimizer.param_groups[0]["lr"] = rate
            chosen = np.sort(rng.integers(len(frames), size=self._batch_size))
            patches = self._patches(frames[chosen]).to(device)
            ratios = rng.uniform(0, self._max_mask_ratio, (len(patches), 1))
            hidden_mask = torch.from_numpy(rng.random(patches.shape[:2]) < ratios).to(device)
            drawn = model(patches, hidden_mask)
            loss = F.l1_loss(drawn, patches) + F.mse_loss(drawn, patches)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1

    def _accepts(self, dtype: np.dtype) -> bool:
        return dtype == np.uint8

    def _patches(self, values: np.ndarray) -> Tensor:
        """uint8 images (M, H, W[, channels]) -> float32 patches (M, R*C, P) in [-1, 1]."""
        (rows, columns), (height, width) = self.grid, self._patch
        images = values.reshape(-1, *self.value_shape[:2], self._channels)
        missing = (rows * height - images.shape[1], columns * width - images.shape[2])
        padded = np.pad(images, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), "edge")
        cut = padded.reshape(-1, rows, height, columns, width, self._channels).transpose(0, 1, 3, 2, 4, 5)
        return torch.from_numpy(cut.reshape(len(images), rows * columns, -1)).float() / 127.5 - 1

    @torch.inference_mode()
    def _encode(self, values: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
        model = self.model
        chunks = (values[begin : begin + _FRAMES_AT_A_TIME] for begin in range(0, len(values), _FRAMES_AT_A_TIME))
        tokens = [model.quantizer.codes(model.encode(self._patches(chunk))).numpy() for chunk in chunks]
        return np.concatenate(tokens) if tokens else np.empty((0, self.tokens_per_step), np.int64)

    @torch.inference_mode()
    def _decode(self, tokens: np.ndarray) -> np.ndarray:
        model = self.model
        images = np.empty((len(tokens), *self.value_shape), np.uint8)
        for begin in range(0, len(tokens), _FRAMES_AT_A_TIME):
            codes = torch.from_numpy(tokens[begin : begin + _FRAMES_AT_A_TIME])
            images[begin : begin + len(codes)] = self._images(model.decode(model.quantizer.values(codes)))
        return images

    def _images(self, patches: Tensor) -> np.ndarray:
        """The inverse of `_patches`."""
        (rows, columns), (height, width) = self.grid, self._patch
        pixels = ((patches + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
        joined = pixels.reshape(-1, rows, columns, height, width, self._channels).transpose(0, 1, 3, 2, 4, 5)
        whole = joined.reshape(-1, rows * height, columns * width, self._channels)
        return whole[:, : self.value_shape[0], : self.value_shape[1]].reshape(-1, *self.value_shape)

    # -- files --------------------------------------------------------------------------------------------------------
    def to_config(self) -> dict[str, Any]:
        return {
            "type": self.type_name,
            "patch": list(self._patch),
            "levels": list(self._levels),
            "width": self._width,
            "num_layers": self._num_layers,
        }

    def tensors(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor], space: gymnasium.Space) -> Tokenizer:
        assert isinstance(space, spaces.Box)
        settings = {name: config[name] for name in ("patch", "levels", "width", "num_layers")}
        tokenizer = cls(space, **settings)
        with torch.device("meta"):  # no memory for sizes that the tensors do not have
            expected = {name: tensor.shape for name, tensor in tokenizer._new_model().state_dict().items()}
        if wrong := sorted(name for name in expected if name not in tensors or tensors[name].shape != expected[name]):
            raise MagratheaError(f"MaskedAutoencoderTokenizer has no tensor '{wrong[0]}' that fits; save it again")
        model = tokenizer._new_model()
        model.load_state_dict({name: tensors[name].float() for name in expected})
        tokenizer._model = model.eval().requires_grad_(False)
        return tokenizer


def _check_length(steps: int | None, minutes: float | None) -> None:
    given = [length for length in (steps, minutes) if length is not None]
    if len(given) > 1 or any(length <= 0 for length in given):
        raise MagratheaError(f"steps={steps} and minutes={minutes}: give one of them, more than 0")


def _share_done(steps: int | None, minutes: float | None) -> Callable[[int], float]:
    """How much of the fit is done after some steps, 0 to 1."""
    if steps is not None:
        return lambda step: step / steps
    assert minutes is not None
    begin = time.perf_counter()
    return lambda step: (time.perf_counter() - begin) / (60 * minutes)
