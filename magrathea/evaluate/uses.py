"""Every other use of the model beside trivial baselines: infer, act, act toward, judge, inpaint, random holes."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import torch
from torch import Generator, Tensor

from magrathea import masks
from magrathea.evaluate.forcing import SegmentBatch, segment_batches
from magrathea.evaluate.next_step import judgement_summary, tally_judgement
from magrathea.evaluate.recordings import Budget, Recording
from magrathea.evaluate.slots import action_scores, role_span
from magrathea.evaluate.statistics import Tally
from magrathea.layout import Layout
from magrathea.world import World

HIDDEN_SHARES = (0.25, 0.5, 0.75)
GOAL_DISTANCES = (2, 8, 32)  # steps from the picture before the action to the goal
NUM_PROMPTED = 1024  # most steps that are asked with prompts
SHARE_WITHOUT_PROMPTS = 0.65  # of the time
RETURN_STEPS = 64  # steps ahead that a return prompt sums


def measure_uses(world: World, recordings: list[Recording], budget: Budget, seed: int = 0) -> dict:
    """Figures of inverse dynamics, behaviour cloning, goal- and return-conditioned acting, judging, inpainting and
    random holes over held-out steps, as a JSON-able dict. Baselines that are counted are counted on the held-out
    episodes themselves, which favours them."""
    tally = Tally(len(recordings))
    baselines = Baselines(world.layout, [recording.tokens for recording in recordings])
    generator = Generator().manual_seed(seed)
    without_prompts, num_asked = budget.part(SHARE_WITHOUT_PROMPTS), 0
    for batch in segment_batches(recordings, world.config.model.window, seed=seed):
        _infer_and_act(tally, world, batch, baselines)
        judged = batch.predict(world, masks.judge(world.layout))
        tally_judgement(tally, "judge", world, recordings, batch, judged)
        _repair(tally, world, batch, baselines, generator)
        if without_prompts.spent():
            break
    for batch in segment_batches(recordings, world.config.model.window, batch_size=32, chunk=1, seed=seed):
        _act_toward(tally, world, recordings, batch)
        num_asked += len(batch.episodes)
        if num_asked >= NUM_PROMPTED or budget.spent():
            break
    return _summary(tally)


class Baselines:
    """What one can say without a model: how often each action follows another, each place's most frequent token."""

    def __init__(self, layout: Layout, recordings: list[np.ndarray]) -> None:
        span = role_span(layout, "action")
        taken = [[tuple(step) for step in tokens[1:, span].tolist()] for tokens in recordings]
        self.marginal = Counter(action for actions in taken for action in actions)
        self.pairs = Counter(pair for actions in taken for pair in pairwise(actions))
        self.firsts = Counter(pair[0] for pair in self.pairs.elements())
        self.commonest = np.array(self.marginal.most_common(1)[0][0])
        everything = np.concatenate(recordings)
        self.frequent = np.array([np.bincount(column).argmax() for column in everything.T])

    def surprise(self, previous: tuple, action: tuple) -> tuple[float, float]:
        """Cross-entropy in nats of an action: by its frequency, and by its frequency after the previous action."""
        alone = -np.log(self.marginal[action] / self.marginal.total())
        after = self.pairs[previous, action]
        return alone, -np.log(after / self.firsts[previous]) if after else alone


def _infer_and_act(tally: Tally, world: World, batch: SegmentBatch, baselines: Baselines) -> None:
    """Inverse dynamics and behaviour cloning, by all steps and by steps in which the picture changed."""
    layout, span = world.layout, role_span(world.layout, "action")
    seen = role_span(layout, "observation")
    targets, previous = batch.targets[..., span].numpy(), batch.previous[..., span].numpy()
    changed = (batch.targets[..., seen] != batch.previous[..., seen]).any(-1).numpy() & batch.valid
    repeated, common = (targets == previous).all(-1), (targets == baselines.commonest).all(-1)
    inferred, _ = action_scores(layout, batch.predict(world, masks.inverse_dynamics(layout)), batch.targets)
    cloned, surprise = action_scores(layout, batch.predict(world, masks.behaviour_cloning(layout)), batch.targets)
    for use, scores in (("inverse dynamics", inferred), ("behaviour cloning", cloned)):
        for condition, where in (("all steps", batch.valid), ("picture changed", changed)):
            for source, values in (
                ("model", scores),
                ("repeat the last action", repeated),
                ("always the commonest", common),
            ):
                tally.add_mean(f"{use}/{condition}/{source}", batch.episodes, values, where)
    alone, after = np.zeros(cloned.shape), np.zeros(cloned.shape)
    for place in np.argwhere(batch.valid):
        row, column = place
        alone[row, column], after[row, column] = baselines.surprise(
            tuple(previous[row, column].tolist()), tuple(targets[row, column].tolist())
        )
    for source, values in (("model", surprise), ("marginal", alone), ("given the last action", after)):
        tally.add_mean(f"behaviour cloning/cross-entropy/{source}", batch.episodes, values, batch.valid)


def _repair(tally: Tally, world: World, batch: SegmentBatch, baselines: Baselines, generator: Generator) -> None:
    """Inpainting at each share hidden, and random holes: share of the holes' tokens right."""
    layout, shape = world.layout, tuple(batch.targets.shape[:2])
    uses = {f"inpainting/{share:.0%} hidden": masks.inpaint(layout, shape, generator, share) for share in HIDDEN_SHARES}
    uses["random holes/any share hidden"] = masks.random_holes(layout, shape, generator)
    targets = batch.targets.numpy()
    for use, holes in uses.items():
        logits = batch.predict(world, holes)
        guesses = torch.cat([logits[slot.name].argmax(-1).cpu() for slot in layout.slots], dim=-1).numpy()
        absent = np.concatenate([np.full(slot.num_tokens, slot.absent) for slot in layout.slots])
        where = holes.numpy() & batch.valid[..., None] & (targets != absent)
        for source, values in (
            ("model", guesses == targets),
            ("most frequent token", targets == baselines.frequent),
            ("repeat the last step", targets == batch.previous.numpy()),
        ):
            tally.add_mean(f"{use}/{source}", batch.episodes, values, where)


def _act_toward(tally: Tally, world: World, recordings: list[Recording], batch: SegmentBatch) -> None:
    """Acting with a prompt: does the true goal (or return) make the action of a step likelier than none, or a wrong
    one?"""
    layout, here = world.layout, batch.steps[:, 0]
    prompts: dict[str, Tensor | None] = {"no prompt": None}
    for distance in GOAL_DISTANCES:
        wanted = [recordings[episode].tokens for episode in batch.episodes]
        rows = [tokens[min(step - 1 + distance, len(tokens) - 1)] for tokens, step in zip(wanted, here, strict=True)]
        prompts[f"goal {distance} ahead"] = _as_prompt(
            torch.from_numpy(np.stack(rows)), masks.goal_prompt(layout), layout
        )
    wrong = prompts[f"goal {GOAL_DISTANCES[1]} ahead"]
    assert wrong is not None
    if len(wrong) > 1:
        prompts["a wrong goal"] = wrong.roll(1, dims=0)
    prompts["return"] = torch.cat(
        [
            world.prompt_tokens(total_reward=float(recordings[episode].episode.reward[step - 1 :][:RETURN_STEPS].sum()))
            for episode, step in zip(batch.episodes, here, strict=True)
        ]
    )
    for name, prompt in prompts.items():
        logits = batch.predict(world, masks.behaviour_cloning(layout), prompt)
        right, surprise = action_scores(layout, logits, batch.targets)
        tally.add_mean(f"acting toward/{name}/accuracy", batch.episodes, right)
        tally.add_mean(f"acting toward/{name}/cross-entropy", batch.episodes, surprise)


def _as_prompt(steps: Tensor, absent_mask: Tensor, layout: Layout) -> Tensor:
    """Steps (B, N) -> prompts (B, N), with the absent token where absent_mask (N,) is True."""
    absent = torch.cat([torch.full((slot.num_tokens,), slot.absent) for slot in layout.slots])
    return torch.where(absent_mask, absent, steps)


def _summary(tally: Tally) -> dict:
    result: dict = {}
    for name in tally.names():
        use, _, rest = name.partition("/")
        if use != "judge":
            place, _, source = rest.rpartition("/")
            result.setdefault(use, {}).setdefault(place, {})[source] = tally.figure(name)
    result["judge"] = judgement_summary(tally, "judge")
    return result
