"""World folders: what is saved is loaded again; damaged folders are refused with a message."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from magrathea.errors import MagratheaError
from magrathea.pretrained import find_world
from magrathea.server.server import _world_id
from magrathea.session import Session
from magrathea.space_config import space_from_config, space_to_config
from magrathea.tokenizers.discrete import DiscreteTokenizer
from magrathea.world import World

SPACES = [
    spaces.Box(0, 255, (3, 4, 3), np.uint8),
    spaces.Box(-np.inf, np.inf, (3,)),
    spaces.Box(np.array([-1, -2.0]), np.array([1, 3.0]), dtype=np.float64),
    spaces.Discrete(3, start=1),
    spaces.Dict(a=spaces.MultiBinary([2, 3]), b=spaces.Tuple([spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(4)])),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_space_config_round_trip(space: spaces.Space) -> None:
    assert space_from_config(json.loads(json.dumps(space_to_config(space)))) == space


def test_space_without_tokenizer_is_refused() -> None:
    with pytest.raises(MagratheaError, match="has no tokenizer"):
        space_to_config(spaces.Graph(spaces.Discrete(2), spaces.Discrete(2)))


@pytest.fixture
def folder(debug_world: World, tmp_path: Path) -> Path:
    return debug_world.save_pretrained(tmp_path / "world")


def test_saved_world_gives_the_same_dreams(debug_world: World, folder: Path, tmp_path: Path) -> None:
    loaded = World.from_pretrained(folder)
    again = World.from_pretrained(loaded.save_pretrained(tmp_path / "again"))

    def dream(world: World) -> torch.Tensor:
        session = Session(world, 2, seed=3)
        return torch.stack([session.step(np.array([4, step % 5])).tokens for step in range(8)])

    assert torch.equal(dream(loaded), dream(again))
    assert again.metadata == debug_world.metadata and again.num_starts == debug_world.num_starts


def test_a_missing_package_is_not_called_a_damaged_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that a tokenizer imports when it is first used."""
    monkeypatch.setattr(DiscreteTokenizer, "from_config", lambda *_: importlib.import_module("no_such_package"))
    with pytest.raises(MagratheaError, match=r"needs a package that cannot be imported: .*no_such_package"):
        World.from_pretrained(folder)


def test_save_keeps_the_card_and_leaves_no_temporary_files(debug_world: World, folder: Path) -> None:
    (folder / "README.md").write_text("# A card")
    debug_world.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "# A card"
    assert [path.name for path in folder.parent.iterdir()] == ["world"]


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:200])


def _other_version(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format_version": 99}))


def _other_width(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"]["width"] *= 2
    (folder / "config.json").write_text(json.dumps(config))


def _without_fill(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["fill"]
    (folder / "config.json").write_text(json.dumps(config))


def _token_for_nothing(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["layout"][0]["nothing"] = 10**6
    (folder / "config.json").write_text(json.dumps(config))


DAMAGE = {
    "damaged": _truncate,
    "format version 99": _other_version,
    "do not fit": _other_width,
    "lacks or misnames": _without_fill,
    "its layout has the slots": _token_for_nothing,
    "is missing": lambda folder: (folder / "starts.safetensors").unlink(),
    "has no config.json": lambda folder: (folder / "config.json").unlink(),
    "cannot be read": lambda folder: (folder / "config.json").write_text("{"),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_damaged_folders_are_refused(folder: Path, message: str) -> None:
    DAMAGE[message](folder)
    with pytest.raises(MagratheaError, match=message) as error:
        World.from_pretrained(folder)
    assert "\n" not in str(error.value)


def test_unknown_world_name_is_refused() -> None:
    with pytest.raises(MagratheaError, match="No world 'nonesuch'"):
        World.from_pretrained("nonesuch")


@pytest.mark.parametrize("name", ["minigrid/", "minigrid//", "~/mine", "~/mine/", "here/..", "run#1", "what?", "a b"])
def test_names_of_worlds_as_people_type_them(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for folder in ("mine", "run#1", "what?", "a b", "here"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").touch()
    (tmp_path / "config.json").touch()
    assert (find_world(name) / "config.json").exists()


@pytest.mark.parametrize(
    "name", ["~/nothing", "~nobody-at-all/x", "no such/world", "a#1/b", "../../nowhere/at", "/x/", ""]
)
def test_only_owner_and_name_ask_the_hub(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("magrathea.pretrained._download", lambda name: pytest.fail(f"asked the hub for {name}"))
    with pytest.raises(MagratheaError) as raised:
        find_world(name)
    assert "ub did not" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("run#1", "run-1"), ("worlds/what?", "what-"), ("a b/", "a-b"), ("..", "above"), ("here/..", "below"),
        (".", "below"), ("owner/name", "name"), ("welt-ä", "welt-ä"), ("/", "world"),
    ],
)  # fmt: skip
def test_the_id_of_a_world_can_stand_in_an_address(
    name: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here := tmp_path / "above" / "below").mkdir(parents=True)
    monkeypatch.chdir(here)
    assert _world_id(name) == expected
