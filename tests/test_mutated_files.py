"""Damaged and hostile files: each is refused with one MagratheaError, or gives a world or a session that runs."""

from __future__ import annotations

import json
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from magrathea.errors import MagratheaError
from magrathea.session import Session
from magrathea.session.file import _checksum
from magrathea.world import World

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("board", "board_clock")
SECONDS = 20  # that a file may take
VALUES = (
    None, True, -1, 0, 1, 2, 3, 63, 255, 2**16, 2**31, 2**63, 10**40, -0.5, 0.5, 1e300, float("inf"), float("nan"), "",
    "x", "x" * 5000, "\ud800", "../..", "os:system", "window", "retrieval:99999999", "recurrent:99999999",
    "recurrent:" + "9" * 5000, "places+places", "+", "inf", "uint64", "Dict", "composite", "autoencoder", "naive", [],
    [1], [0, 0], [2**20, 2**20], [[]], {}, {"type": "Box"}, {"type": "Tuple", "spaces": []},
)  # fmt: skip


# -- mutations --------------------------------------------------------------------------------------------------------
def places_of(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all values within a JSON value."""
    if path:
        yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places_of(part, (*path, key))


def mutated_json(value: Any, rng: np.random.Generator) -> Any:
    """A JSON value with one place changed, removed, doubled or renamed."""
    value = json.loads(json.dumps(value))
    places = list(places_of(value))
    *path, key = places[rng.integers(len(places))]
    parent = value
    for step in path:
        parent = parent[step]
    kind = rng.integers(8)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[str(key) + "x"] = parent.pop(key)
    elif kind == 1:
        parent.insert(0, parent[key])
    elif kind == 2 and isinstance(parent[key], int | float):
        parent[key] = parent[key] * int(rng.choice([-1, 2, 1000, 10**9])) + int(rng.integers(-2, 3))
    else:
        parent[key] = VALUES[rng.integers(len(VALUES))]
    return value


def mutated_tensors(tensors: dict[str, torch.Tensor], rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Tensors of which one is removed, renamed, cut, reshaped, cast, or has other values."""
    names = sorted(tensors)
    if not names:
        return {"unknown": torch.zeros(3)}
    name, tensors = names[rng.integers(len(names))], dict(tensors)
    tensor = tensors.pop(name).clone()
    kind = rng.integers(7)
    if kind == 0:
        return tensors
    if kind == 1:
        return tensors | {names[rng.integers(len(names))] + "x": tensor}
    if kind == 2:
        tensor = tensor.flatten()[: int(rng.integers(tensor.numel() + 1))]
    elif kind == 3:
        tensor = torch.cat([tensor.flatten()] * 2) if rng.integers(2) else tensor[None]
    elif kind == 4:
        types = (torch.float64, torch.bfloat16, torch.int8, torch.int64, torch.bool, torch.uint8)
        tensor = tensor.to(types[rng.integers(len(types))])
    elif tensor.numel():
        flat = tensor.flatten()
        index = int(rng.integers(len(flat)))
        if tensor.dtype == torch.bool:
            flat[index] = ~flat[index]
        elif tensor.is_floating_point():
            flat[index] = float(rng.choice([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0]))
        else:
            limits = torch.iinfo(tensor.dtype)
            flat[index if kind == 5 else slice(None)] = int(rng.choice([limits.min, limits.max, 0, 1, 4, 100]))
        tensor = flat.reshape(tensor.shape)
    return tensors | {name: tensor.contiguous()}


def mutated_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes that are cut, of which one is another, or that are doubled."""
    kind, index = rng.integers(4), int(rng.integers(len(data) + 1))
    if kind == 0:
        return data[:index]
    if kind == 1:
        return data + data[:index]
    changed = bytearray(data)
    first = index if kind == 2 else int(rng.integers(min(len(data), 400)))
    if first < len(data):
        changed[first] = rng.integers(256)
    return bytes(changed)


def mutated_world(folder: Path, rng: np.random.Generator) -> None:
    """Change one file of a world's folder."""
    files = sorted(path for path in folder.iterdir() if path.suffix != ".md")
    path = folder / "config.json" if rng.integers(2) else files[rng.integers(len(files))]
    kind = rng.integers(6)
    if kind == 0:
        path.write_bytes(mutated_bytes(path.read_bytes(), rng))
    elif kind == 1 and not rng.integers(4):
        path.unlink()
    elif path.suffix == ".json":
        path.write_text(json.dumps(mutated_json(json.loads(path.read_text()), rng)))
    else:
        path.write_bytes(save(mutated_tensors(load(path.read_bytes()), rng)))


def mutated_session(data: bytes, rng: np.random.Generator) -> bytes:
    """Change a session's file: its bytes, or its header or tensors, with a checksum that is right again."""
    if not rng.integers(4):
        return mutated_bytes(data, rng)
    tensors, metadata = load(data), json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    header = metadata["header"]
    if rng.integers(2):
        header = json.dumps(mutated_json(json.loads(header), rng))
    else:
        tensors = mutated_tensors(tensors, rng)
    try:
        return save(tensors, metadata | {"header": header, "checksum": _checksum(header, tensors)})
    except (UnicodeEncodeError, RuntimeError):  # no file can hold it
        return b""


# -- what must hold ---------------------------------------------------------------------------------------------------
@contextmanager
def limited() -> Iterator[None]:
    """Fails where something takes longer than `SECONDS`."""

    def fail(*_: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def failures(num: int, case: Callable[[np.random.Generator], None], first: int = 0) -> list[str]:
    """The cases, by number, that neither ran nor were refused with a MagratheaError of one line."""
    found = []
    for number in range(first, first + num):
        try:
            with limited(), warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                case(np.random.default_rng(number))
        except MagratheaError as error:
            if not str(error) or len(str(error)) > 2000:
                found.append(f"{number}: a message of {len(str(error))} letters")
        except Exception as error:
            found.append(f"{number}: {type(error).__name__}: {error}"[:300])
    return found


def run(session: Session) -> None:
    """Everything that a person does with a session; nothing of it may fail."""
    try:
        action = session.world.action_space.sample()
        actions = np.stack([action] * session.batch_size)
        for _ in range(3):
            session.step(actions)
        session.fork().step(actions)
        assert session.observation is not None
        back = session.num_steps // 2
        session.rewind(back.tolist())
        session.step(actions)
        session.peek(actions)
        session.to_bytes()
    except MagratheaError as error:
        raise AssertionError(f"a session that was loaded fails: {error}") from error


@pytest.fixture(scope="module")
def worlds() -> dict[str, World]:
    return {name: World.from_pretrained(GOLDEN / f"{name}_world") for name in NAMES}


def check_worlds(num: int, tmp_path: Path) -> None:
    def case(rng: np.random.Generator) -> None:
        folder = tmp_path / "world"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(GOLDEN / f"{NAMES[rng.integers(len(NAMES))]}_world", folder)
        mutated_world(folder, rng)
        world = World.from_pretrained(folder)
        if world.num_starts:
            run(Session(world))

    assert failures(num, case) == []


def check_sessions(num: int, worlds: dict[str, World]) -> None:
    stored = {name: (GOLDEN / f"{name}.session").read_bytes() for name in NAMES}

    def case(rng: np.random.Generator) -> None:
        name = NAMES[rng.integers(len(NAMES))]
        run(Session.from_bytes(mutated_session(stored[name], rng), worlds[name]))

    assert failures(num, case) == []


@pytest.mark.slow
def test_mutated_worlds(tmp_path: Path) -> None:
    check_worlds(250, tmp_path)


@pytest.mark.slow
def test_mutated_sessions(worlds: dict[str, World]) -> None:
    check_sessions(250, worlds)


@pytest.mark.nightly
@pytest.mark.slow
def test_many_mutated_worlds(tmp_path: Path) -> None:
    check_worlds(5000, tmp_path)


@pytest.mark.nightly
@pytest.mark.slow
def test_many_mutated_sessions(worlds: dict[str, World]) -> None:
    check_sessions(5000, worlds)
