"""The illuminated patch tokenizer: a tile has the same code in any illumination."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from safetensors.torch import load_file, save_file

from magrathea.environments.crafter.illuminated_patch import IlluminatedPatchTokenizer
from magrathea.errors import MagratheaError
from magrathea.tokenizers import RewardTokenizer, TerminatedTokenizer, tokenizer_for, tokenizer_from
from magrathea.tokenizers.roles import layout_for

SIDE, ROWS, COLUMNS, NUM_TILES = 5, 6, 7, 9
SPACE = spaces.Box(0, 255, (ROWS * SIDE, COLUMNS * SIDE, 3), np.uint8)
EDGE = 1  # columns at the left that show only noise in dark pictures


def illuminated_pictures(num: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures (num, H, W, 3) of tiles (num, ROWS, COLUMNS), and their brightness (num,). The last row is a display,
    which no illumination changes; dark pictures are bluish, and their left edge shows only noise."""
    textures = np.random.default_rng(7).integers(20, 256, (NUM_TILES, SIDE, SIDE, 3))
    rng = np.random.default_rng(seed)
    tiles = rng.integers(NUM_TILES, size=(num, ROWS, COLUMNS))
    bright = np.where(rng.random(num) < 0.4, 1.0, rng.uniform(0.2, 1, num))
    plain = textures[tiles].transpose(0, 1, 3, 2, 4, 5).reshape(num, *SPACE.shape).astype(float)
    light = bright[:, None, None, None]
    lit = light * plain + (1 - light) * np.array([0, 16, 64])
    noise = rng.uniform(0, 60, (num, ROWS * SIDE, EDGE * SIDE, 1)) * np.ones(3)
    lit[:, :, : EDGE * SIDE] = np.where(light < 0.5, noise, lit[:, :, : EDGE * SIDE])
    lit[:, -SIDE:] = plain[:, -SIDE:]
    return np.round(lit).astype(np.uint8), tiles, bright


@pytest.fixture(scope="module")
def tokenizer() -> IlluminatedPatchTokenizer:
    return IlluminatedPatchTokenizer(SPACE, patch=SIDE, num_codes=64, num_lights=12).fit(
        illuminated_pictures(1200, 0)[0]
    )


def test_tiles_have_one_code_under_all_illuminations(tokenizer: IlluminatedPatchTokenizer) -> None:
    assert len(tokenizer.albedo.codes) == NUM_TILES
    pictures, tiles, bright = illuminated_pictures(300, 1)
    codes = tokenizer.encode(pictures)[:, :-1].reshape(tiles.shape)
    plain = bright == 1
    meaning = np.full(NUM_TILES + 1, -1)
    meaning[codes[plain]] = tiles[plain]
    shown = codes[:, :, EDGE:]
    assert (meaning[shown] == tiles[:, :, EDGE:]).mean() > 0.995


def test_hidden_cells_have_their_own_code(tokenizer: IlluminatedPatchTokenizer) -> None:
    pictures, _, bright = illuminated_pictures(300, 2)
    codes = tokenizer.encode(pictures)[:, :-1].reshape(-1, ROWS, COLUMNS)
    hidden = codes == NUM_TILES
    assert hidden[bright < 0.45, :-1, :EDGE].mean() > 0.95
    assert not hidden[bright > 0.55].any() and not hidden[:, -1].any() and not hidden[:, :, EDGE:].any()


def test_illuminations_are_sorted_by_brightness(tokenizer: IlluminatedPatchTokenizer) -> None:
    pictures, _, bright = illuminated_pictures(300, 3)
    lights = tokenizer.encode(pictures)[:, -1]
    assert len(tokenizer.illumination) > 6 and (lights[bright == 1] == 0).all()
    assert np.corrcoef(lights, bright)[0, 1] < -0.95


def test_decoded_pictures_have_no_noise(tokenizer: IlluminatedPatchTokenizer) -> None:
    pictures, _, bright = illuminated_pictures(300, 4)
    back = tokenizer.decode(tokenizer.encode(pictures))
    error = np.abs(back.astype(int) - pictures).reshape(len(pictures), -1).max(axis=1)
    assert back.dtype == np.uint8 and (error[bright == 1] <= 1).all()
    clear = back[:, :, EDGE * SIDE :].astype(int) - pictures[:, :, EDGE * SIDE :]
    assert np.sqrt((clear**2).mean()) < 6


def test_config_and_tensors_round_trip(tokenizer: IlluminatedPatchTokenizer, tmp_path: Path) -> None:
    pictures = illuminated_pictures(40, 5)[0]
    save_file(tokenizer.tensors(), tmp_path / "lit.safetensors")
    loaded = tokenizer_from(tokenizer.to_config(), load_file(tmp_path / "lit.safetensors"), SPACE)
    tokens = tokenizer.encode(pictures)
    assert np.array_equal(loaded.encode(pictures), tokens)
    assert np.array_equal(loaded.encode(pictures[7]), tokens[7])  # independent of the other pictures
    assert np.array_equal(loaded.decode(tokens), tokenizer.decode(tokens))


def test_layout_has_a_slot_for_the_illumination(tokenizer: IlluminatedPatchTokenizer) -> None:
    others = {"reward": RewardTokenizer().fit(np.zeros(3)), "terminated": TerminatedTokenizer()}
    action = tokenizer_for(spaces.Discrete(3))
    layout = layout_for({"action": action, "observation": tokenizer, **others})
    assert "observation/light" in layout.spans
    assert layout.picture.grid == (ROWS, COLUMNS) and layout.picture.vocab_size == NUM_TILES + 1
    space = spaces.Dict({"camera": SPACE, "hungry": spaces.Discrete(2)})
    both = tokenizer_for(space, image="lit_patch", patch=SIDE, num_lights=4)
    both.fit({"camera": illuminated_pictures(200, 6)[0], "hungry": np.zeros(200, np.int64)})
    layout = layout_for({"action": action, "observation": both, **others})
    names = [slot.name for slot in layout.of_role("observation")]
    assert names == ["observation/camera", "observation/camera/light", "observation/hungry"]
    assert layout.num_tokens == 1 + both.tokens_per_step + 2


def test_invalid_input_is_refused(tokenizer: IlluminatedPatchTokenizer) -> None:
    tokens = tokenizer.encode(illuminated_pictures(1, 0)[0])
    tokens[0, 0] = NUM_TILES + 1  # a token of an illumination, not of a patch
    with pytest.raises(MagratheaError, match="got code 10"):
        tokenizer.decode(tokens)
    with pytest.raises(MagratheaError, match="num_lights"):
        IlluminatedPatchTokenizer(SPACE, num_lights=1)
    with pytest.raises(MagratheaError, match="fit"):
        IlluminatedPatchTokenizer(SPACE, patch=SIDE).encode(illuminated_pictures(1, 0)[0])
    tensors = tokenizer.tensors() | {"gains": tokenizer.tensors()["gains"][:, :3]}
    with pytest.raises(MagratheaError, match="gains"):
        tokenizer_from(tokenizer.to_config(), tensors, SPACE)
