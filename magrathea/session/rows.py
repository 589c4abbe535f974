"""The rows of a session, as tokens: what each has lived, its dice, and what the model knows of its past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Generator, Tensor

from magrathea import masks
from magrathea.rng import Purpose, derive_seed
from magrathea.sampler import FillResult, FillSettings, fill
from magrathea.session.context import DreamContext, Inference
from magrathea.session.file import SessionState
from magrathea.session.history import History, StepKind
from magrathea.world import World


class Rows:
    """B dreams in lockstep. All that must be kept of them is their `state`.

    Attributes:
        seeds: of each row's dice. What a step rolls is a function of its row's seed and its number since the start.
        histories: the log of each row.
        remembered: what the model knows of the histories.
    """

    def __init__(self, world: World, state: SessionState) -> None:
        self.world, self.settings = world, state.settings
        self.inference: Inference = state.inference
        self.seeds, self.histories = list(state.seeds), list(state.histories)
        self.remembered = DreamContext(world, self.histories, state.inference, state.memory, state.num_remembered)
        self._generators = [Generator() for _ in self.seeds]
        self._forward_holes = masks.forward_dynamics(world.layout)

    def __len__(self) -> int:
        return len(self.histories)

    @property
    def tokens(self) -> Tensor:
        """The last step of every row, (B, N) int64."""
        return torch.from_numpy(np.stack([history.last for history in self.histories]).astype(np.int64))

    @property
    def num_steps(self) -> np.ndarray:
        """(B,) steps since each row's start."""
        return np.array([history.num_steps for history in self.histories])

    # -- living -------------------------------------------------------------------------------------------------------
    def begin(self, starts: Mapping[int, Tensor], seeds: Sequence[int]) -> None:
        """Some rows begin anew, from the steps (T, N) of their starts."""
        for row, tokens in starts.items():
            self.seeds[row] = seeds[row]
            self.histories[row] = History(self.world.layout, num_start=len(tokens))
            for step in tokens.numpy():
                self.histories[row].append(step, StepKind.START, seeds[row])
        self.remembered.forget(list(starts))

    def imagine(self, actions: Tensor, rows: Sequence[int]) -> FillResult:
        """The next step of these rows, given the tokens of its action (R, A)."""
        tokens = torch.zeros(len(rows), self.world.layout.num_tokens, dtype=torch.long)
        tokens[:, : actions.shape[-1]] = actions
        return self.fill("step", tokens, self._forward_holes.expand_as(tokens), rows)

    @torch.inference_mode()
    def fill(
        self,
        purpose: Purpose,
        tokens: Tensor,
        holes: Tensor,
        rows: Sequence[int],
        shown_holes: Tensor | None = None,
        prompt: Tensor | None = None,
    ) -> FillResult:
        """Fill `holes` (R, N) of these rows' next step; the model is shown `shown_holes` as holes too, which stay
        open."""
        model, remembered, device = self.world.model, self.remembered, self.world.device
        remembered.catch_up(rows)
        beside = remembered.recall(tokens, holes if shown_holes is None else holes | shown_holes, rows, prompt)
        holes = holes.to(device)
        also_hidden = None if shown_holes is None else shown_holes.to(device) & ~holes
        time = torch.tensor([len(self.histories[row]) for row in rows], device=device)

        def predict(now: Tensor, open_holes: Tensor, chosen: Tensor | None) -> dict[str, Tensor]:
            here = slice(None) if chosen is None else chosen
            hidden = open_holes if also_hidden is None else open_holes | also_hidden[here]
            those = rows if chosen is None else [rows[index] for index in chosen.tolist()]
            past = remembered.past(those, beside.of(chosen))
            logits = model.predict(now[:, None], hidden[:, None], time[here, None], past)
            return {name: slot_logits.squeeze(1) for name, slot_logits in logits.items()}

        generators = [self._generators[row] for row in rows]
        for row, generator in zip(rows, generators, strict=True):
            generator.manual_seed(derive_seed(self.seeds[row], purpose, self.histories[row].num_steps))
        return fill(predict, tokens.to(device), holes, self.world.layout, self.settings, generators)

    def append(self, tokens: Tensor, kind: StepKind, rows: Sequence[int]) -> None:
        """The next step (R, N) of these rows is final."""
        for row, step in zip(rows, tokens.cpu().numpy(), strict=True):
            self.histories[row].append(step, kind, self.seeds[row])

    # -- keeping, going back, living again ----------------------------------------------------------------------------
    def beginning(self) -> SessionState:
        """What the rows were when they began."""
        histories = [History(self.world.layout, history.num_start) for history in self.histories]
        for own, begun in zip(self.histories, histories, strict=True):
            begun.extend(own.read(0, own.num_start))
        seeds = [int(history.read(0, 1)["seed"][0]) for history in histories]
        return fresh(self.settings, self.inference, histories, seeds)

    def state(self, rows: Sequence[int]) -> SessionState:
        """All that some rows are; their histories go on apart from these."""
        memory, num_remembered = self.remembered.state(rows)
        return SessionState(
            self.settings,
            self.inference,
            [self.seeds[row] for row in rows],
            [self.histories[row].fork() for row in rows],
            memory,
            num_remembered,
        )

    def rewind(self, numbers: Sequence[int]) -> None:
        """Each row goes back so many steps, and to the seed that its dice had then."""
        for row, (history, number) in enumerate(zip(self.histories, numbers, strict=True)):
            if number:
                length = len(history) - number
                self.seeds[row] = int(history.read(length, length + 1)["seed"][0])
                history.truncate(length)
        self.remembered.go_back()

    def extend(self, logs: Mapping[int, np.ndarray]) -> None:
        """Take in steps (T,) of some rows' logs as they were."""
        for row, log in logs.items():
            self.histories[row].extend(log)
            if len(log):
                self.seeds[row] = int(log["seed"][-1])

    def relive(self, logs: Mapping[int, np.ndarray]) -> None:
        """Live one logged step (1,) of some rows: with its action and its dice if it was dreamt, else as it was."""
        num_action_tokens = sum(slot.num_tokens for slot in self.world.layout.of_role("action"))
        actions = torch.zeros(len(self), num_action_tokens, dtype=torch.long)
        dreamt = [row for row, log in logs.items() if log["kind"][0] == StepKind.DREAMT]
        for row in dreamt:
            actions[row] = torch.from_numpy(logs[row]["tokens"][0, :num_action_tokens].astype(np.int64))
            self.seeds[row] = int(logs[row]["seed"][0])
        logs = {row: log.copy() for row, log in logs.items()}
        if dreamt:
            tokens = self.imagine(actions, range(len(self))).tokens.cpu().numpy()
            for row in dreamt:
                logs[row]["tokens"][0] = tokens[row]
        self.extend(logs)

    # -- rows that come and go ----------------------------------------------------------------------------------------
    def join(self, other: Rows) -> None:
        """Take in another's rows, after the own ones."""
        self.seeds += other.seeds
        self.histories += other.histories
        self._generators += other._generators
        self.remembered.join(other.remembered)

    def keep(self, rows: Sequence[int]) -> None:
        """Give up all rows but these."""
        self.remembered.keep(rows)
        for kept in (self.seeds, self.histories, self._generators):
            kept[:] = [kept[row] for row in rows]  # type: ignore[index]


def fresh(
    settings: FillSettings, inference: Inference, histories: list[History], seeds: Sequence[int] | None = None
) -> SessionState:
    """The state of rows whose memory has taken in nothing."""
    none = [0] * len(histories)
    return SessionState(settings, inference, list(seeds or none), histories, [{} for _ in none], none)
