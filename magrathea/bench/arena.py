"""The arena: worlds of environments that nobody tuned for, made by default settings in a given time, in one table."""

from __future__ import annotations

import importlib.util
import json
import time
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from magrathea.data import collect, name_environment
from magrathea.errors import MagratheaError
from magrathea.evaluate.evaluation import evaluate
from magrathea.evaluate.recordings import Options
from magrathea.evaluate.report import TEMPLATES, headline_text
from magrathea.evaluate.results import EvaluationResult
from magrathea.files import atomic_write
from magrathea.settings import Count, Positive, Seed, check
from magrathea.train import load_settings, train

DEFAULT_LIST = Path(__file__).with_name("arena.toml")


@dataclass(frozen=True, kw_only=True)
class ArenaEnvironment:
    """An environment of the arena.

    Attributes:
        id: a Gymnasium id, or "module:id" to import the module that registers it.
        name: of its folder and its line in the table; made of the id and the arguments, if not given.
        kwargs: keyword arguments for gymnasium.make; "size" resizes pictures.
        needs: modules that have to be installed.
        policy: that records it.
    """

    id: str
    name: str = ""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    policy: str = "explore"

    def __post_init__(self) -> None:
        check(self)

    @property
    def folder(self) -> str:
        """A name that can be a folder's."""
        text = self.name or " ".join([self.id.partition(":")[2] or self.id, *map(str, self.kwargs.values())])
        return "".join(letter if letter.isalnum() else "-" for letter in text.lower()).strip("-")

    def missing(self) -> list[str]:
        """The modules that it needs and that are not installed."""
        return [module for module in self.needs if importlib.util.find_spec(module) is None]


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
    """The environments of a TOML file, a table [[environment]] for each; raises MagratheaError for a mistake."""
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))["environment"]
        return [ArenaEnvironment(**table | {"needs": tuple(table.get("needs", ()))}) for table in tables]
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise MagratheaError(
            f"'{path}' is no list of environments ({error}); write a table [[environment]] with an id for each."
        ) from error


def run_arena(
    environments: Iterable[ArenaEnvironment], out: str | Path, settings: ArenaSettings
) -> list[dict[str, Any]]:
    """Record, train and measure each environment, and write `arena.json` and `arena.html` after each.

    Run again, it skips what is finished and goes on with what is not. An environment that cannot be had, or that fails,
    is a line with the reason, and is tried again by the next run.

    Returns a row for each environment: its name and id, and "error", or its verdict and figures.
    """
    out, environments = Path(out), list(environments)
    folders = [each.folder for each in environments]
    if twice := {name for name in folders if folders.count(name) > 1}:
        raise MagratheaError(f"Two environments are named '{min(twice)}'; give them different names.")
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for environment in environments:
        rows.append(_row(environment, out, settings))
        print(_line(rows[-1]), flush=True)
        _write_table(out, rows, settings)
    return rows


def _row(environment: ArenaEnvironment, out: Path, settings: ArenaSettings) -> dict[str, Any]:
    """The row of one environment, from its file where it is finished."""
    row = {"name": environment.folder, "id": environment.id, "kwargs": dict(environment.kwargs)}
    path = out / environment.folder / "arena.json"
    wanted = json.loads(json.dumps({"environment": asdict(environment), "settings": asdict(settings)}))
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored.pop("made") != wanted:
            raise MagratheaError(f"'{path.parent}' was made with other settings; give another --out, or remove it.")
        return stored
    if missing := environment.missing():
        return row | {"error": f"Skipped: it needs {', '.join(missing)}, which is not installed."}
    try:
        row |= _make(environment, out / environment.folder, settings)
    except Exception as error:  # of the environment, which may raise anything
        return row | {"error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
    with atomic_write(path) as file:
        file.write_text(json.dumps(row | {"made": wanted}, indent=1) + "\n", encoding="utf-8")
    return row


def _make(environment: ArenaEnvironment, folder: Path, settings: ArenaSettings) -> dict[str, Any]:
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


def _figures(result: EvaluationResult) -> dict[str, Any]:
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


def _write_table(out: Path, rows: list[dict[str, Any]], settings: ArenaSettings) -> None:
    """Write `arena.json` and `arena.html`."""
    table = json.dumps({"settings": asdict(settings), "environments": rows}, indent=1)
    with atomic_write(out / "arena.json") as file:
        file.write_text(table + "\n", encoding="utf-8")
    page = TEMPLATES.get_template("arena.html").render(rows=rows, settings=settings)
    with atomic_write(out / "arena.html") as file:
        file.write_text(page + "\n", encoding="utf-8")
