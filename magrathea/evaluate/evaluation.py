"""The evaluation of a world: next steps, open-loop dreams, controllability, videos and a page."""

from __future__ import annotations

from pathlib import Path

from magrathea.data import Dataset
from magrathea.evaluate.dreams import HORIZON, measure_controllability, measure_images, write_videos
from magrathea.evaluate.next_step import measure_goals, measure_next_step
from magrathea.evaluate.recordings import Options, Subject
from magrathea.evaluate.report import evaluation_headlines, write_evaluation_page
from magrathea.evaluate.results import EvaluationResult, write_result
from magrathea.evaluate.rollouts import choose_starts, resampled_replay, roll_out
from magrathea.evaluate.slots import picture_slot
from magrathea.progress import Stages
from magrathea.world import World

# of the time that is left when each begins
SHARES = {"next step": 0.4, "dreams": 0.4, "resampled replay": 0.6, "goals": 0.9}


def evaluate(
    world: str | Path | World, dataset: str | Path | Dataset, out: str | Path, options: Options
) -> EvaluationResult:
    """Measure a world on held-out episodes and write `metrics.json`, plots, videos and `index.html` into a folder.

    The other arguments, and what is raised, are those of `Subject`."""
    out, seed = Path(out), options.seed
    with Stages() as stages:
        stages.begin("reading held-out episodes")
        subject = Subject(world, dataset, options)
        world, recordings, budget = subject.world, subject.recordings, subject.budget
        slot = picture_slot(world)
        out.mkdir(parents=True, exist_ok=True)
        stages.begin("next steps")
        next_step = measure_next_step(world, recordings, budget.part(SHARES["next step"]))
        stages.begin("dreams")
        starts = choose_starts(recordings, world.config.model.window, HORIZON, options.num_dreams, seed)
        dream_time = budget.part(SHARES["dreams"])
        rollouts = roll_out(world, recordings, starts, HORIZON, budget=dream_time, seed=seed)
        stages.begin("resampled replay")
        replay_time = budget.part(SHARES["resampled replay"])
        replay = resampled_replay(world, subject.dataset, recordings, rollouts, replay_time, seed)
        controllability = measure_controllability(world, rollouts, len(recordings), replay)
        images = None if slot is None else measure_images(world, recordings, rollouts, slot, replay)
        videos = [] if slot is None else write_videos(world, recordings, rollouts, slot, out)
        stages.begin("goals")
        goal_accuracy = measure_goals(world, recordings, budget.part(SHARES["goals"]), seed)
    result = EvaluationResult(
        about=subject.about(),
        headlines=evaluation_headlines(world.layout, next_step, controllability, images, goal_accuracy),
        next_step=next_step,
        controllability=controllability,
        goal_accuracy=goal_accuracy,
        images=images,
        videos=videos,
    )
    write_result(out / "metrics.json", result)
    write_evaluation_page(out, result)
    return result
