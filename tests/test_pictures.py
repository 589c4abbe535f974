"""Which picture of an observation is shown: the page, `render()`, notebooks and clips show the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from magrathea.envs.dream import DreamEnv
from magrathea.evaluate.images import side_by_side, upscale
from magrathea.evaluate.slots import picture_slot, pictures_of
from magrathea.model.config import model_size
from magrathea.server.frame import Renderer
from magrathea.spaces import index_batch, picture_of
from magrathea.tokenizers import RewardTokenizer, TerminatedTokenizer, tokenizer_for
from magrathea.world import World, WorldConfig

RGB, RGBA, DEPTH = (spaces.Box(0, 255, (16, 16, channels), np.uint8) for channels in (3, 4, 1))
OBSERVATIONS = {
    "rgb": (RGB, ()),
    "rgba": (RGBA, ()),
    "grey": (DEPTH, ()),
    "depth and rgb": (spaces.Dict({"depth": DEPTH, "rgb": RGB}), ("rgb",)),
    "depth and rgba": (spaces.Dict({"depth": DEPTH, "image": RGBA, "steps": spaces.Discrete(3)}), ("image",)),
    "within": (spaces.Dict({"a": spaces.Dict({"depth": DEPTH, "pixels": RGB}), "b": RGB}), ("a", "pixels")),
    "several": (spaces.Tuple((spaces.Discrete(2), RGBA, RGB)), (1,)),
}


def world_of(space: spaces.Space) -> World:
    """A world whose observations are random values of a space."""
    space.seed(0)
    drawn = [space.sample() for _ in range(8)]
    batch = stacked(drawn)
    tokenizers = {
        "action": tokenizer_for(spaces.Discrete(2)),
        "observation": tokenizer_for(space, patch=(4, 4)).fit(batch),
        "reward": RewardTokenizer().fit(np.zeros(7, np.float32)),
        "terminated": TerminatedTokenizer(),
    }
    none = torch.zeros(0, 3, sum(tokenizer.tokens_per_step for tokenizer in tokenizers.values()))
    world = World(tokenizers, WorldConfig(model_size("debug"), metadata={"name": "pictures"}), none)
    tokens = world.encode_episode(batch, np.zeros(7, np.int64), np.zeros(7, np.float32), np.zeros(7, bool))
    world.starts = torch.stack([tokens[first : first + 3] for first in range(4)])
    return world


def stacked(drawn: list[Any]) -> Any:
    if isinstance(drawn[0], dict):
        return {key: stacked([each[key] for each in drawn]) for key in drawn[0]}
    if isinstance(drawn[0], tuple):
        return tuple(stacked(list(parts)) for parts in zip(*drawn, strict=True))
    return np.stack(drawn)


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_the_page_render_and_clips_show_the_same_picture(name: str) -> None:
    space, path = OBSERVATIONS[name]
    world = world_of(space)
    env = DreamEnv(world, render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    expected = observation
    for key in path:
        expected = expected[key]
    expected = np.repeat(expected, 3, axis=-1) if expected.shape[-1] == 1 else expected[..., :3]
    assert expected.std() > 0
    rendered = env.render()
    assert rendered is not None and rendered.shape == (16, 16, 3)
    renderer, slot = Renderer(world.observation_space), picture_slot(world)
    assert slot is not None and renderer.slot == "/".join(map(str, ("observation", *path))) == slot.name
    clip = pictures_of(world, slot, env.session.tokens.numpy())
    shown = {
        "render": rendered,
        "page": renderer.render(observation),
        "notebook": picture_of(world.observation_space, index_batch(env.session.observation, 0)),
        "clip": upscale(clip, smallest=16)[0],
    }
    for where, picture in shown.items():
        np.testing.assert_array_equal(picture, expected, err_msg=where)
    assert side_by_side(clip, clip).shape[-1] == 3
