"""What the model knows of a session's past: keys and values of the last W steps, and the memory beyond them.

Both are functions of the histories' tokens alone, and are brought up to date when the model is about to be asked.
Floating-point sums depend on the batch that they are computed in, so each step is always encoded in the same batch: the
start of a world by itself, W steps at a time; every later step in a batch of all worlds (where worlds step apart from
others: of all that step with it). So a session that was restored, forked or rewound computes bit for bit what one that
never stopped does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.interfaces import Memory
from magrathea.memory import WindowMemory
from magrathea.model.kv_cache import Conditioning, KVCache, RingKVCache, SegmentKVCache, StepEncoding
from magrathea.session.history import History, tokens_of
from magrathea.session.snapshots import EVERY, MemoryState
from magrathea.world import World

Inference = Literal["cached", "naive"]


class DreamContext:
    """The key/value cache and the memory of B worlds.

    Args:
        world: that is dreamt.
        histories: (B,) shared with the session, which appends to them.
        inference: "cached" keeps keys and values in a ring; "naive" computes them anew for every pass.
        memory: (B,) states of the memory.
        num_in_memory: (B,) how many steps of the history each of those states has taken in.
    """

    def __init__(
        self,
        world: World,
        histories: list[History],
        inference: Inference,
        memory: Sequence[MemoryState],
        num_in_memory: Sequence[int],
    ) -> None:
        if inference not in get_args(Inference):
            raise MagratheaError(f"Unknown inference '{inference}'; choose 'cached' or 'naive'.")
        self.world, self.histories = world, histories
        self.inference: Inference = inference
        self._window = world.config.model.window
        self._ring: RingKVCache | None = None
        self._restore(memory, num_in_memory)

    def _restore(self, memory: Sequence[MemoryState], num_in_memory: Sequence[int], capacity: int = 0) -> None:
        """Set the memory's states, with room for more worlds. The memory is made when it is first needed, so that a
        fork that is never stepped costs nothing."""
        self._restored, self._num_in_memory = list(memory), list(num_in_memory)
        self._capacity = max(capacity, len(num_in_memory))
        self.__dict__.pop("memory", None)

    @cached_property
    def memory(self) -> Memory:
        """The memory of the steps that were taken in; may have room for further worlds after the batch."""
        memory = self.world.new_memory(self._capacity)
        for index, state in enumerate(self._restored):
            if self._num_in_memory[index]:
                memory.load_state_dict(index, state)
        return memory

    @property
    def _has_memory(self) -> bool:
        return not isinstance(self.memory, WindowMemory)

    def _new_ring(self) -> RingKVCache:
        model = self.world.model
        like = torch.empty(0, dtype=model.compute_dtype, device=model.device)
        return RingKVCache(self.world.config.model, len(self.histories), self.world.layout, model.num_encoded, like)

    # -- what the next step is given ----------------------------------------------------------------------------------
    def predictor(
        self,
        tokens: Int[Tensor, "I N"],
        hole_mask: Bool[Tensor, "I N"],
        batch_indices: Sequence[int],
        stays_open: Bool[Tensor, "I N"] | None,
        prompt: Int[Tensor, "1 N"] | None,
    ) -> StepPredictor:
        """The model as `fill` asks it for these worlds' next steps, in which `hole_mask` is filled and `stays_open` is
        not; takes in the steps before."""
        self.catch_up(batch_indices)
        unknown = hole_mask if stays_open is None else hole_mask | stays_open
        conditioning = self.condition(tokens, unknown, batch_indices, prompt)
        return StepPredictor(self, batch_indices, conditioning, stays_open)

    def condition(
        self,
        tokens: Int[Tensor, "I N"],
        hole_mask: Bool[Tensor, "I N"],
        batch_indices: Sequence[int],
        prompt: Int[Tensor, "1 N"] | None,
    ) -> Conditioning:
        """The conditioning of these worlds' next steps with holes: the memory's readout, and a prompt."""
        device = self.world.device
        readout = self.memory.read(tokens, hole_mask, batch_indices).map(lambda part: part.to(device)[:, None])
        time = self.next_times(batch_indices)
        if prompt is not None:
            prompt = prompt.to(device).expand(len(batch_indices), -1)
        return self.world.model.condition(readout, time, prompt)

    def next_times(self, batch_indices: Sequence[int]) -> Int[Tensor, "I 1"]:
        """The numbers of these worlds' next steps."""
        return torch.tensor([[len(self.histories[index])] for index in batch_indices], device=self.world.device)

    def kv_cache(self, batch_indices: Sequence[int], conditioning: Conditioning) -> KVCache:
        """The past of the next step of these worlds, with what conditions it."""
        if self._ring is None:
            return self._naive_cache([self.histories[index] for index in batch_indices], conditioning)
        whole_batch = list(batch_indices) == list(range(len(self.histories)))
        ring = self._ring if whole_batch else self._ring.select(torch.tensor(batch_indices))
        ring.conditioning = conditioning
        return ring

    def _naive_cache(self, histories: list[History], conditioning: Conditioning) -> KVCache:
        length = min(len(histories[0]), self._window)
        if any(min(len(history), self._window) != length for history in histories):
            raise MagratheaError("Naive inference needs histories of equal length; use inference='cached'.")
        first = torch.tensor([len(history) - length for history in histories])
        tokens = torch.stack([tokens_of(history.read(-length)) for history in histories])
        steps = self._encode(tokens, first[:, None] + torch.arange(length))
        return SegmentKVCache(steps, length, length, conditioning)

    def _encode(self, tokens: Int[Tensor, "I T N"], time: Int[Tensor, "I T"]) -> StepEncoding:
        return self.world.model.encode_past(tokens.to(self.world.device), time.to(self.world.device))

    # -- keeping up with the histories --------------------------------------------------------------------------------
    @torch.inference_mode()
    def catch_up(self, batch_indices: Sequence[int]) -> None:
        """Take in all steps that the histories of these worlds have and the ring or the memory has not."""
        if self._ring is None and self.inference == "cached":
            self._ring = self._new_ring()
        histories = [self.histories[index] for index in batch_indices]
        missing = [self._first_missing(index) for index in batch_indices]
        if any(first < history.num_start for first, history in zip(missing, histories, strict=True)):
            self._write_starts(batch_indices, missing)
        later = [
            len(history) - max(first, history.num_start) for first, history in zip(missing, histories, strict=True)
        ]
        for back in range(max(later), 0, -1):
            self._write_step(batch_indices, [i for i, num_steps in enumerate(later) if num_steps >= back], back)

    def _first_missing(self, batch_index: int) -> int:
        """The first step that the world's ring or its memory has to take in."""
        first = length = len(self.histories[batch_index])
        if self._ring is not None:
            written = self._ring.num_written
            first = written[batch_index] = max(written[batch_index], length - self._window)
        return min(first, self._num_in_memory[batch_index]) if self._has_memory else first

    def _write_starts(self, batch_indices: Sequence[int], missing: list[int]) -> None:
        """Write what is missing of the worlds' starts, step by step for all of them."""
        steps: dict[int, dict[int, StepEncoding]] = {}  # step number -> batch index -> its encoding
        encoded: dict[tuple[int, bytes], list[tuple[int, StepEncoding]]] = {}  # many worlds may have one start
        for index, first in zip(batch_indices, missing, strict=True):
            history = self.histories[index]
            if first < history.num_start:
                key = first, history.read(0, history.num_start)["tokens"].tobytes()
                encoded[key] = encoded.get(key) or self._encode_start(history, first)
                for number, step in encoded[key]:
                    steps.setdefault(number, {})[index] = step
        for number in sorted(steps):
            indices = list(steps[number])
            self._write(indices, [number] * len(indices), StepEncoding.concatenate(list(steps[number].values())))

    def _encode_start(self, history: History, first: int) -> list[tuple[int, StepEncoding]]:
        """Steps first… of a start and their numbers, each encoded with those of its piece of W steps."""
        steps = []
        for begin in range(first // self._window * self._window, history.num_start, self._window):
            numbers = range(begin, min(begin + self._window, history.num_start))
            piece = self._encode(tokens_of(history.read(begin, numbers.stop))[None], torch.tensor([numbers]))
            steps += [(n, step) for n, step in zip(numbers, piece.split_time(), strict=True) if n >= first]
        return steps

    def _write_step(self, batch_indices: Sequence[int], which: list[int], back: int) -> None:
        """Write the step `back` from the end of batch_indices[i] for each i of `which`, encoded with all of them."""
        numbers = [max(0, len(self.histories[index]) - back) for index in batch_indices]
        tokens = np.zeros((len(batch_indices), 1, self.world.layout.num_tokens), np.int64)
        for i in which:
            tokens[i, 0] = self.histories[batch_indices[i]].tokens_at(numbers[i])
        encoded = self._encode(torch.from_numpy(tokens), torch.tensor(numbers)[:, None])
        self._write([batch_indices[i] for i in which], [numbers[i] for i in which], encoded.select(which))

    def _write(self, batch_indices: list[int], numbers: list[int], step: StepEncoding) -> None:
        """Write step numbers[i] of world batch_indices[i] to the ring and to the memory, where they lack it."""
        if self._ring is not None:
            which = _lacking(batch_indices, numbers, self._ring.num_written)
            self._ring.write(step.select(which), [batch_indices[i] for i in which])
        if self._has_memory:
            which = _lacking(batch_indices, numbers, self._num_in_memory)
            self._write_memory([batch_indices[i] for i in which], step.select(which))

    def _write_memory(self, batch_indices: list[int], step: StepEncoding) -> None:
        if batch_indices:
            self.memory.write(step.tokens.squeeze(1), step.encodings.squeeze(1), batch_indices)
        for index in batch_indices:
            self._num_in_memory[index] += 1
            if self._num_in_memory[index] % EVERY == 0:
                self.histories[index].snapshots.keep(self._num_in_memory[index], self.memory.state_dict(index))

    # -- starting anew and going back ---------------------------------------------------------------------------------
    @torch.inference_mode()
    def reset(self, batch_indices: list[int]) -> None:
        """These worlds begin anew."""
        if self._ring is not None:
            self._ring.reset(batch_indices)
        for index in batch_indices:
            self._num_in_memory[index] = 0
        self._reset_memory(batch_indices)

    def _reset_memory(self, batch_indices: list[int]) -> None:
        env_mask = torch.zeros(self._capacity, dtype=torch.bool)
        env_mask[batch_indices] = True
        self.memory.reset(env_mask)

    @torch.inference_mode()
    def rewind(self) -> None:
        """Forget what is beyond the end of the histories, which were truncated."""
        for index, history in enumerate(self.histories):
            if self._ring is not None and self._ring.num_written[index] > len(history):
                self._ring.num_written[index] = 0  # to be written anew
            if self._num_in_memory[index] > len(history):
                number = self._num_in_memory[index] = history.snapshots.nearest(len(history))
                self._reset_memory([index])
                if number:
                    self.memory.load_state_dict(index, history.snapshots.at(number))

    # -- worlds that join and leave the batch -------------------------------------------------------------------------
    def memory_state(self, batch_indices: Sequence[int]) -> tuple[list[MemoryState], list[int]]:
        """The memory's states of these worlds, and how many steps each has taken in."""
        states = [self.memory.state_dict(index) for index in batch_indices]
        return states, [self._num_in_memory[index] for index in batch_indices]

    @torch.inference_mode()
    def append(self, other: DreamContext) -> None:
        """Append another's worlds; the histories have them already. Where there is room for them,
        the own ones are left as they are, so that joining does not cost what the whole batch remembers."""
        have = len(self._num_in_memory)
        states, num_in_memory = other.memory_state(range(len(other._num_in_memory)))
        if have + len(states) > self._capacity:
            own = self.memory_state(range(have))
            self._restore(own[0] + states, own[1] + num_in_memory, capacity=2 * have)
        else:
            self._num_in_memory += num_in_memory
            self._load_memory(range(have, len(self._num_in_memory)), states)
        if self._ring is not None:
            self._ring.append(other._ring or other._new_ring())

    @torch.inference_mode()
    def keep(self, batch_indices: Sequence[int]) -> None:
        """Drop all worlds but these, in this order; those that stay in their places are left as they are."""
        places = [place for place, index in enumerate(batch_indices) if index != place]
        states = self.memory_state([batch_indices[place] for place in places])[0]
        num_in_memory = [self._num_in_memory[index] for index in batch_indices]
        if 4 * len(batch_indices) < self._capacity:
            self._restore(*self.memory_state(batch_indices))
        else:
            self._reset_memory([*places, *range(len(batch_indices), self._capacity)])
            self._num_in_memory = num_in_memory
            self._load_memory(places, states)
        if self._ring is not None:
            self._ring.keep(batch_indices)

    def _load_memory(self, batch_indices: Sequence[int], states: Sequence[MemoryState]) -> None:
        """Set the memory's states of some worlds, which are empty."""
        for index, state in zip(batch_indices, states, strict=True):
            if self._num_in_memory[index]:
                self.memory.load_state_dict(index, state)


class StepPredictor:
    """The model, given the past of I worlds; see `DreamContext.predictor`.

    Attributes:
        trunk: (I, P, D) the trunk's output in the first pass; None before it.
    """

    def __init__(
        self, context: DreamContext, batch_indices: Sequence[int], conditioning: Conditioning, stays_open: Tensor | None
    ) -> None:
        self._context, self._batch_indices, self._conditioning = context, batch_indices, conditioning
        self._stays_open = None if stays_open is None else stays_open.to(context.world.device)
        self._time = context.next_times(batch_indices)
        self.trunk: Tensor | None = None

    def __call__(self, tokens: Tensor, open_holes: Tensor, chosen: Tensor | None) -> dict[str, Tensor]:
        """Tokens (n, N) of all worlds or of the chosen ones, and their holes -> logits of every slot with holes."""
        model, here = self._context.world.model, slice(None) if chosen is None else chosen
        hidden = open_holes if self._stays_open is None else open_holes | self._stays_open[here]
        indices = self._batch_indices if chosen is None else [self._batch_indices[i] for i in chosen.tolist()]
        kv_cache = self._context.kv_cache(indices, self._conditioning.select(chosen))
        trunk = model.trunk(tokens[:, None], hidden[:, None], self._time[here], kv_cache)
        if self.trunk is None:
            self.trunk = trunk.positions.squeeze(1)
        return {name: logits.squeeze(1) for name, logits in model.logits(trunk, kv_cache, open_holes[:, None]).items()}


def _lacking(batch_indices: list[int], numbers: list[int], num_written: list[int]) -> list[int]:
    """Which of the worlds have not taken in their step yet."""
    return [
        i for i, (index, number) in enumerate(zip(batch_indices, numbers, strict=True)) if number >= num_written[index]
    ]
