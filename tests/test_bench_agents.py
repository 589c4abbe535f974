"""`magrathea bench agents`: two tiny environments, learned, planned in and measured by one command, which resumes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from magrathea.bench.agents import DEFAULT_LIST, AgentEnvironment, AgentsSettings, bench_agents
from magrathea.bench.listed import read_list
from magrathea.cli import main as cli


@pytest.mark.slow
def test_bench_agents_makes_a_table_and_skips_what_is_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--minutes", "0.05", "--real-steps", "200", "--size", "debug", "--episodes", "2"]
    asked = ["bench", "agents", 'CartPole-v1 {"max_episode_steps": 20}', "--out", str(tmp_path)]
    asked += [*quick, "--planner-episodes", "2", "--no-baselines"]
    assert cli.main(asked) == 0
    printed = capsys.readouterr().out
    assert "| cartpole-v1-20 | agent, 200 real steps |" in printed and "| cartpole-v1-20 | planner, " in printed
    (row,) = json.loads((tmp_path / "agents.json").read_text())["environments"]
    assert 1 <= row["returns"]["agent, 200 real steps"][0] <= 20 and 1 <= row["planner"]["planner"]["return"][0] <= 20
    assert row["planner"]["planner"]["milliseconds"] > row["planner"]["policy"]["milliseconds"] > 0
    assert row["speed"]["dream"] > 0 and row["speed"]["reality"] > 0
    written = (tmp_path / "cartpole-v1-20" / "bench.json").stat().st_mtime_ns
    assert cli.main(asked) == 0
    assert (tmp_path / "cartpole-v1-20" / "bench.json").stat().st_mtime_ns == written


def test_environments_that_cannot_be_had_are_rows_with_the_reason(tmp_path: Path) -> None:
    listed = read_list(DEFAULT_LIST, AgentEnvironment)
    assert len({each.folder for each in listed}) == len(listed)
    (row,) = bench_agents([AgentEnvironment(id="NoSuchEnvironment-v0")], tmp_path, AgentsSettings())
    assert "NoSuchEnvironment" in row["error"] and row["error"] in (tmp_path / "agents.md").read_text()
