"""The comparison of memories: results are stored, resumed and averaged over seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from magrathea.bench import memories as module
from magrathea.bench.memories import compare, parse_memories, pooled
from magrathea.bench.memory_table import ComparedMemory
from magrathea.errors import MagratheaError
from magrathea.evaluate.results import Figure, MemoryMeasures
from magrathea.train import TrainSettings

FIGURE = {"value": 0.5, "low": 0.4, "high": 0.6, "count": 10}


def test_results_of_seeds_are_averaged() -> None:
    one = {"recall": {"curve": [{"from": 1, "model": FIGURE}]}, "memory": "spatial_map", "bytes": 100, "only here": 1}
    other = {
        "recall": {"curve": [{"from": 1, "model": FIGURE | {"value": 0.75}}]},
        "memory": "spatial_map",
        "bytes": 200,
    }
    both = pooled([one, other])
    assert both["recall"]["curve"] == [{"from": 1, "model": {"value": 0.625, "low": 0.5, "high": 0.75, "count": 10}}]
    assert (both["memory"], both["bytes"], "only here" in both) == ("spatial_map", 150, False)
    assert pooled([one]) == one
    nothing = FIGURE | {"value": None}
    assert pooled([nothing, nothing])["value"] is None and pooled([nothing, FIGURE])["value"] == 0.5


def test_parse_memories_and_seeds() -> None:
    assert parse_memories("window, retrieval:256", "3") == {"window": 3, "retrieval:256": 3}
    given = parse_memories("window,spatial_map,retrieval:256", "window:3,retrieval:256:2")
    assert given == {"window": 3, "spatial_map": 1, "retrieval:256": 2}
    for names, seeds in (("", "1"), ("window", "0"), ("window", "spatial_map:2"), ("window", "many")):
        with pytest.raises(MagratheaError, match="cannot be compared"):
            parse_memories(names, seeds)


def test_interrupted_comparison_is_resumed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trained: list[tuple[str, int]] = []

    def train(dataset: str, folder: Path, settings: TrainSettings, *, device: str) -> tuple[str, int]:
        if len(trained) == 3:
            raise KeyboardInterrupt
        folder.mkdir(parents=True)
        trained.append((settings.model.memory, settings.seed))
        return trained[-1]

    def measure(world: tuple[str, int], *rest: object) -> ComparedMemory:
        figures = {"state_bytes": 10, "next_step": Figure(0.5, 0.4, 0.6, 2, 10)}
        memory = MemoryMeasures(window=4, memory=world[0], **figures)
        return ComparedMemory(memory, {"updates": 7, "steps per second": 10.0 * (1 + world[1])})

    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module, "_measure", measure)
    memories = {"window": 2, "retrieval:256": 2}
    with pytest.raises(KeyboardInterrupt):
        compare("data", tmp_path, TrainSettings(steps=1), memories=memories)
    trained.clear()
    table = compare("data", tmp_path, TrainSettings(steps=1), memories=memories)
    assert trained == [("retrieval:256", 1)]
    assert "| retrieval:256 | retrieval:256 | 2 | 7 | 15 | 10 | 50.0% (50.0% … 50.0%) |" in table
    assert (tmp_path / "comparison.md").read_text() == table and (tmp_path / "comparison.json").exists()
    with pytest.raises(MagratheaError, match="Unknown memory 'nothing'"):
        compare("data", tmp_path, TrainSettings(), memories={"nothing": 1})
