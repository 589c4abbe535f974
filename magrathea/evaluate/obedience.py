"""Counterfactual obedience: whether a dream follows the actions it is given, and not those of another future.

From one real state, two continuations of actions are taken in reality: A, the recorded one, and B, drawn otherwise. A
world that obeys dreams what A leads to under A, and what B leads to under B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import optree
from gymnasium import spaces

from magrathea.data.policies import Policy, sticky
from magrathea.data.recorder import checked_copy
from magrathea.errors import MagratheaError
from magrathea.evaluate.dreams import TOLERANCE
from magrathea.evaluate.recordings import BATCH_SIZE, Budget, Recording
from magrathea.evaluate.results import Curves
from magrathea.evaluate.rollouts import Replay, Rollouts, dream
from magrathea.evaluate.slots import CHOICES, NUMBERS, PICTURE, by_kind
from magrathea.evaluate.statistics import Tally, wilson
from magrathea.spaces import COUNTERS, index_batch, leaf_spaces_of, stack
from magrathea.world import World

HORIZONS = (1, 4, 8)
LEAST_DIFFERENCE = 1e-3  # of an entry's standard deviation, from which numbers differ
MAX_FOREIGN = 3  # episodes that are not reproduced, with none that is, until it is given up


@dataclass
class Counterfactuals:
    """What other actions lead to from some of the starts of rollouts: K pairs of futures.

    Attributes:
        rollouts: (K,) indices of the rollouts whose recorded future is the other one of the pair.
        actions: K of (H, *shape).
        real: K of leaves (1 + H or fewer, *shape).
    """

    rollouts: list[int]
    actions: list
    real: list[list[np.ndarray]]


def counterfactuals(
    replay: Replay, recordings: list[Recording], rollouts: Rollouts, budget: Budget, seed: int = 0
) -> Counterfactuals:
    """Take other actions in the real environment from the rollouts' starts, the earliest first, until the budget is
    spent. Raises MagratheaError where the environment does not show again what was recorded."""
    found, num_foreign = Counterfactuals([], [], []), 0
    for index in np.argsort([step for _, step in rollouts.starts], kind="stable").tolist():
        if budget.spent():
            break
        recording, start = rollouts.starts[index]
        episode = recordings[recording].episode
        actions = other_actions(replay, episode.action, start, max(HORIZONS), seed + index)
        real = replay.go_on(episode, start, actions)
        if real is None:
            num_foreign += 1
            if num_foreign >= MAX_FOREIGN and not found.rollouts:
                raise MagratheaError("the environment does not repeat itself under the same seed and actions.")
            continue
        found.rollouts.append(index)
        found.actions.append(actions)
        found.real.append(real)
    if not found.rollouts:
        raise MagratheaError("there was no time to replay an episode.")
    return found


def other_actions(replay: Replay, taken: Any, start: int, num_steps: int, seed: int) -> Any:
    """Actions (H, *shape), each held for a while, of which the first is not that of step `start` of those that were
    taken (T, *shape). Where some are texts, of which few mean anything, they are drawn from those."""
    space, rng = replay.env.action_space, np.random.default_rng(seed)
    recorded, has_texts = (
        index_batch(taken, start),
        any(isinstance(leaf, spaces.Text) for _, leaf in leaf_spaces_of(space)),
    )
    act = _drawn_from(taken, rng) if has_texts else sticky(replay.env, rng)
    for _ in range(100):
        drawn = [checked_copy(space, act(None, {}), "An action") for _ in range(num_steps)]
        if not all(map(np.array_equal, optree.tree_leaves(drawn[0]), optree.tree_leaves(recorded))):
            break
    return stack(drawn)


def _drawn_from(taken: Any, rng: np.random.Generator) -> Policy:
    num = len(optree.tree_leaves(taken)[0])
    return lambda observation, info: index_batch(taken, int(rng.integers(num)))


def measure_obedience(
    world: World,
    recordings: list[Recording],
    rollouts: Rollouts,
    others: Counterfactuals,
    scale: np.ndarray | None = None,
    seed: int = 0,
) -> Curves:
    """Dream the other futures, and compare both dreams of a pair with both realities where those differ.

    scale: (Q,) standard deviations of the numbers.

    Returns for each kind of observation "obedience", the share of dreams that are nearer to their own reality, half of
    which is chance, and "no difference", the share of pairs that are left out, at each horizon.
    """
    space, tally = world.observation_space, Tally(len(recordings))
    real_a, dream_a = (by_kind(space, each.observation, 2) for each in (rollouts.real, rollouts.dream))
    for begin in range(0, len(others.rollouts), BATCH_SIZE):
        chosen = others.rollouts[begin : begin + BATCH_SIZE]
        actions = stack(others.actions[begin : begin + BATCH_SIZE])
        starts, seeds = [rollouts.starts[index] for index in chosen], [seed + index for index in chosen]
        dreams = by_kind(space, dream(world, recordings, starts, actions, seeds).observation, 2)
        for position, index in enumerate(chosen):
            real_b = by_kind(space, others.real[begin + position], 1)
            num_steps = min(int(rollouts.valid[index].sum()), len(next(iter(real_b.values()))) - 1)
            for kind in real_b.keys() - {COUNTERS}:  # which are counted as events
                for step in (horizon for horizon in HORIZONS if horizon <= num_steps):
                    realities = real_a[kind][index, step], real_b[kind][step]
                    pair = dream_a[kind][index, step], dreams[kind][position, step]
                    right = share_right(kind, realities, pair, scale)
                    episode, name = [rollouts.starts[index][0]], f"{kind}/obedience/{step}"
                    tally.add_mean(f"{kind}/no difference/{step}", episode, [right is None])
                    if right is not None:
                        tally.add_mean(name, episode, [right])
    curves = tally.nested()
    for kind in curves:
        curves[kind]["obedience"] = {step: wilson(each) for step, each in curves[kind].get("obedience", {}).items()}
    return curves


Pair = tuple[np.ndarray, np.ndarray]


def share_right(kind: str, realities: Pair, dreams: Pair, scale: np.ndarray | None = None) -> float | None:
    """Which share of two dreams is nearer to its own reality than to the other, a tie for half; None where the
    realities do not differ."""
    one, other = (np.asarray(each, dtype=np.float64) for each in realities)
    difference = np.abs(one - other)
    if kind == PICTURE:
        where = difference.max(axis=-1) > TOLERANCE
    elif kind == NUMBERS:
        assert scale is not None
        where = (difference > LEAST_DIFFERENCE * scale) & (scale > 0)
        one, other = (each / np.where(scale > 0, scale, 1) for each in (one, other))
        dreams = tuple(each / np.where(scale > 0, scale, 1) for each in dreams)  # type: ignore[assignment]
    else:
        where = difference > 0
    if not where.any():
        return None
    right = 0.0
    for dreamt, own, foreign in ((dreams[0], one, other), (dreams[1], other, one)):
        errors = [_error(kind, dreamt[where], each[where]) for each in (own, foreign)]
        right += 0.5 * (errors[0] < errors[1]) + 0.25 * (errors[0] == errors[1])
    return right


def _error(kind: str, dreamt: np.ndarray, real: np.ndarray) -> float:
    if kind == CHOICES:
        return float((dreamt != real).sum())
    return float(np.square(dreamt.astype(np.float64) - real).sum())
