"""Fitting of the spatial map: the motions of the picture, and the tokens that are transient, from recorded steps.

S steps, C cells of the picture, M motions, A action tokens (the last stands for an unknown action), V picture tokens
(the last is the absent token), W predictor cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.layout import Layout
from magrathea.memory.spatial_map.map import AMBIGUITY_MARGIN, MapSpec
from magrathea.memory.spatial_map.odometry import MIN_ACTION_PROB, Odometry, find_source_cells, margins

MAX_FITTED_STEPS = 20_000
MIN_STILL_TOKENS = 0.5  # share of tokens that stay in a step, of a picture in which no motion is found

# Motions
MIN_OVERLAP = 0.25  # share of the picture that a candidate motion must keep in view
MAX_SHIFT = 2  # rows and columns of candidates without rotation
NUM_SAMPLED_STEPS = 1500  # that the candidates are tried on
MAX_MOTIONS = 24  # candidates that are kept; those that no action makes are dropped later
MIN_MOTION_SHARE = 0.03  # of the steps that a motion must explain
CLEAR_MARGIN = 1.0  # nats by which the best motion must lead the second for a step to count
NUM_ROUNDS = 2  # of fitting priors, evidence, region and predictor cells in turn

# Evidence of a pair of tokens
INITIAL_MATCH, INITIAL_MISMATCH = 0.5, -1.5  # nats for a cell that keeps its token, or changes it, before fitting
CERTAIN_MARGIN = 2.0  # nats by which a motion must lead before its result is seen to count as certain
MIN_CERTAIN_STEPS = 100
TOKEN_SMOOTHING = 20.0  # pseudo-counts of a token's frequencies

# Predictor cells
NUM_PREDICTOR_CELLS = 2
LOG_ODDS_SMOOTHING = 2.0  # pseudo-counts at the action's mean rate of moving

# Transient tokens
MIN_RETURNS = 0.85  # share of a token's appearances after which the token before it is there again
MAX_OVER_ONE_TOKEN = 0.95  # share of them over one token from which the two are states of one thing, such as a door
MIN_APPEARANCES = 20  # of a token between two others,
MIN_BETWEEN = 0.02  # and the share of all its appearances that they must be


@dataclass(frozen=True)
class StepPairs:
    """Pictures before and after actions."""

    before: Int[np.ndarray, "S C"]
    after: Int[np.ndarray, "S C"]
    actions: Int[np.ndarray, " S"]

    @classmethod
    def of(cls, layout: Layout, episodes: Sequence[Int[np.ndarray, "_ N"]]) -> StepPairs:
        """All pairs of adjacent steps of recorded episodes."""
        span, action = layout.span(layout.picture.name), layout.role_span("action").start
        return cls(
            np.concatenate([tokens[:-1, span] for tokens in episodes]),
            np.concatenate([tokens[1:, span] for tokens in episodes]),
            np.concatenate([tokens[1:, action] for tokens in episodes]),
        )

    def select(self, chosen: np.ndarray) -> StepPairs:
        """The pairs of these indices, or where a mask is True."""
        return StepPairs(self.before[chosen], self.after[chosen], self.actions[chosen])

    def scores(self, odometry: Odometry) -> Float[np.ndarray, "S M"]:
        """`Odometry.scores`, some steps at a time to save memory."""
        num_parts = max(1, len(self.actions) * len(odometry.motions) // 20_000)
        parts = np.array_split(np.arange(len(self.actions)), num_parts)
        return np.concatenate([odometry.scores(self.before[p], self.after[p], self.actions[p]) for p in parts])

    def carried(
        self, odometry: Odometry, motions: Int[np.ndarray, " S"]
    ) -> tuple[Int[np.ndarray, "S C"], Bool[np.ndarray, "S C"]]:
        """What each cell should show after these motions, and whether its source was in the picture."""
        sources = odometry.source_cells[motions]
        return np.take_along_axis(self.before, np.maximum(sources, 0), axis=1), sources >= 0


def fit_spatial_map(layout: Layout, episodes: Iterable[Int[Tensor, "_ N"]]) -> tuple[Odometry, Bool[np.ndarray, " V"]]:
    """The odometry and the transient tokens of a world, from recorded episodes.

    Raises:
        MagratheaError: where the layout has no picture or too small a one, or where it does not move by whole tokens.
    """
    slot, steps, count = layout.picture, [], 0
    for tokens in episodes:
        steps.append(tokens.numpy())
        count += len(tokens)
        if count >= MAX_FITTED_STEPS:
            break
    pairs = StepPairs.of(layout, steps)
    odometry = fit_odometry(pairs, slot.grid, slot.vocab_size, layout.of_role("action")[0].vocab_size)
    if len(odometry.motions) == 1 and (pairs.before == pairs.after).mean() < MIN_STILL_TOKENS:
        raise MagratheaError(
            "This picture changes, but not by whole tokens that move, as in a 3D view: the memory 'spatial_map' cannot "
            "tell its position; choose the memory 'window', or another that needs no position."
        )
    return odometry, find_transient_tokens(layout, odometry, steps)


# -- motions ----------------------------------------------------------------------------------------------------------
def fit_odometry(pairs: StepPairs, grid: tuple[int, int], num_tokens: int, num_actions: int) -> Odometry:
    """Find the motions between pictures of tokens 0…num_tokens (absent) under actions 0…num_actions (unknown).

    Raises:
        MagratheaError: for a picture with too few cells.
    """
    if min(grid) < 3 or not len(pairs.before):
        raise MagratheaError(
            f"A picture of {grid[0]}x{grid[1]} tokens is too small to find motions in; choose the memory 'window'."
        )
    match_log_ratio = np.full((num_tokens + 1, num_tokens + 1), INITIAL_MISMATCH, np.float32)
    np.fill_diagonal(match_log_ratio, INITIAL_MATCH)
    candidates = _candidate_motions(grid)
    odometry = Odometry(
        grid,
        np.ones(pairs.before.shape[1], bool),
        candidates,
        np.zeros((num_actions + 1, len(candidates)), np.float32),
        match_log_ratio,
        np.zeros((num_actions + 1, NUM_PREDICTOR_CELLS), np.int64),
        np.zeros((num_actions + 1, NUM_PREDICTOR_CELLS, num_tokens + 1), np.float32),
    )
    sample = np.random.default_rng(0).permutation(len(pairs.actions))[:NUM_SAMPLED_STEPS]
    odometry = _fit_region(_keep_frequent_motions(odometry, pairs.select(sample)), pairs)
    for _ in range(NUM_ROUNDS):
        odometry = _fit_match_log_ratio(_fit_log_prior(odometry, pairs), pairs)
        odometry = _fit_predictor_cells(_fit_region(odometry, pairs), pairs)
    return _fit_log_prior(odometry, pairs)


def _candidate_motions(grid: tuple[int, int]) -> Int[np.ndarray, "M 3"]:
    """Every motion that keeps enough of the picture in view; shifts without rotation only by a few cells."""
    near = range(-MAX_SHIFT, MAX_SHIFT + 1)
    far = range(-2 * max(grid), 2 * max(grid) + 1)
    motions = [(0, 0, 0)] + [(0, rows, columns) for rows in near for columns in near if (rows, columns) != (0, 0)]
    motions += [(quarters, rows, columns) for quarters in (1, 2, 3) for rows in far for columns in far]
    sources = find_source_cells(np.array(motions), grid, np.ones(grid[0] * grid[1], bool))
    return np.array(motions)[(sources >= 0).mean(axis=1) >= MIN_OVERLAP]


def _keep_frequent_motions(odometry: Odometry, pairs: StepPairs) -> Odometry:
    """Only the motions that explain most steps best; the most frequent first, after none."""
    scores = pairs.scores(odometry)
    scores[:, 0] += 1e-3  # no motion, where nothing is seen to move
    counts = np.bincount(scores.argmax(axis=1), minlength=len(odometry.motions))
    counts[0] = len(pairs.actions) + 1
    order = (-counts).argsort(kind="stable")[:MAX_MOTIONS]
    kept = order[counts[order] >= 0.1 * MIN_MOTION_SHARE * len(pairs.actions)]
    return replace(odometry, motions=odometry.motions[kept], log_prior=odometry.log_prior[:, kept])


def _fit_log_prior(odometry: Odometry, pairs: StepPairs) -> Odometry:
    """Each action's probabilities of the motions, by expectation maximization over the steps whose motion is clear;
    without the motions that no action makes."""
    num_actions = len(odometry.log_prior)
    flat = replace(odometry, log_prior=np.zeros_like(odometry.log_prior))
    evidence, log_prior = pairs.scores(flat), flat.log_prior
    for _ in range(5):
        scores = evidence + log_prior[pairs.actions]
        clear = margins(scores) > CLEAR_MARGIN
        counts = np.full((num_actions, len(odometry.motions)), 0.5)
        counts[:, 0] += 2
        np.add.at(counts, (pairs.actions[clear], scores[clear].argmax(axis=1)), 1.0)
        counts[-1] = counts.sum(axis=0)
        probs = counts / counts.sum(axis=1, keepdims=True)
        log_prior = np.log(probs).astype(np.float32)
    made = (probs.max(axis=0) > MIN_ACTION_PROB) & (probs[-1] > MIN_MOTION_SHARE)
    made[0] = True
    if made.all():
        return replace(odometry, log_prior=log_prior)
    return _fit_log_prior(replace(odometry, motions=odometry.motions[made], log_prior=log_prior[:, made]), pairs)


def _fit_region(odometry: Odometry, pairs: StepPairs) -> Odometry:
    """The cells that go with the motion more often than they stay, judged by the region so far."""
    motions = pairs.scores(odometry).argmax(axis=1)
    everywhere = replace(odometry, region=np.ones_like(odometry.region))
    carried, known = pairs.carried(everywhere, motions)
    known &= odometry.region[np.maximum(everywhere.source_cells[motions], 0)] & (motions > 0)[:, None]
    goes, stays = carried == pairs.after, pairs.before == pairs.after
    votes = (known & goes & ~stays).sum(axis=0) - (known & stays & ~goes).sum(axis=0)
    no_votes = ~known.any(axis=0)  # at the far edge, where all that comes into view is new
    return replace(odometry, region=(votes > 0) | no_votes) if (votes > 0).any() else odometry


def _fit_match_log_ratio(odometry: Odometry, pairs: StepPairs) -> Odometry:
    """How often a token follows another along the right motion and along wrong ones, from the steps whose motion is
    certain before its result is seen. (Darkness that stays with the picture would otherwise count as standing still.)
    """
    prior = odometry.prior_scores(pairs.before, pairs.actions)
    motions, certain = prior.argmax(axis=1), margins(prior) > CERTAIN_MARGIN
    if certain.sum() < MIN_CERTAIN_STEPS:
        motions = pairs.scores(odometry).argmax(axis=1)
        certain = motions == 0
    pairs, motions = pairs.select(certain), motions[certain]
    right, wrong = np.zeros_like(odometry.match_log_ratio), np.zeros_like(odometry.match_log_ratio)
    for motion in range(len(odometry.motions)):
        carried, known = pairs.carried(odometry, np.full(len(pairs.actions), motion))
        for counts, which in ((right, motions == motion), (wrong, motions != motion)):
            np.add.at(counts, (carried[which][known[which]], pairs.after[which][known[which]]), 1.0)
    marginal = (right + wrong).sum(axis=0, keepdims=True) + 1.0
    right, wrong = (
        (counts + TOKEN_SMOOTHING * marginal / marginal.sum()) / (counts.sum(axis=1, keepdims=True) + TOKEN_SMOOTHING)
        for counts in (right, wrong)
    )
    return replace(odometry, match_log_ratio=np.log(right / wrong).astype(np.float32))


def _fit_predictor_cells(odometry: Odometry, pairs: StepPairs) -> Odometry:
    """For each action that moves the viewpoint, the cells whose tokens best predict whether it does, from the steps
    whose motion is clear without a prior."""
    no_log_odds = np.zeros_like(odometry.move_log_odds)
    flat = replace(odometry, log_prior=np.zeros_like(odometry.log_prior), move_log_odds=no_log_odds)
    scores = pairs.scores(flat)
    margin = scores[:, 1:].max(axis=1, initial=-np.inf) - scores[:, 0]
    cells, log_odds = np.zeros_like(odometry.predictor_cells), np.zeros_like(odometry.move_log_odds)
    for action in np.flatnonzero(odometry.intended_motions):
        chosen = (pairs.actions == action) & (np.abs(margin) > CLEAR_MARGIN)
        cells[action], log_odds[action] = _best_predictors(pairs.before[chosen], margin[chosen] > 0, log_odds.shape[2])
    return replace(odometry, predictor_cells=cells, move_log_odds=log_odds)


def _best_predictors(
    pictures: Int[np.ndarray, "S C"], moved: Bool[np.ndarray, " S"], num_tokens: int
) -> tuple[Int[np.ndarray, " W"], Float[np.ndarray, "W V"]]:
    """The cells whose tokens best predict whether the viewpoint moved, each given those before it, and by how much
    each token raises the log odds: an additive model that is fitted one cell after the other (Friedman, Hastie &
    Tibshirani 2000, "Additive logistic regression")."""
    rate = (moved.sum() + 1) / (len(moved) + 2)
    smoothing = LOG_ODDS_SMOOTHING * np.array([1 - rate, rate])
    odds = np.full(len(moved), np.log(rate / (1 - rate)))
    best_cells = np.zeros(NUM_PREDICTOR_CELLS, np.int64)
    best_log_odds = np.zeros((NUM_PREDICTOR_CELLS, num_tokens), np.float32)
    cells = np.arange(pictures.shape[1])
    for index in range(NUM_PREDICTOR_CELLS):
        prob = 1 / (1 + np.exp(-odds))
        seen, expected = np.zeros((2, len(cells), num_tokens, 2))
        for outcome, counts in ((0, 1 - prob), (1, prob)):
            np.add.at(seen[..., outcome], (cells, pictures[moved == outcome]), 1.0)
            np.add.at(expected[..., outcome], (cells, pictures), counts[:, None])
        seen, expected = seen + smoothing, expected + smoothing
        log_odds = np.log(seen[..., 1] / seen[..., 0]) - np.log(expected[..., 1] / expected[..., 0])
        odds_by_cell = odds[:, None] + log_odds[cells, pictures]
        log_likelihoods = -np.logaddexp(0, np.where(moved[:, None], -odds_by_cell, odds_by_cell)).sum(axis=0)
        best_cells[index] = log_likelihoods.argmax()
        best_log_odds[index] = log_odds[best_cells[index]]
        odds = odds_by_cell[:, best_cells[index]]
    return best_cells, best_log_odds


# -- transient tokens -------------------------------------------------------------------------------------------------
def find_transient_tokens(
    layout: Layout, odometry: Odometry, episodes: Sequence[Int[np.ndarray, "_ N"]]
) -> Bool[np.ndarray, " V"]:
    """The tokens that come and go and leave a location as it was, such as creatures.

    Of two tokens that alternate, as the darkness that hides a wall and the wall, either might be the transient one. So
    the one that does it most often is taken first, and the others are judged as if it had never been there. A transient
    token appears over several others: a door that is open and closed in turns is none.
    """
    num_tokens = layout.picture.vocab_size
    location, token = _tokens_by_location(layout, odometry, episodes)
    transient = np.zeros(num_tokens + 1, bool)
    while True:
        new = np.ones(len(location), bool)
        new[1:] = (location[1:] != location[:-1]) | (token[1:] != token[:-1])
        location, token = location[new], token[new]
        between = np.flatnonzero((location[2:] == location[:-2]) & (location[1:-1] == location[:-2])) + 1
        num_between, num_shown = (np.bincount(x, minlength=num_tokens + 1) for x in (token[between], token))
        returned = between[token[between - 1] == token[between + 1]]
        over = np.zeros((num_tokens + 1, num_tokens + 1))
        np.add.at(over, (token[returned], token[returned - 1]), 1)
        num_returned = over.sum(axis=1)
        rare = num_between < np.maximum(MIN_APPEARANCES, MIN_BETWEEN * num_shown)
        stays = num_returned <= MIN_RETURNS * num_between
        num_returned[rare | stays | (over.max(axis=1) > MAX_OVER_ONE_TOKEN * num_returned)] = 0
        if not num_returned.any():
            return transient
        transient[num_returned.argmax()] = True
        kept = token != num_returned.argmax()
        location, token = location[kept], token[kept]


def _tokens_by_location(
    layout: Layout, odometry: Odometry, episodes: Sequence[Int[np.ndarray, "_ N"]]
) -> tuple[Int[np.ndarray, " L"], Int[np.ndarray, " L"]]:
    """Numbers of locations, and the tokens that they showed, sorted by location and then by time. After an ambiguous
    motion all locations are new ones."""
    spec = MapSpec(odometry, np.zeros(layout.picture.vocab_size + 1, bool), layout.picture.absent)
    keys, shown, number = [], [], 0
    for tokens in episodes:
        pairs, pose = StepPairs.of(layout, [tokens]), (0, 0, 0)
        scores = odometry.scores(pairs.before, pairs.after, pairs.actions)
        motions, ambiguous = scores.argmax(axis=1), margins(scores) < AMBIGUITY_MARGIN
        numbers = number + np.cumsum([1, *ambiguous])
        pictures = tokens[:, layout.span(layout.picture.name)]
        for picture, motion, number in zip(pictures, [0, *motions.tolist()], numbers.tolist(), strict=True):
            pose = odometry.apply(pose, motion)
            keys.append([(number, key) for key in spec.keys(pose)])
            shown.append(picture[spec.region_cells])
    flat = np.array(keys, np.int64).reshape(-1, 2)
    location = np.unique(flat, axis=0, return_inverse=True)[1].reshape(-1)
    order = location.argsort(kind="stable")
    return location[order], np.concatenate(shown)[order]
