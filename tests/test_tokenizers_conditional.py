"""Tokenizers that say how a value is made of the one of the step before: of pictures (motion) and numbers (delta)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from magrathea.errors import MagratheaError
from magrathea.tokenizers import Tokenizer, reconstruction_report, tokenizer_for, tokenizer_from
from magrathea.tokenizers.delta import DeltaTokenizer
from magrathea.tokenizers.delta_codec import LEVELS, DeltaCodec
from magrathea.tokenizers.motion import MotionTokenizer, choose_position, group_for_cell
from magrathea.tokenizers.motion_codec import MotionCodec

PICTURE = spaces.Box(0, 255, (24, 20, 3), np.uint8)
NUMBERS = spaces.Box(-np.inf, np.inf, (3,), np.float32)


def drifting_square(num_steps: int, height: int = 24, width: int = 20, seed: int = 0) -> np.ndarray:
    """(num_steps, height, width, 3) a square that moves by one row and two columns in each step, over noise."""
    rng = np.random.default_rng(seed)
    frames = np.tile(rng.integers(0, 40, (height, width, 3), dtype=np.uint8), (num_steps, 1, 1, 1))
    for step in range(num_steps):
        rows, columns = (np.arange(5) + step) % height, (np.arange(5) + 2 * step) % width
        frames[step][np.ix_(rows, columns)] = (250, 120, 10)
    return frames


def reread(tokenizer: Tokenizer) -> Tokenizer:
    return tokenizer_from(tokenizer.to_config(), tokenizer.tensors(), tokenizer.space)


@pytest.mark.parametrize(("shape", "cell"), [((21, 16, 3), (5, 4)), ((16, 16, 1), (4, 4)), ((15, 10, 4), (4, 3))])
def test_cells_make_up_the_picture(shape: tuple[int, int, int], cell: tuple[int, int]) -> None:
    codec = MotionCodec(shape, cell, torch.zeros(1, 2).long(), torch.zeros(1, cell[0] * cell[1] * shape[2]).byte())
    values = torch.randint(0, 256, (5, shape[0] * shape[1] * shape[2]), generator=torch.Generator().manual_seed(0))
    assert torch.equal(codec.picture(codec.cells(values)), values)
    assert codec.cells(values).shape[1:] == (codec.grid[0] * codec.grid[1], math.prod(cell) * shape[2])
    none, tokens = values[:0], torch.zeros(0, codec.grid[0] * codec.grid[1]).long()
    assert codec.picture(codec.cells(none)).shape == none.shape == codec.decode(tokens, none).shape
    assert codec.equivalents(none, none)[1].shape == (0, codec.vocab_size)
    assert codec.encode(none, none).shape == tokens.shape


def test_tokens_keep_move_and_draw() -> None:
    """On a picture of 2x2 cells of 2x2 pixels: each instruction draws what it says."""
    previous = torch.arange(16)
    codec = MotionCodec((4, 4, 1), (2, 2), torch.tensor([[0, 0], [0, 2], [1, 0]]), torch.full((1, 4), 99).byte())
    decoded = codec.decode(torch.tensor([0, 1, 2, 3]), previous).view(4, 4)
    assert decoded[:2, :2].tolist() == [[0, 1], [4, 5]], "the first cell is kept"
    assert decoded[:2, 2:].tolist() == [[0, 1], [4, 5]], "the second shows what stood two columns to its left"
    assert decoded[2:, :2].tolist() == [[4, 5], [8, 9]], "the third shows what stood a row above"
    assert decoded[2:, 2:].tolist() == [[99, 99], [99, 99]], "the fourth is drawn"


def test_whatever_draws_a_cell_is_equally_good() -> None:
    """The token that a picture was decoded with is always among the equally good ones, and the best decodes to it."""
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 256, (6, 48), generator=generator).byte()
    codec = MotionCodec((16, 16, 3), (4, 4), torch.tensor([[0, 0], [1, 0], [0, -2], [-3, 3]]), codes)
    previous = torch.randint(0, 256, (20, 768), generator=generator)
    tokens = torch.randint(0, codec.vocab_size, (20, 16), generator=generator)
    values = codec.decode(tokens, previous)
    differs, good = codec.equivalents(values, previous)
    assert good.gather(-1, tokens[differs][..., None]).all()
    assert torch.equal(codec.decode(tokens.masked_fill(~differs, 0), previous), values)
    assert torch.equal(codec.decode(codec.encode(values, previous), previous), values)


def test_a_picture_is_as_likely_as_all_tokens_that_make_it() -> None:
    generator = torch.Generator().manual_seed(1)
    codec = MotionCodec((4, 4, 1), (2, 2), torch.tensor([[0, 0], [0, 2]]), torch.full((2, 4), 99).byte())
    previous = torch.randint(0, 256, (1, 16), generator=generator)
    values = codec.decode(torch.tensor([[0, 0, 2, 0]]), previous)
    log_probs = torch.randn(1, 4, codec.vocab_size, generator=generator).log_softmax(-1)
    likelihood, is_change = codec.log_likelihood(log_probs, values, previous)
    assert is_change.tolist() == [[False, False, True, False]]
    assert torch.equal(likelihood[~is_change], log_probs[..., 0][~is_change]), "these cells are kept"
    assert torch.allclose(likelihood[0, 2].exp(), log_probs[0, 2, 2:].exp().sum()), "either code draws the third"


def test_numbers_nearby_are_likely_too() -> None:
    """A number's likelihood counts tokens within a twentieth of a usual change, the nearest most, and no others."""
    codec = DeltaCodec(torch.tensor([[-1000, 40, 1000, 1020]]), torch.tensor([[30000]]), torch.tensor([1000.0]), 1)
    value, previous = torch.tensor([[21_000]]), torch.tensor([[20_000]])
    of_token = [
        codec.log_likelihood(torch.eye(6)[token].view(1, 1, 6), value, previous)[0].item() for token in range(6)
    ]
    assert of_token[3] > of_token[4] > 0.4 and of_token[3] + of_token[4] == pytest.approx(1) == sum(of_token)
    assert codec.log_likelihood(torch.zeros(1, 1, 6), value, previous)[1].all(), "to keep it is wrong"
    assert not codec.log_likelihood(torch.zeros(1, 1, 6), previous, previous)[1].any()


def test_features_of_numbers_are_those_that_a_world_was_trained_with() -> None:
    numbers = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    tokenizer = DeltaTokenizer(NUMBERS).fit(numbers[1:], previous=numbers[:-1])
    read = reread(tokenizer)
    assert isinstance(read, DeltaTokenizer) and read.codec.num_features == tokenizer.codec.num_features == 4
    config = {"type": "delta", "num_differences": 255}  # as it was before it said how many
    earlier = tokenizer_from(config, tokenizer.tensors(), NUMBERS)
    assert isinstance(earlier, DeltaTokenizer) and earlier.codec.num_features == 14


def test_what_moves_is_found() -> None:
    """The offset of a moving square is among the first, and pictures are decoded nearly exactly."""
    frames = drifting_square(120)
    tokenizer = MotionTokenizer(PICTURE, cell=4, num_codes=64).fit(frames[1:], previous=frames[:-1])
    assert [1, 2] in tokenizer.codec.offsets[:3].tolist()
    tokens = torch.from_numpy(tokenizer.encode(frames[61:81], frames[60:80]))
    before = torch.from_numpy(frames[60:80].reshape(20, -1)).long()
    decoded = tokenizer.codec.decode(tokens[:, :30], before).view(20, 24, 20, 3).numpy()
    errors = ((decoded - frames[61:81].astype(float)) ** 2).mean(axis=(1, 2, 3))
    repeated = ((frames[60:80].astype(float) - frames[61:81]) ** 2).mean()
    assert errors.mean() < repeated / 10


def test_the_report_measures_the_tokens_and_not_the_values_beside_them() -> None:
    frames = drifting_square(120)
    fitted = [
        MotionTokenizer(PICTURE, cell=4, num_codes=codes).fit(frames[1:81], previous=frames[:80]) for codes in (64, 1)
    ]
    good, poor = (reconstruction_report(tokenizer, frames[80:]) for tokenizer in fitted)
    assert good["psnr"] > good["repeat_psnr"] + 10 > poor["repeat_psnr"]
    assert poor["psnr"] < good["psnr"] - 3
    assert (good["grid"], good["group"]) == ([6, 5], [1, 1])


@pytest.mark.parametrize("shape", [(24, 20, 3), (17, 31), (40, 12, 1), (9, 9, 4)])
def test_a_step_decodes_without_the_one_before(shape: tuple[int, ...]) -> None:
    """Values follow the tokens; with and without a step before, and after the tokenizer is read from a file."""
    space = spaces.Box(0, 255, shape, np.uint8)
    frames = np.random.default_rng(0).integers(0, 256, (40, *shape), dtype=np.uint8)
    tokenizer = reread(MotionTokenizer(space, num_codes=8).fit(frames[1:], previous=frames[:-1]))
    assert np.array_equal(tokenizer.decode(tokenizer.encode(frames)), frames)
    tokens = tokenizer.encode(frames[1:], frames[:-1])
    assert np.array_equal(tokenizer.decode(tokens), frames[1:])
    assert tokens.shape == (39, tokenizer.tokens_per_step)


def test_positions_have_the_size_of_tiles() -> None:
    assert choose_position((63, 63, 3)) == (7, 7)
    assert choose_position((64, 64, 3)) == (8, 8)
    assert choose_position((48, 48, 3)) == (6, 6)
    assert choose_position((1, 200, 3)) == (1, 2)
    assert group_for_cell((2, 2), (48, 48, 3)) == (3, 3)
    assert group_for_cell((7, 7), (63, 63, 3)) == (1, 1)


def test_cells_are_the_tiles_that_pictures_are_made_of() -> None:
    """And of the default size where they are not: here shifted by a pixel or more."""
    rng = np.random.default_rng(0)
    space, tiles = spaces.Box(0, 255, (63, 63, 3), np.uint8), rng.integers(0, 256, (8, 9, 9, 3), dtype=np.uint8)
    drawn = tiles[rng.integers(0, 8, (60, 8, 8))].swapaxes(2, 3).reshape(60, 72, 72, 3)
    aligned = MotionTokenizer(space).fit(drawn[:, :63, :63])
    assert aligned.codec.cell == (9, 9) and len(aligned.codec.codes) == 8
    assert aligned.slot_specs[""].group == (1, 1)
    shifted = np.stack([picture[by % 9 :, by % 9 :][:63, :63] for by, picture in enumerate(drawn)])
    assert MotionTokenizer(space, num_codes=16).fit(shifted).codec.cell == (7, 7)


def test_cells_are_small_where_sprites_move_by_pixels() -> None:
    """And as large as positions where nothing is drawn exactly by an offset, as in noise."""
    space = spaces.Box(0, 255, (48, 48, 3), np.uint8)
    sprites, place = np.zeros((200, 48, 48, 3), np.uint8), np.array([20, 20])
    rng = np.random.default_rng(0)
    for frame in sprites:
        place = (place + rng.integers(-2, 3, 2)) % 40
        frame[::6] = 40
        frame[place[0] : place[0] + 5, place[1] : place[1] + 5] = (250, 90, 30)
    noise = rng.integers(0, 256, (200, 48, 48, 3), dtype=np.uint8)
    fitted = [MotionTokenizer(space).fit(frames[1:], previous=frames[:-1]) for frames in (sprites, noise)]
    assert [tokenizer.codec.cell for tokenizer in fitted] == [(2, 2), (6, 6)]
    assert [tokenizer.slot_specs[""].group for tokenizer in fitted] == [(3, 3), (1, 1)]


def test_numbers_keep_add_and_are_set() -> None:
    codec = DeltaCodec(torch.tensor([[5, -5]]), torch.tensor([[100, 60000]]), torch.ones(1), 6)
    previous = torch.tensor([[3], [3], [3], [3], [3]])
    tokens = torch.tensor([[0], [1], [2], [3], [4]])
    assert codec.decode(tokens, previous).flatten().tolist() == [3, 8, 0, 100, 60000]
    assert codec.encode(torch.tensor([[3], [8], [100]]), previous[:3]).flatten().tolist() == [0, 1, 3]


def test_numbers_are_exact_where_they_can_be() -> None:
    """Integers of a range below 65,536 are decoded exactly; floats to a hundred-thousandth of their range."""
    counts = np.random.default_rng(0).integers(0, 900, (200, 4))
    integer = DeltaTokenizer(spaces.Box(0, 1000, (4,), np.int64)).fit(counts[1:], previous=counts[:-1])
    assert np.array_equal(reread(integer).decode(integer.encode(counts)), counts)
    floats = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    tokenizer = DeltaTokenizer(NUMBERS).fit(floats[1:], previous=floats[:-1])
    assert np.abs(reread(tokenizer).decode(tokenizer.encode(floats)) - floats).max() < 1e-4 * np.ptp(floats)


@pytest.mark.parametrize(
    ("space", "changes", "message"),
    [
        (PICTURE, {"offsets": torch.ones(3, 2).int()}, "do not fit"),
        (PICTURE, {"codes": torch.zeros(3, 7).byte()}, "do not fit"),
        (NUMBERS, {"range": torch.full((2, 3), float("nan")).double()}, "do not fit"),
        (NUMBERS, {"settings": torch.full((3, 2), 70_000).int()}, "do not fit"),
    ],
)
def test_damaged_files_are_refused(space: Any, changes: dict[str, torch.Tensor], message: str) -> None:
    values = np.stack([space.sample() for _ in range(30)])
    tokenizer = tokenizer_for(space, image="motion", numbers="delta").fit(values[1:], previous=values[:-1])
    with pytest.raises(MagratheaError, match=message):
        tokenizer_from(tokenizer.to_config(), tokenizer.tensors() | changes, space)


@pytest.mark.parametrize("before", [0, LEVELS - 1])
def test_a_flag_is_as_likely_as_all_tokens_that_set_it(before: int) -> None:
    """A number of two values has many tokens for one of them; the likeliest token is of the likelier value all the
    same, and whichever tokens keep it are known."""
    top = LEVELS - 1
    differences = torch.tensor([[-top, top, top, top, top], [-3, -1, 1, 2, 3]])
    settings = torch.tensor([[0, top, top, top, top], [10, 20, 30, 40, 50]])
    codec, previous = DeltaCodec(differences, settings, torch.tensor([1000.0, 2.0]), 1), torch.tensor([[before, 1000]])
    made = codec.decode(torch.arange(11)[:, None].expand(-1, 2), previous.expand(11, -1))[:, 0]
    logits = torch.where(made == top, math.log(0.7 / (made == top).sum()), math.log(0.3 / (made == 0).sum()))
    assert made[logits.argmax()] == 0, "one token alone says the wrong value"
    merged = codec.merge_alike(logits.expand(1, 2, -1), previous)[0]
    assert merged[0].softmax(-1).topk(3).values.tolist() == pytest.approx([0.7, 0.3, 0])
    assert made[merged[0].argmax()] == top
    assert torch.equal(merged[1], logits), "a number of many values is as it was"
    assert torch.equal(codec.keeps(previous)[0, 0], made == before)
    assert codec.keeps(previous)[0, 1].nonzero().flatten().tolist() == [0, 2, 3], "one level is no change"
