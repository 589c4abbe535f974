"""SoundTokenizer: the sound of a step as codes of its frames."""

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
from magrathea.tokenizers.sound_codebooks import MelCodebook, ResidualCodebooks, SoundCodebooks, frame_mels
from magrathea.tokenizers.sound_measures import mel_distance

SILENT = 0  # the token of a frame without sound
QUIET = 1e-3  # of full scale, up to which there is none
MOST_FITTED = 12_000  # frames with sound
MOST_FITTED_NUMBERS = 2**24  # of those frames
FINEST = 16, 2  # frames of a step, codes of a frame
COARSER = ((1, 1), (2, 1), (4, 1), (8, 1))
AS_NEAR = 1.25  # times the mel distance of the finest
TRIED = 0.25  # of the steps with sound, which are left out of the fit to choose among these
MOST_TRIED = 512
COARSE_CODES = 256


class SoundTokenizer(Tokenizer):
    """`Sound`: a step is cut into frames, and each frame has one code or a few: a single one is a recorded frame that
    sounds alike (`MelCodebook`), several are vectors that add up (`ResidualCodebooks`). Frames without sound are a
    token of their own, which decodes to silence exactly.

    `fit` makes the codebooks by k-means of the frames that are heard. Sounds of games recur: at equal bits that is
    nearer to them than a small convolutional codec with finite scalar quantization, and takes a tenth of the time
    (docs/LOG.md). Where the sounds of whole steps recur, a step is one frame of one code, which cannot contradict
    itself in a dream, as codes that are drawn independently do; otherwise it is of as few frames as are needed.

    Args:
        space: of the sound of a step.
        sound_frames: in which a step is cut.
        sound_codes: of each frame; together they take one position of the model. If neither number is given, `fit`
            takes the fewest frames of one code that are as near to steps that they were not made of as 16 frames of
            two codes, or else these; if one is given, the other is that of these.
        sound_vocab_size: number of different tokens.
    """

    type_name = "sound"
    space: Sound

    def __init__(
        self,
        space: gymnasium.Space,
        *,
        sound_frames: int | None = None,
        sound_codes: int | None = None,
        sound_vocab_size: int = 1001,
    ) -> None:
        if not isinstance(space, Sound):
            raise MagratheaError(f"SoundTokenizer needs a Sound, got {space}; declare its sample rate")
        frames, codes = (
            other if number is None else number
            for number, other in zip((sound_frames, sound_codes), FINEST, strict=True)
        )
        for name, value, low, most in (
            ("sound_frames", frames, 1, 1024),
            ("sound_codes", codes, 1, 16),
            ("sound_vocab_size", sound_vocab_size, 3, MAX_VOCABULARY),
        ):
            check_value(name, value, Annotated[int, Range(low, most)])
        self.space = space
        self._chooses = sound_frames is None and sound_codes is None
        self._num_frames, self._num_books = min(frames, space.shape[0]), codes
        self._num_codes = sound_vocab_size - 1
        self._codebooks: SoundCodebooks | None = None

    # -- sizes --------------------------------------------------------------------------------------------------------
    @property
    def vocab_size(self) -> int:
        return 1 + self._num_codes

    @property
    def grid(self) -> tuple[int, int]:
        if self._chooses and self._codebooks is None:
            raise not_fitted(self, "sounds")
        return 1, self._num_frames * self._num_books

    @property
    def slot_specs(self) -> dict[str, SlotSpec]:
        group, nothing = (1, self._num_books), SILENT if self.tokens_per_step == 1 else None
        return {"": SlotSpec(self.vocab_size, self.grid, self.token_features(), group=group, nothing=nothing)}

    @property
    def bits_per_step(self) -> float:
        """Bits of the tokens of a step."""
        return self.tokens_per_step * math.log2(self.vocab_size)

    @property
    def codebooks(self) -> SoundCodebooks:
        """What the codes of a frame stand for."""
        if self._codebooks is None:
            raise not_fitted(self, "sounds")
        return self._codebooks

    @property
    def _frame_samples(self) -> int:
        return -(-self.space.shape[0] // self._num_frames)

    @property
    def _frame_length(self) -> int:
        return self.space.num_channels * self._frame_samples

    def token_features(self) -> np.ndarray:
        """The log mel spectra of silence and of the first book's vectors: alike, whatever the phases of a tone are."""
        frames = torch.cat([torch.zeros(1, self._frame_length), self.codebooks.vectors[0]])
        return frame_mels(frames, self.space.num_channels, self.space.sample_rate).numpy()

    # -- verbs --------------------------------------------------------------------------------------------------------
    def fit(self, values: Any, *, previous: Any = None, seed: int = 0) -> Self:
        sounds = self.check_values(values)
        if sounds.ndim != len(self.value_shape) + 1 or len(sounds) == 0:
            raise MagratheaError(f"SoundTokenizer.fit got shape {sounds.shape}; give (M, *{self.value_shape}), M > 0")
        rng = np.random.default_rng(seed)
        if self._chooses:
            self._num_frames, self._num_books = cut = self._fewest(sounds, rng)
            self._num_codes = self._num_codes if cut == FINEST else min(COARSE_CODES, self._num_codes)
        self._codebooks = self._fitted(sounds, rng)
        return self

    def _fewest(self, sounds: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
        """The fewest frames and codes that are as near as the finest to steps of `sounds` that they are not made of."""
        heard = rng.permutation(np.flatnonzero(~_silent(torch.from_numpy(self.space.waveform(sounds)).flatten(1))))
        num_tried = min(MOST_TRIED, int(len(heard) * TRIED))
        tried, rest = sounds[np.sort(heard[:num_tried])], sounds[np.sort(heard[num_tried:])]
        if num_tried == 0:
            return FINEST

        def distance(frames: int, codes: int) -> float:
            most = self._num_codes if (frames, codes) == FINEST else min(COARSE_CODES, self._num_codes)
            trial = SoundTokenizer(self.space, sound_frames=frames, sound_codes=codes, sound_vocab_size=1 + most)
            trial.fit(rest, seed=int(rng.integers(2**31)))
            real, coded = (
                torch.from_numpy(self.space.waveform(each)) for each in (tried, trial.decode(trial.encode(tried)))
            )
            return float(mel_distance(real, coded, self.space.sample_rate).mean())

        allowed = AS_NEAR * distance(*FINEST)
        return next((cut for cut in COARSER if distance(*cut) <= allowed), FINEST)

    def _fitted(self, sounds: np.ndarray, rng: np.random.Generator) -> SoundCodebooks:
        """Codebooks of the frames with sound of some of the steps."""
        kept, num = [], 0
        for index in rng.permutation(len(sounds)):
            frames = self._frames(sounds[index : index + 1])[0]
            kept.append(frames[~_silent(frames)])
            num += len(kept[-1])
            if num >= min(MOST_FITTED, MOST_FITTED_NUMBERS // self._frame_length):
                break
        heard = torch.cat(kept)
        if self._num_books == 1:
            return MelCodebook.fit(heard, self._num_codes, rng, self.space.num_channels, self.space.sample_rate)
        return ResidualCodebooks.fit(heard, self._num_books, self._num_codes, rng)

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
        frames = self._frames(values).flatten(0, 1)
        silent = _silent(frames)
        tokens = torch.full((len(frames), self._num_books), SILENT)
        if not silent.all():
            tokens[~silent] = 1 + self.codebooks.encode(frames[~silent])
        return tokens.reshape(len(values), -1).numpy()

    def _decode(self, tokens: np.ndarray) -> np.ndarray:
        codes = torch.from_numpy(tokens).unflatten(1, (self._num_frames, self._num_books))
        frames = torch.zeros(*codes.shape[:2], self._frame_length)
        for index, book in enumerate(self.codebooks.vectors):
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
        return {"books": self.codebooks.vectors.clone()}

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor], space: gymnasium.Space) -> Tokenizer:
        tokenizer = cls(space, **{name: value for name, value in config.items() if name != "type"})
        books = require_tensor(tensors, "books", 3, "SoundTokenizer").astype(np.float32)
        expected = (tokenizer._num_books, tokenizer._num_codes, tokenizer._frame_length)
        if books.shape != expected or not np.isfinite(books).all():
            raise MagratheaError(f"SoundTokenizer has books {books.shape}, not numbers {expected}; save it again")
        vectors, sound = torch.from_numpy(books), tokenizer.space
        tokenizer._codebooks = (
            MelCodebook(vectors, sound.num_channels, sound.sample_rate)
            if len(vectors) == 1
            else ResidualCodebooks(vectors)
        )
        return tokenizer


def _silent(frames: Tensor) -> Tensor:
    """Frames (..., P) -> (...), True where there is no sound."""
    return frames.abs().amax(-1) <= QUIET
