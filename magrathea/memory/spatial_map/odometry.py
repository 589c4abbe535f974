"""Visual odometry over tokens: which motion of the viewpoint leads from one picture to the next.

A motion says which cell of the old picture each cell of the new one shows: a rotation by quarter turns about the
picture's first cell, then a shift. `Odometry` scores motions from the pictures and the action; `fit.py` finds in
recorded steps which motions there are.

S steps, C cells of the picture in row-major order, M motions (motion 0 is none), A action tokens (the last stands for
an unknown action), V picture tokens (the last is the absent token), W predictor cells.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.layout import Layout
from magrathea.memory.base import checked

EVIDENCE_WEIGHT = 0.15  # of the sum of the cells' log-likelihood ratios: cells are not independent
MIN_ACTION_PROB = 0.3  # that a motion must have under an action to count as what the action does

STORED_NAMES = {
    "region": "region",
    "motions": "table",
    "log_prior": "log_prior",
    "match_log_ratio": "affinity",
    "predictor_cells": "ahead",
    "move_log_odds": "way",
}
"""Attribute of `Odometry` -> its name in the files of worlds."""

Pose = tuple[int, int, int]
"""Quarter turns, and row and column on the map, of the picture's first cell."""


@dataclass(frozen=True)
class Odometry:
    """The motions of a picture, and how likely each is.

    Attributes:
        grid: rows and columns of the picture.
        region: the cells that show the map and not, for instance, an inventory.
        motions: quarter turns, rows, columns: cell (row, column) of the new picture shows what was at
            rotate(row, column) + (rows, columns) of the old one.
        log_prior: log probability of each motion under each action.
        match_log_ratio: evidence for a motion from a cell that showed the first token and now shows the second: the log
            ratio of how often this happens along the right motion and along wrong ones. Near 0 for tokens that look
            the same everywhere, and for those that stay with the picture, such as darkness at its edge.
        predictor_cells: for each action the cells that best predict whether it moves the viewpoint, such as the cell
            ahead, where an obstacle may be.
        move_log_odds: by how much each token in those cells raises the log odds of moving.
        source_cells: (M, C), see `find_source_cells`.
        intended_motions: (A,) the motion that each action makes where nothing prevents it, 0 for none.
        rotated_motions: for each quarter that the viewpoint is turned by and each motion, the quarters, rows and
            columns that it adds to the pose.
    """

    grid: tuple[int, int]
    region: Bool[np.ndarray, " C"]
    motions: Int[np.ndarray, "M 3"]
    log_prior: Float[np.ndarray, "A M"]
    match_log_ratio: Float[np.ndarray, "V V"]
    predictor_cells: Int[np.ndarray, "A W"]
    move_log_odds: Float[np.ndarray, "A W V"]
    source_cells: np.ndarray = field(init=False, repr=False)
    intended_motions: np.ndarray = field(init=False, repr=False)
    rotated_motions: list[list[list[int]]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        num_actions, num_tokens = len(self.log_prior), len(self.match_log_ratio)
        quarters, motions = np.arange(4)[:, None], self.motions
        turned = np.broadcast_to(motions[:, 0], (4, len(motions)))
        moves = np.exp(self.log_prior) * (np.arange(len(motions)) > 0)
        moves[-1] = 0
        derived = {
            "predictor_cells": self.predictor_cells.reshape(num_actions, -1),  # older worlds have one cell: (A,)
            "move_log_odds": self.move_log_odds.reshape(num_actions, -1, num_tokens),
            "source_cells": find_source_cells(motions, self.grid, self.region),
            "intended_motions": np.where(moves.max(axis=1) > MIN_ACTION_PROB, moves.argmax(axis=1), 0),
            "rotated_motions": np.stack([turned, *rotate(quarters, *motions[:, 1:].T)], axis=-1).tolist(),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_tensors(cls, layout: Layout, tensors: dict[str, Tensor]) -> Odometry:
        """The inverse of `tensors`, for a layout's picture; raises MagratheaError where they do not fit it."""
        slot, num_actions = layout.picture, layout.of_role("action")[0].vocab_size + 1
        num_cells, num_tokens = slot.num_tokens, slot.vocab_size + 1
        motions = checked(tensors, "table", "i", (None, 3), -4096, 4096)
        stored = tensors.get("ahead")
        cells = () if stored is None or stored.ndim != 2 else (stored.shape[1],)  # older worlds have one cell: (A,)
        if not 1 <= len(motions) <= 4096 or len(motions) * num_cells > 2**22 or 0 in cells:
            raise MagratheaError(f"A memory in a file has {len(motions)} motions; take a copy that is whole.")
        return cls(
            slot.grid,
            region=checked(tensors, "region", "b", (num_cells,)),
            motions=motions.astype(np.int64),
            log_prior=checked(tensors, "log_prior", "f", (num_actions, len(motions))),
            match_log_ratio=checked(tensors, "affinity", "f", (num_tokens, num_tokens)),
            predictor_cells=checked(tensors, "ahead", "i", (num_actions, *cells), 0, num_cells - 1),
            move_log_odds=checked(tensors, "way", "f", (num_actions, *cells, num_tokens)),
        )

    def tensors(self) -> dict[str, Tensor]:
        """All that is fitted, by its name in the files of worlds."""
        return {stored: torch.from_numpy(getattr(self, name)) for name, stored in STORED_NAMES.items()}

    def apply(self, pose: Pose, motion: int) -> Pose:
        """The pose after a motion."""
        turn, rows, columns = self.rotated_motions[pose[0]][motion]
        return (pose[0] + turn) % 4, pose[1] + rows, pose[2] + columns

    def prior_scores(
        self, pictures: Int[np.ndarray, "S C"], actions: Int[np.ndarray, " S"]
    ) -> Float[np.ndarray, "S M"]:
        """The unnormalized log probability of each motion before its result is seen."""
        actions = np.minimum(actions, len(self.log_prior) - 1)
        scores = self.log_prior[actions].copy()
        tokens = np.take_along_axis(pictures, self.predictor_cells[actions], axis=1)
        log_odds = self.move_log_odds[actions[:, None], np.arange(tokens.shape[1]), tokens]
        scores[:, 1:] += log_odds.sum(axis=1, keepdims=True)
        return scores

    def predict_motions(
        self, pictures: Int[np.ndarray, "S C"], actions: Int[np.ndarray, " S"]
    ) -> Int[np.ndarray, " S"]:
        """The most likely motion before its result is seen; none for an unknown action."""
        return np.where(self.intended_motions[actions] > 0, self.prior_scores(pictures, actions).argmax(axis=1), 0)

    def scores(
        self, before: Int[np.ndarray, "S C"], after: Int[np.ndarray, "S C"], actions: Int[np.ndarray, " S"]
    ) -> Float[np.ndarray, "S M"]:
        """The unnormalized log probability of each motion, given the pictures before and after the action."""
        carried = before[:, np.maximum(self.source_cells, 0)]  # (S, M, C)
        evidence = np.where(self.source_cells >= 0, self.match_log_ratio[carried, after[:, None]], 0).sum(axis=2)
        return EVIDENCE_WEIGHT * evidence + self.prior_scores(before, actions)

    def infer_motions(
        self, before: Int[np.ndarray, "S C"], after: Int[np.ndarray, "S C"], actions: Int[np.ndarray, " S"]
    ) -> Int[np.ndarray, " S"]:
        """The most likely motion, given the pictures before and after the action."""
        return self.scores(before, after, actions).argmax(axis=1)


def find_source_cells(
    motions: Int[np.ndarray, "M 3"], grid: tuple[int, int], region: Bool[np.ndarray, " C"]
) -> Int[np.ndarray, "M C"]:
    """The old picture's cell that each cell of the new one shows; -1 where either is outside of the region."""
    rows, columns = (index.reshape(-1) for index in np.indices(grid))
    old_rows, old_columns = rotate(motions[:, :1], rows, columns)
    old_rows, old_columns = old_rows + motions[:, 1:2], old_columns + motions[:, 2:3]
    inside = (old_rows >= 0) & (old_rows < grid[0]) & (old_columns >= 0) & (old_columns < grid[1])
    sources = np.where(inside, old_rows * grid[1] + old_columns, 0)
    return np.where(inside & region[sources] & region, sources, -1)


def rotate(quarters: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns rotated by quarter turns about (0, 0); the arguments broadcast."""
    cos, sin = np.array([1, 0, -1, 0])[quarters % 4], np.array([0, 1, 0, -1])[quarters % 4]
    return cos * rows - sin * columns, sin * rows + cos * columns


def margins(scores: Float[np.ndarray, "S M"]) -> Float[np.ndarray, " S"]:
    """By how much the best motion leads the second best; infinite where there is one motion only."""
    second, best = np.partition(np.pad(scores, ((0, 0), (0, 1)), constant_values=-np.inf), -2, axis=1)[:, -2:].T
    return best - second
