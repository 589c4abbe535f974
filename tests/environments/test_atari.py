"""Atari games, as the Arcade Learning Environment makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from magrathea.data import collect
from magrathea.data.make_env import environment_metadata, make_env
from magrathea.errors import MagratheaError
from magrathea.evaluate.sounds import near_counts
from magrathea.evaluate.tones import dominant_frequencies, event_sounds
from magrathea.sounds import with_sounds

pytest.importorskip("ale_py")
from magrathea.environments.atari.events import OUT, SERVED, visible_events


def test_breakout_pictures_and_metadata(tmp_path: Path) -> None:
    data = collect(
        "ALE/Breakout-v5", 60, tmp_path / "out", num_processes=1, max_episode_steps=60, env_kwargs={"size": [84, 84]}
    )
    episode = data.episode(0)
    assert episode.observation.shape == (61, 84, 84, 3) and episode.observation.std() > 5
    assert data.metadata["action_names"] == ["noop", "fire", "right", "left"]
    assert data.metadata["key_map"] | {"ArrowRight": 2, "ArrowLeft": 3, " ": 1} == data.metadata["key_map"]
    assert data.metadata["fps"] == 15 and data.metadata["description"] == "Breakout, a game of the Atari 2600."
    games = [environment_metadata(make_env(f"ALE/{name}-v5")) for name in ("SpaceInvaders", "Seaquest")]
    assert games[0]["action_names"] == ["noop", "fire", "right", "left", "right fire", "left fire"]
    assert games[0]["description"].startswith("Space Invaders,") and "up right fire" in games[1]["action_names"]


def test_a_step_has_the_sound_of_all_its_frames() -> None:
    options: dict[str, Any] = {"sound_obs": True, "repeat_action_probability": 0.0}
    whole = make_env("ALE/Pong-v5", frameskip=4, **options)
    single = make_env("ALE/Pong-v5", frameskip=1, **options)
    assert whole.observation_space["sound"].sample_rate == 30720 and whole.observation_space["sound"].shape == (2048,)
    first, other = whole.reset(seed=0)[0], single.reset(seed=0)[0]
    assert (first["sound"] == 128).all() and (other["sound"] == 128).all()
    heard = 0
    for step in range(60):
        action = step % 6
        frames = [single.step(action)[0]["sound"] for _ in range(4)]
        sound = whole.step(action)[0]["sound"]
        np.testing.assert_array_equal(sound, np.concatenate(frames))
        heard += bool((sound != 128).any())
    assert 0 < heard < 60


def test_frames_of_any_number_have_no_sound_of_one_length() -> None:
    with pytest.raises(MagratheaError, match="steps of one length"):
        make_env("ALE/Pong-v5", frameskip=(2, 5), sound_obs=True)


def test_the_ball_of_pong_turns_when_it_sounds() -> None:
    env = make_env("ALE/Pong-v5", sound_obs=True, size=(80, 80))
    observation, _ = env.reset(seed=1)
    rng, frames, sounds = np.random.default_rng(1), [observation["image"]], [observation["sound"]]
    for _ in range(400):
        observation = env.step(int(rng.integers(6)))[0]
        frames.append(observation["image"])
        sounds.append(observation["sound"])
    events = visible_events("ALE/Pong-v5", np.stack(frames))
    loud = (np.stack(sounds) != 128).any(1)
    onsets = loud & ~np.concatenate([[True], loud[:-1]])
    assert events is not None and visible_events("ALE/Breakout-v5", np.stack(frames)) is None
    heard, space = np.stack(sounds), with_sounds(env.observation_space, {"sound": 30720}, "Pong")["sound"]
    found, kinds = event_sounds(space, heard, events)
    pitches = dominant_frequencies(space.waveform(found[:, 1]), space.sample_rate)
    assert np.median(pitches[kinds == OUT]) < 300 < np.median(pitches[kinds == SERVED]) < 720
    num, near, num_events, with_onset, by_chance = near_counts(onsets, events > 0)
    assert num > 15 and near / num > 0.85 and with_onset / num_events > 0.7 and by_chance / num < 0.5
