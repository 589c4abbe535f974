"""The public door: `World.fill`, the uses of a world by their names, and the command."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from text_environments import record_rooms, train_rooms

from magrathea import masks, uses
from magrathea.cli.main import main
from magrathea.data import Dataset
from magrathea.errors import MagratheaError
from magrathea.sampler import FillSettings
from magrathea.session import Session
from magrathea.train.batches import BatchConfig, draw_alone_batch
from magrathea.train.cache import TokenCache
from magrathea.world import World

DOCS = Path(__file__).parents[1] / "docs"
LEAST_RIGHT = {
    "imagine": 0.6,
    "judge": 0.95,
    "infer_actions": 0.95,
    "inpaint": 0.5,
    "caption": 0.9,
    "dream_from_text": 0.5,
}
SURE = FillSettings(temperature=0)


@pytest.fixture(scope="module", params=["text", "both"])
def rooms(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Dataset]:
    folder = tmp_path_factory.mktemp(request.param)
    data = record_rooms(request.param, folder / "data")
    return train_rooms(folder / "data", folder / "world"), data


def recorded(world: World, data: Dataset, number: int = 0) -> torch.Tensor:
    episode = data.episode(number)
    return world.encode_episode(episode.observation, episode.action, episode.reward, episode.terminated)


def text_of(observation: Any) -> Any:
    return observation["words"] if isinstance(observation, dict) else observation


def test_known_tokens_never_change_and_a_seed_fills_the_same(rooms: tuple[World, Dataset]) -> None:
    world, steps = rooms[0], torch.stack([recorded(*rooms, number) for number in (0, 1)])
    holes = masks.random_holes(world.layout, steps.shape[:2], torch.Generator().manual_seed(0), 0.3)
    one, again, other = (world.fill(steps, holes, seed=seed).tokens for seed in (3, 3, 8))
    known = ~holes & ~world.layout.values_mask
    assert torch.equal(one[known], steps[known]) and torch.equal(one, again) and not torch.equal(one, other)
    alone = world.fill(steps[1:], holes[1:], seed=4).tokens
    assert torch.equal(alone[0], one[1])  # does not depend on the others of the batch


def test_no_holes_leave_all_as_it_is(rooms: tuple[World, Dataset]) -> None:
    steps = recorded(*rooms)[None]
    filled = rooms[0].fill(steps, torch.zeros(steps.shape, dtype=torch.bool))
    assert torch.equal(filled.tokens, steps) and not filled.num_passes.any() and (filled.confidence == 1).all()


def test_imagining_is_what_a_session_dreams(rooms: tuple[World, Dataset]) -> None:
    world, data = rooms
    steps, actions = recorded(world, data)[:5], data.episode(0).action[4:9]
    imagined = uses.imagine(world, steps, actions, settings=SURE)
    session = Session(world, 1, start=[steps], settings=SURE)
    for index in range(len(actions)):
        result = session.step(actions[index : index + 1])
        assert text_of(result.observation)[0] == text_of(imagined.observation)[index]
        assert torch.equal(result.tokens[0], imagined.tokens[index])
        assert result.reward[0] == imagined.reward[index] and result.terminated[0] == imagined.terminated[index]


def test_rewards_are_judged_from_what_happened(rooms: tuple[World, Dataset]) -> None:
    world, data = rooms
    episode = data.episode(2)
    reward, terminated = uses.judge(world, recorded(world, data, 2), settings=SURE)
    assert reward.shape == terminated.shape == (12,) and not terminated.any()
    assert (reward == episode.reward).mean() > 0.8


def test_actions_are_inferred_from_observations(rooms: tuple[World, Dataset]) -> None:
    world, data = rooms
    found = uses.infer_actions(world, data.episode(0).observation, settings=SURE)
    assert len(found) == 12 and all(
        action in world.action_space for action in found.tolist() if isinstance(action, str)
    )


def test_texts_are_written_to_pictures_and_pictures_to_texts(rooms: tuple[World, Dataset]) -> None:
    world, data = rooms
    first = data.episode(0).observation
    if not isinstance(first, dict):
        for use in (lambda: uses.caption(world, "You"), lambda: uses.dream_from_text(world, "You")):
            with pytest.raises(MagratheaError, match="observes only texts"):
                use()
        return
    shown = {name: part[3] for name, part in first.items()}
    written = uses.caption(world, shown | {"words": "?"}, recorded(world, data)[:3], settings=SURE)
    assert written in world.observation_space and np.array_equal(written["picture"], shown["picture"])
    dreams = uses.dream_from_text(world, str(shown["words"]), num=2)
    seen = world.decode_observation(dreams[:, 0])
    assert seen["words"].tolist() == [shown["words"]] * 2 and seen["picture"].shape == (2, 16, 16, 3)
    assert Session(world, 1, start=[dreams[0]]).step(np.array([0])).observation["words"].shape == (1,)


def test_what_cannot_be_filled_is_refused_in_a_line(rooms: tuple[World, Dataset]) -> None:
    world, steps = rooms[0], recorded(*rooms)[None]
    for call, message in (
        (lambda: world.fill(steps[0], torch.ones(1, dtype=torch.bool)), "got steps"),
        (lambda: world.fill(steps, torch.ones(7, 3, dtype=torch.bool)), "got holes"),
        (lambda: uses.inpaint(world, steps[0], "observation/nose"), "no slot 'observation/nose'"),
    ):
        with pytest.raises(MagratheaError, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)


def test_parts_of_single_steps_are_trained_where_there_are_texts_beside_others(rooms: tuple[World, Dataset]) -> None:
    world, data = rooms
    size = BatchConfig().fit_to(world.model)
    beside = isinstance(world.observation_space, spaces.Dict)
    assert bool(size.num_alone) == beside
    if beside:
        cache = TokenCache.open(data.folder.parent / "world" / ".training" / "tokens", world.layout)
        batch = draw_alone_batch(cache, size, torch.Generator().manual_seed(0))
        absent = ~world.layout.mask_of("observation")
        assert batch.tokens.shape == (size.num_alone, 1, world.layout.num_tokens) and batch.first == 0
        assert (batch.tokens[..., absent] == world.layout.absent_tokens[absent]).all()
        loss, weights = world.model(batch.past_tokens, batch.tokens, batch.hole_mask, first=0)
        assert loss.isfinite() and weights > 0


def test_the_command_dreams_from_the_recorded_text(
    rooms: tuple[World, Dataset], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, beside = rooms[1].folder, isinstance(rooms[0].observation_space, spaces.Dict)
    for use in ("caption", "dream_from_text"):
        code = main(["fill", str(folder.parent / "world"), str(folder), "--use", use, "--steps", "4"])
        printed = capsys.readouterr()
        assert (code == 0) == beside
        assert f"({use})" in printed.out if beside else "observes only texts" in printed.err


@pytest.mark.parametrize("use", ["imagine", "judge", "infer_actions"])
def test_the_command_fills_a_recorded_episode(
    rooms: tuple[World, Dataset], use: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = rooms[1].folder, tmp_path / "filled.npz"
    main(["fill", str(folder.parent / "world"), str(folder), "--use", use, "--steps", "8", "--out", str(out)])
    printed = capsys.readouterr().out
    assert f"({use})" in printed and "steps are as recorded" in printed
    with np.load(out) as filled:
        known = ~filled["holes"] & ~rooms[0].layout.values_mask.numpy()
        assert filled["holes"].any() and np.array_equal(filled["tokens"][known], filled["recorded"][known])


@pytest.mark.parametrize("use", LEAST_RIGHT)
def test_the_uses_of_the_docs_are_right(use: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures of docs/uses.md, of 20 episodes."""
    monkeypatch.syspath_prepend(str(DOCS))
    make_uses = importlib.import_module("make_uses")
    monkeypatch.setattr(make_uses, "FOLDER", tmp_path)
    episodes = [make_uses.play(seed) for seed in range(20)]
    assert make_uses.SHOW[use](World.from_pretrained(make_uses.WORLD), episodes) > LEAST_RIGHT[use]
    assert (tmp_path / f"{use}.png").stat().st_size < 100_000
