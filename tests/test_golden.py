"""The shipped worlds dream, and saved sessions go on, exactly as when the golden traces were recorded."""

from __future__ import annotations

import json

import pytest
from golden import record

TRACES = json.loads((record.FOLDER / "traces.json").read_text())

pytestmark = pytest.mark.skipif(
    TRACES["environment"] != record.environment(),
    reason=f"golden traces are of {TRACES['environment']}; other machines round differently",
)


@pytest.mark.slow
@pytest.mark.parametrize("seed", record.SEEDS)
@pytest.mark.parametrize("kind", record.TRACES)
@pytest.mark.parametrize("name", record.WORLDS)
def test_shipped_worlds_dream_as_before(name: str, kind: str, seed: int) -> None:
    assert list(record.TRACES[kind](record.load_world(name), seed)) == TRACES[f"{name}/{kind}/{seed}"]


@pytest.mark.parametrize("name", record.SAVED)
def test_sessions_of_earlier_versions_go_on_as_before(name: str) -> None:
    world = record.load_world(record.SAVED[name])
    assert list(record.trace_saved_session(name, world)) == TRACES[f"{name}/saved_session"]
