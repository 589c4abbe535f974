"""The example package of docs/environments.md, installed in a folder: its environment is recorded and trained on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(?:toml|python)\n# (\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_package_of_the_documentation_records_and_trains(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
    for name, text in BLOCK.findall(page):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]
    info = tmp_path / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    for group, points in project["entry-points"].items():
        lines = [f"{name} = {reference}" for name, reference in points.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]) + "\n")
    commands = re.findall(r"^magrathea (.+)$", page, re.MULTILINE)
    script = "\n".join(
        ["from magrathea.cli.main import main", *(f"assert main({command.split()!r}) == 0" for command in commands)]
    )
    result = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
    )
    assert len(commands) == 2 and result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "lamp" / "config.json").exists()
