"""A session as one file: safetensors, with what is no tensor as JSON in its metadata. See docs/sessions.md."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.history import History, StepKind, record_of
from magrathea.layout import Layout
from magrathea.world import World

FORMAT_VERSION = 1
SUFFIX = ".mwsession"


@dataclass(frozen=True)
class SessionState:
    """All that a session of B rows is, apart from its world.

    Attributes:
        settings: of `fill`, as JSON.
        inference: "cached" or "naive".
        seeds: of each row's dice.
        histories: of each row.
        memory: the memory's state, each tensor (B, …).
        num_remembered: the number of steps that each row's memory has taken in.
    """

    settings: dict[str, Any]
    inference: str
    seeds: list[int]
    histories: list[History]
    memory: dict[str, Tensor]
    num_remembered: list[int]


# -- writing ----------------------------------------------------------------------------------------------------------
def pack(state: SessionState, world_name: str, fingerprint: str) -> bytes:
    """The contents of a session's file."""
    steps = [history.read() for history in state.histories]
    tensors = {
        field: torch.from_numpy(np.concatenate([np.ascontiguousarray(row[field]) for row in steps]))
        for field in ("tokens", "kind", "seed")
    }
    tensors |= {f"memory/{name}": tensor for name, tensor in state.memory.items()}
    rows = []
    for row, history in enumerate(state.histories):
        rows.append(
            {
                "seed": state.seeds[row],
                "num_start": history.num_start,
                "length": len(history),
                "num_remembered": state.num_remembered[row],
                "checkpoints": sorted(history.checkpoints),
            }
        )
        for number, kept in history.checkpoints.items():
            tensors |= {f"checkpoint/{row}/{number}/{name}": tensor for name, tensor in kept.items()}
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    header = json.dumps(
        {
            "world": {"name": world_name, "fingerprint": fingerprint},
            "fill": state.settings,
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


def _checksum(header: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(header.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def write_file(path: str | Path, data: bytes) -> Path:
    """Write a file in one step: whatever happens, it holds all of its old contents or all of the new."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, fresh = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(fresh).chmod(0o644)
            os.replace(fresh, path)
        except BaseException:
            with suppress(OSError):
                Path(fresh).unlink()
            raise
    except OSError as error:
        raise MagratheaError(f"Session file '{path}' cannot be written ({error.strerror}).") from error
    return path


# -- reading ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class SessionFile:
    """A session's file whose checksum is right; what it says is still to be checked against its world."""

    source: str
    header: dict[str, Any]
    tensors: dict[str, Tensor]

    def world(self) -> World:
        """Its world, if that is a shipped one; raises MagratheaError if not."""
        from magrathea.hub import shipped_worlds

        name = self.header["world"]["name"]
        if name not in shipped_worlds():
            raise MagratheaError(f"{self.source} is of the world '{name}', which is not a shipped one; give its world.")
        return World.from_pretrained(name)

    def check_world(self, world: World) -> None:
        """Raises MagratheaError if the session is not of this world."""
        own = self.header["world"]
        if own["fingerprint"] != world.fingerprint:
            raise MagratheaError(
                f"{self.source} is of the world '{own['name']}' ({own['fingerprint'][:12]}), not of "
                f"'{world.metadata.get('name', '')}' ({world.fingerprint[:12]}); give the world that it was saved in."
            )


def read_file(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise MagratheaError(f"Session file '{path}' cannot be read ({error.strerror}).") from error


def unpack(data: bytes, source: str) -> SessionFile:
    """Read a session's file; raises MagratheaError where it is damaged, foreign or newer. Nothing is unpickled."""
    damaged = f"{source} is damaged or incomplete; take a copy of it that is whole."
    try:
        metadata = _metadata(data)
    except ValueError as error:
        raise MagratheaError(f"{source} is not a session, or its beginning is damaged.") from error
    if not str(metadata.get("magrathea_session", "")).isdecimal():
        raise MagratheaError(f"{source} is not a session; give a file that Session.save wrote.")
    version = int(metadata["magrathea_session"])
    if version > FORMAT_VERSION:
        raise MagratheaError(
            f"{source} has format version {version}, but this Magrathea reads versions up to {FORMAT_VERSION}; "
            "install a newer Magrathea."
        )
    try:
        tensors = load(data)
        if metadata["checksum"] != _checksum(metadata["header"], tensors):
            raise MagratheaError(damaged)
        return SessionFile(source, json.loads(metadata["header"]), tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise MagratheaError(damaged) from error


def _metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file: eight bytes say how long its JSON header is."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def state_of(file: SessionFile, layout: Layout) -> SessionState:
    """What a session's file holds, for a world of this layout; raises MagratheaError where it makes no sense."""
    try:
        return _state_of(file, layout)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise MagratheaError(
            f"{file.source} contradicts itself ({error}); it was not written by Session.save."
        ) from error


def _state_of(file: SessionFile, layout: Layout) -> SessionState:
    header, tensors, rows = file.header, file.tensors, file.header["rows"]
    steps = _steps_of(tensors, layout)
    ends = np.cumsum([0] + [int(row["length"]) for row in rows])
    if not rows or ends[-1] != len(steps):
        raise ValueError("the lengths of its rows are not those of its log")
    histories = []
    for index, row in enumerate(rows):
        if not 1 <= row["num_start"] <= row["length"] or not 0 <= row["num_remembered"] <= row["length"]:
            raise ValueError("a row has more steps of one kind than of all")
        history = History(record_of(layout))
        history.extend(steps[ends[index] : ends[index + 1]])
        history.num_start = row["num_start"]
        for number in row["checkpoints"]:
            history.checkpoints[int(number)] = _under(tensors, f"checkpoint/{index}/{number}/")
        histories.append(history)
    return SessionState(
        header["fill"],
        header["inference"],
        [int(np.int64(row["seed"])) for row in rows],
        histories,
        _under(tensors, "memory/"),
        [row["num_remembered"] for row in rows],
    )


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _steps_of(tensors: dict[str, Tensor], layout: Layout) -> np.ndarray:
    """The log (T,) of all rows."""
    record = record_of(layout)
    fields = {field: tensors[field].numpy() for field in ("tokens", "kind", "seed")}
    most = np.concatenate([np.full(slot.num_tokens, slot.absent) for slot in layout.slots])
    if fields["tokens"].shape[1:] != most.shape or (fields["tokens"] > most).any():
        raise ValueError("its log has tokens that its world does not have")
    if not np.isin(fields["kind"], list(StepKind)).all():
        raise ValueError("its log has steps of an unknown kind")
    steps = np.zeros(len(fields["tokens"]), record)
    for field, values in fields.items():
        if values.dtype != record[field].base or len(values) != len(steps):
            raise ValueError(f"its log's '{field}' has another type or length")
        steps[field] = values
    return steps
