"""The shapes in the signatures of the core are right: tests of it pass with every call checked by beartype.

Checks take three times as long as a step of a dream, so only some tests run with them, in a process of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = (
    "test_masks.py",
    "test_model.py",
    "test_sampler.py",
    "test_support.py",
    "test_memories.py::test_sampling_agrees_with_training",
    "test_memory_cycle_clock.py",
    "test_memory_map.py",
)
REFUSALS = "not says_what_to_do and not say_what_to_do"  # these pass values of other types on purpose


@pytest.mark.slow
def test_shapes_in_signatures_are_right() -> None:
    folder = Path(__file__).parent
    options = "-q", "-m", "not slow", "-k", REFUSALS
    command = [sys.executable, "-m", "pytest", *options, *(str(folder / test) for test in TESTS)]
    done = subprocess.run(
        command, cwd=folder.parent, env=os.environ | {"CHECK_SHAPES": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.slow
def test_a_wrong_shape_is_found() -> None:
    """The check itself can fail."""
    program = (
        "import conftest, torch; from magrathea import sampler\n"
        "sampler._ranks(torch.zeros(2, 3), torch.ones(2, 4, dtype=torch.bool))"
    )
    folder = Path(__file__).parent
    environment = os.environ | {"CHECK_SHAPES": "1", "PYTHONPATH": f"{folder}{os.pathsep}{folder.parent}"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "TypeCheckError" in done.stderr
