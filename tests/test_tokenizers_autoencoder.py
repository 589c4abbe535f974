"""The autoencoder tokenizer: codes, reconstruction after a short fit, masking in training, files, and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file, save_file

from magrathea.errors import MagratheaError
from magrathea.tokenizers import MaskedAutoencoderTokenizer, reconstruction_report, tokenizer_for, tokenizer_from
from magrathea.tokenizers.scalar_quantization import ScalarQuantizer

SIZE = 32
SPACE = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
SMALL: dict[str, Any] = {"width": 32, "num_layers": 1, "batch_size": 16, "learning_rate": 3e-3}


def moving_shapes(num: int, seed: int) -> np.ndarray:
    """Frames (num, 32, 32, 3): a disc and a square at random positions on a colour gradient."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    frames = np.repeat(np.stack([2 * columns, 2 * rows, rows + columns], -1)[None] + 20, num, axis=0)
    for frame, (row, column, other_row, other_column) in zip(frames, rng.uniform(6, SIZE - 6, (num, 4)), strict=True):
        frame[(rows - row) ** 2 + (columns - column) ** 2 < 25] = (230, 60, 40)
        frame[(abs(rows - other_row) < 4) & (abs(columns - other_column) < 4)] = (40, 200, 240)
    return frames.astype(np.uint8)


@pytest.fixture(scope="module", name="tokenizer")
def _tokenizer() -> MaskedAutoencoderTokenizer:
    return MaskedAutoencoderTokenizer(SPACE, **SMALL, steps=300).fit(moving_shapes(600, seed=0))


# -- the codes --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (2,), (3, 2, 7), (4, 4)])
def test_codes_and_latents_are_one_to_one(levels: tuple[int, ...]) -> None:
    quantizer = ScalarQuantizer(levels)
    codes = torch.arange(quantizer.num_codes)
    values = quantizer.values(codes)
    assert quantizer.num_codes == np.prod(levels) and len(values.unique(dim=0)) == len(codes)
    assert torch.equal(quantizer.codes(values), codes) and values.abs().max() <= 1


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (3, 2, 7)])
def test_latents_are_rounded_to_every_level(levels: tuple[int, ...]) -> None:
    quantizer = ScalarQuantizer(levels)
    latents = torch.linspace(-9, 9, 2001)[:, None].expand(-1, len(levels))
    quantized = quantizer(latents)
    assert [len(column.unique()) for column in quantized.T] == list(levels)
    torch.testing.assert_close(quantizer.values(quantizer.codes(quantized)), quantized)


def test_gradients_pass_straight_through_the_rounding() -> None:
    latents = torch.zeros(4, requires_grad=True)
    ScalarQuantizer((8, 5, 5, 5))(latents).sum().backward()
    assert latents.grad is not None and (latents.grad > 0.5).all()


# -- the fit ----------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_short_fit_reconstructs_better_than_the_mean_image(tokenizer: MaskedAutoencoderTokenizer) -> None:
    train, held_out = moving_shapes(600, seed=0), moving_shapes(60, seed=1)
    report = reconstruction_report(tokenizer, held_out)
    of_mean = 10 * np.log10(255**2 / np.square(train.mean(0) - held_out).mean())
    assert report["psnr"] > of_mean + 2, (report, of_mean)
    assert report["codebook_used"] > 0.05 and report["codebook_perplexity"] > 10, report


def test_masked_patches_are_reconstructed_from_the_others() -> None:
    """Frames of one colour, half masked: the error is less than half of that of a tokenizer trained without masks."""
    colours = np.random.default_rng(0).integers(0, 256, (300, 1, 1, 3), np.uint8)
    frames = np.broadcast_to(colours, (300, SIZE, SIZE, 3))
    masked, unmasked = (
        MaskedAutoencoderTokenizer(SPACE, **SMALL, max_mask_ratio=ratio, steps=120).fit(frames[:240])
        for ratio in (0.6, 0.0)
    )
    patches = masked._patches(frames[240:])
    hidden_mask = torch.rand(patches.shape[:2], generator=torch.Generator().manual_seed(0)) < 0.5
    with torch.inference_mode():
        error, unmasked_error = (
            (one.model(patches, hidden_mask) - patches).square()[hidden_mask].mean().item()
            for one in (masked, unmasked)
        )
    assert error < 0.5 * unmasked_error, (error, unmasked_error)


def test_weights_are_initialized_from_principal_components() -> None:
    """After one update it reconstructs better than the mean patch, and the same each time."""
    frames = moving_shapes(40, seed=0)
    first, second = (MaskedAutoencoderTokenizer(SPACE, **SMALL, steps=1).fit(frames) for _ in range(2))
    patches = first._patches(frames)
    of_mean = 10 * np.log10(4 / (patches - patches.mean((0, 1))).square().mean().item())
    assert reconstruction_report(first, frames)["psnr"] > of_mean + 2
    assert torch.equal(first.tensors()["to_patch.weight"], second.tensors()["to_patch.weight"])
    grey = MaskedAutoencoderTokenizer(SPACE, **SMALL, steps=1).fit(np.full_like(frames[:1], 90))
    assert reconstruction_report(grey, np.full_like(frames[:1], 90))["psnr"] > 40


@pytest.mark.parametrize(("ratio", "used"), [(0.6, True), (0.0, False)])
def test_training_masks_patches(ratio: float, used: bool) -> None:
    """The mask token is initialized to 0 and only changes where patches are masked."""
    small = MaskedAutoencoderTokenizer(SPACE, **SMALL, max_mask_ratio=ratio, steps=3).fit(moving_shapes(8, seed=0))
    assert bool(small.model.mask_token.any()) is used


def test_same_seed_gives_the_same_tokenizer() -> None:
    frames = moving_shapes(8, seed=0)
    torch.manual_seed(5)
    expected_draw = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = (
        MaskedAutoencoderTokenizer(SPACE, **SMALL, steps=2).fit(frames, seed=seed).tensors() for seed in (0, 0, 1)
    )
    assert torch.equal(torch.rand(1), expected_draw)  # the global generator is not used
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["embed.weight"], other["embed.weight"])


def test_fit_takes_its_length_from_the_call_or_the_constructor() -> None:
    """The arguments of `fit` take precedence over those of the constructor."""
    frames = moving_shapes(4, seed=0)
    one = MaskedAutoencoderTokenizer(SPACE, **SMALL, steps=1).fit(frames)
    two = MaskedAutoencoderTokenizer(SPACE, **SMALL, minutes=9.0).fit(frames, steps=1)
    assert all(torch.equal(one.tensors()[name], tensor) for name, tensor in two.tensors().items())
    timed = MaskedAutoencoderTokenizer(SPACE, **SMALL, minutes=0.001).fit(frames)
    assert timed.encode(frames).shape == (4, 16)


# -- values, files, errors --------------------------------------------------------------------------------------------
def test_tokens_are_deterministic_and_batched(tokenizer: MaskedAutoencoderTokenizer) -> None:
    frames = moving_shapes(70, seed=2)
    tokens = tokenizer.encode(frames)
    assert tokens.shape == (70, 16) and tokens.dtype == np.int64 and tokenizer.vocab_size == 1000
    assert np.array_equal(tokens, tokenizer.encode(frames))
    assert np.array_equal(tokens.reshape(7, 10, 16), tokenizer.encode(frames.reshape(7, 10, SIZE, SIZE, 3)))
    images = tokenizer.decode(tokens)
    assert images.shape == frames.shape and images.dtype == np.uint8
    assert tokenizer.encode(frames[:0]).shape == (0, 16)


@pytest.mark.parametrize(("shape", "patch", "grid"), [((63, 63, 3), 8, (8, 8)), ((20, 30), (8, 10), (3, 3))])
def test_images_of_any_size(shape: tuple[int, ...], patch: Any, grid: tuple[int, int]) -> None:
    """Images whose size no multiple of the patch is are padded, and cropped again."""
    space = spaces.Box(0, 255, shape, np.uint8)
    tokenizer = MaskedAutoencoderTokenizer(space, **SMALL, patch=patch, steps=1)
    frames = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    assert tokenizer.grid == grid
    assert np.array_equal(tokenizer._images(tokenizer._patches(frames)), frames)
    assert tokenizer.fit(frames).decode(tokenizer.encode(frames)).shape == frames.shape


def test_config_and_tensors_round_trip(tokenizer: MaskedAutoencoderTokenizer, tmp_path: Path) -> None:
    frames = moving_shapes(10, seed=3)
    save_file(tokenizer.tensors(), tmp_path / "tokenizer.safetensors")
    config = json.loads(json.dumps(tokenizer.to_config()))
    read = tokenizer_from(config, load_file(tmp_path / "tokenizer.safetensors"), SPACE)
    tokens = tokenizer.encode(frames)
    assert np.array_equal(read.encode(frames), tokens)
    assert np.array_equal(read.decode(tokens), tokenizer.decode(tokens))
    with pytest.raises(MagratheaError, match=r"no tensor '.*' that fits"):
        tokenizer_from({**config, "width": 64}, tokenizer.tensors(), SPACE)
    with pytest.raises(MagratheaError, match="no tensor"):
        tokenizer_from(config, {}, SPACE)


def test_tokenizer_is_chosen_by_name_also_within_a_dict() -> None:
    space = spaces.Dict({"image": SPACE, "direction": spaces.Discrete(4)})
    options = {"patch": 16, "levels": [4, 4], "width": 32, "num_layers": 1, "steps": 1, "num_bins": 9}
    tokenizer = tokenizer_for(space, image="autoencoder", **options)
    values = {"image": moving_shapes(3, seed=0), "direction": np.arange(3)}
    tokens = tokenizer.fit(values, seed=1).encode(values)
    assert tokens.shape == (3, 1 + 4) and tokenizer.leaves["image"].vocab_size == 16
    assert tokenizer.decode(tokens)["direction"].tolist() == [0, 1, 2]
    assert tokenizer_for(spaces.Discrete(3), image="autoencoder", **options).vocab_size == 3


def test_errors_say_what_to_do(tokenizer: MaskedAutoencoderTokenizer) -> None:
    frame = moving_shapes(1, seed=0)
    with pytest.raises(MagratheaError, match=r"call fit\(frames\) first"):
        MaskedAutoencoderTokenizer(SPACE).encode(frame)
    with pytest.raises(MagratheaError, match="dtype float64"):
        tokenizer.encode(frame.astype(float))
    with pytest.raises(MagratheaError, match="shape"):
        tokenizer.encode(frame[:, :5])
    with pytest.raises(MagratheaError, match="must lie in"):
        tokenizer.decode(np.full((1, 16), 1000))
    with pytest.raises(MagratheaError, match="M > 0"):
        MaskedAutoencoderTokenizer(SPACE).fit(frame[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": ()}, "levels"),
        ({"levels": (8, 1)}, "levels"),
        ({"levels": (3000, 3000)}, "product of at most"),
        ({"width": 40}, "width"),
        ({"patch": 0}, "is no size"),
        ({"max_mask_ratio": 1.0}, "max_mask_ratio"),
        ({"steps": 5, "minutes": 1.0}, "give one of them"),
        ({"steps": 0}, "more than 0"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MagratheaError, match=message):
        tokenizer_for(SPACE, image="autoencoder", **options)
