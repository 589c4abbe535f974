"""Datasets that Minari wrote are read like recorded ones."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from magrathea.data import Dataset


def buffer(seed: int, num_steps: int) -> EpisodeBuffer:
    rng = np.random.default_rng(seed)
    return EpisodeBuffer(
        seed=seed,
        observations=rng.normal(size=(num_steps + 1, 4)).astype(np.float32),
        actions=rng.integers(2, size=num_steps),
        rewards=[1.0] * num_steps,
        terminations=[False] * num_steps,
        truncations=[False] * (num_steps - 1) + [True],
    )


@pytest.mark.filterwarnings("ignore:.*is set to None")  # Minari warns about missing metadata
def test_reads_a_dataset_written_by_minari(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    theirs = minari.create_dataset_from_buffers(
        "cart/pole-v0",
        buffer=[buffer(3, 5), buffer(4, 6)],
        env=gymnasium.make("CartPole-v1"),
        algorithm_name="random",
        author="nobody",
        author_email="nobody",
        code_permalink="none",
        description="noise",
    )
    for folder in (tmp_path / "cart" / "pole-v0", tmp_path / "cart" / "pole-v0" / "data"):
        ours = Dataset.open(folder)
        assert ours.env_id == "CartPole-v1" and len(ours) == 2 and ours.num_steps == theirs.total_steps == 11
        np.testing.assert_array_equal(ours.episode(1).observation, theirs[1].observations)
        assert [ours.episode(index).seed for index in (0, 1)] == [3, 4]
