"""The benchmarks: rates, FLOPs, memory, fairness between players, and refused worlds."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import numpy as np
import pytest
import torch
from lights import lights_world
from session_worlds import wild_world

from magrathea.bench import bench, measure_history, profile_steps
from magrathea.bench.peak import count_flops, matrix_peak, peak_memory_mb
from magrathea.bench.play import HeldActions, measure_playing
from magrathea.errors import MagratheaError
from magrathea.server.engine import StepOutput
from magrathea.server.live_session import LiveSession
from magrathea.server.load_test import _play, measure_players


def test_count_flops_of_a_product_and_of_attention() -> None:
    left, right = torch.zeros(3, 5), torch.zeros(5, 7)
    assert count_flops(lambda: left @ right) == 2 * 3 * 5 * 7
    queries = torch.zeros(1, 2, 4, 8)
    attend = torch.nn.functional.scaled_dot_product_attention
    with torch.inference_mode():
        assert count_flops(lambda: attend(queries, queries, queries)) == 2 * 2 * (2 * 4 * 4 * 8)


def test_peak_rate_and_memory_of_the_machine() -> None:
    rate = matrix_peak(torch.float32, torch.device("cpu"), [(128, 128, 128)])
    assert 1e8 < rate < 1e15 and peak_memory_mb() > 50


def test_actions_are_held_as_long_as_in_the_starts() -> None:
    world = lights_world()
    steps = torch.zeros(40, 6, world.layout.num_tokens, dtype=torch.long)
    steps[20:, :, 0] = 1
    steps[:, 0, 0] = world.layout.slots[0].absent
    steps[::4, 3:, 0] = 1 - steps[::4, 3:, 0]
    world.starts = steps
    held = HeldActions(world, 64)
    drawn = np.stack([held.next() for _ in range(300)])
    assert set(np.unique(drawn)) == {0, 1}
    assert held.hold == pytest.approx(1 - 10 / (40 * 4))
    assert np.mean(drawn[1:] == drawn[:-1]) == pytest.approx(held.hold, abs=0.02)


def test_playing_counts_steps_passes_and_flops() -> None:
    world = lights_world()
    measured = measure_playing(world, 3, 0.05).to_json()
    assert measured["batch_size"] == 3 and measured["num_steps"] >= 5 and measured["passes_per_step"] >= 1
    width, positions = world.config.model.width, world.layout.num_positions
    floor = 2 * positions * 2 * 6 * width**2 / 1e6  # two layers, of six D × D products or more, of one pass
    assert measured["mflop_per_environment_step"] > floor
    assert measured["p50_ms"] <= measured["p95_ms"]


def test_bench_result_is_json_with_shares_between_0_and_1() -> None:
    result = json.loads(json.dumps(bench(lights_world(), (1, 4), seconds=0.05)))
    assert set(result["playing"]) == {"1", "4"}
    for measured in (*result["playing"].values(), result["training"]):
        assert 0 < measured["share_of_float32_peak"] < 1
    assert result["training"]["tokens_per_second"] > 0 and result["memory"]["peak_rss_mb_training"] > 50
    assert result["machine"]["bfloat16_peak_gflop_per_second"] > 0


def test_measure_players_reports_rates_and_fairness() -> None:
    result = json.loads(json.dumps(measure_players(lights_world(), (1, 4), seconds=0.3)))
    assert set(result["players"]) == {"1", "4"} and result["players"]["1"]["ratio"] == 1
    for measured in result["players"].values():
        assert measured["steps_per_second"] > 0 and 0 < measured["p50_ms"] <= measured["p95_ms"]
        assert 0 < measured["fairness"] <= 1


def test_players_without_pauses_differ_by_at_most_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """At any speed of the machine, every player that sends actions without a pause is in every batch."""
    world = lights_world()
    monkeypatch.setattr(world, "decode_terminated", lambda tokens: np.zeros(len(tokens), bool))  # resets take time
    taken: Counter[int] = Counter()
    step = LiveSession.step

    async def counted(live: LiveSession, action: int) -> StepOutput:
        output = await step(live, action)
        taken[id(live)] += 1
        assert max(taken.values()) - min(taken.values()) <= 1
        return output

    monkeypatch.setattr(LiveSession, "step", counted)
    waits = asyncio.run(_play(world, 5, 0.3, seed=0))
    numbers = [len(each) for each in waits]
    assert len(taken) == 5 and min(numbers) >= max(1, max(numbers) - 1)


@pytest.mark.parametrize("memory", ["recurrent", "retrieval:40"])
def test_memory_of_fixed_size_takes_fewer_bytes_per_step_of_a_longer_history(memory: str) -> None:
    world = wild_world(memory)
    measured = measure_history(world, (50, 500))
    for cost in measured.values():
        assert min(cost["memory_ms_per_step"], cost["ms_per_step"], cost["passes_per_step"]) > 0
    assert measured["500"]["memory_bytes_per_step"] < measured["50"]["memory_bytes_per_step"]


def test_profile_names_operations() -> None:
    assert "aten::" in profile_steps(lights_world(), num_steps=2)


def test_world_without_starts_is_refused() -> None:
    world = lights_world()
    world.starts = world.starts[:0]
    with pytest.raises(MagratheaError, match="no stored starts"):
        bench(world, (1,), seconds=0.05)
