"""The arena: worlds of environments that nobody tuned for, made by default settings in a given time, in one table."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from magrathea.bench.listed import ListedEnvironment, Row, read_list, run_list
from magrathea.data import collect, name_environment
from magrathea.evaluate.evaluation import evaluate
from magrathea.evaluate.recordings import Options
from magrathea.evaluate.report import TEMPLATES, headline_text
from magrathea.evaluate.results import EvaluationResult
from magrathea.files import atomic_write
from magrathea.settings import Count, Positive, Seed
from magrathea.train import load_settings, train

DEFAULT_LIST = Path(__file__).with_name("arena.toml")


@dataclass(frozen=True, kw_only=True)
class ArenaEnvironment(ListedEnvironment):
    """An environment of the arena.

    Attributes:
        policy: that records it.
    """

    policy: str = "explore"


@dataclass(frozen=True, kw_only=True)
class ArenaSettings:
    """What is spent on each environment.

    Attributes:
        minutes: of training.
        steps: that are recorded.
        size: named size of the model.
        report_minutes: approximate time of the evaluation.
        num_processes: that record in parallel.
        seed: of everything random.
        device: "auto", "cpu", "cuda" or "cuda:N".
    """

    minutes: Positive = 5.0
    steps: Count = 20_000
    size: str = "tiny"
    report_minutes: Positive = 2.0
    num_processes: Count = 2
    seed: Seed = 0
    device: str = "auto"


def read_environments(path: str | Path = DEFAULT_LIST) -> list[ArenaEnvironment]:
    """The arena's environments in a TOML file, see `read_list`."""
    return read_list(path, ArenaEnvironment)


def run_arena(environments: Iterable[ArenaEnvironment], out: str | Path, settings: ArenaSettings) -> list[Row]:
    """Record, train and measure each environment, and write `arena.json` and `arena.html` after each; see `run_list`.

    Returns a row for each environment: its name and id, and "error", or its verdict and figures.
    """

    def show(rows: list[Row]) -> None:
        print(_line(rows[-1]), flush=True)
        _write_table(Path(out), rows, settings)

    def make(environment: ArenaEnvironment, folder: Path) -> Row:
        return _make(environment, folder, settings)

    return run_list(environments, Path(out), settings, make, "arena.json", show)


def _make(environment: ArenaEnvironment, folder: Path, settings: ArenaSettings) -> Row:
    """Record, train and measure; each of them resumes."""
    name_environment(environment.id)
    begin = time.monotonic()
    dataset = collect(
        environment.id,
        settings.steps,
        folder / "dataset",
        policy=environment.policy,
        num_processes=settings.num_processes,
        seed=settings.seed,
        env_kwargs=dict(environment.kwargs),
    )
    recorded = time.monotonic()
    how = load_settings(size=settings.size, minutes=settings.minutes, seed=settings.seed)
    world = train(dataset.folder, folder / "world", how, device=settings.device).to(settings.device)
    trained = time.monotonic()
    options = Options(minutes=settings.report_minutes, device=settings.device, seed=settings.seed)
    result = evaluate(world, dataset, folder / "report", options)
    seconds = {"recording": recorded - begin, "training": trained - recorded, "report": time.monotonic() - trained}
    return _figures(result) | {"seconds": {name: round(value, 1) for name, value in seconds.items()}}


def _figures(result: EvaluationResult) -> Row:
    """What the table shows of a result."""
    return {
        "verdict": result.verdict,
        "figures": {item.name: asdict(item) for item in result.headlines},
        "headlines": [headline_text(item) for item in result.headlines],
        "not_measured": result.not_measured,
        "filmstrip": bool(result.videos),
    }


def _line(row: Mapping[str, Any]) -> str:
    return f"{row['name']}: {row['error'] if 'error' in row else ' '.join(row['verdict'])}"


def _write_table(out: Path, rows: list[Row], settings: ArenaSettings) -> None:
    """Write `arena.json` and `arena.html`."""
    table = json.dumps({"settings": asdict(settings), "environments": rows}, indent=1)
    with atomic_write(out / "arena.json") as file:
        file.write_text(table + "\n", encoding="utf-8")
    page = TEMPLATES.get_template("arena.html").render(rows=rows, settings=settings)
    with atomic_write(out / "arena.html") as file:
        file.write_text(page + "\n", encoding="utf-8")
