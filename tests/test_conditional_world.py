"""A world of pixels and numbers that move, made with the default settings: trained, dreamt, saved and started again."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import steered_square
import torch
from steered_square import ENV_ID

from magrathea.data import Dataset, collect
from magrathea.envs import DreamEnv
from magrathea.sampler import FillSettings
from magrathea.session import Session
from magrathea.spaces import index_batch
from magrathea.train import load_settings, train
from magrathea.world import World

pytestmark = pytest.mark.slow
HORIZON = 4
LIKELIEST = FillSettings(order="one_shot", temperature=0.0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    gymnasium.register(ENV_ID, entry_point=steered_square.SteeredSquare)
    yield collect(ENV_ID, 2400, tmp_path_factory.mktemp("data") / "square", policy="explore", num_processes=1)
    gymnasium.registry.pop(ENV_ID)


@pytest.fixture(scope="module")
def world(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> World:
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("worlds") / "square"
    return train(dataset.folder, out, load_settings(size="debug", steps=1100, learning_rate=2.5e-3, seed=1))


def held_out_starts(world: World, dataset: Dataset, num: int = 24) -> tuple[list, list, np.ndarray]:
    """Starts of W steps, the episodes and the numbers of the last real steps."""
    _, held_out = dataset.split(held_out=world.metadata["held_out"], seed=world.metadata["split_seed"])
    episodes = [dataset.episode(int(index)) for index in held_out]
    window, rng = world.config.model.window, np.random.default_rng(0)
    chosen = [episodes[number % len(episodes)] for number in range(num)]
    last = rng.integers(window - 1, steered_square.LENGTH - HORIZON, num)
    starts = []
    for episode, step in zip(chosen, last, strict=True):
        observed = index_batch(episode.observation, slice(step - window + 1, step + 1))
        starts.append(world.encode_episode(observed, episode.action[step - window + 1 : step]))
    return starts, chosen, last


def test_dreams_beat_repeating_the_last_step(world: World, dataset: Dataset) -> None:
    """Pictures and numbers of held-out episodes, 1 and 4 steps ahead under the recorded actions, against the last real
    ones."""
    starts, episodes, last = held_out_starts(world, dataset)
    session = Session(world, batch_size=len(starts), seed=0, start=starts, settings=LIKELIEST)
    for step in range(1, HORIZON + 1):
        actions = np.array([episode.action[at + step - 1] for episode, at in zip(episodes, last, strict=True)])
        dreamt = session.step(actions).observation
        if step not in (1, HORIZON):
            continue
        for key in ("image", "place"):
            values = [episode.observation[key].astype(float) for episode in episodes]
            real = np.stack([value[at + step] for value, at in zip(values, last, strict=True)])
            now = np.stack([value[at] for value, at in zip(values, last, strict=True)])
            error = ((dreamt[key] - real) ** 2).mean()
            assert error < 0.5 * ((now - real) ** 2).mean(), f"{key} at step {step}"


def test_the_action_is_obeyed(world: World, dataset: Dataset) -> None:
    """From one moment, going up and going down end in different places: by up to 1.7, and by 0 if it were ignored."""
    starts, *_ = held_out_starts(world, dataset, num=8)
    places = []
    for action in (1, 2):
        session = Session(world, batch_size=8, seed=0, start=starts, settings=LIKELIEST)
        for _ in range(3):
            dreamt = session.step(np.full(8, action)).observation
        places.append(dreamt["place"][:, 0])
    assert (places[1] - places[0]).mean() > 0.4


def test_cached_and_naive_agree(world: World) -> None:
    """The values of every step are the same, whichever way the past is computed."""
    sessions = [Session(world, 2, seed=3, start=[0, 1], inference=inference) for inference in ("cached", "naive")]
    for action in (1, 1, 4, 0, 3):
        first, second = (session.step(np.full(2, action)) for session in sessions)
        assert torch.equal(first.tokens, second.tokens)


def test_a_session_is_continued_after_saving(world: World, tmp_path: Path) -> None:
    """With enough steps that some of the log is compressed."""
    session = Session(world, 2, seed=5)
    for step in range(70):
        session.step(np.array([step % 5, (step + 1) % 5]))
    again = Session.load(session.save(tmp_path / "square.mwsession"), world)
    assert torch.equal(again.history, session.history)
    for action in (1, 3):
        assert torch.equal(again.step(np.full(2, action)).tokens, session.step(np.full(2, action)).tokens)
    session.rewind(40)
    again.rewind(40)
    assert torch.equal(again.step(np.zeros(2, int)).tokens, session.step(np.zeros(2, int)).tokens)


def test_values_are_what_the_tokens_decode_to(world: World) -> None:
    """Every dreamt step's values follow from its tokens and the step before."""
    session = Session(world, 1, seed=2)
    for action in (2, 2, 4):
        session.step(np.array([action]))
    steps = session.history_of(0)
    for before, after in zip(steps[-4:-1], steps[-3:], strict=True):
        assert torch.equal(world.model.with_values(after[None], before[None])[0], after)


def test_the_environment_shows_the_picture(world: World) -> None:
    env = DreamEnv(world, render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    assert np.array_equal(env.render(), observation["image"])
    observation, *_ = env.step(1)
    assert env.observation_space.contains(observation)
