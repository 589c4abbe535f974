"""What a session's model knows of the past: a ring of the last W steps, and the memory beyond it.

Both are functions of the steps' tokens alone, and are brought up to date when the model is about to be asked. Each
step is always encoded in the same company, so that a session that was restored, forked or rewound computes bit for
bit what one that never stopped does: the start of a row by itself, W steps at a time; every later step in a batch of
all rows, in its own row. (Where rows step apart from each other, a step's company is the rows that step with it.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.history import CHUNK, History, MemoryState
from magrathea.past import Past, RingPast, SegmentPast
from magrathea.world import World

Inference = Literal["cached", "naive"]
Encoded = tuple[Tensor, Tensor, Tensor]  # encodings (R, T, P, D), keys and values (L, R, T, H, P, 48)


class Remembered:
    """The past of B rows, as the model sees it.

    Args:
        histories: of each row; shared with the session, which appends to them.
        inference: "cached" keeps keys and values in a ring; "naive" makes them anew for every pass.
    """

    def __init__(self, world: World, histories: list[History], inference: Inference) -> None:
        self.world, self.histories, self.inference = world, histories, inference
        self.memory = world.new_memory()
        self._num_written = [0] * len(histories)  # steps that each row's memory has taken in
        self._ring: RingPast | None = None

    @property
    def _window(self) -> int:
        return self.world.config.model.window

    # -- what the model may attend to ---------------------------------------------------------------------------------
    def past(self, rows: Tensor | None, prompt: Tensor | None) -> Past:
        """The past of the next step of these rows (all, if not given), and a prompt (1, N) or (R, N) beside it."""
        chosen = range(len(self.histories)) if rows is None else rows.tolist()
        extra = None
        if prompt is not None:
            time = torch.tensor([len(self.histories[row]) for row in chosen], device=self.world.device)
            extra = self.world.model.prompt(prompt.expand(len(time), -1).to(self.world.device), time)
        if self.inference == "naive":
            return self._naive_past([self.histories[row] for row in chosen], extra)
        assert self._ring is not None, "catch_up comes before past"
        ring = self._ring if rows is None else self._ring.select(rows)
        ring.extra = extra
        return ring

    def _naive_past(self, histories: Sequence[History], extra: tuple[Tensor, Tensor] | None) -> Past:
        num_seen = [min(len(history), self._window) for history in histories]
        if len(set(num_seen)) > 1:
            raise MagratheaError("Naive inference needs rows of equal history; use inference='cached'.")
        first = [len(history) - seen for history, seen in zip(histories, num_seen, strict=True)]
        tokens = np.stack([history.read(begin)["tokens"] for history, begin in zip(histories, first, strict=True)])
        time = torch.tensor(first)[:, None] + torch.arange(num_seen[0])
        return SegmentPast(*self._encode(tokens, time), num_seen[0], first=num_seen[0], extra=extra)

    def _encode(self, tokens: np.ndarray, time: Tensor) -> Encoded:
        """Tokens (R, T, N) at times (R, T)."""
        device = self.world.device
        return self.world.model.remember(torch.from_numpy(tokens.astype(np.int64)).to(device), time.to(device))

    # -- keeping up ---------------------------------------------------------------------------------------------------
    @torch.inference_mode()
    def catch_up(self, chosen: list[int] | None = None) -> None:
        """Take in all steps of these rows (all, if not given) that the ring or the memory has not."""
        rows = list(range(len(self.histories))) if chosen is None else chosen
        lengths = {row: len(self.histories[row]) for row in rows}
        missing = {row: self._first_missing(row, length) for row, length in lengths.items()}
        behind = max(lengths[row] - missing[row] for row in rows)
        begun = [row for row in rows if missing[row] < min(lengths[row], self.histories[row].num_start)]
        if begun:
            self._take_in_starts(begun, missing)
        for back in range(behind, 0, -1):
            numbers = {
                row: length - back
                for row, length in lengths.items()
                if length - back >= max(missing[row], self.histories[row].num_start)
            }
            if numbers:
                self._take_in_step(numbers, list(range(len(self.histories))) if chosen is None else list(numbers))

    def _new_ring(self) -> RingPast:
        like = self.world.model.past_keys_values.weight.detach().to(self.world.model.compute_dtype)
        return RingPast(self.world.config.model, len(self.histories), self.world.layout.num_positions, like)

    def _first_missing(self, row: int, length: int) -> int:
        """The first step that the row's ring or its memory has to take in."""
        first = length
        if self.inference == "cached":
            ring = self._ring = self._ring or self._new_ring()
            ring.num_written[row] = max(ring.num_written[row], length - self._window)
            first = ring.num_written[row]
        return min(first, self._num_written[row]) if self._has_memory else first

    def _take_in_starts(self, rows: list[int], missing: dict[int, int]) -> None:
        encoded = {row: self._encode_start(self.histories[row], missing[row]) for row in rows}
        for number in range(min(missing[row] for row in rows), max(self.histories[row].num_start for row in rows)):
            here = [row for row in rows if missing[row] <= number < self.histories[row].num_start]
            if here:
                steps = [encoded[row][number - missing[row]] for row in here]
                parts = [
                    torch.cat(part, dim=dim) for dim, part in zip((0, 1, 1), zip(*steps, strict=True), strict=True)
                ]
                self._write(here, [number] * len(here), parts)

    def _encode_start(self, history: History, first: int) -> list[Encoded]:
        """Steps first… of a row's start, each encoded beside those of its piece of W steps."""
        begin = first // self._window * self._window
        steps: list[Encoded] = []
        for piece in range(begin, history.num_start, self._window):
            time = torch.arange(piece, min(piece + self._window, history.num_start))
            encodings, keys, values = self._encode(history.read(piece, int(time[-1]) + 1)["tokens"][None], time[None])
            steps += zip(encodings.split(1, 1), keys.split(1, 2), values.split(1, 2), strict=True)
        return steps[first - begin :]

    def _take_in_step(self, numbers: dict[int, int], company: list[int]) -> None:
        """One step of each of these rows, by its number, in a batch of all rows in company."""
        tokens = np.zeros((len(company), 1, self.world.layout.num_tokens), np.int64)
        time = torch.tensor([[len(self.histories[row])] for row in company])
        rows = list(numbers)
        places = [company.index(row) for row in rows]
        for row, place in zip(rows, places, strict=True):
            history, number = self.histories[row], numbers[row]
            is_last = number == len(history) - 1
            tokens[place, 0] = history.last if is_last else history.read(number, number + 1)["tokens"]
            time[place] = number
        self._write(rows, list(numbers.values()), _choose(self._encode(tokens, time), places))

    def _write(self, rows: list[int], numbers: list[int], encoded: Sequence[Tensor]) -> None:
        """Step numbers[i] of row rows[i], as encoded, enters the ring and the memory, where they lack it."""
        if self._ring is not None:
            here = _lacking(rows, numbers, self._ring.num_written)
            self._ring.write(*_choose(encoded, here), [rows[i] for i in here])
        if self._has_memory:
            here = _lacking(rows, numbers, self._num_written)
            self._write_memory([rows[i] for i in here], _choose(encoded, here)[0].squeeze(1))

    # -- the memory ---------------------------------------------------------------------------------------------------
    @property
    def _has_memory(self) -> bool:
        return bool(self.memory.state_dict())

    def _write_memory(self, rows: list[int], encodings: Tensor) -> None:
        """The next step (R, P, D) of these rows enters the memory; the other rows' states stay."""
        if not rows:
            return
        if len(rows) == len(self.histories):
            self.memory.write(encodings)
        else:
            states = self.memory_states()
            company = encodings.new_zeros(len(self.histories), *encodings.shape[1:])
            company[rows] = encodings
            self.memory.write(company)
            written = self.memory_states()
            self._set_memory([written[row] if row in rows else state for row, state in enumerate(states)])
        for row in rows:
            self._num_written[row] += 1
        due = [row for row in rows if self._num_written[row] % CHUNK == 0]
        if due:
            states = self.memory_states()
            for row in due:
                self.histories[row].keep(self._num_written[row], states[row])

    def memory_states(self) -> list[MemoryState]:
        """The memory's state, row by row."""
        state = self.memory.state_dict()
        return [{name: tensor[row] for name, tensor in state.items()} for row in range(len(self.histories))]

    def _set_memory(self, states: list[MemoryState]) -> None:
        self.memory.load_state_dict({name: torch.stack([state[name] for state in states]) for name in states[0]})

    # -- starting anew, going back, parting ---------------------------------------------------------------------------
    @torch.inference_mode()
    def forget(self, rows: list[int]) -> None:
        """These rows begin anew."""
        if self._ring is not None:
            self._ring.forget(rows)
        env_mask = torch.zeros(len(self.histories), dtype=torch.bool)
        env_mask[rows] = True
        self.memory.reset(env_mask)
        for row in rows:
            self._num_written[row] = 0

    @torch.inference_mode()
    def go_back(self) -> None:
        """Forget what is beyond the end of the histories, which were cut."""
        lengths = [len(history) for history in self.histories]
        for row, length in enumerate(lengths):
            if self._ring is not None and self._ring.num_written[row] > length:
                self._ring.num_written[row] = max(0, length - self._window)
        rows = [row for row, length in enumerate(lengths) if self._num_written[row] > length]
        if rows:
            states = self.memory_states()
            for row in rows:
                kept = self._num_written[row] = self.histories[row].nearest(lengths[row])
                states[row] = self.histories[row].checkpoints.get(kept, states[row])
            self._set_memory(states)
            env_mask = torch.tensor([row in rows and not self._num_written[row] for row in range(len(lengths))])
            self.memory.reset(env_mask)

    # -- companies that change ----------------------------------------------------------------------------------------
    @torch.inference_mode()
    def join(self, other: Remembered) -> None:
        """Take in another's rows, after the own ones; its histories are added already."""
        if self._has_memory:
            self._set_company(self.memory_states() + other.memory_states())
        self._num_written += other._num_written
        if self._ring is not None:
            self._ring = self._ring.beside(other._ring or other._new_ring())

    @torch.inference_mode()
    def keep(self, rows: list[int]) -> None:
        """Forget all other rows; their histories are gone already."""
        if self._has_memory:
            states = self.memory_states()
            self._set_company([states[row] for row in rows])
        self._num_written = [self._num_written[row] for row in rows]
        if self._ring is not None:
            self._ring = self._ring.select(torch.tensor(rows))

    def _set_company(self, states: list[MemoryState]) -> None:
        self.memory = self.world.new_memory()
        self._set_memory(states)

    def state(self, rows: list[int]) -> tuple[dict[str, Tensor], list[int]]:
        """The memory's state (R, …) in these rows, and the number of steps that it has taken in."""
        state = self.memory.state_dict()
        if rows != list(range(len(self.histories))):
            state = {name: tensor[rows] for name, tensor in state.items()}
        return state, [self._num_written[row] for row in rows]

    @torch.inference_mode()
    def restore(self, state: dict[str, Tensor], num_written: list[int]) -> None:
        """Go on from what `state` gave."""
        self.memory.load_state_dict({name: tensor.to(self.world.device) for name, tensor in state.items()})
        self._num_written = list(num_written)


def _lacking(rows: list[int], numbers: list[int], num_written: list[int]) -> list[int]:
    """Which of the rows have not taken in their step yet."""
    return [i for i, (row, number) in enumerate(zip(rows, numbers, strict=True)) if number >= num_written[row]]


def _choose(encoded: Sequence[Tensor], here: list[int]) -> Sequence[Tensor]:
    """Some of the rows of what was encoded."""
    encodings, keys, values = encoded
    if len(here) == len(encodings):
        return encoded
    return encodings[here], keys[:, here], values[:, here]
