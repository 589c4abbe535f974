"""Whether actions that are inferred from frames alone are those that were taken, where they can be seen.

At some recorded steps the real environment takes every other action too. Actions that lead to the same picture as the
one taken are right there as well, and a step in which all do is left out.
"""

from __future__ import annotations

import itertools
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from magrathea.data import Dataset
from magrathea.data.latent_model import Steps, learn_codes, learn_labels
from magrathea.data.make_env import closed_after, make_env_from_metadata
from magrathea.data.recorder import plain_action
from magrathea.errors import MagratheaError
from magrathea.evaluate.dreams import TOLERANCE
from magrathea.progress import Stages
from magrathea.spaces import is_image

MOST_ACTIONS = 64
MOST_CODES = 12  # of a best one-to-one map, whose search doubles with each code
MOST_STEPS = 8000  # that are read


@dataclass(frozen=True)
class Moments:
    """Recorded steps at which every action was tried.

    Attributes:
        steps: (M,) counted through all episodes.
        same: (M, A) whether an action leads to the same picture as the one taken.
    """

    steps: np.ndarray
    same: np.ndarray

    def visible(self) -> Moments:
        """Those in which some action leads to another picture."""
        is_visible = ~self.same.all(axis=1)
        return Moments(self.steps[is_visible], self.same[is_visible])


@dataclass(frozen=True)
class ActionsResult:
    """How many of the visible actions are told.

    Attributes:
        what: how actions were inferred.
        num_actions: that were found.
        right: share of the visible steps with the right action, of codes after the best one-to-one map.
        right_of_any_map: the same where several codes may mean one action.
        seconds: of learning.
    """

    what: str
    num_actions: int
    right: float
    right_of_any_map: float
    seconds: float


def evaluate_actions(
    folder: Path, num_codes: int, shares: Sequence[float], num_moments: int, seed: int = 0
) -> tuple[str, list[ActionsResult]]:
    """What was measured on how many steps, in a sentence, and the results of codes (none where `num_codes` is 0) and of
    labels for shares of the steps.

    Raises:
        MagratheaError: for a dataset whose observations are no pictures, whose actions are not few, or whose
            environment does not show again what was recorded.
    """
    dataset = Dataset.open(folder)
    if not is_image(dataset.observation_space):
        raise MagratheaError(f"'{folder}' has observations that are no pictures; give another dataset.")
    choices = choices_of(dataset.action_space)
    rng, episodes = np.random.default_rng(seed), _episodes(dataset)
    with Stages() as stages:
        stages.begin("trying every action")
        moments = try_actions(dataset, len(episodes), choices, num_moments, rng, stages)
        visible, frames, results = moments.visible(), [each.observation for each in episodes], []
        if not len(visible.steps):
            raise MagratheaError(f"No action of '{folder}' changes the next picture; give another dataset.")
        if num_codes:
            stages.begin(f"learning {num_codes} codes")
            begin = time.monotonic()
            codes = learn_codes(frames, num_codes, stages.update, seed).codes(Steps(frames)).numpy()
            results.append(score_codes(codes, visible, time.monotonic() - begin))
        taken = np.concatenate([[_index(choices, action) for action in each.action] for each in episodes])
        for share in shares:
            stages.begin(f"learning from labels for {share:.0%} of the steps")
            results.append(_score_labels(frames, taken, share, visible, rng, stages))
    chance = visible.same.sum(axis=0).max() / len(visible.steps)
    what = f"{len(visible.steps)} visible of {len(moments.steps)} steps"
    return f"{what}; the most frequent action is right in {chance:.1%}.", results


def choices_of(space: gymnasium.Space) -> list[Any]:
    """Every action of a space of few; raises MagratheaError for others."""
    if isinstance(space, spaces.Discrete):
        choices = [np.int64(space.start + index) for index in range(int(space.n))]
    elif isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        choices = [
            np.array(each) for each in itertools.islice(itertools.product(*map(range, space.nvec)), MOST_ACTIONS + 1)
        ]
    else:
        choices = []
    if not 0 < len(choices) <= MOST_ACTIONS:
        raise MagratheaError(f"Actions {space} are not up to {MOST_ACTIONS} choices; give a dataset with such.")
    return choices


def _index(choices: list[Any], action: Any) -> int:
    return next(index for index, choice in enumerate(choices) if np.array_equal(choice, action))


def _episodes(dataset: Dataset) -> list[Any]:
    """The first episodes, up to `MOST_STEPS` steps or one episode."""
    ends = np.cumsum(dataset.lengths)
    return [dataset.episode(index) for index in range(max(1, int((ends <= MOST_STEPS).sum())))]


def try_actions(
    dataset: Dataset, num_episodes: int, choices: list[Any], num_moments: int, rng: np.random.Generator, stages: Stages
) -> Moments:
    """Take every action at about so many moments of the first episodes."""
    total = sum(dataset.lengths[:num_episodes])
    chosen = rng.random(total) < num_moments / total
    steps, same, number = [], [], 0
    with closed_after(make_env_from_metadata(dataset.metadata)) as env:
        for episode in map(dataset.episode, range(num_episodes)):
            env.reset(seed=episode.seed)
            for action, following in zip(episode.action, episode.observation[1:], strict=True):
                if chosen[number]:
                    found = [_outcome(env, choice) for choice in choices]
                    alike = [each is not None and _is_same(each, following) for each in found]
                    if not alike[_index(choices, action)]:
                        raise MagratheaError(
                            f"'{dataset.env_id}' does not repeat itself; actions cannot be tried in it."
                        )
                    steps.append(number)
                    same.append(alike)
                    stages.update(number / total)
                env.step(plain_action(env.action_space, action))
                number += 1
    return Moments(np.array(steps, np.int64), np.array(same, bool).reshape(len(steps), len(choices)))


def _outcome(env: gymnasium.Env, action: Any) -> np.ndarray | None:
    """The picture that an action leads to: taken in a fork of this process, so that the environment stays where it is.
    None where the environment fails."""
    receiver, sender = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside PyTorch's threads, which it does not use
        child = os.fork()
    if not child:
        try:
            picture = np.asarray(env.step(plain_action(env.action_space, action))[0], np.uint8)
            with os.fdopen(sender, "wb") as file:
                file.write(picture.tobytes())
        finally:
            os._exit(0)
    os.close(sender)
    with os.fdopen(receiver, "rb") as file:
        data = file.read()
    os.waitpid(child, 0)
    shape = env.observation_space.shape or ()
    return np.frombuffer(data, np.uint8).reshape(shape) if len(data) == np.prod(shape) else None


def _is_same(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((np.abs(one.astype(np.int16) - other) <= TOLERANCE).all())


def score_codes(codes: np.ndarray, visible: Moments, seconds: float) -> ActionsResult:
    """How well codes (T,) tell the actions of visible moments."""
    own, num_codes = codes[visible.steps], int(codes.max()) + 1
    counts = np.stack([visible.same[own == code].sum(axis=0) for code in range(num_codes)])
    total = len(visible.steps)
    what = f"{num_codes} codes from frames alone"
    return ActionsResult(what, num_codes, best_map(counts) / total, counts.max(axis=1).sum() / total, seconds)


def best_map(counts: np.ndarray) -> int:
    """The highest sum of counts (K, A) under a map of codes to actions in which no two share one."""
    best = {0: 0}  # sum by set of codes that have an action
    for column in counts.T[counts.sum(axis=0) > 0]:
        for used, value in list(best.items()):
            for code in (code for code in range(len(counts)) if not used >> code & 1):
                grown = used | 1 << code
                best[grown] = max(best.get(grown, 0), value + int(column[code]))
    return max(best.values())


def _score_labels(
    frames: list[np.ndarray],
    taken: np.ndarray,
    share: float,
    visible: Moments,
    rng: np.random.Generator,
    stages: Stages,
) -> ActionsResult:
    """How well an inverse model tells the actions of the other moments that is learned from labels for a share."""
    begin = time.monotonic()
    labelled = np.sort(rng.permutation(len(taken))[: max(1, round(share * len(taken)))])
    firsts = np.concatenate(
        [np.arange(len(each) - 1) + start for each, start in zip(frames, _starts(frames), strict=True)]
    )
    everything = np.concatenate(frames)
    pairs = np.stack([everything[firsts[labelled]], everything[firsts[labelled] + 1]], axis=1)
    found = learn_labels(pairs, taken[labelled], stages.update).codes(Steps(frames)).numpy()
    is_new = ~np.isin(visible.steps, labelled)
    right = visible.same[is_new, found[visible.steps[is_new]]].mean()
    what = f"labels for {share:.1%} of the steps: {len(labelled)}"
    return ActionsResult(what, len(np.unique(taken[labelled])), float(right), float(right), time.monotonic() - begin)


def _starts(frames: list[np.ndarray]) -> np.ndarray:
    return np.cumsum([0, *map(len, frames)])[:-1]


def actions_table(results: Sequence[ActionsResult]) -> str:
    """The results as text."""
    lines = ["| actions by | right | after any map | seconds |", "| --- | ---: | ---: | ---: |"]
    for each in results:
        lines.append(f"| {each.what} | {each.right:.1%} | {each.right_of_any_map:.1%} | {each.seconds:.0f} |")
    return "\n".join(lines)


def results_to_json(what: str, results: Sequence[ActionsResult]) -> dict[str, Any]:
    return {"what": what, "results": [asdict(each) for each in results]}
