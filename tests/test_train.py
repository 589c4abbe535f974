"""Training: accuracy, exact resumption, equal results of one and two processes, and refused settings."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from magrathea import masks
from magrathea.data import Dataset, collect
from magrathea.errors import MagratheaError
from magrathea.evaluate.recordings import unseen_episodes
from magrathea.evaluate.segments import teacher_forced_logits
from magrathea.layout import Layout, Slot
from magrathea.model.joint import JointModel
from magrathea.progress import Stages
from magrathea.train import TrainSettings, load_settings, train
from magrathea.train.batches import SizedBatch, draw_batch, draw_prompted_batch, resample_slots, shorten_context
from magrathea.train.cache import RETURN_STEPS, TokenCache, effects_of_actions, encode_dataset
from magrathea.train.settings import shipped_recipes
from magrathea.train.train import held_out_share
from magrathea.train.trainer import Progress, TrainerConfig, train_model
from magrathea.world import World

BATCH = SizedBatch(num_segments=4, num_steps=5, num_prompted=2, self_forcing_prob=0.5, self_forcing_rounds=2)
CONFIG = TrainerConfig(steps=6, checkpoint_seconds=0, batch=BATCH)


class Killed(Exception):
    pass


@pytest.fixture
def work(debug_world: World, debug_dataset: Dataset, tmp_path: Path) -> Path:
    """A folder with an untrained world and a token cache."""
    debug_world.save_pretrained(tmp_path / "world")
    train_episodes, _ = debug_dataset.split()
    encoded = encode_dataset(debug_dataset, train_episodes, debug_world, Stages(quiet=True))
    TokenCache.build(encoded, debug_world, tmp_path / "tokens")
    return tmp_path


def losses(work: Path, name: str, stop_at: int | None = None) -> list[float]:
    world, seen = World.from_pretrained(work / "world"), []

    def report(progress: Progress) -> None:
        seen.append(progress.loss)
        if progress.step == stop_at:
            raise Killed

    cache = TokenCache.open(work / "tokens", world.layout)
    train_model(JointModel.of(world.model), [cache], CONFIG, work / f"{name}.safetensors", report)
    world.save_pretrained(work / name)
    return seen


def test_encoding_ends_with_the_time(
    debug_dataset: Dataset, debug_world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (debug_dataset.lengths[index] for index in (3, 1, 2))
    for least, expected in ((0, [first]), (first + 1, [first, second]), (10**9, [first, second, third])):
        monkeypatch.setattr("magrathea.train.cache.MIN_ENCODED", least)
        with Stages() as stages:
            encoded = encode_dataset(debug_dataset, [3, 1, 2], debug_world, stages, deadline=time.monotonic() - 1)
        assert [len(reward) for _, reward in encoded] == expected
    noted = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Note: ")]
    assert [line.split("episodes")[0] for line in noted] == ["Note: 1 of 3 ", "Note: 2 of 3 "]


def test_interrupted_training_resumes_exactly(work: Path) -> None:
    whole = losses(work, "whole")
    with pytest.raises(Killed):
        losses(work, "parts", stop_at=4)
    rest = losses(work, "parts")
    assert rest == whole[-len(rest) :] and len(rest) == 3  # the update after the last checkpoint is repeated
    first, second = (World.from_pretrained(work / name).model.state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_training_ends_after_its_passes(work: Path, debug_world: World) -> None:
    cache = TokenCache.open(work / "tokens", debug_world.layout)
    config, num_recorded = TrainerConfig(passes=0.2, checkpoint_seconds=1000, batch=BATCH), int(cache.ends[-1])
    world = World(debug_world.tokenizers, debug_world.config, debug_world.starts)
    seen: list[Progress] = []
    checkpoint = work / "passes.safetensors"
    train_model(JointModel.of(world.model), [cache], config, checkpoint, lambda now: seen.append(replace(now)))
    each = seen[0].num_trained_steps
    assert 0.2 * num_recorded <= seen[-1].num_trained_steps < 0.2 * num_recorded + each
    assert [now.fraction for now in seen[:-1]] == pytest.approx(
        [5 * i * each / num_recorded for i in range(1, len(seen))]
    )


@pytest.mark.slow
def test_two_processes_train_as_one(debug_dataset: Dataset, tmp_path: Path) -> None:
    """Under torchrun, from the command line, with a composite memory."""
    recipe = tmp_path / "two.toml"
    recipe.write_text(
        'size = "debug"\nsteps = 4\n[tokenizer]\nimage = "patch"\npatch = [4, 4]\n'
        '[model]\nnum_recent = 0\nmemory = "spatial_map+recurrent:8+retrieval"\n'
        "[batch]\nnum_segments = 4\nnum_steps = 5\nnum_prompted = 2\nself_forcing_prob = 0.5\n"
    )
    asked = ["train", str(debug_dataset.folder), "--recipe", str(recipe), "--no-report", "--device", "cpu"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "magrathea"]
    for launcher, name in ((torchrun, "two"), ([sys.executable, "-m", "magrathea"], "one")):
        done = subprocess.run(
            [*launcher, *asked, "--out", str(tmp_path / name)], capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
    one, two = (_progress(tmp_path / name) for name in ("one", "two"))
    assert one["step"] == two["step"] == 4 and two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert World.from_pretrained(tmp_path / "two").metadata["training"]["updates"] == 4


def _progress(out: Path) -> dict[str, float]:
    with safe_open(out / ".training" / "checkpoint.safetensors", framework="pt") as file:
        return json.loads(file.metadata()["progress"])


def test_trained_world_predicts_the_next_step(debug_world: World, debug_dataset: Dataset) -> None:
    num_correct = num_total = 0
    for index in debug_dataset.split(0.1)[1]:
        episode = debug_dataset.episode(index)
        tokens = debug_world.encode_episode(episode.observation, episode.action, episode.reward, episode.terminated)
        segments = tokens.unfold(0, 4, 1).transpose(1, 2)
        logits = teacher_forced_logits(debug_world, segments, masks.forward_dynamics(debug_world.layout), first=3)
        for name in ("observation", "reward", "terminated"):
            hits = logits[name][:, 0].argmax(-1) == segments[:, -1, debug_world.layout.span(name)]
            num_correct, num_total = num_correct + int(hits.sum()), num_total + hits.numel()
    assert num_correct / num_total > 0.99


def test_episodes_are_held_out_unless_none_are_wanted(tmp_path: Path) -> None:
    """A single long episode makes a world if none is held out, and otherwise the error says what to do."""
    dataset = collect("CartPole-v1", 12, tmp_path / "data", num_processes=1, max_episode_steps=12, exact=True)
    assert len(dataset) <= 2
    with pytest.raises(MagratheaError, match="2 are held out; record more"):
        train(dataset.folder, tmp_path / "none", load_settings(size="debug", steps=2))
    world = train(dataset.folder, tmp_path / "world", load_settings(size="debug", steps=2, held_out=0.0))
    assert world.metadata["held_out"] == 0 and len(world.starts) == 64
    with pytest.raises(MagratheaError, match="leaves none to measure on"):
        unseen_episodes(world, dataset)
    assert [held_out_share(number, 0.05) for number in (3, 100, 1000)] == [2 / 3, 0.08, 0.05]


def test_no_dream_starts_in_an_opening_that_nothing_changes(tmp_path: Path) -> None:
    collect("data_environments:recorded/Waiting-v0", 240, tmp_path / "data", policy="random", num_processes=1)
    world = train(tmp_path / "data", tmp_path / "world", load_settings(size="debug", steps=2))
    observed = world.starts[:, -1, [slot.role == "observation" for slot in world.layout.slots]]
    assert int(observed.min()) == 8 and int(observed.max()) > 16, "starts are right before the first step that counts"


def test_segments_do_not_cross_episodes(work: Path, debug_world: World) -> None:
    cache = TokenCache.open(work / "tokens", debug_world.layout)
    tokens = cache.segments(300, 8, 3, torch.Generator().manual_seed(0)).tokens
    starts = tokens[:, :, 0] == debug_world.layout.slots[0].absent  # the action of a reset, or past the end
    past_end = tokens[:, :, -1] == debug_world.layout.slots[-1].absent
    assert not (starts[:, 1:] & ~past_end[:, 1:]).any()
    assert past_end.any() and not past_end[:, 1].any()


@pytest.mark.parametrize(("grid", "expected"), [((1, 1), {"terminated"}), ((4, 4), set())])
def test_rare_endings_weigh_more_where_there_are_no_pictures(grid: tuple[int, int], expected: set[str]) -> None:
    slots = (
        Slot(name="observation", role="observation", vocab_size=3, grid=grid),
        Slot(name="terminated", role="terminated", vocab_size=2),
    )
    layout = Layout(slots)
    tokens = np.zeros((104, layout.num_tokens), np.uint8)
    tokens[::26, -1] = 1  # 4 of 104
    tokens[1, -1] = slots[1].absent
    rest = np.zeros((104, 0)), np.ones(104), np.zeros(104), np.array([104])
    weights = TokenCache(tokens, *rest, {}, None, None, layout).event_weights()
    assert weights.keys() == expected
    for own in weights.values():
        assert own.tolist() == pytest.approx([1.0, (99 / 4) ** 0.5])


def test_every_step_but_the_first_of_an_episode_is_a_target(work: Path, debug_world: World) -> None:
    """Those right after a beginning too, whose context is the first step repeated."""
    cache, generator = TokenCache.open(work / "tokens", debug_world.layout), torch.Generator().manual_seed(0)
    for by_effect in (None, torch.ones(3000, dtype=torch.bool)):
        tokens = cache.segments(3000, 4, 0, generator, by_effect, num_context=3).tokens
        is_first = tokens[..., 0] == debug_world.layout.slots[0].absent
        assert not is_first[:, 3].any()
        for num_repeated in (1, 2, 3):
            begins = is_first[:, :3].sum(1) == num_repeated
            assert begins.any() and (tokens[begins, :num_repeated] == tokens[begins, :1]).all()


def test_short_contexts_show_their_last_step_alone() -> None:
    tokens, generator = torch.arange(100 * 4 * 2).view(100, 4, 2), torch.Generator().manual_seed(0)
    shortened = shorten_context(tokens, SizedBatch(num_context=3, num_steps=4, short_context_prob=0.5), generator)
    is_short = (shortened[:, :3] == tokens[:, 2:3]).flatten(1).all(1)
    assert 30 < is_short.sum() < 70
    assert torch.equal(shortened[~is_short], tokens[~is_short]) and torch.equal(shortened[:, 3:], tokens[:, 3:])


def test_prompts_hold_only_the_goal_or_the_return(work: Path, debug_world: World) -> None:
    layout = debug_world.layout
    cache = TokenCache.open(work / "tokens", layout)
    config = SizedBatch(num_prompted=60, num_steps=8, corrupt_prob=0)
    batch = draw_prompted_batch(cache, config, torch.Generator().manual_seed(0))
    assert batch.prompt is not None and batch.tokens.shape[1] == 7 and batch.first == 1
    observation, to_act = layout.span("observation"), batch.hole_mask.any(-1)
    assert torch.equal(batch.hole_mask, to_act[..., None].expand_as(batch.hole_mask))  # none or all tokens of a step
    num_within = 0
    for index, prompt in enumerate(batch.prompt):
        shown = {slot.name for slot in layout.slots if (prompt[layout.span(slot.name)] < slot.vocab_size).any()}
        assert shown == {"observation"} or shown == {"reward"}
        num_to_act = int(to_act[index].sum())
        assert to_act[index, :num_to_act].all() and num_to_act
        if num_to_act < 7:  # the goal is in the segment: later actions do not lead to it
            assert shown == {"observation"}
            assert torch.equal(batch.tokens[index, num_to_act - 1, observation], prompt[observation])
            num_within += 1
    assert num_within
    assert RETURN_STEPS == 64


def test_only_trainable_parameters_change(debug_world: World, debug_dataset: Dataset, tmp_path: Path) -> None:
    """A trained world can learn to act toward goals while its other parameters are frozen."""
    begin, recipe = debug_world.save_pretrained(tmp_path / "begin"), tmp_path / "goals.toml"
    batch = "[batch]\nnum_segments = 0\nnum_steps = 5\nnum_prompted = 4\n"
    model = "[model]\nnum_recent = 0\nnum_memory_layers = 1\n"
    recipe.write_text(f'size = "debug"\nsteps = 3\ntrainable = ["goal_proj"]\n{model}{batch}')
    world = train(debug_dataset.folder, tmp_path / "world", load_settings(recipe, init_from=str(begin)))
    before, after = World.from_pretrained(begin).model.state_dict(), world.model.state_dict()
    assert world.continues == [World.from_pretrained(begin).fingerprint], "its sessions go on"
    changed = {name for name, weights in after.items() if not torch.equal(before[name], weights.bfloat16().float())}
    assert changed == {"goal_proj.weight"}
    with pytest.raises(MagratheaError, match="num_segments and num_prompted are both 0"):
        SizedBatch(num_segments=0, num_prompted=0)
    recipe.write_text(f'size = "debug"\nsteps = 3\ntrainable = ["nose"]\n{model}{batch}')
    with pytest.raises(MagratheaError, match="'nose', which no parameter begins with"):
        train(debug_dataset.folder, tmp_path / "other", load_settings(recipe, init_from=str(begin)))


def test_only_the_context_is_corrupted(work: Path, debug_world: World) -> None:
    cache = TokenCache.open(work / "tokens", debug_world.layout)
    config = SizedBatch(num_segments=64, num_steps=6, corrupt_prob=1.0, max_corrupt_rate=0.5)
    batch = draw_batch(cache, config, torch.Generator().manual_seed(0))
    uncorrupted = SizedBatch(num_segments=64, num_steps=6, corrupt_prob=0)
    clean = draw_batch(cache, uncorrupted, torch.Generator().manual_seed(0))
    assert torch.equal(batch.tokens, clean.tokens)
    assert not torch.equal(batch.past_tokens[:, 1:], batch.tokens)


def test_resample_slots_replaces_only_predicted_single_tokens() -> None:
    slots = (
        Slot(name="action", role="action", vocab_size=4),
        Slot(name="observation", role="observation", vocab_size=90, grid=(3, 3)),
        Slot(name="observation/light", role="observation", vocab_size=40),
    )
    predicted = dict.fromkeys(("observation", "observation/light"), np.zeros(0))
    cache: Any = SimpleNamespace(layout=Layout(slots), predicted=predicted)
    past = 10 * (torch.arange(64) % 4)[:, None, None].expand(-1, 5, 11) + torch.arange(11) % 4
    shown = resample_slots(past, cache, SizedBatch(slot_resample_prob=0.5), torch.Generator().manual_seed(0))
    changed = shown != past
    assert not changed[..., :-1].any() and 0.2 < changed[..., -1].any(-1).float().mean() < 0.5
    light = shown[..., -1]
    assert (light == light[:, :1]).all()  # one value for all steps of a context
    none = resample_slots(past, cache, SizedBatch(slot_resample_prob=0), torch.Generator().manual_seed(0))
    assert torch.equal(none, past)


BAD_SETTINGS = {
    "colour = 3": "has no setting 'colour'; choose among batch, checkpoint_seconds, collect,",
    "steps = 0": ": steps is 0; give a whole number from 1 to 1000000000.",
    "steps = 1.5": ": steps is 1.5; give a whole number",
    "steps = true": ": steps is True; give a whole number",
    'steps = "many"': ": steps is 'many'; give a whole number",
    "minutes = -1": ": minutes is -1; give a number above 0 to 1000000.",
    "minutes = nan": ": minutes is nan; give a number above 0",
    "seed = -1": ": seed is -1; give a whole number from 0 to 4294967295.",
    "learning_rate = 0": ": learning_rate is 0; give a number above 0 to 1.",
    "held_out = 1": ": held_out is 1; give a number from 0 to 0.9.",
    "num_starts = 0": ": num_starts is 0; give a whole number from 1",
    'size = "huge"': ": size is 'huge'; choose one of debug, tiny, small, base.",
    "size = []": ": size is []; choose one of debug, tiny, small, base.",
    "[[size]]": ": size is [{}]; choose one of debug, tiny, small, base.",
    'trainable = "goal_proj"': ": trainable is 'goal_proj'; give a text for each.",
    "model = 3": ": model is 3; give a table.",
    "batch = 3": ": batch is 3; give a table.",
    "[batch]\nnum_segmens = 3": " [batch] has no setting 'num_segmens'; choose among corrupt_prob,",
    "[batch]\nnum_steps = 1": " [batch]: num_steps is 1; give a whole number from 2",
    "[batch]\nnum_steps = 3.5": " [batch]: num_steps is 3.5; give a whole number from 2",
    "[batch]\ncorrupt_prob = 2": " [batch]: corrupt_prob is 2; give a number from 0 to 1.",
    "[batch]\nnum_segments = 0\nnum_prompted = 0": " [batch]: num_segments and num_prompted are both 0;",
    "[batch.uses]\ndreaming = 1": " [batch]: There is no use of a world named 'dreaming'",
    "[batch.uses]\njudge = -1": " [batch]: The weight of the use 'judge' is -1",
    "[model]\ndepth = 3": " [model] has no setting 'depth'; choose among memory,",
    "[model]\nwidth = 50": " [model]: width is 50; give a multiple of 48.",
    "[model]\nwindow = 64": " [model]: window is 64; give a whole number from 1 to 63.",
    "[fill]\nheat = 1": " [fill] has no setting 'heat'; choose among balance_reach,",
    '[fill]\norder = "backwards"': " [fill]: order is 'backwards'; give one of adaptive,",
    "[fill]\ntemperature = inf": " [fill]: temperature is inf; give a number from 0 to 1000.",
    '[collect]\nenv_id = "CartPole-v1"': " [collect] lacks the setting 'steps'; add it.",
    '[collect]\nenv_id = "CartPole-v1"\nsteps = 0': " [collect]: steps is 0; give a whole number from 1",
    "[metadata": " is not TOML: ",
}


@pytest.mark.parametrize(("text", "message"), BAD_SETTINGS.items())
def test_invalid_recipe_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    recipe = tmp_path / "bad.toml"
    recipe.write_text(text)
    with pytest.raises(MagratheaError) as raised:
        load_settings(recipe)
    assert str(raised.value).startswith(f"Recipe '{recipe}'") and message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_options_override_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "debug.toml"
    recipe.write_text('size = "debug"\nsteps = 5\n[model]\nwindow = 5\nmemory = "recurrent"\n')
    settings = load_settings(recipe)
    assert (settings.model.width, settings.model.window, settings.model.memory) == (48, 5, "recurrent")
    changed = load_settings(recipe, size="tiny", memory="window", steps=7, seed=None)
    assert (changed.model.width, changed.model.window, changed.model.memory) == (144, 5, "window")
    assert (changed.steps, changed.seed) == (7, 0)
    assert load_settings() == TrainSettings()
    with pytest.raises(MagratheaError, match="steps is 0; give a whole number"):
        load_settings(recipe, steps=0)


@pytest.mark.parametrize("recipe", sorted(shipped_recipes()))
def test_shipped_recipes_are_valid(recipe: str) -> None:
    settings = load_settings(recipe)
    assert settings.collect is not None and settings.collect.steps > 1000


def test_training_refuses_missing_or_mismatched_data(debug_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(MagratheaError, match="No dataset in"):
        train(tmp_path / "nothing", tmp_path / "world")
    with pytest.raises(MagratheaError, match="No recipe 'nonesuch'"):
        load_settings("nonesuch")
    (tmp_path / "debug.toml").write_text('size = "debug"\nsteps = 1\n[tokenizer]\nimage = "patch"\npatch = [4, 4]\n')
    settings = load_settings(tmp_path / "debug.toml")
    train(debug_dataset.folder, tmp_path / "world", settings)
    with pytest.raises(MagratheaError, match="other settings or data"):
        train(debug_dataset.folder, tmp_path / "world", replace(settings, seed=5))
    (tmp_path / "world" / ".training" / "checkpoint.safetensors").write_bytes(b"broken")
    with pytest.raises(MagratheaError, match="is damaged or of another training"):
        train(debug_dataset.folder, tmp_path / "world", settings)


def test_steps_are_drawn_by_what_their_action_changes() -> None:
    """Half of the draws are even; the other half goes to the action that changes the values, a quarter of the steps. An
    action of several tokens has no effect of its own."""
    slots = [
        Slot(name="action", role="action", vocab_size=4),
        Slot(name="observation", role="observation", vocab_size=9, grid=(2, 2)),
        Slot(name="observation/values", role="observation", vocab_size=256, grid=(2, 2), values_of="observation"),
        Slot(name="reward", role="reward", vocab_size=3),
        Slot(name="terminated", role="terminated", vocab_size=2),
    ]
    actions = np.arange(400) % 4
    tokens = np.zeros((400, 7), np.uint16)
    tokens[:, 0] = actions
    values = np.zeros((400, 4), np.uint8)
    values[:, 0] = 100 * (np.cumsum(actions == 1) % 2) + np.arange(400) % 5  # and noise
    weights = effects_of_actions([tokens], [values], Layout(tuple(slots)))
    assert weights[actions == 1].sum() / weights.sum() == pytest.approx(0.5 / 4 + 0.5)
    pair = Layout((replace(slots[0], grid=(1, 2)), *slots[1:]))
    assert (effects_of_actions([tokens], [values], pair) == 1).all()
