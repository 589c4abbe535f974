"""An n-gram model with interpolated Kneser-Ney smoothing (Kneser and Ney 1995; Chen and Goodman 1999): what texts are
compared with."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

Context = tuple[int, ...]


class NGram:
    """Probabilities of tokens given the `order` - 1 before them, from counts.

    Args:
        order: 1 or more.
        vocab_size: number of different tokens.
    """

    def __init__(self, order: int, vocab_size: int) -> None:
        self.order, self.vocab_size = order, vocab_size
        # by the length of a context: how often, or for shorter ones than the longest after how many different tokens
        self._counts: list[dict[Context, dict[int, int]]] = [defaultdict(dict) for _ in range(order)]
        self._totals: list[dict[Context, int]] = [defaultdict(int) for _ in range(order)]
        self._discounts = [0.0] * order

    def fit(self, texts: Iterable[tuple[Sequence[int], Sequence[int]]]) -> NGram:
        """Count the tokens of texts, each given those that stand before it."""
        longest = self.order - 1
        for before, text in texts:
            tokens = [*before, *text]
            for place in range(len(before), len(tokens)):
                context = tuple(tokens[max(0, place - longest) : place])
                for length in range(len(context), -1, -1):
                    shorter, token = context[len(context) - length :], tokens[place]
                    counts = self._counts[length][shorter]
                    is_new = token not in counts
                    counts[token] = counts.get(token, 0) + 1
                    if not is_new:  # a shorter context counts what stands before it once
                        break
        for length, each in enumerate(self._counts):
            ones, twos = (sum(n == k for counts in each.values() for n in counts.values()) for k in (1, 2))
            self._discounts[length] = ones / (ones + 2 * twos) if ones else 0.5
            for context, counts in each.items():
                self._totals[length][context] = sum(counts.values())
        return self

    def probability(self, before: Sequence[int], token: int) -> float:
        """Of a token after those before it."""
        found = 1 / self.vocab_size
        context = tuple(before[max(0, len(before) - self.order + 1) :])
        for length in range(len(context) + 1):
            shorter = context[len(context) - length :]
            counts = self._counts[length].get(shorter)
            if counts is None:
                break
            total, discount = self._totals[length][shorter], self._discounts[length]
            found = (max(counts.get(token, 0) - discount, 0) + discount * len(counts) * found) / total
        return found

    def bits(self, before: Sequence[int], text: Sequence[int]) -> float:
        """-log2 of the probability of a text after the tokens before it."""
        tokens = [*before, *text]
        places = range(len(before), len(tokens))
        return -sum(math.log2(self.probability(tokens[:place], tokens[place])) for place in places)
