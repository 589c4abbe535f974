"""A running dream: B worlds in lockstep, each with its own dice, history and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from magrathea import masks
from magrathea.dice import Purpose, roll
from magrathea.errors import MagratheaError
from magrathea.fill import Filled, FillSettings, fill
from magrathea.history import History, StepKind, record_of
from magrathea.memory import Memory
from magrathea.remembered import Inference, Remembered
from magrathea.session_diff import Difference, difference
from magrathea.session_file import SessionState, pack, read_file, state_of, unpack, write_file
from magrathea.world import World

Start = int | Sequence[int] | np.ndarray | Tensor | None
Seed = int | Sequence[int]


@dataclass(frozen=True)
class StepResult:
    """What a step of B worlds brought.

    Attributes:
        observation: (B, *shape), a dict or tuple of such for composite spaces.
        reward: (B,) float32.
        terminated: (B,) bool.
        tokens: (B, N) int64.
        uncertainty: for each slot (B, rows, columns), 1 - the probability of the likeliest token when it was filled.
        num_passes: (B,) passes of the model that the step took.
    """

    observation: Any
    reward: np.ndarray
    terminated: np.ndarray
    tokens: Tensor
    uncertainty: dict[str, np.ndarray]
    num_passes: np.ndarray


class Session:
    """Runs a batch of dreams of one world. The same seed, start and actions give the same dream.

    Args:
        world: the world to dream.
        batch_size: B, number of dreams.
        seed: of the dice; row b uses seed + b. A sequence gives each row its own.
        start: None (each row draws a stored start with its seed), an index or B indices of stored starts, or tokens
            (T, N) or (B, T, N) of real steps, oldest first, as `World.encode_episode` makes them.
        settings: how to fill; the world's own by default.
        inference: "cached" keeps the past's keys and values in a ring; "naive" makes them anew for every pass.
    """

    def __init__(
        self,
        world: World,
        batch_size: int = 1,
        seed: Seed = 0,
        start: Start = None,
        settings: FillSettings | None = None,
        inference: Inference = "cached",
    ) -> None:
        histories = [History(record_of(world.layout)) for _ in range(batch_size)]
        self._set_up(world, histories, settings if settings is not None else world.config.fill, inference)
        self.reset(seed=seed, start=start)

    def _set_up(self, world: World, histories: list[History], settings: FillSettings, inference: Inference) -> None:
        if inference not in ("cached", "naive"):
            raise MagratheaError(f"Unknown inference '{inference}'; choose 'cached' or 'naive'.")
        self.world, self.batch_size, self.settings, self.inference = world, len(histories), settings, inference
        self.seeds = [0] * len(histories)
        self._histories = histories
        self._remembered = Remembered(world, histories, inference)
        self._generators = [Generator() for _ in histories]
        self._forward_holes = masks.forward_dynamics(world.layout)

    # -- starting -----------------------------------------------------------------------------------------------------
    def reset(self, env_mask: np.ndarray | None = None, seed: Seed | None = None, start: Start = None) -> Any:
        """Start the rows anew where env_mask (B,) is True (all, if not given); returns the observation of all rows.

        Without a seed each row goes on to the next episode of its seed, a different one.
        """
        rows = list(range(self.batch_size)) if env_mask is None else np.flatnonzero(env_mask).tolist()
        seeds = [roll(own, "episode") for own in self.seeds] if seed is None else self._given_seeds(seed)
        for row, tokens in zip(rows, self._starts(start, rows, seeds), strict=True):
            self.seeds[row] = seeds[row]
            self._histories[row] = History(record_of(self.world.layout))
            for step in tokens.numpy():
                self._histories[row].append(step, StepKind.START, seeds[row])
            self._histories[row].num_start = len(tokens)
        self._remembered.forget(rows)
        return self.observation

    def _given_seeds(self, seed: Seed) -> list[int]:
        own = isinstance(seed, int | np.integer)
        seeds = [int(seed) + row for row in range(self.batch_size)] if own else [int(each) for each in seed]  # type: ignore[arg-type, union-attr]
        if len(seeds) != self.batch_size:
            raise MagratheaError(f"Session has {self.batch_size} rows but got {len(seeds)} seeds; give one each.")
        if not all(-(2**63) <= each < 2**63 for each in seeds):
            raise MagratheaError(f"Seeds {seeds} are not all whole numbers of 64 bits; give smaller ones.")
        return seeds

    def _starts(self, start: Start, rows: list[int], seeds: list[int]) -> list[Tensor]:
        """The first steps (T, N) of each of these rows."""
        stored = self.world.starts
        if not len(stored) and (start is None or isinstance(start, int | np.integer)):
            raise MagratheaError("This world has no stored starts; start it from recorded steps.")
        if start is None:
            return [stored[roll(seeds[row], "start") % len(stored)] for row in rows]
        if isinstance(start, int | np.integer):
            start = [int(start)] * self.batch_size
        if isinstance(start, Tensor) and start.ndim >= 2:
            return self._given_starts(start, rows)
        indices = [int(index) for index in start]
        if len(indices) != self.batch_size or not all(0 <= index < len(stored) for index in indices):
            raise MagratheaError(f"Starts {indices} are not {self.batch_size} indices within 0…{len(stored) - 1}.")
        return [stored[indices[row]] for row in rows]

    def _given_starts(self, start: Tensor, rows: list[int]) -> list[Tensor]:
        start = start.expand(self.batch_size, *start.shape) if start.ndim == 2 else start
        if start.shape[0] != self.batch_size or start.shape[1] < 1 or start.shape[-1] != self.world.layout.num_tokens:
            raise MagratheaError(
                f"A start is (T, N) or (B, T, N) tokens with B = {self.batch_size}, T of 1 or more and "
                f"N = {self.world.layout.num_tokens}; got {tuple(start.shape)}."
            )
        return [start[row].cpu() for row in rows]

    # -- what it is ---------------------------------------------------------------------------------------------------
    @property
    def memory(self) -> Memory:
        """What the model remembers beyond its window."""
        return self._remembered.memory

    @property
    def num_steps(self) -> np.ndarray:
        """(B,) steps since each row was started."""
        return np.array([history.num_steps for history in self._histories])

    @property
    def tokens(self) -> Tensor:
        """The last step of every row, (B, N) int64."""
        return torch.from_numpy(np.stack([history.last for history in self._histories]).astype(np.int64))

    @property
    def observation(self) -> Any:
        """What is seen now, (B, *shape)."""
        return self.world.decode_observation(self.tokens)

    @property
    def history(self) -> Tensor:
        """The tokens (B, T, N) int64 of all steps since the start, those of the start first.

        Raises MagratheaError where rows are not equally long; use `history_of` then.
        """
        if len({len(history) for history in self._histories}) > 1:
            raise MagratheaError("The session's rows are not equally long; take history_of(row) of each.")
        return torch.stack([self.history_of(row) for row in range(self.batch_size)])

    def history_of(self, row: int, first: int = 0, last: int | None = None) -> Tensor:
        """The tokens (T, N) int64 of a row's steps first…last - 1 (all, if not given)."""
        return torch.from_numpy(self.log_of(row, first, last)["tokens"].astype(np.int64))

    def log_of(self, row: int, first: int = 0, last: int | None = None) -> np.ndarray:
        """The log (T,) of a row's steps first…last - 1: records of `tokens` (N,), `kind` (a StepKind) and `seed`."""
        return self._histories[row].read(first, last)

    def num_start_of(self, row: int) -> int:
        """How many steps the row was started from; its log begins with them."""
        return self._histories[row].num_start

    # -- living -------------------------------------------------------------------------------------------------------
    def step(self, action: Any, rows: Sequence[int] | None = None) -> StepResult:
        """Act, and dream what comes back, in every row or only in these, R of them, while the others wait.

        action (B, *shape) or (R, *shape), and as many rows in the result; raises MagratheaError outside the space.
        """
        chosen = None if rows is None or list(rows) == list(range(self.batch_size)) else list(rows)
        filled = self._imagine(action, chosen)
        self._append(filled.tokens, StepKind.DREAMT, chosen)
        return self._result(filled)

    def peek(self, action: Any) -> StepResult:
        """What `step` would dream, without entering it into the past."""
        return self._result(self._imagine(action))

    def _imagine(self, action: Any, rows: list[int] | None = None) -> Filled:
        known = self.world.tokenizers["action"].encode(np.asarray(action) if np.isscalar(action) else action)
        num_rows = self.batch_size if rows is None else len(rows)
        if known.shape[:-1] != (num_rows,):
            raise MagratheaError(f"Session steps {num_rows} rows but got actions for {known.shape[:-1]}.")
        return self._imagine_tokens(torch.from_numpy(known), rows)

    def _imagine_tokens(self, actions: Tensor, rows: list[int] | None = None) -> Filled:
        """The next step of every row (of these rows), given the tokens of its action (B, A)."""
        tokens = torch.zeros(len(actions), self.world.layout.num_tokens, dtype=torch.long)
        tokens[:, : actions.shape[-1]] = actions
        holes = self._forward_holes.expand_as(tokens)
        return self._fill("step", tokens, holes, only=rows)

    def prepare(self) -> None:
        """Encode now what the next step would have to encode first, as after loading."""
        self._remembered.catch_up()

    @torch.inference_mode()
    def _fill(
        self,
        purpose: Purpose,
        tokens: Tensor,
        holes: Tensor,
        shown_holes: Tensor | None = None,
        prompt: Tensor | None = None,
        only: list[int] | None = None,
    ) -> Filled:
        """Fill `holes` (B, N) of the next step; the model is shown `shown_holes` as holes too, which stay open.

        Given `only` R rows, everything is of these rows.
        """
        model, remembered, device = self.world.model, self._remembered, self.world.device
        remembered.catch_up(only)
        every = range(self.batch_size) if only is None else only
        numbers = None if only is None else torch.tensor(only)
        holes = holes.to(device)
        also_hidden = None if shown_holes is None else shown_holes.to(device) & ~holes
        time = torch.tensor([len(self._histories[row]) for row in every], device=device)

        def predict(now: Tensor, open_holes: Tensor, rows: Tensor | None) -> dict[str, Tensor]:
            hidden = open_holes
            if also_hidden is not None:
                hidden = hidden | (also_hidden if rows is None else also_hidden[rows])
            when = time if rows is None else time[rows]
            those = rows if numbers is None else numbers if rows is None else numbers[rows.cpu()]
            logits = model.predict(now[:, None], hidden[:, None], when[:, None], remembered.past(those, prompt))
            return {name: slot_logits.squeeze(1) for name, slot_logits in logits.items()}

        for row in every:
            self._generators[row].manual_seed(roll(self.seeds[row], purpose, self._histories[row].num_steps))
        generators = [self._generators[row] for row in every]
        return fill(predict, tokens.to(device), holes, self.world.layout, self.settings, generators)

    def _append(self, tokens: Tensor, kind: StepKind, rows: list[int] | None = None) -> None:
        """The next step (B, N) of every row (of these rows) is final."""
        every = range(self.batch_size) if rows is None else rows
        for row, step in zip(every, tokens.cpu().numpy(), strict=True):
            self._histories[row].append(step, kind, self.seeds[row])

    def observe(self, action: Any, observation: Any, reward: Any = None, terminated: Any = None) -> StepResult:
        """Take in a real step of every row instead of dreaming one."""
        tokens = self.world.encode(action, observation, reward, terminated)
        if len(tokens) != self.batch_size:
            raise MagratheaError(f"Session has {self.batch_size} rows but observed {len(tokens)}.")
        self._append(tokens, StepKind.OBSERVED)
        sure = torch.ones(tokens.shape)
        return self._result(Filled(tokens, sure, torch.zeros(self.batch_size, dtype=torch.long)))

    def infer_action(self, observation: Any) -> Any:
        """The action (B, …) that most likely leads from now to this observation (B, *shape)."""
        tokens = self.world.encode(None, observation)
        shown = masks.inverse_dynamics(self.world.layout).expand_as(tokens)
        return self._fill_action(tokens, shown, None)

    def act(self, *, goal: Any = None, total_reward: float | None = None) -> Any:
        """An action (B, …) as the data's actors would take it, or toward a goal or a return over 64 steps."""
        tokens = torch.zeros(self.batch_size, self.world.layout.num_tokens, dtype=torch.long)
        shown = masks.behaviour_cloning(self.world.layout).expand_as(tokens)
        prompted = goal is not None or total_reward is not None
        prompt = self.world.prompt_tokens(goal=goal, total_reward=total_reward) if prompted else None
        return self._fill_action(tokens, shown, prompt)

    def _fill_action(self, tokens: Tensor, shown: Tensor, prompt: Tensor | None) -> Any:
        num_action_tokens = sum(slot.num_tokens for slot in self.world.layout.of_role("action"))
        holes = shown.clone()
        holes[:, num_action_tokens:] = False
        filled = self._fill("action", tokens, holes, shown, prompt)
        return self.world.decode_action(filled.tokens)

    def _result(self, filled: Filled) -> StepResult:
        world, unsure = self.world, 1 - filled.confidence.cpu().numpy()
        tokens = filled.tokens.cpu()
        return StepResult(
            observation=world.decode_observation(tokens),
            reward=world.decode_reward(tokens),
            terminated=world.decode_terminated(tokens),
            tokens=tokens,
            uncertainty={
                slot.name: unsure[:, world.layout.span(slot.name)].reshape(-1, *slot.grid)
                for slot in world.layout.slots
            },
            num_passes=filled.num_passes.cpu().numpy(),
        )

    # -- keeping, forking, going back ---------------------------------------------------------------------------------
    def save(self, path: str | Path) -> Path:
        """Write the session as one file, in one step; raises MagratheaError where that is not possible."""
        return write_file(path, self.to_bytes())

    @classmethod
    def load(cls, path: str | Path, world: World | None = None) -> Session:
        """Go on with a session that was saved, bit for bit as if it had never stopped.

        Args:
            path: of the file.
            world: the session's world; may be left out where that is a shipped one.

        Raises:
            MagratheaError: for a file that is missing, damaged, foreign or newer, or a session of another world.
        """
        return cls.from_bytes(read_file(path), world, source=f"Session file '{path}'")

    def to_bytes(self) -> bytes:
        """The contents of the session's file."""
        state = self._state(list(range(self.batch_size)), self.seeds)
        return pack(state, str(self.world.metadata.get("name", "")), self.world.fingerprint)

    @classmethod
    def from_bytes(cls, data: bytes, world: World | None = None, source: str = "This session") -> Session:
        """A session from what `to_bytes` gave; see `load`. Errors begin with `source`."""
        file = unpack(data, source)
        world = file.world() if world is None else world
        file.check_world(world)
        return cls._from_state(world, state_of(file, world.layout))

    def fork(self, seed: Seed | None = None) -> Session:
        """A session that goes on from here apart from this one. Shares the past, so it costs next to nothing.

        With a seed (row b uses seed + b) or a sequence of B seeds its dice fall differently from here on.
        """
        seeds = self.seeds if seed is None else self._given_seeds(seed)
        return self._from_state(self.world, self._state(list(range(self.batch_size)), seeds))

    def fork_batch(self, rows: int | Sequence[int], seeds: Sequence[int] | None = None) -> Session:
        """One session of several rows, each a fork of a row of this one.

        Args:
            rows: the rows to fork, in any order and as often as wanted; or a number of forks, of a session of one row.
            seeds: of each new row's dice from here on; those of the rows that they come from, if not given.
        """
        if isinstance(rows, int | np.integer):
            if self.batch_size != 1:
                raise MagratheaError(f"Session has {self.batch_size} rows; give fork_batch a list of those to fork.")
            rows = [0] * int(rows)
        rows = [int(row) for row in rows]
        if not rows or not all(0 <= row < self.batch_size for row in rows):
            raise MagratheaError(f"Rows {rows} are not one or more of this session's, 0…{self.batch_size - 1}.")
        chosen = [self.seeds[row] for row in rows] if seeds is None else list(seeds)
        forked = self._from_state(self.world, self._state(rows, [self.seeds[row] for row in rows]))
        forked.seeds = forked._given_seeds(chosen)
        return forked

    def join(self, other: Session) -> None:
        """Take in the rows of another session of this world, after the own ones; the other is spent."""
        if other.world is not self.world or other.inference != self.inference or other.settings != self.settings:
            raise MagratheaError("Only sessions of the same world, settings and inference can join.")
        self._histories.extend(other._histories)
        self._remembered.join(other._remembered)
        self._count_rows([*self.seeds, *other.seeds])

    def keep(self, rows: Sequence[int]) -> None:
        """Give up all rows but these, in this order."""
        rows = list(rows)
        self._histories[:] = [self._histories[row] for row in rows]
        self._remembered.keep(rows)
        self._count_rows([self.seeds[row] for row in rows])

    def _count_rows(self, seeds: list[int]) -> None:
        self.batch_size, self.seeds = len(seeds), seeds
        self._generators = [Generator() for _ in seeds]

    def _state(self, rows: list[int], seeds: list[int]) -> SessionState:
        """All that a session of these rows is; its histories are forks of this one's."""
        histories = [self._histories[row].fork() for row in rows]
        memory, num_remembered = self._remembered.state(rows)
        settings = self.settings.to_config()
        return SessionState(settings, self.inference, list(seeds), histories, memory, num_remembered)

    @classmethod
    def _from_state(cls, world: World, state: SessionState) -> Session:
        session = cls.__new__(cls)
        session._set_up(world, state.histories, FillSettings(**state.settings), state.inference)  # type: ignore[arg-type]
        session.seeds = state.seeds
        session._remembered.restore(state.memory, state.num_remembered)
        return session

    def rewind(self, num_steps: int | Sequence[int]) -> Any:
        """Go back so many steps, in all rows or in each its own number; returns the observation.

        The session is then what it was before those steps: dreamt again with the same actions, they are the same.
        Raises MagratheaError where there are not so many steps since the start.
        """
        own = isinstance(num_steps, int | np.integer)
        numbers = [int(num_steps)] * self.batch_size if own else [int(number) for number in num_steps]  # type: ignore[arg-type, union-attr]
        have = self.num_steps.tolist()
        possible = len(numbers) == len(have) and all(0 <= n <= most for n, most in zip(numbers, have, strict=True))
        if not possible:
            raise MagratheaError(f"Session cannot go back {numbers} steps; its rows have {have} since their start.")
        for row, (history, number) in enumerate(zip(self._histories, numbers, strict=True)):
            if number:
                length = len(history) - number
                self.seeds[row] = int(history.read(length, length + 1)["seed"][0])
                history.truncate(length)
        self._remembered.go_back()
        return self.observation

    def extend(self, logs: Sequence[np.ndarray]) -> None:
        """Take in steps of each row's log as they were, dreamt or observed, without dreaming them again."""
        if len(logs) != self.batch_size:
            raise MagratheaError(f"Session has {self.batch_size} rows but got logs for {len(logs)}.")
        for row, log in enumerate(logs):
            if len(log):
                self._histories[row].extend(log)
                self.seeds[row] = int(log["seed"][-1])

    def replay(self, world: World | None = None) -> Session:
        """Live the session again, from its start, with its actions, its dice and what it observed.

        In its own world that gives the same session; in another world of the same layout, what that one makes of it.
        """
        world = self.world if world is None else world
        if world.layout != self.world.layout:
            raise MagratheaError(
                "Replay needs a world of the session's own layout; this one's steps are made otherwise."
            )
        logs = [self.log_of(row) for row in range(self.batch_size)]
        again = self._from_state(world, self._state(list(range(self.batch_size)), self.seeds))
        again.rewind(self.num_steps.tolist())
        for back in range(int(self.num_steps.max()), 0, -1):
            again._relive({row: logs[row][-back] for row in range(self.batch_size) if self.num_steps[row] >= back})
        again.seeds = list(self.seeds)
        return again

    def _relive(self, steps: dict[int, np.ndarray]) -> None:
        """Live one logged step in each of these rows: with its action and dice if it was dreamt, else as it was."""
        tokens = torch.zeros(self.batch_size, self.world.layout.num_tokens, dtype=torch.long)
        for row, step in steps.items():
            tokens[row], self.seeds[row] = torch.from_numpy(step["tokens"].astype(np.int64)), int(step["seed"])
        num_action_tokens = sum(slot.num_tokens for slot in self.world.layout.of_role("action"))
        if any(step["kind"] == StepKind.DREAMT for step in steps.values()):
            dreamt = self._imagine_tokens(tokens[:, :num_action_tokens]).tokens.cpu()
        for row, step in steps.items():
            new = dreamt[row].numpy() if step["kind"] == StepKind.DREAMT else step["tokens"]
            self._histories[row].append(new, step["kind"], self.seeds[row])

    def diff(self, other: Session) -> list[Difference]:
        """Where each row parts from the same row of another session of this world."""
        if self.batch_size != other.batch_size or self.world.layout != other.world.layout:
            raise MagratheaError("Sessions to compare need the same number of rows and the same layout.")
        pairs = zip(self._histories, other._histories, strict=True)
        return [difference(own, others, self.world.layout) for own, others in pairs]
