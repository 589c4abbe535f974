"""Requirements on every tokenizer, over every kind of space: round trips, determinism, files, error messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array
from safetensors.torch import load_file, save_file

from magrathea.errors import MagratheaError
from magrathea.space_config import space_from_config, space_to_config
from magrathea.tokenizers import (
    BoxTokenizer,
    CompositeTokenizer,
    RewardTokenizer,
    TerminatedTokenizer,
    Tokenizer,
    tokenizer_for,
    tokenizer_from,
)

NUM_VALUES = 12
IMAGE = spaces.Box(0, 255, (8, 8, 3), np.uint8)
NUMBERS = spaces.Box(-1.0, 1.0, (3,), np.float32)

SPACES: dict[str, gymnasium.Space] = {
    "image": IMAGE,
    "grey image": spaces.Box(0, 255, (8, 12), np.uint8),
    "discrete": spaces.Discrete(5),
    "discrete with start": spaces.Discrete(3, start=-7),
    "multi-discrete": spaces.MultiDiscrete([2, 5, 3]),
    "multi-discrete matrix": spaces.MultiDiscrete([[2, 9], [4, 3]], start=[[1, 0], [-3, 2]]),
    "multi-binary": spaces.MultiBinary(6),
    "multi-binary matrix": spaces.MultiBinary((2, 3)),
    "bounded box": NUMBERS,
    "unbounded box": spaces.Box(-np.inf, np.inf, (2, 2), np.float32),
    "half bounded box": spaces.Box(np.array([0, -np.inf]), np.array([np.inf, 3.0]), dtype=np.float64),
    "integer box": spaces.Box(-3, 40, (4,), np.int32),
    "number": spaces.Box(0.0, 1.0, (), np.float32),
    "dict": spaces.Dict({"image": IMAGE, "direction": spaces.Discrete(4)}),
    "tuple": spaces.Tuple([spaces.Discrete(4), NUMBERS]),
    "nested": spaces.Dict(
        {
            "sight": spaces.Tuple([IMAGE, spaces.Dict({"depth": NUMBERS, "hit": spaces.MultiBinary(2)})]),
            "action": spaces.MultiDiscrete([3, 3]),
        }
    ),
}


@pytest.fixture(params=SPACES, name="kind")
def _kind(request: pytest.FixtureRequest) -> str:
    return request.param


def draw(space: gymnasium.Space, num: int = NUM_VALUES, seed: int = 0) -> Any:
    """`num` values of a space, batched as it batches them."""
    space.seed(seed)
    samples = [space.sample() for _ in range(num)]
    return concatenate(space, samples, create_empty_array(space, num))


def fitted(space: gymnasium.Space, **options: Any) -> Tokenizer:
    return tokenizer_for(space, **options).fit(draw(space), seed=0)


def assert_same(found: Any, expected: Any) -> None:
    """Equal structure, shapes and dtypes, and values."""
    if isinstance(expected, dict):
        assert isinstance(found, dict) and set(found) == set(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, tuple):
        assert isinstance(found, tuple) and len(found) == len(expected)
        for left, right in zip(found, expected, strict=True):
            assert_same(left, right)
    else:
        assert found.shape == expected.shape and found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


# -- all of them ------------------------------------------------------------------------------------------------------
def test_round_trip(kind: str) -> None:
    """Values that were fitted are decoded exactly, with the space's shape and dtype."""
    space = SPACES[kind]
    values, tokenizer = draw(space), fitted(space)
    tokens = tokenizer.encode(values)
    assert tokens.dtype == np.int64 and tokens.shape == (NUM_VALUES, tokenizer.tokens_per_step)
    assert tokens.min() >= 0 and tokens.max() < tokenizer.vocab_size
    assert tokenizer.grid[0] * tokenizer.grid[1] == tokenizer.tokens_per_step
    assert_same(tokenizer.decode(tokens), values)


def test_tokens_of_leaves_are_concatenated(kind: str) -> None:
    tokenizer = fitted(SPACES[kind])
    assert tokenizer.tokens_per_step == sum(leaf.tokens_per_step for leaf in tokenizer.leaves.values())
    assert tokenizer.vocab_size == max(leaf.vocab_size for leaf in tokenizer.leaves.values())
    for leaf in tokenizer.leaves.values():
        assert leaf.leaves == {"": leaf}


def test_fitting_and_encoding_are_deterministic(kind: str) -> None:
    space = SPACES[kind]
    values, fresh = draw(space), draw(space, seed=1)
    first, second = fitted(space), fitted(space)
    assert np.array_equal(first.encode(fresh), second.encode(fresh))
    assert_same(draw(space), values)  # the input was not modified


def test_one_value_without_leading_dimensions(kind: str) -> None:
    space = SPACES[kind]
    tokenizer, value = fitted(space), space.sample()
    tokens = tokenizer.encode(value)
    assert tokens.shape == (tokenizer.tokens_per_step,)
    assert tokenizer.decode(tokens[None, None]) is not None


def test_config_and_tensors_round_trip(kind: str, tmp_path: Path) -> None:
    """Through JSON and safetensors, with the space: the same tokens and the same values."""
    space = SPACES[kind]
    tokenizer, values = fitted(space), draw(space, seed=2)
    save_file(tokenizer.tensors(), tmp_path / "tokenizer.safetensors")
    (tmp_path / "config.json").write_text(json.dumps([tokenizer.to_config(), space_to_config(space)]))
    config, space_config = json.loads((tmp_path / "config.json").read_text())
    read = tokenizer_from(config, load_file(tmp_path / "tokenizer.safetensors"), space_from_config(space_config))
    assert type(read) is type(tokenizer) and list(read.leaves) == list(tokenizer.leaves)
    assert read.grid == tokenizer.grid and read.vocab_size == tokenizer.vocab_size
    tokens = tokenizer.encode(values)
    assert np.array_equal(read.encode(values), tokens)
    assert_same(read.decode(tokens), tokenizer.decode(tokens))


def test_tokens_out_of_range_are_refused(kind: str) -> None:
    tokenizer = fitted(SPACES[kind])
    tokens = np.zeros((2, tokenizer.tokens_per_step), np.int64)
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(MagratheaError, match="must lie in"):
            tokenizer.decode(tokens + wrong)
    with pytest.raises(MagratheaError, match="integer tokens"):
        tokenizer.decode(tokens.astype(float))
    with pytest.raises(MagratheaError, match="shape"):
        tokenizer.decode(tokens[:, :0])


def test_options_of_other_tokenizers_are_ignored(kind: str) -> None:
    tokenizer = fitted(SPACES[kind], patch=(4, 4), num_codes=300, num_bins=32)
    for leaf in tokenizer.leaves.values():
        assert leaf.to_config().get("num_bins", 32) == 32
        assert leaf.to_config().get("patch", [4, 4]) == [4, 4]


# -- bad input --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [kind for kind, space in SPACES.items() if space.shape is not None])
def test_wrong_shape_is_refused(kind: str) -> None:
    tokenizer = fitted(SPACES[kind])
    shape = tokenizer.value_shape
    wrong = np.zeros((2, *shape[:-1], shape[-1] + 1), tokenizer.value_dtype) if shape else [[1, 2], [3]]
    with pytest.raises(MagratheaError, match=r"shape|no array"):
        tokenizer.encode(wrong)


@pytest.mark.parametrize("kind", ["image", "discrete", "multi-discrete", "multi-binary", "integer box"])
def test_wrong_dtype_is_refused(kind: str) -> None:
    space = SPACES[kind]
    with pytest.raises(MagratheaError, match="dtype float64"):
        fitted(space).encode(draw(space).astype(np.float64))


@pytest.mark.parametrize(
    ("kind", "value"), [("discrete", 5), ("discrete with start", 0), ("multi-discrete", 4), ("integer box", 41)]
)
def test_value_outside_the_space_is_refused(kind: str, value: int) -> None:
    tokenizer = fitted(SPACES[kind])
    with pytest.raises(MagratheaError, match="outside"):
        tokenizer.encode(np.full((2, *tokenizer.value_shape), value))


def test_nan_is_refused() -> None:
    for tokenizer in (fitted(NUMBERS), RewardTokenizer()):
        with pytest.raises(MagratheaError, match="NaN"):
            tokenizer.encode(np.full(tokenizer.value_shape, np.nan, np.float32))
    with pytest.raises(MagratheaError, match=r"At '1': .*NaN"):
        fitted(SPACES["tuple"]).encode((np.zeros(1, np.int64), np.full((1, 3), np.nan, np.float32)))


def test_unfitted_tokenizer_is_refused() -> None:
    for kind in ("image", "unbounded box", "dict"):
        space = SPACES[kind]
        with pytest.raises(MagratheaError, match=r"call fit\("):
            tokenizer_for(space).encode(draw(space))


def test_unknown_spaces_and_options_are_refused() -> None:
    with pytest.raises(MagratheaError, match="No tokenizer for"):
        tokenizer_for(spaces.Dict({"mission": spaces.Sequence(spaces.Discrete(2))}))
    with pytest.raises(MagratheaError, match="Unknown option 'nmu_codes'"):
        tokenizer_for(spaces.Discrete(3), nmu_codes=9)
    with pytest.raises(MagratheaError, match="Unknown tokenizer type 'pixels'"):
        tokenizer_for(IMAGE, image="pixels")
    with pytest.raises(MagratheaError, match="uint8"):
        tokenizer_for(spaces.Box(0.0, 1.0, (64, 64, 3)))
    with pytest.raises(MagratheaError, match="which joins keys"):
        tokenizer_for(spaces.Dict({"a/b": spaces.Discrete(2)}))
    with pytest.raises(MagratheaError, match="holds nothing"):
        tokenizer_for(spaces.Dict({}))
    with pytest.raises(MagratheaError, match="does not divide"):
        tokenizer_for(IMAGE, patch=3)
    with pytest.raises(MagratheaError, match="is no size"):
        tokenizer_for(IMAGE, patch=(2, 2, 3))


def test_damaged_files_are_refused() -> None:
    for kind in ("image", "bounded box", "nested"):
        tokenizer = fitted(SPACES[kind])
        with pytest.raises(MagratheaError, match="has no tensor"):
            tokenizer_from(tokenizer.to_config(), {}, tokenizer.space)
        with pytest.raises(MagratheaError, match="fit"):
            tokenizer_from(tokenizer.to_config(), tokenizer.tensors(), spaces.Discrete(3))
    with pytest.raises(MagratheaError, match="Unknown tokenizer type 'tiles'"):
        tokenizer_from({"type": "tiles"}, {}, IMAGE)


# -- composites -------------------------------------------------------------------------------------------------------
def test_keys_of_composites() -> None:
    assert list(fitted(SPACES["dict"]).leaves) == ["direction", "image"]
    assert list(fitted(SPACES["tuple"]).leaves) == ["0", "1"]
    assert list(fitted(SPACES["nested"]).leaves) == ["action", "sight/0", "sight/1/depth", "sight/1/hit"]


def test_keys_of_a_dict_are_sorted() -> None:
    """Spaces read from a file may have their keys in another order; the order of tokens is the same."""
    parts = {"a": spaces.Discrete(2), "b": spaces.Discrete(3)}
    forward, backward = spaces.Dict(list(parts.items())), spaces.Dict(list(reversed(parts.items())))
    values = {"b": np.array([2]), "a": np.array([1])}
    assert tokenizer_for(forward).encode(values).tolist() == tokenizer_for(backward).encode(values).tolist() == [[1, 2]]


def test_values_that_do_not_fit_a_composite_are_refused() -> None:
    tokenizer, values = fitted(SPACES["dict"]), draw(SPACES["dict"])
    with pytest.raises(MagratheaError, match="no dict of"):
        tokenizer.encode({"image": values["image"]})
    with pytest.raises(MagratheaError, match="different leading shapes"):
        tokenizer.encode({**values, "direction": values["direction"][:3]})
    with pytest.raises(MagratheaError, match=r"At 'image': .*dtype"):
        tokenizer.encode({**values, "image": values["image"].astype(float)})
    with pytest.raises(MagratheaError, match="tuple of 2"):
        fitted(SPACES["tuple"]).encode((values["direction"],))
    assert isinstance(tokenizer, CompositeTokenizer)


# -- numbers ----------------------------------------------------------------------------------------------------------
def test_bounded_box_needs_no_fit() -> None:
    tokenizer, values = tokenizer_for(NUMBERS, num_bins=101), draw(NUMBERS, 200)
    assert np.abs(tokenizer.decode(tokenizer.encode(values)) - values).max() <= 0.01 + 1e-6
    assert tokenizer.decode(tokenizer.encode(np.array([-1.0, 0.0, 1.0]))) == pytest.approx([-1, 0, 1])


def test_bins_are_fitted_to_the_data() -> None:
    """For more values than bins, of a heavy-tailed distribution, the error is less than that of even bins."""
    space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    values = np.random.default_rng(0).standard_normal((4000, 2)) ** 5 * [1.0, 1000.0]
    tokenizer = BoxTokenizer(space, num_bins=64).fit(values)
    even = np.stack([np.linspace(*limits, 64) for limits in zip(values.min(0), values.max(0), strict=True)], axis=1)
    least = np.square(even[:, None] - values).min(0).mean(0)
    error = np.square(tokenizer.decode(tokenizer.encode(values)) - values).mean(0)
    assert tokenizer.vocab_size <= 64 and (error < 0.8 * least).all()
    far = tokenizer.decode(tokenizer.encode(np.array([1e9, -1e9])))
    assert (np.abs(far) <= np.abs(values).max(0)).all()


def test_reward_and_terminated() -> None:
    rewards = RewardTokenizer().fit(np.array([0.0, 1.0, -0.1, 1.0], np.float32))
    assert rewards.vocab_size == 3
    assert rewards.decode(rewards.encode(np.float32([1, 0, -0.1]))).tolist() == np.float32([1, 0, -0.1]).tolist()
    many = RewardTokenizer(num_bins=31).fit(np.linspace(-5, 700, 999, dtype=np.float32))
    assert many.decode(many.encode(np.float32(0))) == 0 and many.vocab_size == 31
    ended = TerminatedTokenizer()
    assert ended.decode(ended.encode(np.array([True, False]))).tolist() == [True, False]
    for tokenizer in (rewards, many, ended):
        read = tokenizer_from(json.loads(json.dumps(tokenizer.to_config())), tokenizer.tensors())
        tokens = np.arange(tokenizer.vocab_size)[:, None]
        assert np.array_equal(read.decode(tokens), tokenizer.decode(tokens))


def test_labels_are_never_mixed() -> None:
    space, rng = spaces.Box(0, 255, (8, 8), np.uint8), np.random.default_rng(0)
    pictures = np.zeros((400, 8, 8), np.uint8)
    for picture in pictures:
        top, left, height, width = *rng.integers(0, 5, 2), *rng.integers(2, 6, 2)
        picture[top : top + height, left : left + width] = rng.choice([80, 160, 240])
    shown, names = pictures[:300], {0, 80, 160, 240}
    tokenizer = tokenizer_for(space, image="patch", patch=4, num_codes=64).fit(shown)
    decoded = tokenizer.decode(tokenizer.encode(pictures[300:]))
    assert (
        set(np.unique(decoded).tolist()) <= names and set(np.unique(tokenizer.decode(tokenizer.encode(shown)))) == names
    )
    assert (decoded != pictures[300:]).mean() < 0.1
    colours = np.repeat(pictures[..., None], 3, axis=-1)  # of which a mean is as good as any
    mixed = tokenizer_for(spaces.Box(0, 255, (8, 8, 3), np.uint8), image="patch", patch=4, num_codes=64).fit(colours)
    assert not set(np.unique(mixed.decode(mixed.encode(colours))).tolist()) <= names
