"""What a session's model knows of the past: a ring of the last W steps, and the memory beyond it.

Both are functions of the steps' tokens alone, and are brought up to date when the model is about to be asked. Each
step is always encoded in the same company, so that a session that was restored, forked or rewound computes bit for
bit what one that never stopped does: the start of a row by itself, W steps at a time; every later step in a batch of
all rows, in its own row (where rows step apart from others: of all that step with it).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.memory import Memory, WindowMemory
from magrathea.model.kv_cache import Conditioning, KVCache, RingKVCache, SegmentKVCache, StepEncoding
from magrathea.session.history import History
from magrathea.session.snapshots import EVERY, MemoryState
from magrathea.world import World

Inference = Literal["cached", "naive"]


class DreamContext:
    """The past of B rows, as the model sees it.

    Args:
        histories: of each row; shared with the rows, which append to them.
        inference: "cached" keeps keys and values in a ring; "naive" makes them anew for every pass.
        memory: each row's memory, as `state` gave it.
        num_written: the number of steps that each row's memory has taken in.
    """

    def __init__(
        self,
        world: World,
        histories: list[History],
        inference: Inference,
        memory: Sequence[MemoryState],
        num_written: Sequence[int],
    ) -> None:
        if inference not in get_args(Inference):
            raise MagratheaError(f"Unknown inference '{inference}'; choose 'cached' or 'naive'.")
        self.world, self.histories, self.inference = world, histories, inference
        self._window = world.config.model.window
        self._ring: RingKVCache | None = None
        self._restore(memory, num_written)

    def _restore(self, memory: Sequence[MemoryState], num_written: Sequence[int], room: int = 0) -> None:
        """Set the memory's states, with room for more rows. It is made when it is first needed, so that a fork that is
        only looked at costs nothing."""
        self._restored, self._num_written = list(memory), list(num_written)
        self._room = max(room, len(num_written))
        self.__dict__.pop("memory", None)

    @cached_property
    def memory(self) -> Memory:
        """What the model remembers of the steps that were taken in, beyond its window; may have further, empty rows."""
        memory = self.world.new_memory(self._room)
        for row, state in enumerate(self._restored):
            if self._num_written[row]:
                memory.load_state_dict(row, state)
        return memory

    @property
    def _has_memory(self) -> bool:
        return not isinstance(self.memory, WindowMemory)

    def _new_ring(self) -> RingKVCache:
        model = self.world.model
        like = model.past_kv_proj.weight.detach().to(model.compute_dtype)
        return RingKVCache(self.world.config.model, len(self.histories), self.world.layout, like)

    # -- what the model may attend to ---------------------------------------------------------------------------------
    def recall(self, tokens: Tensor, hole_mask: Tensor, rows: Sequence[int], prompt: Tensor | None) -> Conditioning:
        """What the next steps (R, N) with holes of these rows get beside the window: what the memory recalls, and a
        prompt (1, N)."""
        recalled = self.memory.read(tokens, hole_mask, rows).each(lambda part: part.to(self.world.device)[:, None])
        time = torch.tensor([[len(self.histories[row])] for row in rows], device=self.world.device)
        extra = self.world.model.recalled_steps(recalled.steps, time)
        if prompt is None:
            return Conditioning(recalled, extra)
        return Conditioning(
            recalled, extra, self.world.model.prompt(prompt.to(self.world.device).expand(len(rows), -1))
        )

    def past(self, rows: Sequence[int], beside: Conditioning) -> KVCache:
        """The past of the next step of these rows, with what they get beside it."""
        if self._ring is None:
            return self._naive_past([self.histories[row] for row in rows], beside)
        everywhere = list(rows) == list(range(len(self.histories)))
        ring = self._ring if everywhere else self._ring.select(torch.tensor(rows))
        ring.beside(beside)
        return ring

    def _naive_past(self, histories: list[History], beside: Conditioning) -> KVCache:
        seen = min(len(histories[0]), self._window)
        if any(min(len(history), self._window) != seen for history in histories):
            raise MagratheaError("Naive inference needs rows of equal history; use inference='cached'.")
        first = torch.tensor([len(history) - seen for history in histories])
        tokens = torch.stack([_tokens(history, -seen, None) for history in histories])
        remembered = self._encode(tokens, first[:, None] + torch.arange(seen))
        tokens = tokens.to(self.world.device)
        return SegmentKVCache(tokens, *remembered, seen, seen, beside.extra, beside.recalled, beside.prompt)

    def _encode(self, tokens: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (R, T, N) at times (R, T) -> encodings (R, T, P, D), keys and values (L, R, T, H, P, 48)."""
        return self.world.model.remember(tokens.to(self.world.device), time.to(self.world.device))

    # -- keeping up ---------------------------------------------------------------------------------------------------
    @torch.inference_mode()
    def catch_up(self, rows: Sequence[int]) -> None:
        """Take in all steps that the histories of these rows have and the ring or the memory has not."""
        if self._ring is None and self.inference == "cached":
            self._ring = self._new_ring()
        histories = [self.histories[row] for row in rows]
        missing = [self._first_missing(row) for row in rows]
        if any(first < history.num_start for first, history in zip(missing, histories, strict=True)):
            self._take_in_starts(rows, missing)
        later = [
            len(history) - max(first, history.num_start) for first, history in zip(missing, histories, strict=True)
        ]
        for back in range(max(later), 0, -1):
            self._take_in_step(rows, [index for index, num_steps in enumerate(later) if num_steps >= back], back)

    def _first_missing(self, row: int) -> int:
        """The first step that the row's ring or its memory has to take in."""
        first = length = len(self.histories[row])
        if self._ring is not None:
            first = self._ring.num_written[row] = max(self._ring.num_written[row], length - self._window)
        return min(first, self._num_written[row]) if self._has_memory else first

    def _take_in_starts(self, rows: Sequence[int], missing: list[int]) -> None:
        """What is missing of the rows' starts, the rows together step by step."""
        steps: dict[int, dict[int, StepEncoding]] = {}  # number of the step -> row -> what it is
        encoded: dict[tuple[int, bytes], list[tuple[int, StepEncoding]]] = {}  # many rows may have one start
        for row, first in zip(rows, missing, strict=True):
            history = self.histories[row]
            if first < history.num_start:
                key = first, history.read(0, history.num_start)["tokens"].tobytes()
                encoded[key] = encoded.get(key) or self._encode_start(history, first)
                for number, step in encoded[key]:
                    steps.setdefault(number, {})[row] = step
        for number in sorted(steps):
            here = list(steps[number])
            self._write(here, [number] * len(here), StepEncoding.together(list(steps[number].values())))

    def _encode_start(self, history: History, first: int) -> list[tuple[int, StepEncoding]]:
        """Steps first… of a row's start and their numbers, each encoded beside those of its piece of W steps."""
        steps = []
        for begin in range(first // self._window * self._window, history.num_start, self._window):
            numbers = range(begin, min(begin + self._window, history.num_start))
            tokens = _tokens(history, begin, numbers.stop)
            encodings, keys, values = self._encode(tokens[None], torch.tensor([numbers]))
            parts = zip(tokens.split(1), encodings.split(1, 1), keys.split(1, 2), values.split(1, 2), strict=True)
            steps += [(n, StepEncoding(*step)) for n, step in zip(numbers, parts, strict=True) if n >= first]
        return steps

    def _take_in_step(self, rows: Sequence[int], here: list[int], back: int) -> None:
        """The step `back` from the end of rows[i] for each i of `here`, in a batch of all the rows."""
        numbers = [max(0, len(self.histories[row]) - back) for row in rows]
        tokens = np.zeros((len(rows), self.world.layout.num_tokens), np.int64)
        for index in here:
            tokens[index] = self.histories[rows[index]].tokens_at(numbers[index])
        steps = torch.from_numpy(tokens)
        encoded = StepEncoding(steps, *self._encode(steps[:, None], torch.tensor(numbers)[:, None]))
        self._write([rows[index] for index in here], [numbers[index] for index in here], encoded.of(here))

    def _write(self, rows: list[int], numbers: list[int], encoded: StepEncoding) -> None:
        """Step numbers[i] of row rows[i], as encoded, enters the ring and the memory, where they lack it."""
        if self._ring is not None:
            here = _lacking(rows, numbers, self._ring.num_written)
            step = encoded.of(here)
            self._ring.write(step.tokens, step.encodings, step.keys, step.values, [rows[i] for i in here])
        if self._has_memory:
            here = _lacking(rows, numbers, self._num_written)
            self._write_memory([rows[i] for i in here], encoded.of(here))

    def _write_memory(self, rows: list[int], step: StepEncoding) -> None:
        if rows:
            self.memory.write(step.tokens, step.encodings.squeeze(1), rows)
        for row in rows:
            self._num_written[row] += 1
            if self._num_written[row] % EVERY == 0:
                self.histories[row].checkpoints.keep(self._num_written[row], self.memory.state_dict(row))

    # -- starting anew, going back, parting ---------------------------------------------------------------------------
    @torch.inference_mode()
    def forget(self, rows: list[int]) -> None:
        """These rows begin anew."""
        if self._ring is not None:
            self._ring.forget(rows)
        for row in rows:
            self._num_written[row] = 0
        self._reset(rows)

    def _reset(self, rows: list[int]) -> None:
        env_mask = torch.zeros(self._room, dtype=torch.bool)
        env_mask[rows] = True
        self.memory.reset(env_mask)

    @torch.inference_mode()
    def go_back(self) -> None:
        """Forget what is beyond the end of the histories, which were cut."""
        for row, history in enumerate(self.histories):
            if self._ring is not None and self._ring.num_written[row] > len(history):
                self._ring.num_written[row] = 0  # to be filled anew
            if self._num_written[row] > len(history):
                number = self._num_written[row] = history.checkpoints.nearest(len(history))
                self._reset([row])
                if number:
                    self.memory.load_state_dict(row, history.checkpoints.at(number))

    # -- rows that come and go ----------------------------------------------------------------------------------------
    def state(self, rows: Sequence[int]) -> tuple[list[MemoryState], list[int]]:
        """The memory's states in these rows, and the number of steps that each has taken in."""
        return [self.memory.state_dict(row) for row in rows], [self._num_written[row] for row in rows]

    @torch.inference_mode()
    def join(self, other: DreamContext) -> None:
        """Take in another's rows, after the own ones; the histories have them already. Where there is room for them,
        the own rows are left as they are, so that to join and to leave does not cost what all remember."""
        have = len(self._num_written)
        states, num_written = other.state(range(len(other._num_written)))
        if have + len(states) > self._room:
            own = self.state(range(have))
            self._restore(own[0] + states, own[1] + num_written, room=2 * have)
        else:
            self._num_written += num_written
            self._load(range(have, len(self._num_written)), states)
        if self._ring is not None:
            self._ring.take_in(other._ring or other._new_ring())

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Give up all rows but these, in this order; those that stay in their places are left as they are."""
        places = [place for place, row in enumerate(rows) if row != place]
        states, num_written = self.state([rows[place] for place in places])[0], [self._num_written[row] for row in rows]
        if 4 * len(rows) < self._room:
            self._restore(*self.state(rows))
        else:
            self._reset([*places, *range(len(rows), self._room)])
            self._num_written = num_written
            self._load(places, states)
        if self._ring is not None:
            self._ring.keep(rows)

    def _load(self, rows: Sequence[int], states: Sequence[MemoryState]) -> None:
        """Set the memory's states in some rows, which are empty."""
        for row, state in zip(rows, states, strict=True):
            if self._num_written[row]:
                self.memory.load_state_dict(row, state)


def _tokens(history: History, first: int, last: int | None) -> Tensor:
    """(T, N) int64"""
    return torch.from_numpy(history.read(first, last)["tokens"].astype(np.int64))


def _lacking(rows: list[int], numbers: list[int], num_written: list[int]) -> list[int]:
    """Which of the rows have not taken in their step yet."""
    return [i for i, (row, number) in enumerate(zip(rows, numbers, strict=True)) if number >= num_written[row]]
