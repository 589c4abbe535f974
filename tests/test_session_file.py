"""Session files: their contents, and what is refused with a message."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from session_worlds import wild_world
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.sampler import FillSettings
from magrathea.session import Session
from magrathea.session import file as session_file
from magrathea.world import World

Header = dict[str, Any]
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def file() -> bytes:
    session = Session(wild_world("echo"), 2, seed=1)
    for number in range(70):
        session.step(np.array([number % 5, 2]))
    return session.to_bytes()


def read(data: bytes, world: str = "echo") -> Session:
    return Session.from_bytes(data, wild_world(world))


def refusal(data: bytes, world: str = "echo") -> str:
    with pytest.raises(MagratheaError) as error:
        read(data, world)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_contents_of_a_session_file(file: bytes) -> None:
    """The format that docs/sessions.md describes."""
    tensors, metadata = load(file), session_file._metadata(file)
    world, header = wild_world("echo"), json.loads(metadata["header"])
    assert set(metadata) == {"magrathea_session", "header", "checksum"} and metadata["magrathea_session"] == "2"
    assert header["world"] == {"name": "wild", "fingerprint": world.fingerprint}
    assert header["fill"] == world.config.fill.to_config() and header["inference"] == "cached"
    counts = {"num_start": 3, "length": 73, "num_remembered": 72, "checkpoints": [64]}
    assert header["rows"] == [{"seed": 1, **counts}, {"seed": 2, **counts}]
    assert {name: (tensor.dtype, *tensor.shape) for name, tensor in tensors.items() if ":" not in name} == {
        "tokens": (torch.uint8, 146, world.layout.num_tokens),
        "kind": (torch.uint8, 146),
        "seed": (torch.int64, 146),
    }
    prefixes = {name.partition(":")[0] for name in tensors if ":" in name}
    assert prefixes == {"memory/0", "memory/1", "checkpoint/0/64", "checkpoint/1/64"}


def test_save_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, session = tmp_path / "new" / "a.mwsession", Session(wild_world())
    session.save(path)
    before = path.read_bytes()
    session.step([1])

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(MagratheaError, match=r"cannot be written.*No space"):
            session.save(path)
    assert path.read_bytes() == before and [each.name for each in path.parent.iterdir()] == ["a.mwsession"]
    session.save(path)
    assert Session.load(path, session.world).num_steps.tolist() == [1]


@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_every_damaged_byte_is_detected(file: bytes, position: float, flip: int) -> None:
    damaged = bytearray(file)
    damaged[int(position * len(file))] ^= flip
    assert refusal(bytes(damaged)).startswith("This session is ")


@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, deadline=None)
def test_every_truncation_is_detected(file: bytes, share: float) -> None:
    assert refusal(file[: int(share * len(file))]).startswith("This session is ")
    assert "damaged" in refusal(file + b"more")


class TouchOnUnpickle:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_other_files_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    pickled = pickle.dumps(TouchOnUnpickle(tmp_path / "unpickled"))
    model = save({"weight": torch.zeros(3)})
    for data in (b"", b"hello", b"\x00" * 100, b"[" * 100_000, pickled, model, save({}, {"magrathea_session": "one"})):
        assert "is not a session" in refusal(data)
    torch.save(TouchOnUnpickle(tmp_path / "unpickled"), tmp_path / "saved.pt")
    for path in (tmp_path / "saved.pt", tmp_path, tmp_path / "none"):
        with pytest.raises(MagratheaError, match=r"is not a session|cannot be read"):
            Session.load(path, wild_world())
    assert not (tmp_path / "unpickled").exists()


def test_files_of_a_newer_version_are_refused(file: bytes) -> None:
    metadata = session_file._metadata(file) | {"magrathea_session": "3"}
    assert "version 3" in refusal(save(load(file), metadata)) and "newer Magrathea" in refusal(save({}, metadata))


def test_a_session_of_another_world_is_refused(file: bytes) -> None:
    assert "give the world that it was saved in" in refusal(file, "window")
    with pytest.raises(MagratheaError, match="'wild', which is not a shipped one; give its world"):
        Session.from_bytes(file)
    other = copy.deepcopy(wild_world("echo"))
    del other.__dict__["fingerprint"]
    other.config.metadata["description"] = "the same, with other words"
    assert Session.from_bytes(file, other).num_steps.tolist() == [70, 70]
    del other.__dict__["fingerprint"]
    with torch.no_grad():
        other.model.embedding.position[0, 0] += 1e-6
    with pytest.raises(MagratheaError, match="give the world that it was saved in"):
        Session.from_bytes(file, other)


def test_a_session_goes_on_in_a_world_whose_training_went_on(file: bytes) -> None:
    trained_on = copy.deepcopy(wild_world("echo"))
    trained_on.config.metadata["continues"] = [trained_on.fingerprint]
    trained_on.config = replace(trained_on.config, fill=FillSettings(order="one_shot"))
    del trained_on.__dict__["fingerprint"]
    with torch.no_grad():
        trained_on.model.embedding.position[0, 0] += 1
    before, after = read(file), Session.from_bytes(file, trained_on)
    assert np.array_equal(before.log_of(1, 0, 70)["tokens"], after.log_of(1, 0, 70)["tokens"])
    assert after.settings == trained_on.config.fill and before.settings != after.settings
    after.step(np.array([0, 1]))
    again = Session.from_bytes(after.to_bytes(), trained_on)
    assert torch.equal(again.step(np.array([1, 1])).tokens, after.step(np.array([1, 1])).tokens)
    with pytest.raises(MagratheaError, match="give the world that it was saved in"):
        read(after.to_bytes())


def test_load_finds_a_shipped_world_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World.from_pretrained(wild_world("spatial_map").save_pretrained(tmp_path / "wild"))
    session = Session(world, seed=3)
    session.step([1])
    session.save(tmp_path / "a.mwsession")
    monkeypatch.setattr("magrathea.pretrained.WORLDS_FOLDER", tmp_path)
    again = Session.load(tmp_path / "a.mwsession")
    assert torch.equal(again.step([2]).tokens, session.step([2]).tokens) and again.world is not world


def _change_row(**changes: Any) -> Callable[[Header, Tensors], None]:
    return lambda header, tensors: header["rows"][1].update(changes)


def _change_tensor(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Header, Tensors], None]:
    return lambda header, tensors: tensors.update({name: change(tensors[name])})


INCONSISTENT: dict[str, Callable[[Header, Tensors], Any]] = {
    "lengths beyond the log": _change_row(length=74),
    "lengths short of the log": _change_row(length=72),
    "no rows": lambda header, tensors: header.update(rows=[]),
    "rows that are numbers": lambda header, tensors: header.update(rows=[1, 2]),
    "no start": _change_row(num_start=0),
    "a start beyond the end": _change_row(num_start=80),
    "a fractional start": _change_row(num_start=1.5),
    "a negative length": _change_row(length=-73),
    "more steps in memory than in the log": _change_row(num_remembered=99),
    "a seed beyond 64 bits": _change_row(seed=2**64),
    "a seed that is a string": _change_row(seed="one"),
    "a snapshot that is missing": _change_row(checkpoints=[64, 128]),
    "snapshots out of order": _change_row(checkpoints=[64, 64]),
    "no world in the header": lambda header, tensors: header.pop("world"),
    "an unknown inference": lambda header, tensors: header.update(inference="guess"),
    "an unknown order of filling": lambda header, tensors: header["fill"].update(order="backwards"),
    "an unknown setting": lambda header, tensors: header["fill"].update(speed=3),
    "tokens that the world does not have": _change_tensor("tokens", lambda tokens: tokens + 100),
    "tokens of another type": _change_tensor("tokens", lambda tokens: tokens.int()),
    "steps of another width": _change_tensor("tokens", lambda tokens: tokens[:, 1:].clone()),
    "an unknown kind of step": _change_tensor("kind", lambda kind: kind + 5),
    "too few kinds": _change_tensor("kind", lambda kind: kind[1:].clone()),
    "no tokens": lambda header, tensors: tensors.pop("tokens"),
    "no memory state": lambda header, tensors: tensors.pop("memory/1:sum"),
    "a snapshot of another shape": _change_tensor("checkpoint/0/64:pictures", lambda pictures: pictures[:, :2].clone()),
}


@pytest.mark.parametrize("case", INCONSISTENT)
def test_inconsistent_contents_are_refused(file: bytes, case: str) -> None:
    """Also with a valid checksum."""
    tensors, header = load(file), json.loads(session_file._metadata(file)["header"])
    assert read(_written(header, tensors)).num_steps.tolist() == [70, 70]
    INCONSISTENT[case](header, tensors)
    message = refusal(_written(header, tensors))
    assert message.startswith("This session ") and ("makes no sense" in message or "is damaged" in message)


def _written(header: Header, tensors: Tensors, version: int = session_file.FORMAT_VERSION) -> bytes:
    text = json.dumps(header)
    checksum = session_file._checksum(text, tensors)
    return save(tensors, {"magrathea_session": str(version), "header": text, "checksum": checksum})
