"""Words: how a text tells one of several worlds from the others.

A text is compared by its words and their parts, so that "skeletons" is near "skeleton"; what all of the texts hold
counts for nothing, and what few of them hold counts most (as in tf-idf, Salton and Buckley 1988).
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence

NUM_BUCKETS = 512  # of words, by their checksum
MOST_WORDS = 64  # of a text that are shown to a model
_STOP_WORDS = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "but",
        "by",
        "can",
        "do",
        "for",
        "from",
        "get",
        "has",
        "have",
        "i",
        "in",
        "into",
        "is",
        "it",
        "its",
        "me",
        "my",
        "no",
        "not",
        "of",
        "on",
        "one",
        "or",
        "our",
        "out",
        "over",
        "so",
        "some",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "this",
        "to",
        "up",
        "want",
        "was",
        "we",
        "what",
        "when",
        "where",
        "which",
        "who",
        "with",
        "you",
        "your",
        "game",
        "play",
        "world",
        "action",
        "please",
        "something",
        "like",
    ]
)


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case, without those that every text has. A name like "DoorKey-8x8" is several."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", text)
    return [word for word in re.findall(r"[^\W_]+", parted.lower()) if word not in _STOP_WORDS]


def buckets_of(text: str) -> list[int]:
    """Numbers within NUM_BUCKETS of a text's first words, [0] where it has none."""
    return [zlib.crc32(word.encode()) % NUM_BUCKETS for word in words_of(text)[:MOST_WORDS]] or [0]


def similarities(text: str, others: Sequence[str]) -> list[float]:
    """How near a text is to each of the others, from 0 to 1: the share of its parts that the other has, each weighed by
    how few of the others have it."""
    parts, known = _parts(text), [_parts(other) for other in others]
    weights = {part: math.log((1 + len(known)) / (0.5 + sum(part in own for own in known))) for part in parts}
    total = sum(count * weights[part] for part, count in parts.items()) or 1.0
    return [sum(count * weights[part] for part, count in parts.items() if part in own) / total for own in known]


def _parts(text: str) -> Counter[str]:
    """Words, with their beginnings of four letters and more."""
    parts: Counter[str] = Counter()
    for word in words_of(text):
        parts[f"{word}."] += 1
        parts.update(word[:length] for length in range(4, len(word) + 1))
    return parts
