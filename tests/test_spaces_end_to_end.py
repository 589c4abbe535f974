"""Observations of every kind are recorded, trained, dreamt, shown and measured."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from data_environments import SPACES
from PIL import Image

from magrathea.data import Dataset, collect
from magrathea.envs import DreamEnv
from magrathea.evaluate.evaluation import evaluate
from magrathea.evaluate.recordings import Options
from magrathea.spaces import check_space, find_picture, index_batch
from magrathea.train import load_settings, train
from magrathea.world import World

SHOWN = {  # (height, width) of what a person sees of the observations that a picture is made of
    "RGBA": (16, 16),
    "channels first": (16, 24),
    "floats": (16, 24),
    "floats, channels first": (16, 24),
    "floats to 255": (16, 16),
    "int32 to 255": (16, 16),
    "61x61": (63, 63),
    "1x200": (1, 200),
    "2x2": (2, 2),
    "grayscale": (16, 16),
    "one channel": (16, 16),
    "four frames": (16, 16),
    "rgb and depth": (16, 16),
    "nested": (16, 16),
}


def record(case: str, folder: Path) -> Dataset:
    keywords = {"case": case, "length": 12}
    return collect("data_environments:recorded/Other-v0", 60, folder, num_processes=1, env_kwargs=keywords)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Casting input x to numpy array")  # of a number without dimensions
@pytest.mark.parametrize("case", SPACES)
def test_observations_are_recorded_trained_dreamt_shown_and_measured(case: str, tmp_path: Path) -> None:
    data = record(case, tmp_path / "data")
    check_space(data.observation_space, "observation")
    settings = load_settings(None, size="debug", steps=2)
    train(data.folder, tmp_path / "world", settings)
    world = World.from_pretrained(tmp_path / "world")
    has_picture = find_picture(world.observation_space) is not None
    assert has_picture == (case in SHOWN)
    env = DreamEnv(world, render_mode="rgb_array" if has_picture else None)
    observation, _ = env.reset(seed=0)
    for _ in range(3):
        assert env.observation_space.contains(observation)
        observation, *_ = env.step(env.action_space.sample())
    png = env.session._repr_png_()
    assert (png is not None) == has_picture
    if has_picture:
        picture = env.render()
        assert isinstance(picture, np.ndarray) and picture.shape == (*SHOWN[case], 3) and picture.dtype == np.uint8
        assert png is not None and Image.open(io.BytesIO(png)).mode == "RGB"
    result = evaluate(world, data, tmp_path / "report", Options(num_episodes=2, num_dreams=2, minutes=0.02))
    assert (tmp_path / "report" / "index.html").exists()
    assert bool(result.videos) == (has_picture and min(SHOWN[case]) >= 16)
    assert any("Pictures and videos" in sentence for sentence in result.not_measured) == (not result.videos)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("channels first", "(16, 24, 3) of uint8: their channels are put last."),
        ("floats", "(16, 24, 3) of uint8: float32 from 0 to 1 becomes uint8."),
        ("61x61", "(63, 63, 3) of uint8: they are padded to 63x63, which patches divide."),
        ("rgb and depth", "'depth' are recorded as (16, 16, 1) of uint8: float32 from 0 to 1 becomes uint8."),
        ("grayscale", ""),
    ],
)
def test_what_is_done_to_pictures_is_said_once(
    case: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = record(case, tmp_path / "data")
    noted = [line for line in capsys.readouterr().err.splitlines() if "ictures" in line]
    assert len(noted) == bool(words) and all(line.endswith(words) for line in noted)
    assert data.observation_space.contains(index_batch(data.episode(0).observation, 0))
