"""Do long dreams stay themselves? Pieces of dreams at great ages beside pieces of recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from magrathea import masks
from magrathea.data import Dataset
from magrathea.evaluate.forcing import SegmentBatch
from magrathea.evaluate.long_dreams import PIECE, dream_on, pieces_of
from magrathea.evaluate.pictures import histogram, jensen_shannon, perplexity, sharpness, total_variation
from magrathea.evaluate.recordings import Budget, Lived, Recording, other_episodes
from magrathea.evaluate.rollouts import choose_starts
from magrathea.evaluate.slots import action_scores, picture_slot, pictures_of, role_span
from magrathea.evaluate.statistics import Tally, figure, finite, ratio, spread
from magrathea.layout import Slot
from magrathea.world import World

AGES = (50, 100, 200, 500, 1000, 2000)
NUM_REAL = 128  # pieces of recordings
NUM_CHANCES = 40  # draws of as many real pieces as there are dreams
KNOWN_STEPS = 40_000
BATCH_SIZE = 8
SHARES = {"known": 0.15, "dreams": 0.75}  # of the time that is left when each begins
CONTROL, IMPOSSIBLE = "controllability", "impossible neighbours"


def measure_drift(
    world: World,
    source: Dataset,
    recordings: list[Recording],
    budget: Budget,
    *,
    num_dreams: int = 16,
    ages: Sequence[int] = AGES,
    seed: int = 0,
) -> tuple[dict[str, Any], list[Lived]]:
    """Dream on from held-out moments and describe the 50 steps that lead up to each age, beside real ones.

    Returns what `describe_drift` does, with the number of "endings" in a thousand steps, and the dreams.
    """
    known = Known.of(world, source, other_episodes(world, source, recordings), budget.part(SHARES["known"]))
    starts = choose_starts(recordings, world.config.model.window, PIECE, num_dreams, seed)
    dreams, num_endings = dream_on(world, recordings, starts, max(ages), budget.part(SHARES["dreams"]), seed)
    num_steps = sum(len(dream.tokens) - world.config.model.window for dream in dreams)
    measured = describe_drift(world, recordings, dreams, known, ages, seed)
    return measured | {"endings in 1,000 steps": round(1000 * num_endings / max(1, num_steps), 2)}, dreams


@dataclass
class Known:
    """What recordings of the training show.

    Attributes:
        slot: of the observation, whose tokens are looked at.
        frequencies: (V + 1,) of its tokens.
        neighbours: for tokens side by side and one above the other, the sorted numbers of the pairs that occur.
        num_steps: steps that were looked at.
    """

    slot: Slot
    frequencies: np.ndarray
    neighbours: list[np.ndarray]
    num_steps: int

    @classmethod
    def of(cls, world: World, source: Dataset, numbers: list[int], budget: Budget) -> Known:
        """From these episodes of a dataset, as many as make 40,000 steps or fit the budget, one at least."""
        slot = picture_slot(world) or world.layout.of_role("observation")[0]
        span, frames, num_steps = world.layout.span(slot.name), [], 0
        for number in numbers:
            episode = source.episode(number)
            frames.append(world.encode(None, episode.observation)[:, span].numpy())
            num_steps += len(frames[-1])
            if num_steps >= KNOWN_STEPS or budget.spent():
                break
        everything = np.concatenate(frames)
        neighbours = [np.unique(pairs) for pairs in _pairs(everything, slot)]
        return cls(slot, histogram(everything, slot.vocab_size), neighbours, num_steps)

    def impossible(self, tokens: np.ndarray) -> np.ndarray:
        """tokens (…, those of the slot) -> (…, pairs of neighbours) True where no recording shows the pair."""
        pairs = zip(_pairs(tokens, self.slot), self.neighbours, strict=True)
        return np.concatenate([~np.isin(now, known) for now, known in pairs], axis=-1)


def _pairs(tokens: np.ndarray, slot: Slot) -> list[np.ndarray]:
    """tokens (…, those of the slot) -> numbers of the pairs of tokens side by side (…, M), and above each other."""
    grid = tokens.reshape(*tokens.shape[:-1], *slot.grid).astype(np.int64)
    ends = [(grid[..., :, :-1], grid[..., :, 1:]), (grid[..., :-1, :], grid[..., 1:, :])]
    return [(one * (slot.vocab_size + 1) + other).reshape(*tokens.shape[:-1], -1) for one, other in ends]


def describe_drift(
    world: World,
    recordings: list[Recording],
    dreams: list[Lived],
    known: Known,
    ages: Sequence[int] = AGES,
    seed: int = 0,
) -> dict[str, Any]:
    """Figures of the 50 steps up to each age, of the dreams that have come so far; intervals are over dreams.

    Returns "ages": age -> figures; "real": the same of recordings; "kept": from the first age to the last, the quotient
    of the controllabilities and the growth of impossible neighbours, each in the same dreams.
    """
    window, tallies, result = world.config.model.window, {}, {}
    for age in ages:
        old = [(row, window + age - PIECE - 1) for row, life in enumerate(dreams) if len(life.tokens) >= window + age]
        if old:
            pieces = pieces_of(world, dreams, old)
            tallies[age] = _tally(world, pieces, known, len(dreams))
            result[str(age)] = {"dreams": len(old)} | _figures(tallies[age]) | _distances(pieces, world, known)
    starts = choose_starts(recordings, window, PIECE, NUM_REAL, seed)
    real = pieces_of(world, recordings, starts)
    figures = _figures(_tally(world, real, known, len(recordings))) | _distances(real, world, known)
    figures |= _chances(real, world, known, min(len(dreams), len(starts)), seed)
    about = {"slot": known.slot.name, "known steps": known.num_steps, "piece": PIECE}
    return about | {"ages": result, "real": figures, "kept": _kept(tallies)}


def _tally(world: World, pieces: SegmentBatch, known: Known, num_sources: int) -> Tally:
    """What can be summed over steps."""
    layout, tally = world.layout, Tally(num_sources)
    inverse, forward = masks.inverse_dynamics(layout), masks.forward_dynamics(layout)
    seen, span = role_span(layout, "observation"), layout.span(known.slot.name)
    tokens = pieces.tokens.numpy()
    changed = (tokens[:, pieces.first :, seen] != tokens[:, pieces.first - 1 : -1, seen]).any(-1)
    tally.add_mean("pictures that change", pieces.episodes, changed, pieces.valid)
    impossible = known.impossible(tokens[:, pieces.first :, span])
    tally.add_mean(IMPOSSIBLE, pieces.episodes, impossible, np.broadcast_to(pieces.valid[..., None], impossible.shape))
    for begin in range(0, len(tokens), BATCH_SIZE):
        rows = slice(begin, begin + BATCH_SIZE)
        part = pieces.of(rows)
        sources, valid = part.episodes, part.valid
        right, _ = action_scores(layout, part.predict(world, inverse), part.targets)
        tally.add_mean(CONTROL, sources, right, valid & changed[rows])
        logits = part.predict(world, forward)
        sure = [logits[slot.name].softmax(-1).amax(-1) for slot in layout.of_role("observation")]
        confidence = np.concatenate([part.cpu().numpy() for part in sure], axis=-1).mean(-1)
        tally.add_mean("confidence", sources, confidence, valid)
        if picture_slot(world) is not None:
            pictures = pictures_of(world, known.slot, tokens[rows, pieces.first :: 10])
            tally.add_mean("sharpness", sources, sharpness(pictures), valid[:, ::10])
    return tally


def _figures(tally: Tally) -> dict[str, Any]:
    return {name: tally.figure(name) for name in tally.names()}


def _distances(pieces: SegmentBatch, world: World, known: Known) -> dict[str, Any]:
    """What can be said only of all pieces together: their use of the codes, and of actions."""
    steps = pieces.targets.numpy()[pieces.valid]
    tokens = steps[:, world.layout.span(known.slot.name)]
    now = histogram(tokens, known.slot.vocab_size)
    _, counts = np.unique(steps[:, role_span(world.layout, "action")], axis=0, return_counts=True)
    return {
        "histogram distance": finite(total_variation(now, known.frequencies)),
        "divergence, bits": finite(jensen_shannon(now, known.frequencies)),
        "codes in use": finite(perplexity(now)),
        "different codes": int((now > 0).sum()),
        "commonest action": finite(counts.max() / counts.sum()),
    }


def _chances(pieces: SegmentBatch, world: World, known: Known, number: int, seed: int) -> dict[str, Any]:
    """The histogram distances of so many real pieces, with the range that holds 95% of draws of them."""
    span, rng = world.layout.span(known.slot.name), np.random.default_rng(seed)
    tokens, valid = pieces.targets.numpy()[..., span], pieces.valid
    drawn = []
    for _ in range(NUM_CHANCES):
        rows = rng.choice(len(tokens), number, replace=False)
        now = histogram(tokens[rows][valid[rows]], known.slot.vocab_size)
        drawn.append((total_variation(now, known.frequencies), jensen_shannon(now, known.frequencies)))
    result = {}
    for name, values in zip(("histogram distance", "divergence, bits"), zip(*drawn, strict=True), strict=True):
        low, value, high = spread(values, (0.025, 0.5, 0.975))
        result[name] = {"value": finite(value), "low": finite(low), "high": finite(high), "count": number}
    return result


def _kept(tallies: dict[int, Tally]) -> dict[str, Any]:
    """From the first age to the last one that dreams have come to."""
    if len(tallies) < 2:
        return {}
    first, last = min(tallies), max(tallies)
    statistics = {}
    for name in (CONTROL, IMPOSSIBLE):
        early, late = tallies[first].statistics(name), tallies[last].statistics(name)
        statistics[name] = np.concatenate([early, late], axis=1)[late[:, 1] > 0]
    return {
        "from": first,
        "to": last,
        CONTROL: figure(statistics[CONTROL], lambda sums: ratio(sums[..., 2:]) / ratio(sums[..., :2])),
        IMPOSSIBLE: figure(statistics[IMPOSSIBLE], lambda sums: ratio(sums[..., 2:]) - ratio(sums[..., :2])),
    }
