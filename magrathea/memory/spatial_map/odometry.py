"""How a picture of tokens moves when one moves: found in recorded steps, without being told where one stands.

A motion says where on the old picture each cell of the new one was: turned by quarters about the picture's corner, then
shifted. V tokens, C cells of the picture, M motions (motion 0 is to stay), A actions; cells are counted row by row.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from magrathea.errors import MagratheaError

ALIKE, UNLIKE = 0.5, -1.5  # nats for a cell that shows the same token again, or another, before it is known better
LEAST_SURE = 100  # steps whose motion is expected with certainty
EXPECTED = 2.0  # nats by which a motion must be likelier than the others to be expected with certainty
WITNESSES = 2  # cells that tell together whether one will move: what is ahead, and whether one is awake
WAY_SMOOTHING = 2.0  # sightings of the usual odds
TRUST = 0.15  # cells are not independent witnesses
SMOOTHING = 20.0  # sightings of a token that its chances are mixed with
LEAST_OVERLAP = 0.25  # share of the picture that a motion must keep in view
MOST_SHIFT = 2  # cells, for motions that do not turn
MOST_MOTIONS = 24  # looked at; those that no action makes are dropped
LEAST_SHARE = 0.03  # of the steps, for a motion to be looked at
LEAST_CHANCE = 0.3  # that a motion must have under some action
CLEAR = 1.0  # nats by which the best motion must lead the second for a step to count

Pose = tuple[int, int, int]  # quarter turns, row and column of the picture's corner


@dataclass(frozen=True)
class Odometry:
    """What moves in the picture, and how.

    Attributes:
        grid: rows and columns of the picture.
        region: (C,) bool, the cells that show the place and not, for instance, an inventory.
        table: (M, 3) int64 quarter turns, rows, columns: (row, column) of the new picture was at
            turn(row, column) + (rows, columns) of the old one.
        log_prior: (A + 1, M) float32 log chance of each motion under each action; the last row is of no action.
        affinity: (V + 1, V + 1) float32, how much it speaks for a motion that a cell showed the first token and now
            shows the second: the log ratio of its chances along the right motion and along wrong ones. So an even
            meadow, or a dark that stays with the picture, speaks for none.
        ahead: (A + 1, W) int64 the cells that tell best whether an action moves one: what stands there may block it.
        way: (A + 1, W, V + 1) float32, by how much the tokens that are ahead raise the odds of moving: log ratios.
        sources: (M, C), see `sources_of`.
        moves: for each quarter that one is turned by and each motion, the quarters, rows and columns that it goes.
    """

    grid: tuple[int, int]
    region: np.ndarray
    table: np.ndarray
    log_prior: np.ndarray
    affinity: np.ndarray
    ahead: np.ndarray
    way: np.ndarray
    sources: np.ndarray = field(init=False, repr=False)
    moves: list[list[list[int]]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        quarters, table = np.arange(4)[:, None], self.table
        moves = np.stack([np.broadcast_to(table[:, 0], (4, len(table))), *turned(quarters, *table[:, 1:].T)], axis=-1)
        object.__setattr__(self, "moves", moves.tolist())
        num_actions, num_tokens = len(self.log_prior), len(self.affinity)
        object.__setattr__(self, "ahead", self.ahead.reshape(num_actions, -1))  # there was one witness once
        object.__setattr__(self, "way", self.way.reshape(num_actions, -1, num_tokens))
        object.__setattr__(self, "sources", sources_of(self.table, self.grid, self.region))

    @property
    def intended(self) -> np.ndarray:
        """(A + 1,) the motion that each action makes when nothing stands in the way."""
        moves = np.exp(self.log_prior) * (np.arange(len(self.table)) > 0)
        moves[-1] = 0
        return np.where(moves.max(axis=1) > LEAST_CHANCE, moves.argmax(axis=1), 0)

    def moved(self, pose: Pose, motion: int) -> Pose:
        """The pose that a motion leads to."""
        turn, rows, columns = self.moves[pose[0]][motion]
        return (pose[0] + turn) % 4, pose[1] + rows, pose[2] + columns

    def expected(self, before: np.ndarray, action: np.ndarray) -> np.ndarray:
        """How likely each motion is (S, M), in nats, of one who sees pictures (S, C) and takes actions (S,)."""
        action = np.minimum(action, len(self.log_prior) - 1)
        scores = self.log_prior[action].copy()
        ahead = np.take_along_axis(before, self.ahead[action], axis=1)
        scores[:, 1:] += self.way[action[:, None], np.arange(ahead.shape[1]), ahead].sum(axis=1, keepdims=True)
        return scores

    def foretell(self, before: np.ndarray, action: np.ndarray) -> np.ndarray:
        """The motion (S,) that actions (S,) will make of what pictures (S, C) show; none of an unknown action."""
        return np.where(self.intended[action] > 0, self.expected(before, action).argmax(axis=1), 0)

    def scores(self, before: np.ndarray, after: np.ndarray, action: np.ndarray) -> np.ndarray:
        """How likely each motion is (S, M), in nats, from pictures (S, C) to pictures (S, C) under actions (S,)."""
        expected = before[:, np.maximum(self.sources, 0)]  # (S, M, C)
        evidence = np.where(self.sources >= 0, self.affinity[expected, after[:, None]], 0).sum(axis=2)
        return TRUST * evidence + self.expected(before, action)

    def follow(self, before: np.ndarray, after: np.ndarray, action: np.ndarray) -> np.ndarray:
        """The likeliest motion (S,)."""
        return self.scores(before, after, action).argmax(axis=1)


def sources_of(table: np.ndarray, grid: tuple[int, int], region: np.ndarray) -> np.ndarray:
    """(M, C) int64: the old picture's cell that each cell of the new one shows; -1 where it was not in the region."""
    rows, columns = (index.reshape(-1) for index in np.indices(grid))
    old_rows, old_columns = turned(table[:, :1], rows, columns)
    old_rows, old_columns = old_rows + table[:, 1:2], old_columns + table[:, 2:3]
    inside = (old_rows >= 0) & (old_rows < grid[0]) & (old_columns >= 0) & (old_columns < grid[1])
    sources = np.where(inside, old_rows * grid[1] + old_columns, 0)
    return np.where(inside & region[sources] & region, sources, -1)


def turned(quarters: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns turned by quarters about (0, 0)."""
    cos, sin = np.array([1, 0, -1, 0])[quarters % 4], np.array([0, 1, 0, -1])[quarters % 4]
    return cos * rows - sin * columns, sin * rows + cos * columns


def fit_odometry(
    before: np.ndarray, after: np.ndarray, action: np.ndarray, grid: tuple[int, int], num_tokens: int, num_actions: int
) -> Odometry:
    """Find the motions between pictures before (S, C) and after (S, C) actions (S,), where num_actions means none.

    Raises MagratheaError if the picture has too few cells to tell.
    """
    if min(grid) < 3 or not len(before):
        raise MagratheaError(f"A picture of {grid[0]}x{grid[1]} tokens is too small to see how one moves in it.")
    affinity = np.full((num_tokens + 1, num_tokens + 1), UNLIKE, np.float32)
    np.fill_diagonal(affinity, ALIKE)
    pairs = Pairs(before, after, action)
    anything = np.ones(before.shape[1], bool)
    motions = Odometry(
        grid,
        anything,
        _candidates(grid),
        np.zeros((num_actions + 1, 1), np.float32),
        affinity,
        np.zeros((num_actions + 1, WITNESSES), np.int64),
        np.zeros((num_actions + 1, WITNESSES, num_tokens + 1), np.float32),
    )
    motions = _with_region(_with_frequent(motions, pairs.some(1500)), pairs)
    for _ in range(2):
        motions = _with_affinity(_with_chances(motions, pairs), pairs)
        motions = _with_way(_with_region(motions, pairs), pairs)
    return _with_chances(motions, pairs)


@dataclass(frozen=True)
class Pairs:
    """Pictures before (S, C) and after (S, C) actions (S,)."""

    before: np.ndarray
    after: np.ndarray
    action: np.ndarray

    def some(self, num: int) -> Pairs:
        chosen = np.random.default_rng(0).permutation(len(self.action))[:num]
        return Pairs(self.before[chosen], self.after[chosen], self.action[chosen])

    def scores(self, motions: Odometry) -> np.ndarray:
        """(S, M), a few steps at a time: the whole would not fit."""
        parts = np.array_split(np.arange(len(self.action)), max(1, len(self.action) * len(motions.table) // 20_000))
        return np.concatenate([motions.scores(self.before[p], self.after[p], self.action[p]) for p in parts])

    def carried(self, motions: Odometry, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(S, C) what each cell showed before, if the motions (S,) are right, and whether it was in the picture."""
        sources = motions.sources[chosen]
        return np.take_along_axis(self.before, np.maximum(sources, 0), axis=1), sources >= 0


def _candidates(grid: tuple[int, int]) -> np.ndarray:
    """(M, 3) every motion that keeps enough of the picture in view."""
    near = range(-MOST_SHIFT, MOST_SHIFT + 1)
    far = range(-2 * max(grid), 2 * max(grid) + 1)
    table = [(0, 0, 0)] + [(0, rows, columns) for rows in near for columns in near if (rows, columns) != (0, 0)]
    table += [(quarters, rows, columns) for quarters in (1, 2, 3) for rows in far for columns in far]
    overlap = (sources_of(np.array(table), grid, np.ones(grid[0] * grid[1], bool)) >= 0).mean(axis=1)
    return np.array(table)[overlap >= LEAST_OVERLAP]


def _with_frequent(motions: Odometry, pairs: Pairs) -> Odometry:
    """Only the motions that explain most steps best; the most frequent first, after staying."""
    scores = pairs.scores(motions)
    scores[:, 0] += 1e-3  # nothing is seen to move: stay
    counts = np.bincount(scores.argmax(axis=1), minlength=len(motions.table))
    counts[0] = len(pairs.action) + 1
    order = (-counts).argsort(kind="stable")[:MOST_MOTIONS]
    kept = order[counts[order] >= 0.1 * LEAST_SHARE * len(pairs.action)]
    return replace(motions, table=motions.table[kept], log_prior=motions.log_prior[:, [0] * len(kept)])


def _with_chances(motions: Odometry, pairs: Pairs) -> Odometry:
    """Each action's chances of the motions, by expectation maximization over the steps that tell them apart; without
    the motions that no action makes."""
    num_actions = len(motions.log_prior)
    flat = replace(motions, log_prior=np.zeros_like(motions.log_prior))
    evidence, log_prior = pairs.scores(flat), flat.log_prior
    for _ in range(5):
        scores = evidence + log_prior[pairs.action]
        clear = leads(scores) > CLEAR
        counts = np.full((num_actions, len(motions.table)), 0.5)
        counts[:, 0] += 2
        np.add.at(counts, (pairs.action[clear], scores[clear].argmax(axis=1)), 1.0)
        counts[-1] = counts.sum(axis=0)
        chances = counts / counts.sum(axis=1, keepdims=True)
        log_prior = np.log(chances).astype(np.float32)
    made = (chances.max(axis=0) > LEAST_CHANCE) & (chances[-1] > LEAST_SHARE)
    made[0] = True
    if made.all():
        return replace(motions, log_prior=log_prior)
    return _with_chances(replace(motions, table=motions.table[made], log_prior=log_prior[:, made]), pairs)


def _with_region(motions: Odometry, pairs: Pairs) -> Odometry:
    """The cells that go with the motion more often than they stay, seen from the region so far."""
    chosen = pairs.scores(motions).argmax(axis=1)
    everywhere = replace(motions, region=np.ones_like(motions.region))
    expected, known = pairs.carried(everywhere, chosen)
    known &= motions.region[np.maximum(everywhere.sources[chosen], 0)] & (chosen > 0)[:, None]
    goes, stays = expected == pairs.after, pairs.before == pairs.after
    votes = (known & goes & ~stays).sum(axis=0) - (known & stays & ~goes).sum(axis=0)
    untold = ~known.any(axis=0)  # at the far edge, where all that comes is new
    return replace(motions, region=(votes > 0) | untold) if (votes > 0).any() else motions


def _with_affinity(motions: Odometry, pairs: Pairs) -> Odometry:
    """What a cell that showed one token shows next, and what the cells beside it show; from the steps whose motion is
    clear before one has looked. (A dark that stays with the picture would else speak for staying.)"""
    expected = motions.expected(pairs.before, pairs.action)
    chosen, sure = expected.argmax(axis=1), leads(expected) > EXPECTED
    if sure.sum() < LEAST_SURE:
        chosen = pairs.scores(motions).argmax(axis=1)
        sure = chosen == 0
    pairs, chosen = Pairs(pairs.before[sure], pairs.after[sure], pairs.action[sure]), chosen[sure]
    right, wrong = np.zeros_like(motions.affinity), np.zeros_like(motions.affinity)
    for index in range(len(motions.table)):
        expected, known = pairs.carried(motions, np.full(len(pairs.action), index))
        for counts, which in ((right, chosen == index), (wrong, chosen != index)):
            np.add.at(counts, (expected[which][known[which]], pairs.after[which][known[which]]), 1.0)
    usual = (right + wrong).sum(axis=0, keepdims=True) + 1.0
    right, wrong = (
        (counts + SMOOTHING * usual / usual.sum()) / (counts.sum(axis=1, keepdims=True) + SMOOTHING)
        for counts in (right, wrong)
    )
    return replace(motions, affinity=np.log(right / wrong).astype(np.float32))


def leads(scores: np.ndarray) -> np.ndarray:
    """By how much the best of the motions (S, M) leads the second."""
    second, best = np.partition(np.pad(scores, ((0, 0), (0, 1)), constant_values=-np.inf), -2, axis=1)[:, -2:].T
    return best - second


def _with_way(motions: Odometry, pairs: Pairs) -> Odometry:
    """For each action that moves, the cells whose tokens tell best whether it did, and how much; from the steps that
    tell by themselves."""
    flat = replace(motions, log_prior=np.zeros_like(motions.log_prior), way=np.zeros_like(motions.way))
    scores = pairs.scores(flat)
    lead = scores[:, 1:].max(axis=1, initial=-np.inf) - scores[:, 0]
    ahead, way = np.zeros_like(motions.ahead), np.zeros_like(motions.way)
    for action in np.flatnonzero(motions.intended):
        chosen = (pairs.action == action) & (np.abs(lead) > CLEAR)
        ahead[action], way[action] = _best_witnesses(pairs.before[chosen], lead[chosen] > 0, way.shape[2])
    return replace(motions, ahead=ahead, way=way)


def _best_witnesses(pictures: np.ndarray, moved: np.ndarray, num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Of pictures (S, C) after which one moved (S,) or did not: the cells (W,) whose tokens tell most of it, each
    beside those before it, and by how much each token raises the log odds (W, num_tokens): an additive model, fitted
    one after the other (Friedman, Hastie & Tibshirani 2000, "Additive logistic regression")."""
    usual = (moved.sum() + 1) / (len(moved) + 2)
    smoothing = WAY_SMOOTHING * np.array([1 - usual, usual])
    odds = np.full(len(moved), np.log(usual / (1 - usual)))
    ahead, way = np.zeros(WITNESSES, np.int64), np.zeros((WITNESSES, num_tokens), np.float32)
    cells = np.arange(pictures.shape[1])
    for witness in range(WITNESSES):
        chance = 1 / (1 + np.exp(-odds))
        seen, expected = np.zeros((2, len(cells), num_tokens, 2))
        for made, counts in ((0, 1 - chance), (1, chance)):
            np.add.at(seen[..., made], (cells, pictures[moved == made]), 1.0)
            np.add.at(expected[..., made], (cells, pictures), counts[:, None])
        seen, expected = seen + smoothing, expected + smoothing
        raised = np.log(seen[..., 1] / seen[..., 0]) - np.log(expected[..., 1] / expected[..., 0])
        odds_by_cell = odds[:, None] + raised[cells, pictures]
        feature_proj = -np.logaddexp(0, np.where(moved[:, None], -odds_by_cell, odds_by_cell)).sum(axis=0)
        ahead[witness] = feature_proj.argmax()
        way[witness] = raised[ahead[witness]]
        odds = odds_by_cell[:, ahead[witness]]
    return ahead, way
