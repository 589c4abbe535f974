"""Progress on a terminal, and in a log."""

from __future__ import annotations

import pytest

from magrathea import progress
from magrathea.progress import Stages


def run(quiet: bool = False) -> None:
    with Stages(quiet) as stages:
        stages.begin("collecting")
        stages.update(0.25, "5 of 20 steps")
        stages.begin("training")
        stages.update(0.5)


def test_a_log_has_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    run()
    assert capsys.readouterr().out.splitlines() == [
        "collecting …",
        "collecting: 25%, 5 of 20 steps",
        "training …",
        "training: 50%",
    ]


def test_a_log_is_not_flooded(capsys: pytest.CaptureFixture[str]) -> None:
    run()
    assert capsys.readouterr().out.splitlines() == ["collecting …", "training …"]


def test_a_terminal_has_a_bar_for_each_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    run()
    shown = capsys.readouterr().out
    assert "collecting" in shown and "5 of 20 steps" in shown and "training" in shown and "100%" in shown
    assert "…" not in shown


def test_quiet_progress_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    run(quiet=True)
    assert capsys.readouterr() == ("", "")
