"""SoundTokenizer: the sound of a step as codes, a few for each of its frames, by residual vector quantization."""

from __future__ import annotations

import math
from typing import Annotated, Any, Self

import gymnasium
import numpy as np
import torch
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.settings import Range, check_value
from magrathea.sounds import Sound
from magrathea.spaces import MAX_VOCABULARY
from magrathea.tokenizers.base import SlotSpec, Tokenizer, not_fitted, require_tensor

SILENT = 0  # the token of a frame without sound
QUIET = 1e-3  # of full scale, up to which there is none
MOST_FITTED = 12_000  # frames with sound
ROUNDS = 8  # of k-means
FRAMES_AT_A_TIME = 128  # always: so that a step's tokens are the same whatever it is encoded with


class SoundTokenizer(Tokenizer):
    """`Sound`: each frame of a step is the sum of the vectors of a few codes, each the nearest to what those before it
    leave (residual vector quantization; Zeghidour et al. 2021, arXiv 2107.03312). Frames without sound are a token of
    their own, which decodes to silence exactly.

    `fit` makes the codebooks by k-means of the frames that are heard. Sounds of games recur: at equal bits that is
    nearer to them than a small convolutional codec with finite scalar quantization, and takes a tenth of the time
    (docs/LOG.md).

    Args:
        space: of the sound of a step.
        sound_frames: in which a step is cut.
        sound_codes: of each frame; together they take one position of the model.
        sound_vocab_size: number of different tokens.
    """

    type_name = "sound"
    space: Sound

    def __init__(
        self,
        space: gymnasium.Space,
        *,
        sound_frames: int = 16,
        sound_codes: int = 2,
        sound_vocab_size: int = 1001,
    ) -> None:
        if not isinstance(space, Sound):
            raise MagratheaError(f"SoundTokenizer needs a Sound, got {space}; declare its sample rate")
        for name, value, low, most in (
            ("sound_frames", sound_frames, 1, 1024),
            ("sound_codes", sound_codes, 1, 16),
            ("sound_vocab_size", sound_vocab_size, 3, MAX_VOCABULARY),
        ):
            check_value(name, value, Annotated[int, Range(low, most)])
        self.space = space
        self._num_frames, self._num_books = min(sound_frames, space.shape[0]), sound_codes
        self._frame_samples = -(-space.shape[0] // self._num_frames)
        self._num_codes = sound_vocab_size - 1
        self._books: Tensor | None = None

    # -- sizes --------------------------------------------------------------------------------------------------------
    @property
    def vocab_size(self) -> int:
        return 1 + self._num_codes

    @property
    def grid(self) -> tuple[int, int]:
        return 1, self._num_frames * self._num_books

    @property
    def slot_specs(self) -> dict[str, SlotSpec]:
        return {"": SlotSpec(self.vocab_size, self.grid, self.token_features(), group=(1, self._num_books))}

    @property
    def bits_per_step(self) -> float:
        """Bits of the tokens of a step."""
        return self.tokens_per_step * math.log2(self.vocab_size)

    @property
    def books(self) -> Tensor:
        """The vectors of the codes (Q books, codes, numbers of a frame) float32."""
        if self._books is None:
            raise not_fitted(self, "sounds")
        return self._books

    @property
    def _frame_length(self) -> int:
        return self.space.num_channels * self._frame_samples

    def token_features(self) -> np.ndarray:
        return np.concatenate([np.zeros((1, self._frame_length), np.float32), self.books[0].numpy()])

    # -- verbs --------------------------------------------------------------------------------------------------------
    def fit(self, values: Any, *, previous: Any = None, seed: int = 0) -> Self:
        sounds = self.check_values(values)
        if sounds.ndim != len(self.value_shape) + 1 or len(sounds) == 0:
            raise MagratheaError(f"SoundTokenizer.fit got shape {sounds.shape}; give (M, *{self.value_shape}), M > 0")
        rng, kept, num = np.random.default_rng(seed), [], 0
        for index in rng.permutation(len(sounds)):
            frames = self._frames(sounds[index : index + 1])[0]
            kept.append(frames[~_silent(frames)])
            num += len(kept[-1])
            if num >= MOST_FITTED:
                break
        left, books = torch.cat(kept), []
        for _ in range(self._num_books):
            # what a book leaves nothing of is to be nothing in those after it
            first = left.new_zeros(min(1, len(books)), self._frame_length)
            found = k_means(left, self._num_codes - len(first), rng)
            book = torch.cat([first, found, left.new_zeros(self._num_codes - len(first) - len(found), left.shape[1])])
            books.append(book)
            left = left - book[_nearest(left, book)]
        self._books = torch.stack(books)
        return self

    def _accepts(self, dtype: np.dtype) -> bool:
        return dtype == self.value_dtype

    def _frames(self, values: np.ndarray) -> Tensor:
        """Values (M, *space.shape) -> float32 frames (M, frames, numbers of a frame)."""
        waves = self.space.waveform(values)
        missing = self._num_frames * self._frame_samples - waves.shape[-1]
        padded = np.pad(waves, ((0, 0), (0, 0), (0, missing)))
        cut = padded.reshape(len(waves), -1, self._num_frames, self._frame_samples).swapaxes(1, 2)
        return torch.from_numpy(cut.reshape(len(waves), self._num_frames, -1).astype(np.float32))

    def _encode(self, values: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
        frames = self._frames(values)
        left, silent, tokens = frames.flatten(0, 1), _silent(frames).flatten(), []
        for book in self.books:
            codes = _nearest(left, book)
            left = left - book[codes]
            tokens.append(torch.where(silent, SILENT, 1 + codes))
        return torch.stack(tokens, dim=-1).reshape(len(values), -1).numpy()

    def _decode(self, tokens: np.ndarray) -> np.ndarray:
        codes = torch.from_numpy(tokens).unflatten(1, (self._num_frames, self._num_books))
        frames = torch.zeros(*codes.shape[:2], self._frame_length)
        for index, book in enumerate(self.books):
            here = codes[..., index]
            frames += book[(here - 1).clamp_min(0)] * (here != SILENT)[..., None]
        frames *= (codes[..., :1] != SILENT).float()
        cut = frames.unflatten(-1, (self.space.num_channels, self._frame_samples))
        waves = cut.transpose(1, 2).flatten(2)[..., : self.value_shape[0]]
        return self.space.values(waves.numpy())

    # -- files --------------------------------------------------------------------------------------------------------
    def to_config(self) -> dict[str, Any]:
        return {
            "type": self.type_name,
            "sound_frames": self._num_frames,
            "sound_codes": self._num_books,
            "sound_vocab_size": self.vocab_size,
        }

    def tensors(self) -> dict[str, Tensor]:
        return {"books": self.books.clone()}

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor], space: gymnasium.Space) -> Tokenizer:
        tokenizer = cls(space, **{name: value for name, value in config.items() if name != "type"})
        books = require_tensor(tensors, "books", 3, "SoundTokenizer").astype(np.float32)
        expected = (tokenizer._num_books, tokenizer._num_codes, tokenizer._frame_length)
        if books.shape != expected or not np.isfinite(books).all():
            raise MagratheaError(f"SoundTokenizer has books {books.shape}, not numbers {expected}; save it again")
        tokenizer._books = torch.from_numpy(books)
        return tokenizer


def _silent(frames: Tensor) -> Tensor:
    """Frames (..., P) -> (...), True where there is no sound."""
    return frames.abs().amax(-1) <= QUIET


def k_means(frames: Tensor, num_codes: int, rng: np.random.Generator) -> Tensor:
    """At most num_codes vectors (K, P) with a small squared distance from frames (M, P); the different frames
    themselves where they are no more."""
    different = torch.unique(frames, dim=0)
    if len(different) <= num_codes:
        return different
    codes = different[torch.from_numpy(rng.permutation(len(different))[:num_codes])]
    for _ in range(ROUNDS):
        nearest = _nearest(frames, codes)
        sums = torch.zeros_like(codes).index_add_(0, nearest, frames)
        counts = torch.bincount(nearest, minlength=num_codes)[:, None]
        codes = torch.where(counts > 0, sums / counts.clamp_min(1), codes)
    return codes


def _nearest(frames: Tensor, codes: Tensor) -> Tensor:
    """The index (M,) of the vector (K, P) with the least squared distance to each frame (M, P)."""
    half_norms = codes.square().sum(-1) / 2
    padded = torch.cat([frames, frames.new_zeros(-len(frames) % FRAMES_AT_A_TIME, frames.shape[1])])
    found = [(part @ codes.T - half_norms).argmax(-1) for part in padded.split(FRAMES_AT_A_TIME)]
    return torch.cat(found)[: len(frames)] if found else torch.zeros(0, dtype=torch.long)
