"""A running dream: B worlds in lockstep, each with its own dice, history and memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from magrathea import masks
from magrathea.errors import MagratheaError
from magrathea.memory import Memory
from magrathea.rng import derive_seed
from magrathea.sampler import FillResult, FillSettings
from magrathea.session.context import Inference
from magrathea.session.diff import Difference, difference
from magrathea.session.file import pack, read_file, state_of, unpack, write_file
from magrathea.session.history import History, StepKind, check_log
from magrathea.session.rows import Rows, fresh
from magrathea.session.starts import Seed, Start, per_row, seeds_of, starts_of
from magrathea.session.step_result import StepResult
from magrathea.world import World


class Session:
    """Runs a batch of dreams of one world. The same seed, start and actions give the same dream.

    Args:
        world: the world to dream.
        batch_size: B, number of dreams.
        seed: of the dice; row b uses seed + b. A sequence gives each row its own.
        start: None (each row draws a stored start with its seed), an index or B indices of stored starts, or tokens
            (T, N) or (B, T, N) of real steps, oldest first, as `World.encode_episode` makes them, or B of (T, N), whose
            T may differ.
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
        histories = [History(world.layout) for _ in range(batch_size)]
        self._rows = Rows(world, fresh(settings or world.config.fill, inference, histories))
        self.reset(seed=seed, start=start)

    @classmethod
    def _of(cls, rows: Rows) -> Session:
        session = cls.__new__(cls)
        session._rows = rows
        return session

    def reset(self, env_mask: np.ndarray | None = None, seed: Seed | None = None, start: Start = None) -> Any:
        """Start the rows anew where env_mask (B,) is True (all, if not given); returns the observation of all rows.

        Without a seed each row goes on to the next episode of its seed, a different one.
        """
        again = range(self.batch_size) if env_mask is None else np.flatnonzero(env_mask).tolist()
        seeds = [derive_seed(own, "episode") for own in self.seeds] if seed is None else seeds_of(seed, self.batch_size)
        starts = starts_of(self.world, start, self.batch_size, seeds)
        self._rows.begin({row: starts[row] for row in again}, seeds)
        return self.observation

    # -- what it is ---------------------------------------------------------------------------------------------------
    @property
    def world(self) -> World:
        return self._rows.world

    @property
    def batch_size(self) -> int:
        return len(self._rows)

    @property
    def settings(self) -> FillSettings:
        return self._rows.settings

    @property
    def inference(self) -> Inference:
        return self._rows.inference

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of each row's dice, from here on."""
        return tuple(self._rows.seeds)

    @property
    def num_steps(self) -> np.ndarray:
        """(B,) steps since each row was started."""
        return self._rows.num_steps

    @property
    def memory(self) -> Memory:
        """What the model remembers beyond its window, as of the last step that it was asked to fill."""
        return self._rows.remembered.memory

    @property
    def tokens(self) -> Tensor:
        """The last step of every row, (B, N) int64."""
        return self._rows.tokens

    @property
    def observation(self) -> Any:
        """What is seen now, (B, *shape)."""
        return self.world.decode_observation(self.tokens)

    @property
    def history(self) -> Tensor:
        """The tokens (B, T, N) int64 of all steps since the start, those of the start first.

        Raises MagratheaError where rows are not equally long; use `history_of` then.
        """
        if len(set(map(len, self._rows.histories))) > 1:
            raise MagratheaError("The session's rows are not equally long; take history_of(row) of each.")
        return torch.stack([self.history_of(row) for row in range(self.batch_size)])

    def history_of(self, row: int, first: int = 0, last: int | None = None) -> Tensor:
        """The tokens (T, N) int64 of a row's steps first…last - 1, counted as slices do; all, if not given."""
        return torch.from_numpy(self.log_of(row, first, last)["tokens"].astype(np.int64))

    def log_of(self, row: int, first: int = 0, last: int | None = None) -> np.ndarray:
        """Records (T,) of a row's steps as `history_of` counts them: `tokens` (N,), `kind` (StepKind), and the `seed`
        of its dice."""
        return self._rows.histories[row].read(first, last)

    def num_start_of(self, row: int) -> int:
        """How many steps the row was started from; its log begins with them."""
        return self._rows.histories[row].num_start

    # -- living -------------------------------------------------------------------------------------------------------
    def step(self, action: Any, rows: Sequence[int] | None = None) -> StepResult:
        """Act, and dream what comes back, in every row, or only in R chosen ones while the others wait.

        action (B, *shape) or (R, *shape), and so is the result. Raises MagratheaError for an action outside the space.
        """
        rows = range(self.batch_size) if rows is None else rows
        filled = self._imagine(action, rows)
        self._rows.append(filled.tokens, StepKind.DREAMT, rows)
        return StepResult.of(self.world, filled)

    def peek(self, action: Any) -> StepResult:
        """What `step` would bring, without entering it into the past."""
        return StepResult.of(self.world, self._imagine(action, range(self.batch_size)))

    def _imagine(self, action: Any, rows: Sequence[int]) -> FillResult:
        known = self.world.tokenizers["action"].encode(np.asarray(action) if np.isscalar(action) else action)
        if known.shape[:-1] != (len(rows),):
            raise MagratheaError(f"Session steps {len(rows)} rows but got actions for {known.shape[:-1]}.")
        return self._rows.imagine(torch.from_numpy(known), rows)

    def prepare(self) -> None:
        """Compute now what the next step would have to compute first after loading, forking or going back."""
        self._rows.remembered.catch_up(range(self.batch_size))

    def observe(self, action: Any, observation: Any, reward: Any = None, terminated: Any = None) -> StepResult:
        """Take in a real step of every row instead of dreaming one."""
        tokens = self.world.encode(action, observation, reward, terminated)
        if len(tokens) != self.batch_size:
            raise MagratheaError(f"Session has {self.batch_size} rows but observed {len(tokens)}.")
        self._rows.append(tokens, StepKind.OBSERVED, range(self.batch_size))
        sure = torch.ones(tokens.shape)
        return StepResult.of(self.world, FillResult(tokens, sure, torch.zeros(self.batch_size, dtype=torch.long)))

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
        filled = self._rows.fill("action", tokens, holes, range(self.batch_size), shown, prompt)
        return self.world.decode_action(filled.tokens)

    # -- keeping and sharing ------------------------------------------------------------------------------------------
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
        return pack(self._rows.state(range(self.batch_size)), self.world)

    @classmethod
    def from_bytes(cls, data: bytes, world: World | None = None, source: str = "This session") -> Session:
        """A session from what `to_bytes` gave; see `load`. Errors begin with `source`."""
        file = unpack(data, source)
        world = file.world() if world is None else world
        return cls._of(Rows(world, state_of(file, world)))

    def extend(self, logs: Sequence[np.ndarray]) -> None:
        """Take in steps of each row's log, as `log_of` gives them, without dreaming them again."""
        if len(logs) != self.batch_size:
            raise MagratheaError(f"Session has {self.batch_size} rows but got logs for {len(logs)}.")
        for log in logs:
            check_log(log, self.world.layout)
        self._rows.extend(dict(enumerate(logs)))

    # -- forking, going back, living again ----------------------------------------------------------------------------
    def fork(self, seed: Seed | None = None) -> Session:
        """A session that goes on from here apart from this one. Shares the past, so it costs next to nothing.

        With a seed (row b uses seed + b), or a sequence of B seeds, its dice fall differently from here on.
        """
        return self.fork_batch(range(self.batch_size), seed)

    def fork_batch(self, rows: int | Sequence[int], seeds: Seed | None = None) -> Session:
        """One session of several rows, each a fork of a row of this one.

        Args:
            rows: the rows to fork, in any order and as often as wanted; or a number of forks, of a session of one row.
            seeds: of the new rows' dice from here on; those of the rows that they come from, if not given.
        """
        if isinstance(rows, int | np.integer):
            if self.batch_size != 1:
                raise MagratheaError(f"Session has {self.batch_size} rows; give fork_batch a list of those to fork.")
            rows = [0] * int(rows)
        if not len(rows) or not all(0 <= row < self.batch_size for row in rows):
            raise MagratheaError(f"Rows {list(rows)} are not one or more of this session's 0…{self.batch_size - 1}.")
        forked = Rows(self.world, self._rows.state(rows))
        if seeds is not None:
            forked.seeds = seeds_of(seeds, len(forked))
        return self._of(forked)

    def join(self, other: Session) -> None:
        """Take in the rows of another session of this world, after the own ones; the other is of no use any more."""
        same = (other.world, other.settings, other.inference) == (self.world, self.settings, self.inference)
        if not same:
            raise MagratheaError("Sessions can join only where world, settings and inference are the same.")
        self._rows.join(other._rows)

    def keep(self, rows: Sequence[int]) -> None:
        """Give up all rows but these, in this order."""
        self._rows.keep(rows)

    def rewind(self, num_steps: int | Sequence[int]) -> Any:
        """Go back so many steps, in all rows or in each its own number; returns the observation.

        The session is then what it was before those steps: dreamt again with the same actions, they are the same.
        Raises MagratheaError where there are not so many steps since the start.
        """
        numbers, have = per_row(num_steps, self.batch_size, "numbers of steps"), self.num_steps
        if not all(0 <= number <= most for number, most in zip(numbers, have, strict=True)):
            raise MagratheaError(f"Session cannot go back {numbers} steps; its rows have {have.tolist()} to go back.")
        self._rows.rewind(numbers)
        return self.observation

    def replay(self, world: World | None = None) -> Session:
        """Live the session again, from its start, with its actions, its dice and what it observed.

        In its own world that gives the same session; in another world of the same layout, what that one makes of it.
        """
        world, have = self.world if world is None else world, self.num_steps
        if world.layout != self.world.layout:
            raise MagratheaError("Replay needs a world of the session's own layout; give one with the same slots.")
        logs = [self.log_of(row) for row in range(self.batch_size)]
        again = Rows(world, self._rows.beginning())
        for back in range(int(have.max()), 0, -1):  # rows that began later join when they did
            again.relive({row: log[-back:][:1] for row, log in enumerate(logs) if have[row] >= back})
        again.seeds = list(self.seeds)
        return self._of(again)

    def diff(self, other: Session) -> list[Difference]:
        """Where each row parts from the same row of another session of this world."""
        if self.batch_size != other.batch_size or self.world.layout != other.world.layout:
            raise MagratheaError("Sessions to compare need the same number of rows and the same layout.")
        pairs = zip(self._rows.histories, other._rows.histories, strict=True)
        return [difference(own, others, self.world.layout) for own, others in pairs]
