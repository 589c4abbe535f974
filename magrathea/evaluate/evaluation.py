"""The evaluation of a world: next steps, open-loop dreams, obedience, videos and a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optree

from magrathea.data import Dataset
from magrathea.errors import FOREIGN_ERRORS, MagratheaError, Terminated
from magrathea.evaluate.dreams import HORIZON, Values, measure_dreams, write_filmstrips
from magrathea.evaluate.next_step import measure_next_step
from magrathea.evaluate.obedience import counterfactuals, measure_obedience
from magrathea.evaluate.recordings import Budget, Options, Recording, Subject
from magrathea.evaluate.report import evaluation_headlines, verdict, write_evaluation_page
from magrathea.evaluate.results import DreamMeasures, EvaluationResult, write_result
from magrathea.evaluate.rollouts import Replay, Steps, choose_starts, context_and_least, roll_out
from magrathea.evaluate.slots import NUMBERS, PICTURE, by_kind
from magrathea.progress import Stages
from magrathea.spaces import counter_names, find_picture, index_batch, space_tree, value_at
from magrathea.world import World

APART = 5  # steps between starts of dreams
# of the time that is left when each begins
SHARES = {"next step": 0.2, "dreams": 0.45, "other actions": 0.5, "resampled replay": 0.5}


def evaluate(
    world: str | Path | World, dataset: str | Path | Dataset, out: str | Path, options: Options
) -> EvaluationResult:
    """Measure a world on held-out episodes and write `metrics.json`, plots, videos and `index.html` into a folder.

    The other arguments, and what is raised, are those of `Subject`."""
    out, notes = Path(out), []
    with Stages() as stages:
        stages.begin("reading held-out episodes")
        subject = Subject(world, dataset, options, may_cut=True)
        out.mkdir(parents=True, exist_ok=True)
        stages.begin("next steps")
        next_step = measure_next_step(subject.world, subject.recordings, subject.budget.part(SHARES["next step"]))
        stages.begin("dreams")
        measuring = _Measuring(subject, notes)
        stages.begin("the real environment under other actions")
        dreams = measuring.measure()
        videos = measuring.write_filmstrips(out)
    headlines = evaluation_headlines(subject.world.layout, next_step, dreams)
    result = EvaluationResult(
        about=subject.about(),
        verdict=verdict(dreams, bool(subject.dataset.env_id), _num_pixels(subject.world)),
        headlines=[item for item in headlines if item.figure.value is not None],
        next_step=next_step,
        dreams=dreams,
        videos=videos,
        not_measured=[
            *notes,
            *(f"{item.name}: the recordings hold nothing of it." for item in headlines if item.figure.value is None),
        ],
    )
    write_result(out / "metrics.json", result)
    write_evaluation_page(out, result)
    return result


def _num_pixels(world: World) -> int:
    """Of the picture that a world observes; 0 where there is none."""
    path = find_picture(world.observation_space)
    if path is None:
        return 0
    height, width = value_at(space_tree(world.observation_space), path).shape[:2]
    return height * width


class _Measuring:
    """Dreams of a subject, and what is measured of them; `notes` gets a sentence for what cannot be."""

    def __init__(self, subject: Subject, notes: list[str]) -> None:
        self.subject, self.notes = subject, notes
        self.world, self.recordings, self.seed = subject.world, subject.recordings, subject.options.seed
        window = self.world.config.model.window
        context, least = context_and_least(self.recordings, window)
        num_dreams = subject.options.num_dreams
        starts = choose_starts(self.recordings, context, HORIZON, num_dreams, self.seed, least, APART)
        budget = self._time("dreams")
        self.rollouts = roll_out(self.world, self.recordings, starts, HORIZON, budget=budget, seed=self.seed)
        self.real, self.dream = self._by_kind(self.rollouts.real), self._by_kind(self.rollouts.dream)
        longest = int(self.rollouts.valid.sum(axis=1).max())
        if longest < HORIZON:
            notes.append(f"Dreams of {HORIZON} steps: recordings go on for at most {longest} steps after a start.")
        if context < window:
            notes.append(f"Dreams from {window} recorded steps: episodes are short, so they start from {context}.")

    def _time(self, stage: str) -> Budget:
        return self.subject.budget.part(SHARES[stage])

    def _by_kind(self, steps: Steps) -> Values:
        return by_kind(self.world.observation_space, steps.observation, 2)

    def measure(self) -> DreamMeasures:
        """All that the recordings and the environment allow."""
        before, scale = self._numbers()
        replay: tuple[Values, np.ndarray] | None = None
        obedience = {}
        try:
            real_env = Replay(self.subject.dataset)
        except MagratheaError as error:
            self.notes.append(f"Obedience and the resampled replay: {error}")
        else:
            try:
                obedience = self._attempt("Obedience", lambda: self._obedience(real_env, scale)) or {}
                if PICTURE in self.real and obedience:
                    replay = self._attempt("Resampled replay", lambda: self._resampled(real_env))
            finally:
                real_env.close()
        measured = measure_dreams(
            self.recordings,
            self.rollouts,
            self.real,
            self.dream,
            replay=replay,
            before=before,
            scale=scale,
            counters=counter_names(self.world.observation_space, self.world.metadata),
            env_id=self.subject.dataset.env_id,
        )
        return replace(measured, obedience=obedience)

    def _attempt(self, what: str, measure: Callable[[], Any]) -> Any:
        """What a measure returns; None, with a note, where the environment fails, which may raise anything."""
        try:
            return measure()
        except Terminated:
            raise
        except FOREIGN_ERRORS as error:
            line = str(error).split("\n")[0] or type(error).__name__
            self.notes.append(f"{what}: {line}")
            return None

    def _obedience(self, real_env: Replay, scale: np.ndarray | None) -> dict[str, Any]:
        others = counterfactuals(real_env, self.recordings, self.rollouts, self._time("other actions"), self.seed)
        return measure_obedience(self.world, self.recordings, self.rollouts, others, scale, self.seed)

    def _resampled(self, real_env: Replay) -> tuple[Values, np.ndarray]:
        """What the recorded actions lead to from the starts with other random choices, and where there was time."""
        real, valid = self.rollouts.real, np.zeros_like(self.rollouts.valid)
        leaves, budget = [leaf.copy() for leaf in real.observation], self._time("resampled replay")
        for index in np.argsort([step for _, step in self.rollouts.starts], kind="stable").tolist():
            if budget.spent():
                break
            recording, start = self.rollouts.starts[index]
            episode, steps = self.recordings[recording].episode, slice(start, start + HORIZON)
            found = real_env.go_on(episode, start, index_batch(episode.action, steps), self.seed + index)
            if found is not None:
                for leaf, part in zip(leaves, found, strict=True):
                    leaf[index, : len(part)] = part
                valid[index, : len(found[0]) - 1] = True
        return self._by_kind(replace(real, observation=leaves)), valid

    def _numbers(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The numbers one step before each start (R, Q), and their standard deviations (Q,) in the recordings."""
        if NUMBERS not in self.real:
            return None, None
        recorded = [_numbers_of(self.world, recording) for recording in self.recordings]
        scale = np.concatenate(recorded).std(axis=0)
        before = np.stack([recorded[index][max(0, step - 1)] for index, step in self.rollouts.starts])
        return before, np.where(scale > 1e-9 * np.abs(np.concatenate(recorded)).max(axis=0), scale, 0.0)

    def write_filmstrips(self, out: Path) -> list[str]:
        if PICTURE not in self.real:
            self.notes.append("Pictures and videos: the observations hold no picture of 16 pixels a side or more.")
            return []
        fps = float(self.world.metadata.get("fps") or 10)
        frames = self.real[PICTURE], self.dream[PICTURE]
        return write_filmstrips(self.recordings, self.rollouts, *frames, out, fps)


def _numbers_of(world: World, recording: Recording) -> np.ndarray:
    """(T + 1, Q)"""
    leaves = [np.asarray(leaf) for leaf in optree.tree_leaves(recording.episode.observation)]
    return by_kind(world.observation_space, leaves, 1)[NUMBERS]
