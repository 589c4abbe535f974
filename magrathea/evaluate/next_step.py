"""The next step given the real ones before it: tokens, reward and termination."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from magrathea import masks
from magrathea.evaluate.cells import Cells
from magrathea.evaluate.environment_hooks import describe_cells
from magrathea.evaluate.recordings import Budget, Recording
from magrathea.evaluate.results import NextStep
from magrathea.evaluate.segments import SegmentBatch, segment_batches
from magrathea.evaluate.statistics import Tally
from magrathea.layout import Slot
from magrathea.world import World


def measure_next_step(world: World, recordings: list[Recording], budget: Budget) -> NextStep:
    """Predict every held-out step (or as many as the budget allows, in an order drawn at random) by the likeliest token
    of every hole, all at once. Slots whose tokens mean something only relative to the step before are left out."""
    layout, num_episodes = world.layout, len(recordings)
    env_id, window = world.metadata.get("env_id", ""), world.config.model.window
    slots = [slot for slot in layout.of_role("observation") if slot in layout.token_slots]
    measures = []
    for slot in (slot for slot in slots if slot.name not in layout.values_slots):
        cells = [describe_cells(env_id, recording, layout, slot, window) for recording in recordings]
        measures.append(_SlotMeasure(world, slot, cells))
    tally = Tally(num_episodes)
    hole_mask, seen = masks.forward_dynamics(layout), layout.role_span("observation")
    for batch in segment_batches(recordings, window):
        logits = batch.predict(world, hole_mask)
        correct = [each.add(batch, logits[each.slot.name]).all(axis=-1) for each in measures]
        if len(measures) == len(slots):
            repeated = (batch.targets == batch.previous)[..., seen].all(-1).numpy()
            _tally_steps(
                tally,
                measures[0].cells,
                batch,
                {"model": np.asarray(np.stack(correct).all(axis=0)), "repeat": repeated},
            )
        _tally_events(tally, world, recordings, batch, logits)
        if budget.spent():
            break
    return NextStep(
        tokens_correct={each.slot.name: each.tally.nested("tokens/") for each in measures},
        steps_correct=tally.nested("steps/"),
        events=tally.nested("events/"),
    )


class _SlotMeasure:
    """Counts the correct tokens of one observation slot; cells describe the slot in each recording."""

    def __init__(self, world: World, slot: Slot, cells: list[Cells]) -> None:
        self.slot, self.cells = slot, cells
        self.span, self.tally = world.layout.span(slot.name), Tally(len(cells))

    def add(self, batch: SegmentBatch, logits: Tensor) -> np.ndarray:
        """Count a batch; returns (B, C, tokens) bool, where the prediction is correct."""
        guesses = logits.argmax(-1).cpu().numpy()
        targets, previous = batch.targets[..., self.span].numpy(), batch.previous[..., self.span].numpy()
        correct = guesses == targets
        sources = {"model": correct, "repeat": previous == targets}
        for index, (episode, steps) in enumerate(zip(batch.episodes, batch.steps, strict=True)):
            used = batch.valid[index]
            values = {source: of_source[index, used] for source, of_source in sources.items()}
            self._tally_groups(episode, steps[used] - 1, targets[index, used], values)
        return correct

    def _tally_groups(
        self, episode: int, when: np.ndarray, targets: np.ndarray, sources: dict[str, np.ndarray]
    ) -> None:
        """Count where each source is correct (S, tokens) at the steps `when` (S,), by condition and group of cells;
        "copy" is the token that showed the same location before, among the cells that have one."""
        cells = self.cells[episode]
        everywhere = np.ones_like(targets, dtype=bool)
        for condition, holds in {"all": np.ones(cells.num_steps, dtype=bool), **cells.conditions}.items():
            for group, members in {"all": None, **cells.groups}.items():
                where = (everywhere if members is None else members[when]) & holds[when, None]
                name = f"tokens/{condition}/{group}"
                for source, values in sources.items():
                    self.tally.add_mean(f"{name}/{source}", [episode], values[None], where[None])
                if cells.copied is not None:
                    copied = cells.copied[when]
                    known = where & (copied >= 0)
                    self.tally.add_mean(f"{name}/copy", [episode], (copied == targets)[None], known[None])


def _tally_steps(tally: Tally, cells: list[Cells], batch: SegmentBatch, sources: dict[str, np.ndarray]) -> None:
    """Count steps whose observation each source has correct in all tokens (B, C), by condition."""
    for index, (episode, steps) in enumerate(zip(batch.episodes, batch.steps, strict=True)):
        used = batch.valid[index]
        conditions = cells[episode].step_conditions or cells[episode].conditions
        for condition, holds in {"all": np.ones(cells[episode].num_steps, dtype=bool), **conditions}.items():
            where = holds[steps[used] - 1][None]
            for source, correct in sources.items():
                tally.add_mean(f"steps/{condition}/{source}", [episode], correct[index, used][None], where)


def _tally_events(
    tally: Tally, world: World, recordings: list[Recording], batch: SegmentBatch, logits: dict[str, Tensor]
) -> None:
    """Count how well positive and negative rewards and terminations are predicted."""
    guesses = batch.targets.clone()
    for slot in world.layout.of_role("reward", "terminated"):
        guesses[..., world.layout.span(slot.name)] = logits[slot.name].argmax(-1).cpu()
    reward, terminated = np.asarray(world.decode_reward(guesses)), np.asarray(world.decode_terminated(guesses))
    for index, (episode, steps) in enumerate(zip(batch.episodes, batch.steps, strict=True)):
        used, recorded = batch.valid[index], recordings[episode].episode
        actual, guess = recorded.reward[steps[used] - 1], reward[index, used]
        tally.add_f1("events/positive reward", episode, guess > 0, actual > 0)
        tally.add_f1("events/negative reward", episode, guess < 0, actual < 0)
        tally.add_f1("events/terminated", episode, terminated[index, used], recorded.terminated[steps[used] - 1])
