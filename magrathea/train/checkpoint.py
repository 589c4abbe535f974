"""Checkpoints of a training: one safetensors file, written atomically; resuming from it is exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from magrathea.errors import MagratheaError
from magrathea.files import atomic_write
from magrathea.named_tensors import tensors_of_part

Progress = TypeVar("Progress")


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


def load_checkpoint(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, kind: type[Progress]
) -> Progress:
    """Load a checkpoint's state into the model and the optimizer; returns its progress, of the given dataclass. Raises
    MagratheaError for a file that is damaged or does not fit the model."""
    try:
        with safe_open(path, framework="pt") as file:
            progress = msgspec.convert(json.loads(file.metadata()["progress"]), kind)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        state = _optimizer_state(tensors, optimizer)
        model.load_state_dict(tensors_of_part(tensors, "model"))
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError, OSError) as error:
        raise MagratheaError(
            f"Checkpoint '{path}' is damaged or of another training ({error}); use another folder, or remove it to "
            "start again."
        ) from error
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress


def _optimizer_state(
    tensors: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, torch.Tensor]]:
    """The optimizer's state by number of the parameter; raises ValueError where it does not fit the parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/")
            state.setdefault(int(index), {})[key] = tensor
    for index, own in state.items():
        shapes = {key: tensor.shape for key, tensor in own.items()}
        if not 0 <= index < len(parameters):
            raise ValueError(f"it has a state of parameter {index}, which the model does not have")
        expected = {"step": torch.Size(()), "exp_avg": parameters[index].shape, "exp_avg_sq": parameters[index].shape}
        if shapes != expected:
            raise ValueError(f"the state of parameter {index} has shapes {shapes} and not {expected}")
    return state
