"""A reader can follow one step of a dream: `docs/architecture.md` names the few files that it passes through."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from session_worlds import wild_world

import magrathea
from magrathea.envs import DreamEnv

PACKAGE = Path(magrathea.__file__).parent
PAGE = PACKAGE.parent / "docs" / "architecture.md"
PLUGINS = ("tokenizers/", "memory/", "environments/")  # behind their interfaces
MAX_FILES = 13


def files_of_a_step(env: DreamEnv) -> set[str]:
    """The files of the package whose code runs in one step."""
    files: set[str] = set()

    def record(frame: FrameType, event: str, argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            files.add(path.relative_to(PACKAGE).as_posix())

    action = env.action_space.sample()
    sys.setprofile(record)
    try:
        env.step(action)
    finally:
        sys.setprofile(None)
    return files


@pytest.mark.parametrize("world", ["debug", "crafter", "minigrid"])
def test_a_step_passes_through_few_files_that_the_page_names(world: str) -> None:
    env = DreamEnv(wild_world() if world == "debug" else world)
    env.reset(seed=0)
    env.step(env.action_space.sample())  # the first one also writes the start
    followed = {name for name in files_of_a_step(env) if not name.startswith(PLUGINS)}
    assert len(followed) <= MAX_FILES, f"One step of a dream passes through {len(followed)} files: {sorted(followed)}"
    page = PAGE.read_text(encoding="utf-8").split("## One step of a dream")[1].split("## One update")[0]
    named = {name for name in re.findall(r"`(?:magrathea/)?([\w/]+\.py)`", page) if not name.startswith("tests/")}
    assert followed == named, f"docs/architecture.md and the step differ in {sorted(followed ^ named)}"


def test_the_page_names_functions_that_exist() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    table = PAGE.read_text(encoding="utf-8").split("## One step of a dream")[1].split("## One update")[0]
    for name in re.findall(r"\b([A-Z]\w+)\.(\w+)", table):
        assert f"class {name[0]}" in source and f"def {name[1]}(" in source, f"There is no {'.'.join(name)}"
