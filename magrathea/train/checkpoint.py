"""Checkpoints of a training: one safetensors file, written atomically; resuming from it is exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from magrathea.errors import MagratheaError
from magrathea.files import atomic_write


def save_checkpoint(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]
) -> None:
    """Write the state of the model and the optimizer, and `progress` (JSON-able)."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in state.items()}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as file:
        save_file(contiguous, file, metadata={"progress": json.dumps(progress)})


def load_checkpoint(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load a checkpoint's state into the model and the optimizer; returns its progress. Raises MagratheaError for a
    file that is damaged or does not fit the model."""
    try:
        with safe_open(path, framework="pt") as file:
            progress = json.loads(file.metadata()["progress"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        model.load_state_dict(
            {name.removeprefix("model/"): tensor for name, tensor in tensors.items() if name.startswith("model/")}
        )
    except (SafetensorError, RuntimeError, KeyError, TypeError, OSError) as error:
        raise MagratheaError(
            f"Checkpoint '{path}' is damaged or of another training ({error}); use another folder, or remove it to "
            "start again."
        ) from error
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/")
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress
