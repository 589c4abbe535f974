"""The command line: help that is current and fast, and errors in one line."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import magrathea.data
from magrathea.cli import main as cli
from magrathea.errors import MagratheaError

DOCS = Path(__file__).parents[1] / "docs"
BOARD = Path(__file__).parent / "golden" / "board_world"


def load_make_help():
    specification = importlib.util.spec_from_file_location("make_help", DOCS / "make_help.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_help_page_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert (DOCS / "help.md").read_text(encoding="utf-8") == load_make_help().help_page(), (
        "docs/help.md is out of date; regenerate it with: python docs/make_help.py"
    )


def test_help_needs_no_heavy_import() -> None:
    program = """
import sys
from magrathea.cli.main import main
try:
    main(["--help"])
except SystemExit as exit:
    assert exit.code in (0, None)
heavy = {"torch", "minari", "starlette", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "collect" in done.stdout


def test_runs_as_a_module_and_reports_an_error_in_one_line() -> None:
    command = [sys.executable, "-m", "magrathea", "play", "no-such-world"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("magrathea: ") and "no-such-world" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["collect", "CartPole-v1", "--out", "x", "--env-kwargs", "{"], "--env-kwargs is not JSON"),
        (["collect", "CartPole-v1", "--out", "x", "--env-kwargs", "3"], "give a JSON object"),
        (["collect", "No-Such-Env-v0", "--out", "x", "--steps", "4"], "No-Such-Env"),
        (["train", "no-such-dataset", "--out", "x", "--minutes", "1"], "no-such-dataset"),
        (["eval", "no-such-world", "no-such-dataset"], "no-such"),
        (["bench", "no-such-world"], "no-such-world"),
        (["explore", "crafter"], "No command 'explore'; give one of collect, import, train,"),
        (["play", "no-such-world"], "no-such-world"),
        (["make", "No-Such-Env-v0", "--out", "x"], "No-Such-Env"),
        (["collect"], "Missing from magrathea collect: ENV_ID --out FOLDER; see 'magrathea collect --help'."),
        (["collect", "x", "--out"], "argument '--out'. Expected 1 values; see 'magrathea collect --help'."),
        (["play", "a", "b"], "Unrecognized options: b; see 'magrathea play --help'."),
        (
            ["eval", "a", "b", "--minuts", "3"],
            "options: --minuts, 3 Perhaps you meant: --minutes FLOAT; see 'magrathea eval --help'.",
        ),
        (["play", "--host", "x" * 9999, "--nothing", "y" * 9999], "see 'magrathea play --help'."),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error and len(error) < 1500


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_missing_option_is_one_line_in_any_terminal(encoding: str) -> None:
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "magrathea", "collect", "x", "--out"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    said = "magrathea: Missing value for argument '--out'. Expected 1 values; see 'magrathea collect --help'."
    assert done.stderr.strip() == said


EVALUATIONS = ("eval", "eval memory", "eval drift", "eval episodes", "eval text", "eval sound", "eval any-to-any")
MEASURING = (*EVALUATIONS, "fill", "bench memory-sizes")
POSITIONAL = {"collect": ["CartPole-v1"], "make": ["CartPole-v1"]} | {key: ["crafter", "data"] for key in MEASURING}
BAD_NUMBERS = {int: ("-1", "1.5", "many", str(2**70)), float: ("-0.5", "many", "nan", "inf")}


def option_types(command: Any) -> dict[str, Any]:
    """The types of a command's options by name, those within a dataclass of options included."""
    types: dict[str, Any] = {}
    for name, hint in get_type_hints(command).items():
        types |= option_types(hint) if is_dataclass(hint) else {name: hint}
    return types


def numeric_options() -> list[tuple[str, str, str]]:
    """(command, option, a value that no number in the option's range has) for every numeric option of every command."""
    cases = []
    for command, function in cli.COMMANDS.items():
        for name, hint in option_types(function).items():
            kinds = {int, float} & {hint, *get_args(hint)}
            for value in BAD_NUMBERS[kinds.pop()] if kinds else ():
                cases.append((command, f"--{name.replace('_', '-')}", value))
    return cases


@pytest.mark.parametrize(("command", "option", "value"), numeric_options())
def test_every_numeric_option_has_a_range(
    command: str, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*command.split(), *POSITIONAL.get(command, ["crafter"]), option, value]
    out = ["--out", "x"] if "out" in option_types(cli.COMMANDS[command]) else []
    assert cli.main([*arguments, *out]) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    expected = rf"magrathea: Option {option} is '?{re.escape(value)}'?; give a .*number .* to \d+.*\."
    assert re.fullmatch(expected, error), error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "data", "--out", "x", "--steps", "0"], "--steps is 0; give a whole number from 1 to 1000000000."),
        (["train", "data", "--out", "x", "--minutes", "0"], "--minutes is 0.0; give a number above 0 to 1000000."),
        (["train", "data", "--out", "x", "--device", "gpu"], "--device is 'gpu'; give auto, cpu, cuda or cuda:N."),
        (["train", "data", "--out", "x", "--size", "big"], "--size is 'big'; give one of debug, tiny, small, base."),
        (["bench", "crafter", "--batch-sizes", "0"], "--batch-sizes is 0; give a whole number from 1 to"),
        (
            ["bench", "players", "crafter", "--counts", "1", "x"],
            "--counts is 1 'x'; give a whole",
        ),
        (["play", "crafter", "--port", "65536"], "--port is 65536; give a whole number from 0 to 65535."),
    ],
)
def test_invalid_option_says_what_is_allowed(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (MagratheaError("a\n  b"), 2, "magrathea: a b"),
        (ModuleNotFoundError("No module named 'minari'", name="minari.data"), 2, "pip install 'magrathea[train]'"),
        (ModuleNotFoundError("No module named 'crafter'", name="crafter"), 2, "pip install crafter"),
        (ModuleNotFoundError("No module named 'ale_py'", name="ale_py"), 2, "pip install ale-py"),
        (ModuleNotFoundError("No module named 'garden'", name="garden"), 2, "There is no module 'garden'"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_codes(
    raised: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def command() -> None:
        raise raised

    monkeypatch.setattr(cli, "COMMANDS", {"play": command})
    assert cli.main(["play"]) == code
    assert message in capsys.readouterr().err


def test_make_fails_when_recording_took_all_the_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(magrathea.data, "collect", lambda *arguments, **options: None)
    assert cli.main(["make", "CartPole-v1", "--out", str(tmp_path / "pole"), "--minutes", "1e-9"]) == 2
    assert "with more --minutes" in capsys.readouterr().err


@pytest.mark.slow
def test_collect_train_eval_and_bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands in sequence, on the tutorial's environment, from its folder."""
    monkeypatch.chdir(DOCS / "examples")
    data, world, report = str(tmp_path / "data"), str(tmp_path / "world"), str(tmp_path / "report")
    collected = ["--steps", "800", "--max-episode-steps", "80", "--num-processes", "1"]
    assert cli.main(["collect", "garden:Garden-v0", "--out", data, *collected]) == 0
    assert cli.main(["train", data, "--out", world, "--size", "debug", "--steps", "5", "--no-report"]) == 0
    assert cli.main(["eval", world, data, "--out", report, "--num-dreams", "2", "--minutes", "0.05"]) == 0
    assert "repeating the last" in capsys.readouterr().out and (tmp_path / "report" / "index.html").exists()
    assert cli.main(["bench", world, "--batch-sizes", "1", "2", "--seconds", "0.1"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert set(measured["playing"]) == {"1", "2"} and measured["playing"]["1"]["passes_per_step"] >= 1
    assert cli.main(["bench", "players", world, "--counts", "1", "3", "--seconds", "0.1"]) == 0
    assert set(json.loads(capsys.readouterr().out)["players"]) == {"1", "3"}


@pytest.mark.parametrize("command", [*EVALUATIONS, "bench memories", "bench arena", "train", "make"])
@pytest.mark.parametrize(
    ("out", "message"),
    [
        (".", "is the folder that you are in, or one above it"),
        ("..", "is the folder that you are in, or one above it"),
        ("file", "is a file"),
        ("loop", "Too many levels of symbolic links"),
    ],
)
def test_a_folder_that_is_no_place_for_results_is_refused(
    command: str,
    out: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("file").touch()
    Path("loop").symlink_to("loop")
    positional = {
        "make": ["CartPole-v1"],
        "bench arena": ["CartPole-v1"],
        "train": ["data"],
        "bench memories": ["data"],
    }
    assert cli.main([*command.split(), *positional.get(command, [str(BOARD), "data"]), "--out", out]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "here", "loop"]


def test_a_page_of_somebody_else_is_not_replaced_by_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "index.html").write_text("mine")
    assert cli.main(["eval", str(BOARD), "data", "--out", str(tmp_path)]) == 2
    assert "holds an index.html that is no report" in capsys.readouterr().err
    assert (tmp_path / "index.html").read_text() == "mine"
