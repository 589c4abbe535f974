"""A running dream: B worlds in lockstep, each with its own random numbers, history and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from magrathea import masks
from magrathea.display import session_png
from magrathea.errors import MagratheaError
from magrathea.interfaces import Memory
from magrathea.sampler import FillResult, FillSettings, Purpose, derive_seed, fill
from magrathea.session.context import DreamContext, Inference
from magrathea.session.file import FileLimits, SessionState, pack, read_file, state_of, unpack, write_file
from magrathea.session.history import Difference, History, StepKind, check_log, tokens_of
from magrathea.session.starts import Seed, Start, one_each, parse_seeds, parse_starts
from magrathea.world import StepResult, World


class Session:
    """Runs a batch of dreams of one world. The same seed, start and actions give the same dream.

    A step that is final is committed in one way, wherever it comes from (a start, a dream, reality, a file): it is
    appended to its world's history. What the model knows of the past, the context, is computed from the histories when
    the model is next asked. So a session is its histories, seeds and settings, and a fork shares them.

    Args:
        world: the world to dream.
        batch_size: B, number of dreams.
        seed: of the random numbers; batch index b uses seed + b. A sequence gives each its own.
        start: None (each draws a stored start with its seed), an index or B indices of stored starts, or tokens
            (T, N) or (B, T, N) of real steps, oldest first, as `World.encode_episode` makes them, or B of (T, N), whose
            T may differ.
        settings: how to fill; the world's own by default.
        inference: "cached" keeps keys and values of the past in a ring; "naive" computes them anew for every pass.
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
        self._set_state(world, SessionState.new(settings or world.config.fill, inference, histories))
        self.reset(seed=seed, start=start)

    @classmethod
    def from_state(cls, world: World, state: SessionState) -> Session:
        """A session that goes on from a state."""
        session = cls.__new__(cls)
        session._set_state(world, state)
        return session

    def _set_state(self, world: World, state: SessionState) -> None:
        self.world, self.settings = world, state.settings
        self._seeds, self._histories = list(state.seeds), list(state.histories)
        self._context = DreamContext(world, self._histories, state.inference, state.memory, state.num_in_memory)
        self._generators = [Generator() for _ in self._seeds]
        self._forward_holes = masks.forward_dynamics(world.layout)
        self._filled_trunk: Tensor | None = None  # (I, P, D) the trunk's output in the first pass of the last `_fill`
        self._trunks: list[Tensor | None] = [None] * len(self._seeds)  # (P, D) of each last step that was dreamt

    def _state(self, batch_indices: Sequence[int]) -> SessionState:
        """The state of a part of the batch, whose histories go on apart from these."""
        memory, num_in_memory = self._context.memory_state(batch_indices)
        return SessionState(
            self.settings,
            self.inference,
            [self._seeds[index] for index in batch_indices],
            [self._histories[index].fork() for index in batch_indices],
            memory,
            num_in_memory,
        )

    # -- state --------------------------------------------------------------------------------------------------------
    @property
    def batch_size(self) -> int:
        return len(self._histories)

    @property
    def inference(self) -> Inference:
        return self._context.inference

    @property
    def batch_key(self) -> tuple[World, FillSettings, Inference]:
        """What sessions must have in common to be joined into one batch (`append`)."""
        return self.world, self.settings, self.inference

    @property
    def seeds(self) -> tuple[int, ...]:
        """(B,) seeds of the random numbers from here on."""
        return tuple(self._seeds)

    @property
    def num_steps(self) -> np.ndarray:
        """(B,) steps since the start."""
        return np.array([history.num_steps for history in self._histories])

    @property
    def memory(self) -> Memory:
        """What is remembered beyond the model's window, as of the last step that was filled."""
        return self._context.memory

    @property
    def tokens(self) -> Int[Tensor, "B N"]:
        """The last step."""
        return torch.from_numpy(np.stack([history.last for history in self._histories]).astype(np.int64))

    def _repr_png_(self) -> bytes | None:
        return session_png(self)

    @property
    def observation(self) -> Any:
        """The last observation, (B, *shape)."""
        return self.world.decode_observation(self.tokens)

    @property
    def features(self) -> Float[Tensor, "B S F"]:
        """What the model knows of the last step, as `World.features` gives it; costs no pass of the model after `step`.

        Where the history is shorter than the window and a step, its first step is repeated before it.
        """
        return self.features_of(range(self.batch_size))

    def features_of(self, batch_indices: Sequence[int]) -> Float[Tensor, "I S F"]:
        """The same of some worlds."""
        trunks = [trunk for index in batch_indices if (trunk := self._trunks[index]) is not None]
        if len(trunks) == len(batch_indices):
            tokens = self.tokens[list(batch_indices)].to(self.world.device)
            return self.world.model.state_features(torch.stack(trunks), tokens)
        num_steps = self.world.config.model.window + 1
        windows = [self.world.last_window(self.history_of(index, -num_steps)) for index in batch_indices]
        return self.world.features(torch.stack(windows))[:, 0]

    @property
    def history(self) -> Int[Tensor, "B T N"]:
        """The tokens of all steps since the start, those of the start first.

        Raises MagratheaError where the batch's histories are not equally long; use `history_of` then.
        """
        if len(set(map(len, self._histories))) > 1:
            raise MagratheaError("The session's histories are not equally long; take history_of(index) of each.")
        return torch.stack([self.history_of(index) for index in range(self.batch_size)])

    def history_of(self, batch_index: int, first: int = 0, last: int | None = None) -> Int[Tensor, "T N"]:
        """The tokens of steps first…last - 1 of a world, counted as slices do; all, if not given."""
        return tokens_of(self.log_of(batch_index, first, last))

    def log_of(self, batch_index: int, first: int = 0, last: int | None = None) -> np.ndarray:
        """Records (T,) of a world's steps as `history_of` counts them: `tokens` (N,), `kind` (StepKind), `seed`."""
        return self._histories[batch_index].read(first, last)

    def num_start_of(self, batch_index: int) -> int:
        """How many steps a world was started from; its log begins with them."""
        return self._histories[batch_index].num_start

    # -- steps --------------------------------------------------------------------------------------------------------
    def reset(self, env_mask: np.ndarray | None = None, seed: Seed | None = None, start: Start = None) -> Any:
        """Start anew where env_mask (B,) is True (everywhere, if not given); returns the observation of the batch.

        Without a seed each world goes on to the next episode of its seed, a different one.
        """
        indices = range(self.batch_size) if env_mask is None else np.flatnonzero(env_mask).tolist()
        seeds = [derive_seed(own, "episode") for own in self.seeds] if seed is None else None
        seeds = parse_seeds(seed, self.batch_size) if seeds is None else seeds  # type: ignore[arg-type]
        starts = parse_starts(self.world, start, self.batch_size, seeds)
        for index in indices:
            self._seeds[index] = seeds[index]
            self._histories[index] = History(self.world.layout, num_start=len(starts[index]))
            self._commit([index], starts[index].numpy()[None], StepKind.START)
        self._context.reset(list(indices))
        return self.observation

    def step(self, action: Any, batch_indices: Sequence[int] | None = None) -> StepResult:
        """Act, and dream what comes back, in every world, or only in I chosen ones while the others wait.

        action (B, *shape) or (I, *shape), and so is the result. Raises MagratheaError for an action outside the space.
        """
        indices = range(self.batch_size) if batch_indices is None else batch_indices
        filled = self._imagine(self._encode_action(action, len(indices)), indices)
        self._commit(indices, filled.tokens.cpu().numpy()[:, None], StepKind.DREAMT)
        if self._filled_trunk is not None:
            for index, trunk in zip(indices, self._filled_trunk, strict=True):
                self._trunks[index] = trunk
        return self.world.decode_step(filled)

    def peek(self, action: Any) -> StepResult:
        """What `step` would return, without committing it."""
        indices = range(self.batch_size)
        return self.world.decode_step(self._imagine(self._encode_action(action, self.batch_size), indices))

    def observe(self, action: Any, observation: Any, reward: Any = None, terminated: Any = None) -> StepResult:
        """Commit a real step of every world instead of dreaming one."""
        tokens = self.world.encode(action, observation, reward, terminated, previous=self.tokens)
        if len(tokens) != self.batch_size:
            raise MagratheaError(f"Session has a batch of {self.batch_size} but observed {len(tokens)}.")
        self._commit(range(self.batch_size), tokens.numpy()[:, None], StepKind.OBSERVED)
        num_passes = torch.zeros(self.batch_size, dtype=torch.long)
        return self.world.decode_step(FillResult(tokens, torch.ones(tokens.shape), num_passes))

    def extend(self, logs: Sequence[np.ndarray]) -> None:
        """Commit steps of each world's log, as `log_of` gives them, without dreaming them again."""
        if len(logs) != self.batch_size:
            raise MagratheaError(f"Session has a batch of {self.batch_size} but got {len(logs)} logs.")
        for log in logs:
            check_log(log, self.world.layout)
        self._commit_logs(dict(enumerate(logs)))

    def _commit(self, batch_indices: Sequence[int], tokens: np.ndarray, kind: StepKind) -> None:
        """Steps (I, T, N) of these worlds are final."""
        self._commit_logs(
            {
                index: self._histories[index].records(steps, kind, self._seeds[index])
                for index, steps in zip(batch_indices, tokens, strict=True)
            }
        )

    def _commit_logs(self, logs: Mapping[int, np.ndarray]) -> None:
        """Logged steps (T,), by batch index, are final."""
        for index, log in logs.items():
            self._trunks[index] = None
            self._histories[index].extend(log)
            if len(log):
                self._seeds[index] = int(log["seed"][-1])

    def prepare(self) -> None:
        """Compute now what the next step would have to compute first after loading, forking or rewinding."""
        self._context.catch_up(range(self.batch_size))

    # -- filling ------------------------------------------------------------------------------------------------------
    def infer_action(self, observation: Any) -> Any:
        """The action (B, …) that most likely leads from now to this observation (B, *shape)."""
        tokens = self.world.encode(None, observation, previous=self.tokens)
        hole_mask = masks.inverse_dynamics(self.world.layout).expand_as(tokens)
        return self._fill_action(tokens, hole_mask, None)

    def act(self, *, goal: Any = None, total_reward: float | None = None) -> Any:
        """An action (B, …) as the policy that recorded the data would take it. Experimental: given an observation to
        reach as `goal`, or a return over the next 64 steps, one that leads there."""
        tokens = torch.zeros(self.batch_size, self.world.layout.num_tokens, dtype=torch.long)
        hole_mask = masks.behaviour_cloning(self.world.layout).expand_as(tokens)
        has_prompt = goal is not None or total_reward is not None
        prompt = self.world.prompt_tokens(goal=goal, total_reward=total_reward) if has_prompt else None
        return self._fill_action(tokens, hole_mask, prompt)

    def _encode_action(self, action: Any, num_actions: int) -> Tensor:
        tokens = self.world.tokenizers["action"].encode(np.asarray(action) if np.isscalar(action) else action)
        if tokens.shape[:-1] != (num_actions,):
            raise MagratheaError(f"Session steps {num_actions} worlds but got actions for {tokens.shape[:-1]}.")
        return torch.from_numpy(tokens)

    def _imagine(self, actions: Int[Tensor, "I A"], batch_indices: Sequence[int]) -> FillResult:
        """The next step of these worlds, given the tokens of its action."""
        tokens = torch.zeros(len(batch_indices), self.world.layout.num_tokens, dtype=torch.long)
        tokens[:, self.world.layout.role_span("action")] = actions
        return self._fill("step", tokens, self._forward_holes.expand_as(tokens), batch_indices)

    def _fill_action(self, tokens: Tensor, hole_mask: Tensor, prompt: Tensor | None) -> Any:
        """Fill the action of a step of which `hole_mask` (B, N) is unknown."""
        action = self.world.layout.mask_of("action")
        filled = self._fill("action", tokens, hole_mask & action, range(self.batch_size), hole_mask & ~action, prompt)
        return self.world.decode_action(filled.tokens)

    @torch.inference_mode()
    def _fill(
        self,
        purpose: Purpose,
        tokens: Int[Tensor, "I N"],
        hole_mask: Bool[Tensor, "I N"],
        batch_indices: Sequence[int],
        stays_open: Bool[Tensor, "I N"] | None = None,
        prompt: Int[Tensor, "1 N"] | None = None,
    ) -> FillResult:
        """Fill the holes of these worlds' next step. Where `stays_open` is True the model sees holes that are not
        filled."""
        device = self.world.device
        predict = self._context.predictor(tokens, hole_mask, batch_indices, stays_open, prompt)
        generators = [self._generators[index] for index in batch_indices]
        for index, generator in zip(batch_indices, generators, strict=True):
            generator.manual_seed(derive_seed(self._seeds[index], purpose, self._histories[index].num_steps))
        layout, support = self.world.layout, self.world.support
        filled = fill(predict, tokens.to(device), hole_mask.to(device), layout, self.settings, generators, support)
        self._filled_trunk = predict.trunk
        if not self.world.layout.values_slots:
            return filled
        before = self.tokens[list(batch_indices)].to(device)
        return replace(filled, tokens=self.world.model.with_values(filled.tokens, before))

    # -- files --------------------------------------------------------------------------------------------------------
    def save(self, path: str | Path) -> Path:
        """Write the session as one file, atomically; raises MagratheaError where that is not possible."""
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
        return pack(self._state(range(self.batch_size)), self.world)

    @classmethod
    def from_bytes(
        cls, data: bytes, world: World | None = None, source: str = "This session", limits: FileLimits | None = None
    ) -> Session:
        """A session from what `to_bytes` gave; see `load`. Errors begin with `source`; `limits` are for files of
        others."""
        file = unpack(data, source, limits)
        world = file.world() if world is None else world
        return cls.from_state(world, state_of(file, world))

    # -- forks --------------------------------------------------------------------------------------------------------
    def fork(self, seed: Seed | None = None) -> Session:
        """A session that goes on from here apart from this one. Shares the past, so it costs hardly any time or memory.

        With a seed (batch index b uses seed + b), or a sequence of B seeds, it draws other random numbers from here on.
        """
        return self.fork_batch(range(self.batch_size), seed)

    def fork_batch(self, batch_indices: int | Sequence[int], seeds: Seed | None = None) -> Session:
        """One session of several worlds, each a fork of one of this session's.

        Args:
            batch_indices: of the worlds to fork, in any order and as often as wanted; or a number of forks, where the
                batch size is 1.
            seeds: of the new worlds from here on; those of the worlds that they come from, if not given.
        """
        if isinstance(batch_indices, int | np.integer):
            if self.batch_size != 1:
                raise MagratheaError(f"Session has a batch of {self.batch_size}; give fork_batch a list of indices.")
            batch_indices = [0] * int(batch_indices)
        if not len(batch_indices) or not all(0 <= index < self.batch_size for index in batch_indices):
            raise MagratheaError(f"Batch indices {list(batch_indices)} are not one or more of 0…{self.batch_size - 1}.")
        forked = self.from_state(self.world, self._state(batch_indices))
        if seeds is not None:
            forked._seeds = parse_seeds(seeds, forked.batch_size)
        return forked

    def append(self, other: Session) -> None:
        """Append the batch of another session of this world, which must not be used afterwards."""
        if other.batch_key != self.batch_key:
            raise MagratheaError("Sessions can be joined only where world, settings and inference are the same.")
        self._seeds += other._seeds
        self._histories += other._histories
        self._generators += other._generators
        self._trunks += other._trunks
        self._context.append(other._context)

    def keep(self, batch_indices: Sequence[int]) -> None:
        """Drop all worlds but these, in this order."""
        self._context.keep(batch_indices)
        for kept in (self._seeds, self._histories, self._generators, self._trunks):
            kept[:] = [kept[index] for index in batch_indices]  # type: ignore[index]

    # -- rewinding and replaying --------------------------------------------------------------------------------------
    def rewind(self, num_steps: int | Sequence[int]) -> Any:
        """Go back by so many steps, in all worlds or in each by its own number; returns the observation.

        The session is then what it was before those steps: dreamt again with the same actions, they are the same.
        Raises MagratheaError where there are not so many steps since the start.
        """
        numbers, have = one_each(num_steps, self.batch_size, "numbers of steps"), self.num_steps
        if not all(0 <= number <= most for number, most in zip(numbers, have, strict=True)):
            raise MagratheaError(f"Session cannot go back {numbers} steps; it has {have.tolist()} to go back.")
        for index, (history, number) in enumerate(zip(self._histories, numbers, strict=True)):
            if number:
                self._seeds[index] = history.rewind(number)
                self._trunks[index] = None
        self._context.rewind()
        return self.observation

    def replay(self, world: World | None = None) -> Session:
        """Run the session again from its start, with its actions, its random numbers and what it observed.

        In its own world that gives the same session; in another world of the same layout, what that one makes of it.
        """
        world, have = self.world if world is None else world, self.num_steps
        if world.layout != self.world.layout:
            raise MagratheaError("Replay needs a world of the session's own layout; give one with the same slots.")
        logs = [self.log_of(index) for index in range(self.batch_size)]
        starts = [history.fork_start() for history in self._histories]
        seeds = [int(log["seed"][0]) for log in logs]
        again = self.from_state(world, SessionState.new(self.settings, self.inference, starts, seeds))
        for back in range(int(have.max()), 0, -1):  # worlds with fewer steps begin later
            again._replay_step({index: log[-back:][:1] for index, log in enumerate(logs) if have[index] >= back})
        again._seeds = list(self._seeds)
        return again

    def _replay_step(self, logs: Mapping[int, np.ndarray]) -> None:
        """Run one logged step (1,) of some worlds: with its action and seed if it was dreamt, else as it was."""
        span = self.world.layout.role_span("action")
        actions = torch.zeros(self.batch_size, span.stop - span.start, dtype=torch.long)
        dreamt = [index for index, log in logs.items() if log["kind"][0] == StepKind.DREAMT]
        for index in dreamt:
            actions[index] = tokens_of(logs[index])[0, span]
            self._seeds[index] = int(logs[index]["seed"][0])
        logs = {index: log.copy() for index, log in logs.items()}
        if dreamt:
            tokens = self._imagine(actions, range(self.batch_size)).tokens.cpu().numpy()
            for index in dreamt:
                logs[index]["tokens"][0] = tokens[index]
        self._commit_logs(logs)

    def diff(self, other: Session) -> list[Difference]:
        """The difference of each history to the one of the same batch index in another session of this world."""
        if self.batch_size != other.batch_size or self.world.layout != other.world.layout:
            raise MagratheaError("Sessions to compare need the same batch size and the same layout.")
        pairs = zip(self._histories, other._histories, strict=True)
        return [own.difference(others, self.world.layout) for own, others in pairs]
