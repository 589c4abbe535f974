"""Texts as observations and actions: exact tokens of any Unicode, hostile files, and from recording to a dream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from text_environments import COMMANDS, LETTERS, PLACES, record_rooms, train_rooms

from magrathea.data import Dataset
from magrathea.envs import DreamEnv, DreamVectorEnv
from magrathea.errors import MagratheaError
from magrathea.session import Session
from magrathea.space_config import space_from_config, space_to_config
from magrathea.spaces import checked_array
from magrathea.tokenizers import TextTokenizer, tokenizer_from
from magrathea.world import World

ANY = spaces.Text(64, min_length=0, charset=frozenset(map(chr, [*range(0xD800), *range(0xE000, 0x110000)])))
TEXTS = [f"You are in {place}." for place in PLACES] * 3


# -- tokens -----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module", params=["words", "sentences"])
def tokenizer(request: pytest.FixtureRequest) -> TextTokenizer:
    return TextTokenizer(ANY, text_tokens=256, text_pieces=request.param).fit(TEXTS)


@given(st.lists(st.text(max_size=64), min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_every_text_that_fits_comes_back_exactly(tokenizer: TextTokenizer, texts: list[str]) -> None:
    tokens = tokenizer.encode(texts)
    assert tokens.shape == (len(texts), 256)
    assert tokenizer.decode(tokens).tolist() == texts


@given(st.lists(st.integers(0, 300), min_size=256, max_size=256))
@settings(max_examples=100, deadline=None)
def test_whatever_is_drawn_decodes_to_a_text_of_the_space(numbers: list[int]) -> None:
    space = spaces.Text(20, min_length=3, charset="ab é")
    drawn = TextTokenizer(space, text_tokens=256).fit(["ab aé"])
    assert drawn.decode(np.array(numbers) % drawn.vocab_size).item() in space


def test_a_text_of_more_tokens_loses_its_end() -> None:
    short = TextTokenizer(ANY, text_tokens=4, text_vocab_size=257).fit(["abc"])
    assert short.decode(short.encode(["abcdef", "abc", "ab€"])).tolist() == ["abcd", "abc", "ab"]


def test_frequent_words_are_one_token(tokenizer: TextTokenizer) -> None:
    assert tokenizer.num_tokens_of(TEXTS[0]) < 8 < len(TEXTS[0])


def test_a_slot_holds_the_longest_text_and_some_more() -> None:
    fitted = TextTokenizer(ANY, most_text_tokens=32).fit(["a", "b" * 12])
    assert fitted.grid[1] * max(map(len, fitted._bytes)) > 12 and fitted.grid[1] <= 32


def test_a_text_that_is_always_the_same_is_one_token() -> None:
    text = "use the key to open the door and then get to the goal"
    tokenizer = TextTokenizer(ANY).fit([text] * 40)
    assert tokenizer.grid == (1, 1) and tokenizer.decode(tokenizer.encode([text])).tolist() == [text]
    again = TextTokenizer.from_config(tokenizer.to_config(), tokenizer.tensors(), ANY)
    assert again.encode([text]).tolist() == tokenizer.encode([text]).tolist()
    assert TextTokenizer(ANY).fit([text, text + "s"] * 40).grid[1] > 10


def test_it_is_read_from_its_files(tokenizer: TextTokenizer) -> None:
    again = tokenizer_from(json.loads(json.dumps(tokenizer.to_config())), tokenizer.tensors(), ANY)
    assert np.array_equal(again.encode(TEXTS), tokenizer.encode(TEXTS)) and again.vocab_size == tokenizer.vocab_size


def test_merges_may_be_given(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    library.save(str(tmp_path / "tokenizer.json"))
    given_one = TextTokenizer(ANY, text_tokens=64, text_file=tmp_path / "tokenizer.json")
    assert given_one.vocab_size == library.get_vocab_size() + 1
    assert given_one.num_tokens_of("You are in") == len(library.encode("You are in").ids)
    assert given_one.decode(given_one.encode(TEXTS)).tolist() == TEXTS


BAD_FILES = {
    "not JSON": "{",
    "another model": '{"model": {"type": "WordPiece"}}',
    "no bytes": '{"model": {"type": "BPE", "merges": ["我 们"]}}',
    "not pairs": '{"model": {"type": "BPE", "merges": ["a b c"]}}',
    "numbers": '{"model": {"type": "BPE", "merges": [1, 2]}}',
    "deep": "[" * 10_000,
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_tokenizer_json_is_refused_in_a_line(tmp_path: Path, kind: str) -> None:
    (tmp_path / "tokenizer.json").write_text(BAD_FILES[kind])
    with pytest.raises(MagratheaError, match=r"no tokenizer.json") as raised:
        TextTokenizer(ANY, text_file=tmp_path / "tokenizer.json")
    assert "\n" not in str(raised.value)


BAD_MERGES = {
    "of what comes later": [[0, 0], [1, 900]],
    "of the end": [[0, 0], [0, 5]],
    "negative": [[0, 0], [-1, 5]],
    "doubling for ever": [[0, 0], *([token, token] for token in [1, *range(257, 400)])],
    "of three": [[0, 0, 0]],
    "of fractions": [[0.5, 1.5]],
    "none": [],
}


@pytest.mark.parametrize("kind", BAD_MERGES)
def test_hostile_merges_in_a_world_are_refused(kind: str) -> None:
    with pytest.raises(MagratheaError):
        tokenizer_from(
            {"type": "text", "text_tokens": 8, "text_pieces": "words"}, {"merges": torch.tensor(BAD_MERGES[kind])}, ANY
        )


@pytest.mark.parametrize("change", [{"text_tokens": 10**9}, {"text_tokens": "x"}, {"text_pieces": "(a+)+$"}])
def test_hostile_settings_in_a_world_are_refused(tokenizer: TextTokenizer, change: dict[str, Any]) -> None:
    with pytest.raises(MagratheaError):
        tokenizer_from(tokenizer.to_config() | change, tokenizer.tensors(), ANY)


# -- values -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("abcdefgh", "8 characters, outside of its space.*; give the space a larger max_length"),
        ("", "0 characters.*; give the space min_length=0"),
        ("aX", "the character 'X'.*; give all characters"),
        (3, "holds int"),
        (["a"], "holds list"),
        ("a\0", "NUL"),
        ("\ud800", "surrogate"),
    ],
)
def test_what_is_no_text_of_its_space_is_refused(value: Any, message: str) -> None:
    space = spaces.Text(5, charset="abc\0\ud800")
    with pytest.raises(MagratheaError, match=message):
        checked_array(space, value, "An observation")
    assert checked_array(space, "abc", "An observation").item() == "abc"


@pytest.mark.parametrize("letters", ["a", "abcxyz", LETTERS, "\0\U0010ffff"])
def test_a_space_comes_back_from_its_config(letters: str) -> None:
    space = spaces.Text(9, min_length=2, charset=letters)
    assert space_from_config(json.loads(json.dumps(space_to_config(space)))) == space


@pytest.mark.parametrize(
    "change",
    [{"characters": []}, {"characters": [[5, 3]]}, {"characters": [[0, 2**21]]}, {"min_length": 99}, {"extra": 1}],
)
def test_a_hostile_space_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MagratheaError, match="A space in a config"):
        space_from_config(space_to_config(spaces.Text(9)) | change)


# -- from recording to a dream ----------------------------------------------------------------------------------------
@pytest.fixture(scope="module", params=["text", "both"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def recorded(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp(kind) / "data"
    return record_rooms(kind, out)


@pytest.fixture(scope="module")
def world(kind: str, recorded: Dataset) -> World:
    out = recorded.folder.parent / "world"
    return train_rooms(recorded.folder, out)


def _words(observation: Any) -> Any:
    return observation["words"] if isinstance(observation, dict) else observation


def test_texts_come_back_from_the_dataset(recorded: Dataset, kind: str) -> None:
    episode = Dataset.open(recorded.folder).episode(0)
    words = _words(episode.observation)
    assert words.shape == (13,) and any("→ sky 😀" in text for text in np.concatenate([words]))  # seed 0 gets there
    if kind == "text":
        assert set(episode.action) <= set(COMMANDS)


def test_a_dream_says_what_the_environment_would(world: World, kind: str) -> None:
    env = DreamEnv(world, settings={"temperature": 0})
    seen, _ = env.reset(seed=0)
    assert seen in env.observation_space
    for command in (0, 0, 0, 1):
        seen, _, terminated, _, _ = env.step(COMMANDS[command] if kind == "text" else command)
        assert seen in env.observation_space and not terminated
    assert PLACES[2] in _words(seen)


def test_a_session_goes_on_from_its_file(world: World, kind: str, tmp_path: Path) -> None:
    actions = COMMANDS if kind == "text" else (0, 1, 2)
    one = Session(world, 1, seed=3)
    one.step(np.array([actions[0]], dtype=object) if kind == "text" else np.array([0]))
    one.save(tmp_path / "session.magrathea")
    other = Session.load(tmp_path / "session.magrathea", world)
    for session in (one, other):
        session.step(np.array([actions[1]], dtype=object) if kind == "text" else np.array([1]))
    assert torch.equal(one.tokens, other.tokens)


def test_naive_and_cached_sampling_agree(world: World, kind: str) -> None:
    naive, cached = (Session(world, 2, seed=1, inference=inference) for inference in ("naive", "cached"))
    for command in (0, 1, 0, 2, 1):
        action = np.array([COMMANDS[command]] * 2, dtype=object) if kind == "text" else np.array([command] * 2)
        assert torch.equal(naive.step(action).tokens, cached.step(action).tokens)


def test_a_batch_of_dreams_speaks_as_one_does(world: World, kind: str) -> None:
    single, batch = DreamEnv(world), DreamVectorEnv(world, 2)
    alone, _ = single.reset(seed=5)
    together, _ = batch.reset(seed=4)
    assert together in batch.observation_space and _words(together)[1] == _words(alone)
    action = COMMANDS[1] if kind == "text" else 1
    alone, *_ = single.step(action)
    together, *_ = batch.step((action, action) if kind == "text" else np.array([1, 1]))
    assert together in batch.observation_space and _words(together)[1] == _words(alone)


def test_an_action_that_is_no_text_is_refused(world: World, kind: str) -> None:
    env = DreamEnv(world)
    env.reset(seed=0)
    with pytest.raises(MagratheaError, match="Action"):
        env.step("go\teast" if kind == "text" else "go east")


def test_goals_may_be_words(world: World, kind: str) -> None:
    session = Session(world, 1, seed=0)
    goal = session.observation
    action = session.act(goal=goal)
    if kind == "text":
        assert action[0] in gymnasium.spaces.Text(20, charset=LETTERS)
