"""Any part of an observation from any one other part of the same step, by holes: against the training's mean, against
the nearest neighbour in the training's data, and against what the tokens can say at best."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optree
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from magrathea import masks
from magrathea.data import Dataset
from magrathea.errors import MagratheaError
from magrathea.evaluate.part_measures import PartMeasure, measure_for
from magrathea.evaluate.recordings import Options, Subject, other_episodes
from magrathea.evaluate.results import Figure
from magrathea.evaluate.slots import leaf_key
from magrathea.evaluate.statistics import Tally, figure
from magrathea.progress import Stages
from magrathea.spaces import index_batch, leaf_spaces_of
from magrathea.world import World

STEPS_PER_EPISODE = 16
MOST_TRAINING_STEPS = 50_000
NUM_AVERAGED = 8
NEAREST, WORLD = "nearest neighbour", "world"
GUESSES = ("mean", NEAREST, f"{NUM_AVERAGED} nearest", WORLD, "tokens alone")

Parts = dict[str, np.ndarray]  # by key its values (S, *shape)


@dataclass(frozen=True)
class Pair:
    """How well a part is told from another one.

    Attributes:
        source, target: keys of the parts.
        unit, higher_is_better: of the figures.
        figures: by guess, one of GUESSES: the best constant; the part of the training's step whose source is nearest;
            the mean of several such, where that can be better; the world's; the part itself, as its tokens decode.
        advantage: how much better the world is than the nearest neighbour, in the same unit.
    """

    source: str
    target: str
    unit: str
    higher_is_better: bool
    figures: dict[str, Figure]
    advantage: Figure


@dataclass(frozen=True)
class AnyToAnyResult:
    """What was measured of all ordered pairs of parts, on how many held-out steps and episodes, with neighbours among
    so many steps of the training."""

    num_steps: int = 0
    num_episodes: int = 0
    num_training_steps: int = 0
    pairs: list[Pair] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate_any_to_any(
    world: str | Path | World, dataset: str | Path | Dataset, options: Options, picture: Path | None = None
) -> AnyToAnyResult:
    """Measure every ordered pair of parts of a world's observations on held-out steps without a past. All holes are
    filled in one pass, so that each token is a guess from the source alone: with the likeliest one, or where the mean
    of several guesses can be better, as of pictures and numbers, with several draws.

    Args:
        world, dataset, options: as of `Subject`.
        picture: file to which one of the steps is drawn with what it is filled with.

    Raises:
        MagratheaError: for a world that observes one part only.
    """
    subject = Subject(world, dataset, options)
    keys = _parts_of(subject.world)
    with Stages() as stages:
        stages.begin("training's steps")
        neighbours = _Neighbours(subject.world, _training_parts(subject, keys))
        tally, num_steps = Tally(len(subject.recordings)), 0
        longest = max(len(recording.tokens) for recording in subject.recordings)
        num_rounds = min(STEPS_PER_EPISODE, longest)
        for number in range(num_rounds):
            stages.begin(f"round {number + 1} of {num_rounds}")
            episodes, observation = _held_out_steps(subject, number)
            _measure(subject.world, keys, neighbours, episodes, observation, options.seed, tally)
            num_steps += len(episodes)
            if subject.budget.spent():
                break
        if picture is not None:
            stages.begin("drawing a step")
            _draw(subject, keys, picture)
    pairs = [_pair(tally, neighbours.measures[target], source, target) for target in keys for source in keys]
    return AnyToAnyResult(
        num_steps, len(subject.recordings), neighbours.num_steps, [pair for pair in pairs if pair is not None]
    )


def _parts_of(world: World) -> list[str]:
    keys = [key for key, _ in leaf_spaces_of(world.observation_space)]
    if len(keys) < 2:
        raise MagratheaError(
            f"World '{world.metadata.get('name', '?')}' observes {world.observation_space}, which has no parts that "
            "could be told from each other; give a world whose observations are a Dict of several."
        )
    return keys


def _leaves(keys: list[str], observation: Any) -> Parts:
    return {key: np.asarray(leaf) for key, leaf in zip(keys, optree.tree_leaves(observation), strict=True)}


# -- steps ------------------------------------------------------------------------------------------------------------
def _held_out_steps(subject: Subject, number: int) -> tuple[np.ndarray, Any]:
    """The episodes (S,) of one more step of each, and the observations (S, *shape) there, drawn by the seed."""
    steps = []
    for index, recording in enumerate(subject.recordings):
        order = np.random.default_rng([subject.options.seed, recording.number]).permutation(len(recording.tokens))
        if number < len(order):
            steps.append((index, index_batch(recording.episode.observation, np.array([order[number]]))))
    episodes, observations = zip(*steps, strict=True)
    return np.array(episodes), optree.tree_map(lambda *parts: np.concatenate(parts), *observations)


def _training_parts(subject: Subject, keys: list[str]) -> Parts:
    """Every part in the steps of the training's episodes."""
    read, num = [], 0
    for number in other_episodes(subject.world, subject.dataset, subject.recordings):
        read.append(_leaves(keys, subject.dataset.episode(number).observation))
        num += len(read[-1][keys[0]])
        if num >= MOST_TRAINING_STEPS:
            break
    return {key: np.concatenate([parts[key] for parts in read]) for key in keys}


class _Neighbours:
    """The training's steps, among which those are found whose source is nearest."""

    def __init__(self, world: World, parts: Parts) -> None:
        self.parts, self.num_steps = parts, len(next(iter(parts.values())))
        spaces = dict(leaf_spaces_of(world.observation_space))
        self.measures: dict[str, PartMeasure] = {key: measure_for(spaces[key], parts[key]) for key in parts}
        self.features = {key: torch.from_numpy(self.measures[key].features(parts[key])) for key in parts}

    def nearest(self, source: str, values: np.ndarray) -> np.ndarray:
        """The steps (NUM_AVERAGED, S) whose sources are nearest to values (S, *shape), nearest first; of fewer all."""
        wanted = torch.from_numpy(self.measures[source].features(values))
        distances = torch.cdist(wanted, self.features[source])
        return distances.topk(min(NUM_AVERAGED, self.num_steps), dim=1, largest=False).indices.T.numpy()


# -- guesses ----------------------------------------------------------------------------------------------------------
def _measure(
    world: World,
    keys: list[str],
    neighbours: _Neighbours,
    episodes: np.ndarray,
    observation: Any,
    seed: int,
    tally: Tally,
) -> None:
    """Add the guesses of every part of observations (S, *shape) from every other to the tally."""
    real = _leaves(keys, observation)
    tokens = world.encode(None, observation)
    coded = _leaves(keys, world.decode_observation(tokens))
    for source in keys:
        likeliest = _leaves(keys, fill_from(world, tokens, source))
        draws = _leaves(keys, fill_from(world, tokens.repeat(NUM_AVERAGED, 1), source, temperature=1.0, seed=seed))
        nearest = neighbours.nearest(source, real[source])
        for target in (key for key in keys if key != source):
            measure, found = neighbours.measures[target], neighbours.parts[target]
            constant = np.broadcast_to(measure.constant, real[target].shape)
            guesses = dict.fromkeys(GUESSES) | {
                "mean": constant, NEAREST: found[nearest[0]], WORLD: likeliest[target], "tokens alone": coded[target],
            }  # fmt: skip
            if measure.averages:
                drawn = draws[target].reshape(NUM_AVERAGED, *real[target].shape)
                guesses |= {f"{NUM_AVERAGED} nearest": found[nearest].mean(0), WORLD: drawn.mean(0)}
            for name, guess in guesses.items():
                if guess is not None:
                    tally.add(f"{source} {target} {name}", episodes, *measure.sums(real[target], guess).T)


def fill_from(world: World, tokens: Int[Tensor, "S N"], source: str, *, temperature: float = 0.0, seed: int = 0) -> Any:
    """The observations (S, *shape) of single steps of which one part is known, that of the key `source`, and all
    others are filled in one pass; at temperature 0 with their likeliest tokens."""
    settings = replace(world.config.fill, order="one_shot", temperature=temperature)
    steps = torch.where(world.layout.mask_of("observation"), tokens, world.layout.absent_tokens)
    filled = world.fill(steps[:, None], all_but(world, source), seed=seed, settings=settings)
    return world.decode_observation(filled.tokens[:, 0])


def _draw(subject: Subject, keys: list[str], path: Path) -> None:
    from magrathea.evaluate.any_to_any_picture import draw_any_to_any

    world, (_, observations) = subject.world, _held_out_steps(subject, 0)
    first = index_batch(observations, slice(0, 1))
    tokens = world.encode(None, first)
    given = {source: fill_from(world, tokens, source) for source in keys}
    shown = {source: _leaves(keys, observation) for source, observation in given.items()}
    real = {key: leaf[0] for key, leaf in _leaves(keys, first).items()}
    filled = {source: {key: leaf[0] for key, leaf in parts.items()} for source, parts in shown.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_any_to_any(path, dict(leaf_spaces_of(world.observation_space)), real, filled)


def all_but(world: World, source: str) -> Bool[Tensor, " N"]:
    """True on an observation's tokens that are not of the part of this key."""
    hole_mask = masks.forward_dynamics(world.layout) & ~masks.judge(world.layout)
    for slot in world.layout.of_role("observation"):
        if leaf_key(world, slot) == source:
            hole_mask[world.layout.span(slot.name)] = False
    return hole_mask


# -- figures ----------------------------------------------------------------------------------------------------------
def _pair(tally: Tally, measure: PartMeasure, source: str, target: str) -> Pair | None:
    if source == target:
        return None
    names = {name: f"{source} {target} {name}" for name in GUESSES}
    sign = 1 if measure.higher_is_better else -1

    def advantage(sums: np.ndarray) -> np.ndarray:
        world, nearest = np.split(sums, 2, axis=-1)
        return sign * (measure.figure(world) - measure.figure(nearest))

    both = tally.statistics(names[WORLD], names[NEAREST])
    return Pair(
        source,
        target,
        measure.unit,
        measure.higher_is_better,
        {name: tally.figure(named, measure.figure) for name, named in names.items()},
        figure(both, advantage),
    )


def any_to_any_table(result: AnyToAnyResult) -> str:
    """The result as a table, a line for each pair; the better of world and nearest neighbour is bold where the interval
    of their difference leaves out 0."""
    lines = [
        f"{result.num_steps} steps of {result.num_episodes} held-out episodes; neighbours among "
        f"{result.num_training_steps:,} steps",
        "",
        f"| part | from | measure | {' | '.join(GUESSES)} | world better by |",
        "| --- | --- | --- |" + " ---: |" * (len(GUESSES) + 1),
    ]
    for pair in result.pairs:
        cells = {name: _number(found.value) for name, found in pair.figures.items()}
        low, high = pair.advantage.low, pair.advantage.high
        if low is not None and high is not None and (low > 0 or high < 0):
            better = WORLD if low > 0 else NEAREST
            cells[better] = f"**{cells[better]}**"
        better = "higher" if pair.higher_is_better else "lower"
        by = f"{_number(pair.advantage.value)} ({_number(low)} … {_number(high)})"
        lines.append(
            f"| {pair.target} | {pair.source} | {pair.unit}, {better} is better | {' | '.join(cells.values())} | {by} |"
        )
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}".replace("-0.00", "0.00")
