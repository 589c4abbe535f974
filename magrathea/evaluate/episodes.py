"""Whole episodes in dreams against recorded ones: how long they last, what they return, and what happens in them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from magrathea.data import Dataset
from magrathea.evaluate.dreams import before_ending, measure_events, seen_events
from magrathea.evaluate.recordings import Options, Subject
from magrathea.evaluate.results import About, Figure, Sources
from magrathea.evaluate.rollouts import Rollouts, context_and_least, roll_out
from magrathea.evaluate.slots import by_kind
from magrathea.evaluate.statistics import Tally
from magrathea.progress import Stages
from magrathea.spaces import counter_names
from magrathea.world import World


@dataclass(frozen=True)
class EpisodesResult:
    """What was measured of whole episodes.

    Attributes:
        about: the world and the recordings.
        num_steps: most steps that an episode was followed for.
        outcomes: by name and source ("dream", "reality"): steps up to the ending or the last that was followed, the sum
            of rewards, and the share that ended.
        events: by name and source, shares of the steps.
    """

    about: About
    num_steps: int
    outcomes: dict[str, Sources]
    events: dict[str, Sources]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate_episodes(
    world: str | Path | World, dataset: str | Path | Dataset, options: Options, num_steps: int
) -> EpisodesResult:
    """Dream every held-out episode from its first steps on, under the actions recorded in it; a dream that goes on for
    longer takes them from the beginning again.

    Args:
        world, dataset, options: as of `Subject`; one dream of an episode.
        num_steps: most steps that dreams and recordings are followed for.

    Raises:
        MagratheaError: where no episode is long enough to dream from.
    """
    with Stages() as stages:
        stages.begin("reading held-out episodes")
        subject = Subject(world, dataset, options)
        world, recordings = subject.world, subject.recordings
        context, least = context_and_least(recordings, world.config.model.window)
        starts = [(i, context - 1) for i, each in enumerate(recordings) if len(each.tokens) >= context + least]
        stages.begin("dreaming them")
        starts = starts[: options.num_dreams]
        rollouts = roll_out(world, recordings, starts, num_steps, budget=subject.budget, seed=options.seed)
    sources = {"reality": rollouts.real, "dream": rollouts.dream}
    names, env_id = counter_names(world.observation_space, world.metadata), subject.dataset.env_id
    seen = {
        source: seen_events(by_kind(world.observation_space, steps.observation, 2), names, env_id)
        for source, steps in sources.items()
    }
    dreamt = before_ending(rollouts.dream)
    outcomes = measure_outcomes(rollouts, dreamt, len(recordings))
    events = measure_events(rollouts, len(recordings), seen, dreamt)
    return EpisodesResult(subject.about(), num_steps, outcomes, events)


def measure_outcomes(rollouts: Rollouts, dreamt: np.ndarray, num_episodes: int) -> dict[str, Sources]:
    """How R episodes went in reality and in dreams, of which the steps `dreamt` (R, H) count."""
    tally = Tally(num_episodes)
    for source, steps, counts in (("dream", rollouts.dream, dreamt), ("reality", rollouts.real, rollouts.valid)):
        measures = {
            "length, steps": counts.sum(axis=1),
            "return": (steps.reward * counts).sum(axis=1),
            "episodes that end": (steps.terminated & counts).any(axis=1),
        }
        for name, values in measures.items():
            tally.add_mean(f"{name}/{source}", rollouts.episodes, values)
    return tally.nested()


def episodes_table(result: EpisodesResult) -> str:
    """The figures in a table of Markdown."""
    rows = [f"| up to {result.num_steps} steps | reality | dreams |", "| --- | ---: | ---: |"]
    for name, sources in result.outcomes.items():
        write = ("{:.0%}" if name == "episodes that end" else "{:.1f}").format
        rows.append(f"| {name} | {sources['reality'].text(write)} | {sources['dream'].text(write)} |")
    for name, sources in result.events.items():
        shares = [sources.get(source, Figure()).text("{:.2%}".format) for source in ("reality", "dream")]
        rows.append(f"| steps with: {name} | {shares[0]} | {shares[1]} |")
    return "\n".join(rows)
