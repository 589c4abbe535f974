"""TextTokenizer: texts of any Unicode as byte-level BPE tokens (Sennrich et al. 2016, arXiv 1508.07909)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as BPETokenizer

from magrathea.errors import MagratheaError, one_line
from magrathea.layout import END
from magrathea.settings import Range, check_value
from magrathea.spaces import MAX_VOCABULARY, check_leaf, text_array
from magrathea.tokenizers.base import SlotSpec, Tokenizer, check_in_space, not_fitted, require_tensor

FIRST_BYTE = 1  # the token of the byte 0
NUM_SINGLE = FIRST_BYTE + 256
MOST_TOKENS = 4096  # of a text
MAX_TOKEN_BYTES = 256
MIN_FREQUENCY = 2  # of a pair of tokens in the texts, from which it becomes one
MOST_FITTED = 2**23  # characters
SLACK = 4  # tokens that a slot has, at least, beyond the longest text that it was fitted to

Pieces = Literal["words", "sentences"]
Pair = tuple[int, int]
_PIECES: dict[str, str] = {  # what no token reaches across; a name, since a pattern in a file could take for ever
    "words": r" ?\w+| ?[^\w\s]+|\s",
    "sentences": r"[^.!?\n]*[.!?\n]+\s*|[^.!?\n]+",
}


def _letters() -> list[str]:
    """The printable character that stands for each byte in a byte-level BPE (Radford et al. 2019)."""
    kept = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in kept else next(others)) for byte in range(256)]


LETTERS = _letters()
BYTES = {letter: byte for byte, letter in enumerate(LETTERS)}


class TextTokenizer(Tokenizer):
    """`Text`: a fixed number of tokens, of which those after the text's end are END; exact for every text that fits.

    A text of more tokens loses its end. What tokens decode to is a text of the space: bytes that are no UTF-8 and
    characters that the space does not have are left out.

    Args:
        space: of texts.
        text_vocab_size: number of different tokens at most, from 257 (single bytes and END); of `fit`.
        text_tokens: tokens of a text. If not given, `fit` takes those of the longest text and some more, at most
            `most_text_tokens`; where all texts are the same, those of that text alone.
        most_text_tokens: see there.
        text_pieces: what a token may be a part of: "words" or "sentences". Longer pieces make fewer tokens, where texts
            repeat. If not given, "sentences" where `fit` gets one text again and again, and else "words".
        text_file: a `tokenizer.json` of a byte-level BPE of Hugging Face `tokenizers`, whose merges are taken instead
            of fitted ones.
    """

    type_name = "text"

    def __init__(
        self,
        space: spaces.Text,
        *,
        text_vocab_size: int = 1024,
        text_tokens: int | None = None,
        most_text_tokens: int = 128,
        text_pieces: Pieces | None = None,
        text_file: str | Path | None = None,
    ) -> None:
        check_leaf(space, "TextTokenizer")
        if not isinstance(space, spaces.Text):
            raise MagratheaError(f"TextTokenizer needs a Text, got {space}")
        check_value("text_vocab_size", text_vocab_size, Annotated[int, Range(NUM_SINGLE, MAX_VOCABULARY)])
        for name, number in (
            ("text_tokens", 1 if text_tokens is None else text_tokens),
            ("most_text_tokens", most_text_tokens),
        ):
            check_value(name, number, Annotated[int, Range(1, MOST_TOKENS)])
        check_value("text_pieces", text_pieces, Pieces | None)
        self.space = space
        self._most_vocab, self._most_tokens = text_vocab_size, most_text_tokens
        self._num_tokens, self._pieces = text_tokens, text_pieces or "words"
        self._chooses_pieces = text_pieces is None
        self._merges: list[Pair] | None = None
        if text_file is not None:
            self._set_merges(_merges_of_file(Path(text_file)))

    def _set_merges(self, merges: Sequence[Pair]) -> None:
        self._merges, self._bytes = list(merges), _token_bytes(merges)
        self._bpe = _bpe_of(self._merges, self._bytes, self._pieces)

    # -- sizes --------------------------------------------------------------------------------------------------------
    @property
    def vocab_size(self) -> int:
        if self._merges is None:
            raise not_fitted(self, "texts")
        return len(self._bytes)

    @property
    def grid(self) -> tuple[int, int]:
        if self._num_tokens is None:
            raise not_fitted(self, "texts")
        return (1, self._num_tokens)

    @property
    def slot_specs(self) -> dict[str, SlotSpec]:
        return {"": SlotSpec(self.vocab_size, self.grid, is_sequence=True)}

    @property
    def value_shape(self) -> tuple[int, ...]:
        return ()

    @property
    def value_dtype(self) -> np.dtype:
        return np.dtype(object)

    # -- verbs --------------------------------------------------------------------------------------------------------
    def fit(self, values: Any, *, previous: Any = None, seed: int = 0) -> Self:
        texts = self.check_values(values).ravel().tolist()
        if not texts:
            raise MagratheaError("TextTokenizer.fit got no texts; give at least one")
        is_constant = len(set(texts)) == 1
        if self._merges is None:
            if self._chooses_pieces and is_constant:
                self._pieces = "sentences"
            every = max(1, -(-sum(map(len, texts)) // MOST_FITTED))
            self._set_merges(_fitted_merges(texts[::every], self._most_vocab, self._pieces))
        if self._num_tokens is None:
            longest = max(self.num_tokens_of(text) for text in set(texts))
            slack = 0 if is_constant else max(SLACK, longest // 4)
            self._num_tokens = min(max(1, longest + slack), self._most_tokens)
        return self

    def num_tokens_of(self, text: str) -> int:
        """Tokens that a text has, without END."""
        return len(self.ids(text))

    def ids(self, text: str) -> list[int]:
        """The tokens of a text of any length, without END."""
        if self._merges is None:
            raise not_fitted(self, "texts")
        return self._bpe.encode(text).ids

    def check_values(self, values: Any) -> np.ndarray:
        try:
            array = text_array(values)
        except (TypeError, ValueError) as error:
            raise MagratheaError(f"TextTokenizer.encode got values that are no texts: {error}") from error
        for value in array.ravel():
            if not isinstance(value, str):
                raise MagratheaError(f"TextTokenizer.encode got {type(value).__name__}; give texts (str)")
        return array

    def _encode(self, values: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
        check_in_space("TextTokenizer", values, self.space)
        (_, length), ids = self.grid, {text: self.ids(text) for text in set(values.tolist())}
        tokens = np.full((len(values), length), END, np.int64)
        for index, text in enumerate(values):
            own = ids[text][:length]
            tokens[index, : len(own)] = own
        return tokens

    def _decode(self, tokens: np.ndarray) -> np.ndarray:
        texts = [self._text(row) for row in tokens.tolist()]
        return np.array([*texts, None], dtype=object)[:-1]  # which keeps one text from becoming its letters

    def _text(self, tokens: list[int]) -> str:
        length = tokens.index(END) if END in tokens else len(tokens)
        raw = b"".join(self._bytes[token] for token in tokens[:length]).decode("utf-8", "ignore")
        text = "".join(letter for letter in raw if letter in self._text_space.character_set)
        padding = " " if " " in self._text_space.character_set else self._text_space.characters[0]
        return text[: self._text_space.max_length].ljust(self._text_space.min_length, padding)

    def byte_lengths(self) -> np.ndarray:
        """(vocab_size,) the number of bytes of each token, 0 of END."""
        return np.array([len(part) for part in self._bytes])

    @property
    def _text_space(self) -> spaces.Text:
        assert isinstance(self.space, spaces.Text)
        return self.space

    # -- files --------------------------------------------------------------------------------------------------------
    def to_config(self) -> dict[str, Any]:
        return {"type": self.type_name, "text_tokens": self.grid[1], "text_pieces": self._pieces}

    def tensors(self) -> dict[str, torch.Tensor]:
        pairs = [(END, END), *(self._merges or ())]  # the first keeps the tensor from being empty
        return {"merges": torch.tensor(pairs, dtype=torch.int32)}

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, torch.Tensor], space: gymnasium.Space) -> Tokenizer:
        assert isinstance(space, spaces.Text)
        tokenizer = cls(space, text_tokens=int(config["text_tokens"]), text_pieces=config["text_pieces"])
        pairs = require_tensor(tensors, "merges", 2, "TextTokenizer")
        if pairs.dtype.kind not in "iu" or pairs.shape[1] != 2:
            raise MagratheaError(f"TextTokenizer tensor 'merges' is {pairs.dtype} {pairs.shape}; save it again")
        tokenizer._set_merges([(int(first), int(second)) for first, second in pairs[1:].tolist()])
        return tokenizer


# -- merges -----------------------------------------------------------------------------------------------------------
def _token_bytes(merges: Iterable[Pair]) -> list[bytes]:
    """The bytes of every token: END, single bytes, and what each pair merges to, unless that is one already. Raises
    MagratheaError for a pair of tokens that do not come before it, and for one that is too long."""
    tokens = [b"", *(bytes([byte]) for byte in range(256))]
    known = set(tokens)
    for index, (first, second) in enumerate(merges):
        if not (FIRST_BYTE <= first < len(tokens) and FIRST_BYTE <= second < len(tokens)):
            raise MagratheaError(f"TextTokenizer merge {index} is of tokens {first} and {second}; save it again")
        merged = tokens[first] + tokens[second]
        if len(merged) > MAX_TOKEN_BYTES or len(tokens) >= MAX_VOCABULARY:
            raise MagratheaError(
                f"TextTokenizer merge {index} makes a token of {len(merged)} bytes, number {len(tokens)}; at most "
                f"{MAX_TOKEN_BYTES} bytes and {MAX_VOCABULARY} tokens are allowed"
            )
        if merged not in known:
            tokens.append(merged)
            known.add(merged)
    return tokens


def _written(token: bytes) -> str:
    return "".join(LETTERS[byte] for byte in token)


def _bpe_of(merges: Sequence[Pair], tokens: Sequence[bytes], pieces: str) -> BPETokenizer:
    """The library's tokenizer of these merges, whose ids are our tokens."""
    names = ["", *map(_written, tokens[1:])]
    vocab = {name: token for token, name in enumerate(names) if token != END}
    bpe = BPETokenizer(models.BPE(vocab, [(names[first], names[second]) for first, second in merges]))
    bpe.pre_tokenizer = _pre_tokenizer(pieces)  # type: ignore[assignment]
    return bpe


def _pre_tokenizer(pieces: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(_PIECES[pieces]), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _fitted_merges(texts: Sequence[str], vocab_size: int, pieces: str) -> list[Pair]:
    """The merges of pairs of tokens that are frequent in texts, the most frequent first."""
    bpe = BPETokenizer(models.BPE())
    bpe.pre_tokenizer = _pre_tokenizer(pieces)  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - FIRST_BYTE,
        min_frequency=MIN_FREQUENCY,
        initial_alphabet=list(LETTERS),
        max_token_length=MAX_TOKEN_BYTES // 4,
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return _pairs_of(json.loads(bpe.to_str())["model"]["merges"])


def _merges_of_file(path: Path) -> list[Pair]:
    """The merges of a `tokenizer.json`; raises MagratheaError where that is none of a byte-level BPE."""
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
        if model["type"] != "BPE":
            raise ValueError(f"its model is {model['type']}")
        return _pairs_of(model["merges"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise MagratheaError(
            f"'{path}' is no tokenizer.json of a byte-level BPE ({one_line(error, 100)}); save one with Hugging Face "
            "tokenizers."
        ) from error


def _pairs_of(merges: Iterable[Any]) -> list[Pair]:
    """Merges as the library writes them, two names of tokens in a list or with a space between, as our tokens."""
    ids = {letter: FIRST_BYTE + byte for letter, byte in BYTES.items()}
    pairs = []
    for merge in merges:
        first, second = merge.split(" ") if isinstance(merge, str) else merge
        pairs.append((ids[first], ids[second]))
        ids.setdefault(first + second, len(ids) + FIRST_BYTE)
    return pairs
