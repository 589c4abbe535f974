"""The noisy patch tokenizer: codes do not depend on noise, and pictures without noise stay exact."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from magrathea.environments.crafter.noise import NoisyPatchTokenizer, noise_size, noisy_codes
from magrathea.tokenizers import PatchTokenizer

SPACE = spaces.Box(0, 255, (28, 28, 3), np.uint8)


def night(frames: np.ndarray, seed: int) -> np.ndarray:
    """frames (M, H, W, 3) darkened, with random grey noise, as Crafter draws its nights."""
    noise = np.random.default_rng(seed).uniform(32, 127, (*frames.shape[:3], 1))
    return (0.25 * frames + 0.25 * noise).astype(np.uint8)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """(600, 28, 28, 3): 4 x 4 tiles of twelve kinds."""
    random = np.random.default_rng(0)
    tiles = random.integers(0, 256, (12, 7, 7, 3), dtype=np.uint8)
    cut = tiles[random.integers(0, 12, (600, 4, 4))]
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(600, 28, 28, 3)


@pytest.fixture(scope="module")
def tokenizer(frames: np.ndarray) -> NoisyPatchTokenizer:
    days_and_nights = np.concatenate([frames, night(frames, 1)])
    return NoisyPatchTokenizer(SPACE, patch=(7, 7), num_codes=128).fit(days_and_nights)


def test_pictures_without_noise_stay_exact(tokenizer: NoisyPatchTokenizer, frames: np.ndarray) -> None:
    assert (tokenizer.decode(tokenizer.encode(frames)) == frames).all()


def test_codes_do_not_depend_on_the_noise(tokenizer: NoisyPatchTokenizer, frames: np.ndarray) -> None:
    one, other = tokenizer.encode(night(frames, 2)), tokenizer.encode(night(frames, 3))
    assert (one == other).mean() > 0.99
    assert tokenizer.vocab_size <= 40


def test_decoded_pictures_average_the_noise(tokenizer: NoisyPatchTokenizer, frames: np.ndarray) -> None:
    still = 0.25 * frames + 0.25 * (32 + 127) / 2
    decoded = tokenizer.decode(tokenizer.encode(night(frames, 4)))
    assert np.sqrt(np.square(decoded - still).mean()) < 3


def test_patch_tokenizer_needs_more_codes(tokenizer: NoisyPatchTokenizer, frames: np.ndarray) -> None:
    days_and_nights = np.concatenate([frames, night(frames, 1)])
    plain = PatchTokenizer(SPACE, patch=(7, 7), num_codes=128).fit(days_and_nights)
    assert (plain.decode(plain.encode(frames)) == frames).all()
    assert tokenizer.vocab_size < plain.vocab_size <= 128


def test_noise_size_distinguishes_noise_from_texture() -> None:
    random = np.random.default_rng(0)
    grain = random.normal(100, 8, (3000, 147)).clip(0, 255).astype(np.uint8)
    assert noise_size(grain, 0) == pytest.approx(8, rel=0.15)
    phase = random.uniform(0, 6, (3000, 1))
    texture = (127 + 100 * np.sin(np.arange(147) / 10 + phase)).astype(np.uint8)
    assert noise_size(texture, 0) == 0
    assert noise_size(grain[:20], 0) == 0


def test_number_of_noisy_codes_is_limited() -> None:
    random = np.random.default_rng(0)
    patches = (random.integers(0, 200, (40, 1)) + random.normal(0, 4, (50, 40, 27))).clip(0, 255).reshape(-1, 27)
    codes = noisy_codes(patches.astype(np.uint8), np.zeros((1, 27), np.float32), 4.0, 3, 10, 0)
    assert 1 <= len(codes) <= 10
