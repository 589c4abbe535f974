"""Atari games, as the Arcade Learning Environment makes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from magrathea.data import collect

pytest.importorskip("ale_py")


def test_breakout_pictures_and_metadata(tmp_path: Path) -> None:
    data = collect(
        "ALE/Breakout-v5", 60, tmp_path / "out", num_processes=1, max_episode_steps=60, env_kwargs={"size": [84, 84]}
    )
    episode = data.episode(0)
    assert episode.observation.shape == (61, 84, 84, 3) and episode.observation.std() > 5
    assert data.metadata["action_names"] == ["noop", "fire", "right", "left"]
    assert data.metadata["key_map"] | {"ArrowRight": 2, "ArrowLeft": 3, " ": 1} == data.metadata["key_map"]
    assert data.metadata["fps"] == 15
