"""Words: how a text tells one of several worlds from the others.

A text is compared by its words, of which those that begin alike are the same in part, as "skeletons" and "skeleton";
what few of the texts hold counts most (as in tf-idf, Salton and Buckley 1988).
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence
from itertools import takewhile

NUM_BUCKETS = 512  # of words, by their checksum
LEAST_COMMON = 4  # letters
MOST_WORDS = 64  # of a text that are shown to a model
_STOP_WORDS = frozenset(
    """a an and are as at be but by can do for from get has have i in into is it its me my no not of on one or our out
    over so some that the their them then there this to up want was we what when where which who with you your
    game play world action please something like""".split()  # noqa: SIM905
)


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case, without those that every text has. A name like "DoorKey-8x8" is several."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", text)
    return [word for word in re.findall(r"[^\W_]+", parted.lower()) if word not in _STOP_WORDS]


def buckets_of(text: str) -> list[int]:
    """Numbers within NUM_BUCKETS of a text's first words, [0] where it has none. Models are trained with these."""
    words = re.findall(r"[^\W_]+", text.lower())[:MOST_WORDS]
    return [zlib.crc32(word.encode()) % NUM_BUCKETS for word in words] or [0]


def similarities(text: str, others: Sequence[str]) -> list[float]:
    """How near a text is to each of the others, from 0 to 1: the share of its words that the other has, each weighed by
    how few of the others have it. Words that begin alike are the same in part."""
    words, known = words_of(text), [set(words_of(other)) for other in others]
    found = [[max((_likeness(word, other) for other in own), default=0.0) for own in known] for word in words]
    weights = [math.log((1 + len(known)) / (0.5 + sum(each))) for each in found]
    total = sum(weights) or 1.0
    return [
        sum(weight * each[number] for weight, each in zip(weights, found, strict=True)) / total
        for number in range(len(known))
    ]


def _likeness(word: str, other: str) -> float:
    """1 for equal words; the share that they have in common where they begin with the same LEAST_COMMON letters."""
    common = sum(1 for _ in takewhile(lambda letters: letters[0] == letters[1], zip(word, other, strict=False)))
    return common / max(len(word), len(other)) if common >= LEAST_COMMON or word == other else 0.0
