"""Drift of long dreams: segments of dreams at high ages, compared with segments of recordings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from magrathea.data import Dataset
from magrathea.evaluate.images import write_contact_sheet
from magrathea.evaluate.recordings import Budget, Options, Recording, Subject, other_episodes
from magrathea.evaluate.report import drift_headlines, write_drift_page
from magrathea.evaluate.results import DriftMeasures, DriftResult, Figure, Sources, write_result
from magrathea.evaluate.rollouts import choose_starts, recent_steps
from magrathea.evaluate.slots import comparable, picture_slot, pictures_of
from magrathea.evaluate.statistics import Tally, difference_of_ratios, figure, finite, ratio_of_ratios
from magrathea.layout import Slot
from magrathea.progress import Stages
from magrathea.sampler import derive_seed
from magrathea.session import Session
from magrathea.spaces import index_batch
from magrathea.world import World

AGES = (50, 100, 200, 500, 1000, 2000)
SEGMENT = 50  # steps
REWIND = 16  # steps that a dream is rewound when it has ended
MAX_EXTRA = 1.5  # steps that a dream may take, as a multiple of those wanted
MAX_DREAMS = 16  # in one batch
NUM_SHOWN = 6  # dreams on the contact sheet
NUM_REAL = 128  # segments of recordings
NUM_DRAWS = 40  # draws of as many real segments as there are dreams
KNOWN_STEPS = 40_000
SOME = slice(None, None, 50)  # steps whose values are read: there are many in a step
SHARES = {"known": 0.15, "dreams": 0.75}  # of the time that is left when each begins
CHANGE, IMPOSSIBLE, DISTANCE = "pictures that change", "impossible neighbours", "histogram distance"

Segment = tuple[int, np.ndarray]  # index of the dream or recording, tokens (1 + S, N) of the step before and S steps


def evaluate_drift(
    world: str | Path | World, dataset: str | Path | Dataset, out: str | Path, options: Options
) -> DriftResult:
    """Measure how dreams of 2,000 steps drift; write `drift.json`, `drift.html` and a contact sheet.

    The arguments are those of `evaluate`; there are at most 16 dreams, and with `minutes` they may be shorter.
    """
    out, seed = Path(out), options.seed
    with Stages() as stages:
        stages.begin("reading held-out episodes")
        subject = Subject(world, dataset, options)
        world, recordings, budget = subject.world, subject.recordings, subject.budget
        stages.begin("long dreams")
        known = KnownTokens.of(subject, budget.part(SHARES["known"]))
        num_dreams = min(options.num_dreams, MAX_DREAMS)
        starts = choose_starts(recordings, world.config.model.window, SEGMENT, num_dreams, seed)
        dreams, endings = dream_on(world, recordings, starts, max(AGES), budget.part(SHARES["dreams"]), seed)
        measured = describe_drift(world, recordings, dreams, known, endings=endings, seed=seed)
    result = DriftResult(about=subject.about(), headlines=drift_headlines(measured), drift=measured)
    out.mkdir(parents=True, exist_ok=True)
    write_result(out / "drift.json", result)
    if picture_slot(world) is not None:
        _write_contact_sheet(out / "long-dreams.png", world, recordings, dreams, [1, *map(int, measured.ages)])
    write_drift_page(out, result)
    return result


def dream_on(
    world: World,
    recordings: list[Recording],
    starts: list[tuple[int, int]],
    num_steps: int,
    budget: Budget,
    seed: int = 0,
) -> tuple[list[np.ndarray], int]:
    """Dream from each start (recording, last real step) by the actions of recordings drawn at random, one after the
    other. The actions do not depend on the dream, so what changes with its age is the world and not its policy.

    Returns the dreams' tokens (W + T, N), of W real steps first, and how often all of them together ended.

    A dream that ends is rewound by 16 steps and continues with another seed; by twice as many each time that it has
    come no further. So segments at a high age are of dreams that survived so long. A dream may be shorter than
    asked for, where the budget is spent or too many steps were rewound.
    """
    context = torch.from_numpy(recent_steps(recordings, starts, world.config.model.window))
    session = Session(world, batch_size=len(starts), seed=seed, start=context)
    actions = _recorded_actions(world, recordings, len(starts), seed)
    furthest, back = np.zeros(len(starts), dtype=int), np.full(len(starts), REWIND)
    num_endings = 0
    for step in itertools.count(1):
        ended = session.step(next(actions)).terminated
        if ended.any():
            age = session.num_steps
            back = np.where(ended, np.where(age > furthest + REWIND, REWIND, np.minimum(2 * back, num_steps)), back)
            furthest = np.where(ended, np.maximum(age, furthest), furthest)
            session = _rewind(session, np.where(ended, np.minimum(back, age), 0))
            num_endings += int(ended.sum())
        wanted = SEGMENT if budget.spent() else num_steps
        if session.num_steps.min() >= wanted or step >= MAX_EXTRA * wanted:
            break
    length = world.config.model.window + num_steps
    return [session.log_of(index, 0, length)["tokens"] for index in range(len(starts))], num_endings


def _recorded_actions(world: World, recordings: list[Recording], num_dreams: int, seed: int) -> Iterator[np.ndarray]:
    """The actions (B, *shape) for B dreams, each going through the recordings in an order of its own."""
    rng = np.random.default_rng(seed)
    orders = [itertools.cycle(rng.permutation(len(recordings)).tolist()) for _ in range(num_dreams)]
    steps = [(step for index in order for step in recordings[index].tokens[1:]) for order in orders]
    while True:
        yield world.decode_action(torch.from_numpy(np.stack([next(each) for each in steps])))


def _rewind(session: Session, num_steps: np.ndarray) -> Session:
    """Rewind each dream by some steps (B,); those that are rewound get another seed."""
    session.rewind(num_steps.tolist())
    seeds = [derive_seed(own, "episode") if back else own for own, back in zip(session.seeds, num_steps, strict=True)]
    return session.fork_batch(range(session.batch_size), seeds)


@dataclass
class KnownTokens:
    """The tokens that recordings of the training show.

    Attributes:
        slot: of the observation, whose tokens are described; that of the values where tokens have some.
        frequencies: (V + 1,) of its tokens.
        neighbours: for tokens side by side and one above the other, the sorted numbers of the pairs that occur.
        num_steps: recorded steps that were read.
    """

    slot: Slot
    frequencies: np.ndarray
    neighbours: list[np.ndarray]
    num_steps: int

    @classmethod
    def of(cls, subject: Subject, budget: Budget) -> KnownTokens:
        """From other episodes than those measured on, as many as make 40,000 steps or fit the budget, one at least."""
        world, frames, num_steps = subject.world, [], 0
        slot = picture_slot(world) or world.layout.of_role("observation")[0]
        slot = world.layout.values_slots.get(slot.name, slot)
        for number in other_episodes(world, subject.dataset, subject.recordings):
            observation = subject.dataset.episode(number).observation
            tokens = world.encode(None, observation if slot.values_of is None else index_batch(observation, SOME))
            frames.append(tokens[:, world.layout.span(slot.name)].numpy())
            num_steps += len(tokens)
            if num_steps >= KNOWN_STEPS or budget.spent():
                break
        tokens = np.concatenate(frames)
        neighbours = [np.unique(pairs) for pairs in _pairs(tokens, slot)] if slot.values_of is None else []
        return cls(slot, histogram(tokens, slot.vocab_size), neighbours, num_steps)

    def impossible(self, tokens: np.ndarray) -> np.ndarray:
        """tokens (…, those of the slot) -> (…, pairs of neighbours) True where no recording shows the pair."""
        pairs = zip(_pairs(tokens, self.slot), self.neighbours, strict=True)
        return np.concatenate([~np.isin(now, known) for now, known in pairs], axis=-1)

    def distance(self, tokens: np.ndarray) -> float:
        """Total variation distance, in [0, 1], of the histogram of tokens (any shape) from the recordings'."""
        return float(np.abs(histogram(tokens, self.slot.vocab_size) - self.frequencies).sum() / 2)


def histogram(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """tokens (any shape) in [0, vocab_size] -> (vocab_size + 1,) relative frequencies."""
    counts = np.bincount(tokens.reshape(-1).astype(np.int64), minlength=vocab_size + 1).astype(np.float64)
    return counts / max(counts.sum(), 1.0)


def _pairs(tokens: np.ndarray, slot: Slot) -> list[np.ndarray]:
    """tokens (…, those of the slot) -> numbers of the pairs of tokens side by side (…, M), and above each other."""
    grid = tokens.reshape(*tokens.shape[:-1], *slot.grid).astype(np.int64)
    ends = [(grid[..., :, :-1], grid[..., :, 1:]), (grid[..., :-1, :], grid[..., 1:, :])]
    return [(one * (slot.vocab_size + 1) + other).reshape(*tokens.shape[:-1], -1) for one, other in ends]


def describe_drift(
    world: World,
    recordings: list[Recording],
    dreams: list[np.ndarray],
    known: KnownTokens,
    ages: Sequence[int] = AGES,
    *,
    endings: int = 0,
    seed: int = 0,
) -> DriftMeasures:
    """Describe the 50 steps up to each age, of the dreams (W + T, N) that have come so far, and segments of recordings;
    intervals are over dreams and over recordings. `endings` is how often all dreams together ended."""
    window, tallies, counts, measured = world.config.model.window, {}, {}, {}
    for age in map(str, ages):
        end = window + int(age)
        segments = [(i, tokens[end - SEGMENT - 1 : end]) for i, tokens in enumerate(dreams) if len(tokens) >= end]
        if segments:
            counts[age], tallies[age] = len(segments), _tally(world, segments, known, len(dreams))
            distance = Figure(finite(known.distance(_shown(world, segments, known))), count=len(segments))
            measured[age] = tallies[age].nested() | {DISTANCE: distance}
    starts = choose_starts(recordings, window, SEGMENT, NUM_REAL, seed)
    real = [(index, recordings[index].tokens[step : step + SEGMENT + 1]) for index, step in starts]
    figures = _tally(world, real, known, len(recordings)).nested()
    figures[DISTANCE] = _distance_by_chance(world, real, known, min(len(dreams), len(real)), seed)
    num_steps = sum(len(tokens) - window for tokens in dreams)
    first, *_, last = measured if len(measured) > 1 else (None, None)
    return DriftMeasures(
        slot=known.slot.name,
        known_steps=known.num_steps,
        dreams=counts,
        ages=measured,
        recordings=figures,
        first=first,
        last=last,
        change={} if first is None else _change(tallies[first], tallies[last]),
        endings=round(1000 * endings / max(1, num_steps), 2),
    )


def _tally(world: World, segments: Sequence[Segment], known: KnownTokens, num_sources: int) -> Tally:
    """What single steps tell, by dream or recording."""
    tally, seen, span = Tally(num_sources), comparable(world.layout), world.layout.span(known.slot.name)
    for source, tokens in segments:
        tally.add_mean(CHANGE, [source], (tokens[1:] != tokens[:-1])[None, :, seen].any(-1))
        if known.neighbours:
            tally.add_mean(IMPOSSIBLE, [source], known.impossible(tokens[None, 1:, span]))
    return tally


def _shown(world: World, segments: Sequence[Segment], known: KnownTokens) -> np.ndarray:
    """The described slot's tokens (S, those of the slot) of all segments."""
    return np.concatenate([tokens[1:, world.layout.span(known.slot.name)] for _, tokens in segments])


def _distance_by_chance(
    world: World, segments: Sequence[Segment], known: KnownTokens, number: int, seed: int
) -> Figure:
    """Median and 95% range of the histogram distance of so many real segments."""
    rng = np.random.default_rng(seed)
    draws = [rng.choice(len(segments), number, replace=False) for _ in range(NUM_DRAWS)]
    drawn = [known.distance(_shown(world, [segments[index] for index in chosen], known)) for chosen in draws]
    low, value, high = map(finite, np.quantile(drawn, (0.025, 0.5, 0.975)))
    return Figure(value, low, high, count=number)


def _change(first: Tally, last: Tally) -> Sources:
    """From the first age to the last, over the dreams that came so far."""
    result = {}
    for name, statistic in ((CHANGE, ratio_of_ratios), (IMPOSSIBLE, difference_of_ratios)):
        if name not in last:
            continue
        late = last.statistics(name)
        both = np.concatenate([late, first.statistics(name)], axis=1)
        result[name] = figure(both[late[:, 1] > 0], statistic)
    return result


def _write_contact_sheet(
    path: Path, world: World, recordings: list[Recording], dreams: list[np.ndarray], ages: list[int]
) -> None:
    """Dreams at some ages, and above them moments of recordings."""
    slot, window = picture_slot(world), world.config.model.window
    assert slot is not None
    longest = sorted(recordings, key=lambda recording: -len(recording.tokens))[: len(ages)]
    real = [recording.tokens[len(recording.tokens) // 2] for recording in longest]
    rows = [("real", list(pictures_of(world, slot, np.stack(real))))]
    for index, dream in enumerate(dreams[:NUM_SHOWN]):
        steps = [dream[window + age - 1] for age in ages if window + age <= len(dream)]
        if steps:
            rows.append((f"dream {index + 1}", list(pictures_of(world, slot, np.stack(steps).astype(np.int64)))))
    write_contact_sheet(path, [f"step {age}" for age in ages], rows)
