"""Several worlds with one set of weights: slots that they share, files, training, and which of them words mean."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from counting_worlds import MISSIONS, PROMPTS, SIDES, record_all
from session_worlds import MOTION, wild_world
from test_train import Killed

from magrathea.cli.main import main
from magrathea.data import Dataset
from magrathea.errors import MagratheaError
from magrathea.evaluate.recordings import world_of_dataset
from magrathea.joint import choose_start, choose_world, joint_model, save_worlds, text_of
from magrathea.layout import Layout, Slot
from magrathea.model.joint import JointModel
from magrathea.pretrained import find_world, read_config, worlds_in
from magrathea.server.server import open_catalog
from magrathea.session import Session
from magrathea.tokenizers import RewardTokenizer
from magrathea.tokenizers.roles import layout_for
from magrathea.train import load_settings, train_many
from magrathea.words import similarities
from magrathea.world import World


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return record_all(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def many(datasets: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds") / "many"
    settings = load_settings(size="debug", steps=300, learning_rate=4e-3, num_starts=8)
    train_many(datasets, folder, settings, prompts=list(PROMPTS.values()), device="cpu")
    return folder


# -- weights ----------------------------------------------------------------------------------------------------------
def wild_worlds() -> dict[str, World]:
    """Two worlds of one board, whose pictures have other tokenizers and layouts."""
    return {"patches": wild_world(), "motions": wild_world(f"{MOTION}window")}


def logits(world: World) -> dict[str, torch.Tensor]:
    tokens = world.starts[:2]
    holes = torch.zeros_like(tokens[:, -1:], dtype=torch.bool)
    holes[..., world.layout.role_span("observation")] = ~world.layout.values_mask[world.layout.role_span("observation")]
    kv_cache = world.model.segment_cache(tokens, 2)
    with torch.inference_mode():
        return world.model.predict(tokens[:, 2:], holes, torch.full((2, 1), 2), kv_cache)


def fresh(name: str, tmp_path: Path) -> World:
    """A copy of a wild world, whose model can be changed."""
    return World.from_pretrained(wild_worlds()[name].save_pretrained(tmp_path / f"own-{name}", torch.float32))


def test_members_dream_as_before_until_they_are_trained(tmp_path: Path) -> None:
    """The first world keeps its weights; the others keep those of the slots that are theirs alone."""
    own, other = fresh("motions", tmp_path), fresh("motions", tmp_path)
    before = logits(own)
    model, parts = joint_model([own, other])
    assert parts[0].names == parts[1].names == tuple(slot.name for slot in own.layout.slots)
    after, others = logits(own), logits(other)
    assert all(torch.equal(before[name], after[name]) and torch.equal(before[name], others[name]) for name in before)
    assert {id(weight) for weight in own.model.parameters()} == {id(weight) for weight in other.model.parameters()}
    assert len(model.state_dict()) == len(wild_worlds()["motions"].model.state_dict())


def with_other_rewards(world: World) -> World:
    """A world with its own weights, which is alike in all but its rewards."""
    reward = RewardTokenizer().fit(np.array([0.0, 0.25, 0.5, 7.0], np.float32))
    tokenizers = dict(world.tokenizers) | {"reward": reward}
    return World(tokenizers, world.config, torch.zeros(0, 1, layout_for(tokenizers).num_tokens))  # type: ignore[arg-type]


def test_worlds_share_layers_and_equal_slots(tmp_path: Path) -> None:
    world = fresh("motions", tmp_path)
    other = with_other_rewards(world)
    size = sum(weight.numel() for weight in world.model.parameters())
    with pytest.raises(MagratheaError, match="other sizes"):
        joint_model([world, fresh("patches", tmp_path)])
    model, parts = joint_model([world, other])
    assert parts[1].names == ("action", "observation", "observation/values", "reward~2", "terminated")
    assert [slot.name for slot in parts[0].joint.slots].count("terminated") == 1 and len(parts[0].joint.slots) == 6
    assert size < sum(weight.numel() for weight in model.parameters()) < 1.1 * size
    names = dict(world.model.named_parameters())
    for name, weight in other.model.named_parameters():
        is_shared = ".tokens.2" not in name and ".out.2" not in name and "recent_proj.reward" not in name
        assert (weight is names[name]) == is_shared, name


def test_gradients_of_a_world_reach_its_own_rows_and_the_layers(tmp_path: Path) -> None:
    world = fresh("motions", tmp_path)
    model, parts = joint_model([world, with_other_rewards(world)])
    tokens = world.starts[:2]
    holes = torch.zeros_like(tokens[:, 1:], dtype=torch.bool)
    holes[..., world.layout.role_span("terminated")] = True
    loss, _ = model(0, tokens, tokens[:, 1:], holes, None, 1)
    loss.backward()
    table = model.weights["embedding.position"].grad
    assert table is not None and len(table) == parts[0].joint.num_positions
    used = (table.abs().sum(1) > 0).nonzero().squeeze(1)
    assert used.tolist() == parts[0].rows.tolist()
    assert model.weights["layers.0.attention.out.weight"].grad is not None
    assert model.weights["head.out.3.weight"].grad is None  # of the other's rewards


def test_saved_members_are_worlds_by_themselves(tmp_path: Path) -> None:
    own, other = fresh("motions", tmp_path), fresh("motions", tmp_path)
    worlds = {"one": own, "two": other}
    model, parts = joint_model(list(worlds.values()))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
        weight.data = weight.data.bfloat16().float()
    save_worlds(worlds, parts, model.weights, tmp_path / "many")
    assert worlds_in(tmp_path / "many") == ["one", "two"] and not list((tmp_path / "many").glob("*/model.safetensors"))
    loaded = World.from_pretrained(tmp_path / "many" / "two")
    expected = logits(other.to("cpu"))
    found = logits(loaded)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    alone = World.from_pretrained(loaded.save_pretrained(tmp_path / "alone"))
    assert alone.fingerprint == loaded.fingerprint
    with pytest.raises(MagratheaError, match=r"holds the worlds one, two; name one, as '.*many/one'"):
        World.from_pretrained(tmp_path / "many")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda config: config["layout"].pop(), "not all of"),
        (lambda config: config["layout"][1].update(vocab_size=7), "is not like"),
        (lambda config: config.update(worlds=["../one"]), "lacks or misnames"),
        (lambda config: config.update(layout=3), "lacks or misnames"),
    ],
)
def test_damaged_joint_files_are_refused(tmp_path: Path, spoil: object, why: str) -> None:
    own = fresh("motions", tmp_path)
    model, parts = joint_model([own])
    save_worlds({"one": own}, parts, model.weights, tmp_path / "many")
    file = tmp_path / "many" / "config.json"
    config = json.loads(file.read_text())
    spoil(config)  # type: ignore[operator]
    file.write_text(json.dumps(config))
    with pytest.raises(MagratheaError, match=why):
        World.from_pretrained(tmp_path / "many" / "one")


def test_missing_joint_weights_are_named(tmp_path: Path) -> None:
    own = fresh("motions", tmp_path)
    model, parts = joint_model([own])
    weights = {name: weight for name, weight in model.weights.items() if name != "head.out.2.weight"}
    save_worlds({"one": own}, parts, weights, tmp_path / "many")
    with pytest.raises(MagratheaError, match=r"no weight 'head\.out\.2\.weight'"):
        World.from_pretrained(tmp_path / "many" / "one")
    (tmp_path / "many" / "model.safetensors").unlink()
    with pytest.raises(MagratheaError, match="is missing"):
        World.from_pretrained(tmp_path / "many" / "one")


# -- training ---------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_worlds_alike_share_all_slots_and_others_none_of_their_own(many: Path) -> None:
    slots = {name: read_config(many / name)["joint_slots"] for name in PROMPTS}
    assert slots["up"] == slots["down"] == ["action", "observation", "observation/values", "reward", "terminated"]
    assert "observation/mission~2" in slots["rooms"] and "action~2" in slots["rooms"]
    assert slots["rooms"][-1] == "terminated"  # which is alike everywhere
    worlds = {name: World.from_pretrained(many / name) for name in PROMPTS}
    assert worlds["up"].layout == worlds["down"].layout
    assert worlds["rooms"].layout.num_tokens < sum(slot.num_tokens for slot in joint_layout(many))
    assert len({world.fingerprint for world in worlds.values()}) == 3  # a prompt is part of what a world is


def joint_layout(many: Path) -> list[Slot]:
    return list(Layout.from_config(json.loads((many / "config.json").read_text())["layout"]).slots)


@pytest.mark.slow
def test_two_prompts_do_not_mix_within_500_steps(datasets: list[Path], tmp_path: Path) -> None:
    """Both worlds share all weights and begin with the same step, and nine of ten steps show nothing of which it is."""
    settings = load_settings(size="debug", steps=200, learning_rate=4e-3, num_starts=8)
    worlds = train_many(datasets[:2], tmp_path / "pair", settings, prompts=list(PROMPTS.values())[:2], device="cpu")
    actions = (np.random.default_rng(0).random((500, 4)) < 0.1).astype(np.int64)
    for name, sign in (("up", 1), ("down", -1)):
        world = worlds[name]
        session = Session(world, 4, start=world.encode(None, np.zeros((1, 1), np.float32)))
        seen = np.stack([session.observation, *(session.step(each).observation for each in actions)])[..., 0]
        moves = np.round(np.diff(seen, axis=0)) % SIDES
        assert not (moves == -sign % SIDES).any(), name
        assert (moves == sign * actions % SIDES).mean() > 0.98, name


@pytest.mark.slow
def test_training_of_several_resumes_exactly(
    datasets: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(size="debug", steps=4, num_starts=4)
    once = train_many(datasets[::2], tmp_path / "once", settings, device="cpu")
    killed = []

    def report(self: object, progress: object) -> None:
        if not killed and progress.step == 2:  # type: ignore[attr-defined]
            killed.append(progress)
            raise Killed

    monkeypatch.setattr("magrathea.train.many.TrainReport.update", report)
    brief = load_settings(size="debug", steps=4, num_starts=4, checkpoint_seconds=0.0)
    with pytest.raises(Killed):
        train_many(datasets[::2], tmp_path / "twice", brief, device="cpu")
    assert not worlds_in(tmp_path / "twice")
    twice = train_many(datasets[::2], tmp_path / "twice", brief, device="cpu")
    assert killed and [w.fingerprint for w in once.values()] == [w.fingerprint for w in twice.values()]


def test_what_several_cannot_be_trained_with_is_refused(datasets: list[Path], tmp_path: Path) -> None:
    out, pair = tmp_path / "out", datasets[:2]
    for settings, why in (
        (load_settings(memory="retrieval"), "memory 'retrieval'"),
        (load_settings(init_from="crafter"), "init_from 'crafter'"),
    ):
        with pytest.raises(MagratheaError, match=why):
            train_many(pair, out, settings)
    with pytest.raises(MagratheaError, match="2 datasets have 1 prompts"):
        train_many(pair, out, prompts=["only one"])
    copy = tmp_path / "other" / "up"
    shutil.copytree(pair[0], copy)
    with pytest.raises(MagratheaError, match="'up' is none, or is twice"):
        train_many([pair[0], copy], out)
    assert not out.exists() or not (out / "config.json").exists()


# -- words ------------------------------------------------------------------------------------------------------------
def test_words_are_weighed_by_how_few_texts_have_them() -> None:
    texts = ["a cave with zombies", "a cave with skeletons", "a road"]
    assert int(np.argmax(similarities("Skeleton in the cave!", texts))) == 1
    assert similarities("xylophone", texts) == [0, 0, 0] and similarities("", texts) == [0, 0, 0]


def test_a_world_is_chosen_by_words() -> None:
    assert choose_world("it should fall downward", PROMPTS) == "down"
    assert choose_world("rooms", PROMPTS) == "rooms"
    with pytest.raises(MagratheaError, match="about 'xylophone'"):
        choose_world("xylophone", PROMPTS)
    config = {"model": {}, "metadata": {"env_id": "MiniGrid-DoorKey-8x8-v0", "action_names": ["left"]}}
    assert choose_world("a key for the door", {"keys": text_of(config), **PROMPTS}) == "keys"


@pytest.mark.slow
def test_a_start_is_chosen_by_its_texts(many: Path) -> None:
    world = World.from_pretrained(many / "rooms")
    for mission in MISSIONS:
        start = choose_start(world, mission)
        assert start is not None
        assert Session(world, start=start).observation["mission"][0] == mission
    assert choose_start(World.from_pretrained(many / "up"), "rises") is None


# -- commands ---------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_dataset_says_which_world_is_measured(
    many: Path, datasets: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world_of_dataset(many, Dataset.open(datasets[1])) == many / "down"
    out = tmp_path / "report"
    assert main(["eval", str(many), str(datasets[2]), "--out", str(out), "--minutes", "0.1", "--num-dreams", "4"]) == 0
    assert json.loads((out / "metrics.json").read_text())["about"]["world"] == "rooms"
    copy = tmp_path / "elsewhere"
    shutil.copytree(many, copy)
    config = json.loads((copy / "up" / "config.json").read_text())
    config["metadata"]["dataset_id"] = "another"
    (copy / "up" / "config.json").write_text(json.dumps(config))
    config = json.loads((copy / "down" / "config.json").read_text())
    config["metadata"]["dataset_id"] = "another"
    (copy / "down" / "config.json").write_text(json.dumps(config))
    assert main(["eval", str(copy), str(datasets[0])]) == 2
    assert "of which 2 fit dataset" in capsys.readouterr().err


@pytest.mark.slow
def test_a_server_offers_all_and_finds_by_words(many: Path) -> None:
    catalog, opened = open_catalog(str(many), device="cpu")
    assert opened is None and list(catalog)[:3] == ["many-up", "many-down", "many-rooms"]
    assert catalog.find("downward")[0] == "many-down"
    world_id, start = catalog.find("missions in rooms: the red door")
    assert world_id == "many-rooms" and start is not None
    assert Session(catalog.world(world_id), start=start).observation["mission"][0] == MISSIONS[1]
    assert open_catalog(str(many / "up"), device="cpu")[1] == "up" and find_world(many / "up") == many / "up"


def test_one_world_is_a_joint_model_of_one(tmp_path: Path) -> None:
    world = fresh("motions", tmp_path)
    model = JointModel.of(world.model)
    assert list(model.state_dict()) == list(world.model.state_dict())
    assert all(weight is dict(world.model.named_parameters())[name] for name, weight in model.weights.items())
