"""Any part of an observation from any other: what is known and what is filled; figures tell right from wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from magrathea.cli.main import main
from magrathea.data import Dataset, collect
from magrathea.errors import MagratheaError
from magrathea.evaluate.any_to_any import (
    AnyToAnyResult,
    Pair,
    all_but,
    any_to_any_table,
    evaluate_any_to_any,
    fill_from,
)
from magrathea.evaluate.part_measures import LabelMeasure, NumberMeasure, measure_for
from magrathea.evaluate.recordings import Options
from magrathea.sampler import FillResult
from magrathea.spaces import leaf_spaces_of
from magrathea.train import load_settings, train
from magrathea.world import World

PARTS = ["choice", "labels", "number", "picture", "sound", "text"]
RECIPE = (
    'size = "debug"\nsteps = 2\nheld_out = 0.3\n[model]\nnum_recent = 0\n'
    '[tokenizer]\nimage = "patch"\nnumbers = "box"\npatch = [4, 4]\n[batch]\nnum_steps = 3\nnum_prompted = 0\n'
)


@pytest.fixture(scope="module")
def dials(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("dials")
    return collect("part_environments:recorded/Dial-v0", 240, out / "data", num_processes=1, policy="random")


@pytest.fixture(scope="module")
def world(dials: Dataset) -> World:
    """A world that knows its parts' tokens and hardly anything else."""
    recipe = dials.folder.parent / "dial.toml"
    recipe.write_text(RECIPE)
    return train(dials.folder, dials.folder.parent / "world", load_settings(recipe))


def measured(world: World, dials: Dataset) -> AnyToAnyResult:
    return evaluate_any_to_any(world, dials, Options(num_episodes=6, seed=1))


def filling(monkeypatch: pytest.MonkeyPatch, world: World, guess: Any) -> list[torch.Tensor]:
    """Have a world's holes filled by a function of the recorded tokens (S, N); returns the masks that it gets."""
    masks: list[torch.Tensor] = []

    def fill(steps: torch.Tensor, holes: torch.Tensor, **_: Any) -> FillResult:
        masks.append(holes)
        tokens = torch.where(holes, guess(steps[:, 0])[:, None], steps)
        return FillResult(tokens, torch.ones(tokens.shape), torch.ones(tokens.shape[:2], dtype=torch.long))

    monkeypatch.setattr(world, "fill", fill)
    return masks


def score(pair: Pair, guess: str) -> float:
    """A figure, greater where the guess is better."""
    value = pair.figures[guess].value
    assert value is not None
    return value if pair.higher_is_better else -value


def test_an_oracle_is_as_good_as_its_tokens(world: World, dials: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    filling(monkeypatch, world, lambda tokens: tokens)
    result = measured(world, dials)
    assert [(pair.target, pair.source) for pair in result.pairs] == [
        (target, source) for target in PARTS for source in PARTS if target != source
    ]
    assert result.num_steps == 6 * 13 and result.num_episodes == 6
    for pair in result.pairs:
        assert score(pair, "world") == score(pair, "tokens alone") > score(pair, "mean")


def test_answers_to_other_steps_are_no_better_than_the_mean(
    world: World, dials: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    filling(monkeypatch, world, lambda tokens: tokens.roll(1, 0))
    for pair in measured(world, dials).pairs:
        low, high = pair.advantage.low, pair.advantage.high
        assert low is not None and high is not None and low <= high < 0  # the nearest neighbour is right
        assert score(pair, "tokens alone") > score(pair, "nearest neighbour") - 1e-6 > score(pair, "world")
        if pair.unit not in ("mean IoU", "right, %"):  # of which an answer to another step may have some by chance
            assert score(pair, "world") < score(pair, "mean")


def test_one_part_is_known_and_all_others_are_holes(
    world: World, dials: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks, layout = filling(monkeypatch, world, lambda tokens: tokens), world.layout
    observation = dials.episode(0).observation
    tokens = world.encode(None, observation)
    for part in PARTS:
        fill_from(world, tokens, part)
        holes = {slot.name for slot in layout.slots if masks[-1][layout.span(slot.name)].all()}
        assert holes == {f"observation/{other}" for other in PARTS if other != part}
        assert int(masks[-1].sum()) == sum(layout.span(name).stop - layout.span(name).start for name in holes)


def test_a_guess_depends_on_nothing_but_its_source(world: World, dials: Dataset) -> None:
    tokens = world.encode(None, dials.episode(0).observation)
    scrambled = torch.where(all_but(world, "picture"), tokens.roll(3, 0), tokens)
    scrambled[:, world.layout.role_span("reward")] = 0
    first, again, other = (
        fill_from(world, given, "picture")["number"] for given in (tokens, scrambled, tokens.roll(1, 0))
    )
    assert np.array_equal(first, again) and np.array_equal(np.roll(first, 1, 0), other)


def test_every_measure_tells_right_from_wrong(world: World, dials: Dataset) -> None:
    read = [dials.episode(number).observation for number in range(12)]
    for key, space in leaf_spaces_of(world.observation_space):
        values = np.concatenate([observation[key] for observation in read])
        measure = measure_for(space, values)
        constant = np.broadcast_to(measure.constant, values.shape)
        order = np.roll(np.arange(len(values)), 1)
        right, always, wrong = (
            float(measure.figure(measure.sums(values, guess).sum(0))) * (1 if measure.higher_is_better else -1)
            for guess in (values, constant, values[order])
        )
        assert right > always and right > wrong, key
        features = torch.from_numpy(measure.features(values))
        places = np.concatenate([observation["choice"] for observation in read])
        nearest = torch.cdist(features, features).argmin(1).numpy()
        assert np.array_equal(places[nearest], places), key


def test_numbers_are_judged_in_their_deviations() -> None:
    training = np.random.default_rng(0).normal(5, [1, 10, 0], (4000, 3)).astype(np.float32)
    measure = NumberMeasure(training)
    constant = np.broadcast_to(measure.constant, training.shape)
    assert float(measure.figure(measure.sums(training, constant).sum(0))) == pytest.approx(1, abs=0.01)
    aside = training + np.float32([0.5, 5, 99])  # what never changed is left out
    assert float(measure.figure(measure.sums(training, aside).sum(0))) == pytest.approx(0.5, abs=0.01)


def test_labels_are_judged_by_the_mean_of_their_classes() -> None:
    training = np.zeros((3, 16, 16), np.uint8)
    training[:, :8, :2], training[:, 8:12, 8:] = 100, 200
    measure = LabelMeasure(training, np.unique(training))
    guess = training.copy()
    guess[:, :4, :2] = 0  # half of one class is missed
    guess[:, 12:, 8:] = 190  # and the other one is twice as large, in a value that is nearest to its own
    assert float(measure.figure(measure.sums(training, guess).sum(0))) == pytest.approx((0.5 + 0.5) / 2)
    assert float(measure.figure(measure.sums(training, np.zeros_like(training)).sum(0))) == 0


def test_the_command_prints_and_writes_the_table(
    world: World, dials: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = dials.folder.parent
    arguments = [str(folder / "world"), str(dials.folder), "--out", str(folder / "report"), "--num-episodes", "3"]
    assert main(["eval", "any-to-any", *arguments]) == 0
    printed, (written,) = capsys.readouterr().out, json.loads((folder / "report" / "any-to-any.json").read_text())
    assert len(written["pairs"]) == len(PARTS) * (len(PARTS) - 1) == printed.count(" is better |")
    with Image.open(folder / "report" / "any-to-any.png") as picture:
        assert min(picture.size) > 800
    assert written["num_training_steps"] + 13 * round(0.3 * len(dials)) == 13 * len(dials)


def test_the_better_one_is_bold_where_it_is_certain(world: World, dials: Dataset) -> None:
    result = evaluate_any_to_any(world, dials, Options(num_episodes=2))
    pair = result.pairs[0]
    figures = {name: replace(found, value=index / 4) for index, (name, found) in enumerate(pair.figures.items())}
    for low, high, bold in ((0.1, 0.2, "**0.75**"), (-0.2, -0.1, "**0.25**"), (-0.1, 0.1, "")):
        shown = replace(pair, figures=figures, advantage=replace(pair.advantage, low=low, high=high))
        table = any_to_any_table(replace(result, pairs=[shown]))
        assert bold in table and ("**" in table) == bool(bold)


def test_a_world_of_one_part_is_refused(debug_world: World, debug_dataset: Dataset) -> None:
    with pytest.raises(MagratheaError, match="a Dict of several"):
        evaluate_any_to_any(debug_world, debug_dataset, Options())
