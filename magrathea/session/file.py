"""A session as one file: safetensors, with what is no tensor as JSON in its metadata. See docs/sessions.md."""

from __future__ import annotations

import hashlib
import json
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from magrathea.errors import MagratheaError, one_line
from magrathea.files import atomic_write, naming_the_file
from magrathea.layout import Layout
from magrathea.sampler import FillSettings
from magrathea.session.context import Inference
from magrathea.session.history import LARGE_STEP, History, PackedSteps, check_log, record_of
from magrathea.session.snapshots import Change, Changes, MemoryState, apply_changes, difference
from magrathea.world import World

FORMAT_VERSION = 2  # 1 had every state of a memory whole
FIELDS = ("tokens", "kind", "seed")  # of a logged step
MISFITS = (
    KeyError,
    TypeError,
    ValueError,
    IndexError,
    AttributeError,
    OverflowError,
    RuntimeError,
)  # of files from others


@dataclass(frozen=True)
class SessionState:
    """All that a session of B worlds is, apart from the world that it runs.

    Attributes:
        settings: how its steps are filled.
        inference: "cached" or "naive".
        seeds: (B,) of the random numbers.
        histories: (B,).
        memory: (B,) states of the memory.
        num_in_memory: (B,) how many steps of the history each of those states has taken in.
    """

    settings: FillSettings
    inference: Inference
    seeds: list[int]
    histories: list[History]
    memory: list[MemoryState]
    num_in_memory: list[int]

    @classmethod
    def new(
        cls,
        settings: FillSettings,
        inference: Inference,
        histories: list[History],
        seeds: Sequence[int] | None = None,
    ) -> SessionState:
        """With memories that have taken in nothing."""
        zeros = [0] * len(histories)
        return cls(settings, inference, list(seeds or zeros), histories, [{} for _ in zeros], zeros)


# -- writing ----------------------------------------------------------------------------------------------------------
def pack(state: SessionState, world: World) -> bytes:
    """The contents of a session's file."""
    tensors, rows = _log_tensors(np.concatenate([history.read() for history in state.histories])), []
    for row, history in enumerate(state.histories):
        rows.append(
            {
                "seed": state.seeds[row],
                "num_start": history.num_start,
                "length": len(history),
                "num_remembered": state.num_in_memory[row],
                "checkpoints": history.snapshots.numbers,
            }
        )
        kept = {f"memory/{row}": difference(history.snapshots.newest, state.memory[row])}
        kept |= {f"checkpoint/{row}/{number}": changes for number, changes in history.snapshots.changes.items()}
        for place, changes in kept.items():
            tensors |= _tensors_of(place, changes)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    header = json.dumps(
        {
            "world": {"name": world.metadata.get("name", ""), "fingerprint": world.fingerprint},
            "fill": state.settings.to_config(),
            "inference": state.inference,
            "rows": rows,
        }
    )
    metadata = {
        "magrathea_session": str(FORMAT_VERSION),
        "header": header,
        "checksum": _checksum(header, tensors),
    }
    return save(tensors, metadata)


def _log_tensors(log: np.ndarray) -> dict[str, Tensor]:
    """Records (T,) as tensors; compressed where a step is large."""
    if log.dtype.itemsize > LARGE_STEP:
        data = np.frombuffer(PackedSteps.pack(log).data, np.uint8)
        return {"packed": torch.from_numpy(data.copy()), "tokens": torch.zeros(len(log), 0)}
    return {field: torch.from_numpy(np.ascontiguousarray(log[field])) for field in FIELDS}


def _tensors_of(place: str, changes: Changes) -> dict[str, Tensor]:
    whole = {f"{place}:{name}": change.values for name, change in changes.items()}
    rows = {f"{place}/rows:{name}": change.rows for name, change in changes.items() if change.rows is not None}
    return {name: tensor.detach().cpu().clone() for name, tensor in (whole | rows).items()}


def _checksum(header: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(header.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_file(path: str | Path, data: bytes) -> Path:
    """Write a session's file atomically, in a folder that is made if it is not there."""
    path = Path(path)
    with naming_the_file(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_bytes(data)
    return path


# -- reading ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class SessionFile:
    """A session's file whose checksum is right; what it says is still to be checked against its world."""

    source: str
    world_name: str
    fingerprint: str
    header: dict[str, Any]
    tensors: dict[str, Tensor]

    def world(self) -> World:
        """Its world, if that is a shipped one; raises MagratheaError if not."""
        from magrathea.pretrained import shipped_worlds

        if self.world_name not in shipped_worlds():
            raise MagratheaError(
                f"{self.source} is of the world '{self.world_name}', which is not a shipped one; give its world."
            )
        return World.from_pretrained(self.world_name)

    def check_world(self, world: World) -> None:
        """Raises MagratheaError if the session is neither of this world nor of one that its training went on from."""
        if self.fingerprint != world.fingerprint and self.fingerprint not in world.continues:
            raise MagratheaError(
                f"{self.source} is of the world '{self.world_name}' ({self.fingerprint[:12]}), not of this "
                f"'{world.metadata.get('name', '')}' ({world.fingerprint[:12]}); give the world that it was saved in."
            )


def read_file(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise MagratheaError(f"Session file '{path}' cannot be read ({error.strerror}).") from error


@dataclass(frozen=True)
class FileLimits:
    """Limits on a file that others made, checked before any of it costs time or memory.

    Attributes:
        header_bytes: of the JSON at the beginning, which lists the tensors.
        steps: of all its worlds together, those of the start included.
    """

    header_bytes: int = 1 << 20
    steps: int = 100_000

    def check(self, data: bytes, source: str) -> None:
        """Raises MagratheaError if the file is beyond the limits."""
        num_bytes = int.from_bytes(data[:8], "little")
        if num_bytes > self.header_bytes:
            raise MagratheaError(
                f"{source} has a header of {num_bytes} bytes, or is not a session; a header of {self.header_bytes} "
                "bytes is the most accepted."
            )
        tokens = _header(data).get("tokens")
        shape = tokens.get("shape") if isinstance(tokens, dict) else None
        num_steps = shape[0] if isinstance(shape, list) and shape else 0
        if isinstance(num_steps, int) and num_steps > self.steps:
            raise MagratheaError(
                f"{source} has {num_steps} steps, and {self.steps} are the most accepted; open it in Python with "
                "Session.load."
            )


def unpack(data: bytes, source: str, limits: FileLimits | None = None) -> SessionFile:
    """Read a session's file; raises MagratheaError where it is damaged, foreign, newer or beyond the limits. Nothing is
    unpickled."""
    if limits is not None:
        limits.check(data, source)
    metadata = _metadata(data)
    version = str(metadata.get("magrathea_session", ""))
    if not re.fullmatch("[0-9]{1,9}", version):
        raise MagratheaError(f"{source} is not a session, or its beginning is lost; give one that Session.save wrote.")
    if int(version) > FORMAT_VERSION:
        raise MagratheaError(
            f"{source} has format version {version}, but this Magrathea reads versions up to {FORMAT_VERSION}; "
            "install a newer Magrathea."
        )
    try:
        tensors, header = load(data), metadata["header"]
        if metadata["checksum"] != _checksum(header, tensors):
            raise ValueError("its checksum is wrong")
        fields = json.loads(header)
        return SessionFile(source, str(fields["world"]["name"]), str(fields["world"]["fingerprint"]), fields, tensors)
    except (SafetensorError, *MISFITS) as error:
        raise MagratheaError(f"{source} is damaged ({error}); take a copy of it that is whole.") from error


def _header(data: bytes) -> dict[str, Any]:
    """The JSON header of a safetensors file: eight bytes say how long it is. Empty where there is none."""
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (ValueError, RecursionError):
        return {}
    return header if isinstance(header, dict) else {}


def _metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file; empty where there is none."""
    metadata = _header(data).get("__metadata__")
    return metadata if isinstance(metadata, dict) else {}


def state_of(file: SessionFile, world: World) -> SessionState:
    """What a session's file holds; raises MagratheaError where it is of another world or makes no sense."""
    file.check_world(world)
    try:
        return _state_of(file, world)
    except (MagratheaError, *MISFITS) as error:
        raise MagratheaError(
            f"{file.source} makes no sense ({one_line(error)}); give one that Session.save wrote."
        ) from error


def _state_of(file: SessionFile, world: World) -> SessionState:
    rows, log = file.header["rows"], _log(file.tensors, world.layout)
    counts = {key: [operator.index(row[key]) for row in rows] for key in ("length", "num_start", "num_remembered")}
    for length, num_start, num_remembered in zip(*counts.values(), strict=True):
        if not 1 <= num_start <= length or not 0 <= num_remembered <= length:
            raise ValueError("the numbers of its steps contradict each other")
    ends = np.cumsum(counts["length"])
    if len(rows) < 1 or ends[-1] != len(log):
        raise ValueError("the lengths of its rows are not those of its log")
    if file.header["inference"] not in get_args(Inference):
        raise ValueError(f"unknown inference '{file.header['inference']}'")
    if file.header["inference"] == "naive" and len({min(n, world.config.model.window) for n in counts["length"]}) > 1:
        raise ValueError("inference 'naive' needs histories of equal length")
    kept, memory = _changes_of(file.tensors), []
    histories = [History(world.layout, num_start) for num_start in counts["num_start"]]
    for index, (history, part) in enumerate(zip(histories, np.split(log, ends[:-1]), strict=True)):
        history.extend(part)
        for number in rows[index]["checkpoints"]:
            if not 0 < operator.index(number) <= len(history):
                raise ValueError("a snapshot of its memory is of a step that it has not")
            history.snapshots.append(operator.index(number), kept[f"checkpoint/{index}/{number}"])
        memory.append(apply_changes(history.snapshots.newest, kept.get(f"memory/{index}", {})))
    settings = FillSettings(**file.header["fill"]) if file.fingerprint == world.fingerprint else world.config.fill
    state = SessionState(
        settings,
        file.header["inference"],
        [int(np.int64(row["seed"])) for row in rows],
        histories,
        memory,
        counts["num_remembered"],
    )
    _check_memory(state, world)
    return state


def _log(tensors: dict[str, Tensor], layout: Layout) -> np.ndarray:
    """The log (T,) of all rows, one after the other."""
    log = np.zeros(len(tensors["tokens"]), record_of(layout))
    if log.dtype.itemsize > LARGE_STEP:
        log = PackedSteps(tensors["packed"].numpy().tobytes(), len(log), log.dtype).unpack()
        check_log(log, layout)
        return log
    for field in FIELDS:
        values = tensors[field].numpy()
        if (values.dtype, values.shape) != (log[field].dtype, log[field].shape):
            raise ValueError(f"the {field} of its log are {values.dtype} of shape {values.shape}")
        log[field] = values
    check_log(log, layout)
    return log


def _check_memory(state: SessionState, world: World) -> None:
    """Let a memory of this world take in every state, to see that it can."""
    memory = world.new_memory(len(state.histories))
    for row, history in enumerate(state.histories):
        current = [state.memory[row]] if state.num_in_memory[row] else []
        for kept in chain((state for _, state in history.snapshots.states()), current):
            memory.load_state_dict(row, kept)


def _changes_of(tensors: dict[str, Tensor]) -> dict[str, Changes]:
    """The tensors "place:name", with which of their rows they are at "place/rows:name", by their places."""
    changes: dict[str, Changes] = {}
    for key, tensor in tensors.items():
        place, _, name = key.partition(":")
        if not place.endswith("/rows"):
            changes.setdefault(place, {})[name] = Change(tensor, tensors.get(f"{place}/rows:{name}"))
    return changes
