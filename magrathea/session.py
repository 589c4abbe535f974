"""A running dream: B worlds in lockstep, each with its own dice, past and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor

from magrathea import masks
from magrathea.errors import MagratheaError
from magrathea.fill import Filled, FillSettings, fill
from magrathea.past import Past, RingPast, SegmentPast
from magrathea.world import World

Start = int | Sequence[int] | np.ndarray | Tensor | None


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
        seed: int | Sequence[int] = 0,
        start: Start = None,
        settings: FillSettings | None = None,
        inference: Literal["cached", "naive"] = "cached",
    ) -> None:
        if inference not in ("cached", "naive"):
            raise MagratheaError(f"Unknown inference '{inference}'; choose 'cached' or 'naive'.")
        self.world, self.batch_size, self.inference = world, batch_size, inference
        self.settings = settings if settings is not None else world.config.fill
        self.generators = [Generator() for _ in range(batch_size)]
        self.num_steps = np.zeros(batch_size, dtype=np.int64)
        self._forward_holes = masks.forward_dynamics(world.layout)
        self._recent: list[list[Tensor]] = [[] for _ in range(batch_size)]  # the last steps of each row, (N,) each
        self._time = torch.zeros(batch_size, dtype=torch.long)  # number of the step that comes next, in each row
        like = world.model.past_keys_values.weight.to(world.model.compute_dtype)
        self._ring = RingPast(world.config.model, batch_size, world.layout.num_positions, like.detach())
        self.memory = world.new_memory()
        self.reset(seed=seed, start=start)

    # -- starting -----------------------------------------------------------------------------------------------------
    def reset(
        self, env_mask: np.ndarray | None = None, seed: int | Sequence[int] | None = None, start: Start = None
    ) -> Any:
        """Start the rows anew where env_mask (B,) is True (all, if not given); returns the observation of all rows.

        Without a seed the dice go on as they are, so that a new episode is a different one.
        """
        rows = list(range(self.batch_size)) if env_mask is None else np.flatnonzero(env_mask).tolist()
        if seed is not None:
            seeds = [seed + row for row in range(self.batch_size)] if isinstance(seed, int | np.integer) else list(seed)
            if len(seeds) != self.batch_size:
                raise MagratheaError(f"Session has {self.batch_size} rows but got {len(seeds)} seeds; give one each.")
            for row in rows:
                self.generators[row].manual_seed(int(seeds[row]))
        starts = self._starts(start, rows)
        self._ring.forget(rows)
        self.memory.reset(self._as_mask(rows))
        for row, tokens in zip(rows, starts, strict=True):
            self._recent[row], self._time[row], self.num_steps[row] = [], 0, 0
            for step in tokens:
                self._append(step[None], [row])
        return self.observation

    def _as_mask(self, rows: list[int]) -> Tensor:
        mask = torch.zeros(self.batch_size, dtype=torch.bool)
        mask[rows] = True
        return mask

    def _starts(self, start: Start, rows: list[int]) -> list[Tensor]:
        """The first steps (T, N) of each of these rows."""
        stored = self.world.starts
        if not len(stored) and (start is None or isinstance(start, int | np.integer)):
            raise MagratheaError("This world has no stored starts; start it from recorded steps.")
        if start is None:
            return [stored[int(torch.randint(len(stored), (), generator=self.generators[row]))] for row in rows]
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
        return [start[row].long() for row in rows]

    # -- the past -----------------------------------------------------------------------------------------------------
    @torch.inference_mode()
    def _append(self, tokens: Tensor, rows: list[int] | None = None) -> None:
        """The step (R, N) of these rows (all, if not given) is final: it enters the past."""
        rows = list(range(self.batch_size)) if rows is None else rows
        for row, step in zip(rows, tokens.cpu(), strict=True):
            self._recent[row] = [*self._recent[row][-self.world.config.model.window + 1 :], step]
        if self.inference == "cached":
            time = self._time[rows].to(self.world.device)
            remembered = self.world.model.remember(tokens.to(self.world.device)[:, None], time[:, None])
            self._ring.write(*remembered, None if len(rows) == self.batch_size else rows)
        self._time[rows] += 1

    def _past(self, rows: Tensor | None, prompt: Tensor | None) -> Past:
        """What the next step of these rows may attend to."""
        time = self._time if rows is None else self._time[rows.cpu()]
        extra = None
        if prompt is not None:
            prompt = prompt.expand(len(time), -1).to(self.world.device)
            extra = self.world.model.prompt(prompt, time.to(self.world.device))
        if self.inference == "naive":
            return self._naive_past(list(range(self.batch_size)) if rows is None else rows.tolist(), extra)
        ring = self._ring if rows is None else self._ring.select(rows)
        ring.extra = extra
        return ring

    def _naive_past(self, rows: list[int], extra: tuple[Tensor, Tensor] | None) -> Past:
        recent = [torch.stack(self._recent[row]) for row in rows]
        if len({len(steps) for steps in recent}) > 1:
            raise MagratheaError("Naive inference needs rows of equal history; use inference='cached'.")
        tokens = torch.stack(recent).to(self.world.device)
        num_seen = tokens.shape[1]
        time = self._time[rows, None] - num_seen + torch.arange(num_seen)
        remembered = self.world.model.remember(tokens, time.to(self.world.device))
        return SegmentPast(*remembered, num_seen, first=num_seen, extra=extra)

    @torch.inference_mode()
    def _fill(
        self, tokens: Tensor, holes: Tensor, shown_holes: Tensor | None = None, prompt: Tensor | None = None
    ) -> Filled:
        """Fill `holes` (B, N) of the next step; the model is shown `shown_holes` as holes too, which stay open."""
        model = self.world.model
        shown_holes = holes if shown_holes is None else shown_holes
        time = self._time.to(self.world.device)

        def predict(now: Tensor, open_holes: Tensor, rows: Tensor | None) -> dict[str, Tensor]:
            hidden = open_holes | (shown_holes & ~holes if rows is None else (shown_holes & ~holes)[rows])
            when = time if rows is None else time[rows]
            logits = model.predict(now[:, None], hidden[:, None], when[:, None], self._past(rows, prompt))
            return {name: slot_logits.squeeze(1) for name, slot_logits in logits.items()}

        return fill(predict, tokens, holes, self.world.layout, self.settings, self.generators)

    # -- living -------------------------------------------------------------------------------------------------------
    @property
    def tokens(self) -> Tensor:
        """The last step of every row, (B, N)."""
        return torch.stack([steps[-1] for steps in self._recent])

    @property
    def observation(self) -> Any:
        """What is seen now, (B, *shape)."""
        return self.world.decode_observation(self.tokens)

    def step(self, action: Any) -> StepResult:
        """Act in every row, and dream what comes back. action (B, *shape); raises MagratheaError outside the space."""
        known = self.world.tokenizers["action"].encode(np.asarray(action) if np.isscalar(action) else action)
        if known.shape[:-1] != (self.batch_size,):
            raise MagratheaError(f"Session has {self.batch_size} rows but got actions for {known.shape[:-1]}.")
        tokens = torch.zeros(self.batch_size, self.world.layout.num_tokens, dtype=torch.long)
        tokens[:, : known.shape[-1]] = torch.from_numpy(known)
        holes = self._forward_holes.expand_as(tokens)
        filled = self._fill(tokens.to(self.world.device), holes.to(self.world.device))
        self._append(filled.tokens)
        self.num_steps += 1
        return self._result(filled)

    def observe(self, action: Any, observation: Any, reward: Any = None, terminated: Any = None) -> StepResult:
        """Take in a real step of every row instead of dreaming one."""
        tokens = self.world.encode(action, observation, reward, terminated)
        if len(tokens) != self.batch_size:
            raise MagratheaError(f"Session has {self.batch_size} rows but observed {len(tokens)}.")
        self._append(tokens)
        self.num_steps += 1
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
        device = self.world.device
        filled = self._fill(tokens.to(device), holes.to(device), shown.to(device), prompt)
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
