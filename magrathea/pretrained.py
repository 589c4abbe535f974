"""Worlds as folders: config.json, model.safetensors, tokenizers.safetensors, starts.safetensors, README.md."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.layout import ROLES, Layout
from magrathea.memory import memory_spec
from magrathea.model.config import ModelConfig
from magrathea.model.transformer import MaskedTransformer
from magrathea.model.weight_names import current_name
from magrathea.sampler import FillSettings
from magrathea.spaces import space_from_config, space_to_config
from magrathea.tokenizers import tokenizer_from
from magrathea.world import Tokenizers, World, WorldConfig

FORMAT_VERSION = 1
WORLDS_FOLDER = Path(__file__).parent / "worlds"


def shipped_worlds() -> dict[str, Path]:
    """Name -> folder of every world that comes with Magrathea."""
    return {folder.parent.name: folder.parent for folder in sorted(WORLDS_FOLDER.glob("*/config.json"))}


# -- writing ----------------------------------------------------------------------------------------------------------
def save_world(world: World, folder: str | Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Write a world's folder in one step: either all of it is new, or nothing has changed. Keeps other files there.
    The model's weights are kept as `dtype`."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        if folder.exists():
            shutil.copytree(folder, fresh, dirs_exist_ok=True)
        _write_files(world, fresh, dtype)
        fresh.chmod(0o755)
        for file in fresh.glob("*.safetensors"):
            file.chmod(0o644)
        old = fresh.with_name(fresh.name + "-old")
        if folder.exists():
            os.replace(folder, old)
        os.replace(fresh, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _write_files(world: World, folder: Path, dtype: torch.dtype) -> None:
    config = {
        "format_version": FORMAT_VERSION,
        "model": world.config.model.to_config(),
        "fill": world.config.fill.to_config(),
        "layout": world.layout.to_config(),
        "tokenizers": {role: tokenizer.to_config() for role, tokenizer in world.tokenizers.items()},
        "spaces": {role: space_to_config(tokenizer.space) for role, tokenizer in world.tokenizers.items()},
        "metadata": world.metadata,
    }
    tokenizer_tensors = {
        f"{role}/{name}": tensor.contiguous()
        for role, tokenizer in world.tokenizers.items()
        for name, tensor in tokenizer.tensors().items()
    }
    weights = {name: tensor.detach().cpu().to(dtype) for name, tensor in world.model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    save_file(tokenizer_tensors, folder / "tokenizers.safetensors")
    save_file(world.memory.tensors(), folder / "memory.safetensors")
    save_file({"starts": world.starts.to(torch.int32).contiguous()}, folder / "starts.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    card = folder / "README.md"
    if not card.exists():
        card.write_text(f"# {world.metadata.get('name', folder.name)}\n\nA world made with Magrathea.\n")


# -- reading ----------------------------------------------------------------------------------------------------------
def load_world(name: str | Path, device: str = "cpu") -> World:
    """Load a world; raises MagratheaError where there is none or its files are damaged or foreign."""
    folder = find_world(name)
    config = _read_config(folder)
    try:
        tokenizers = _read_tokenizers(config, _read_tensors(folder / "tokenizers.safetensors"))
        layout, model_config = Layout.from_config(config["layout"]), ModelConfig(**config["model"])
        world_config = WorldConfig(model_config, FillSettings(**config["fill"]), config["metadata"])
    except (KeyError, TypeError) as error:
        raise MagratheaError(f"World '{folder}' has a config.json that lacks or misnames {error}.") from error
    model = MaskedTransformer(layout, model_config)
    weights = {current_name(key): tensor.float() for key, tensor in _read_tensors(folder / "model.safetensors").items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise MagratheaError(f"World '{folder}' has weights that do not fit its config.json; save it anew.") from error
    starts = _read_tensors(folder / "starts.safetensors").get("starts", torch.zeros(0, 1, layout.num_tokens))
    memory = memory_spec(model_config.memory).from_tensors(layout, _read_tensors(folder / "memory.safetensors"))
    return World(tokenizers, world_config, starts, model.eval(), memory).to(device)


def find_world(name: str | Path) -> Path:
    """The folder of a world: a path, the name of a shipped world, or an id on the Hugging Face Hub (owner/name)."""
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise MagratheaError(f"World folder '{folder}' has no config.json; build one with 'magrathea train'.")
        return folder
    shipped = shipped_worlds()
    if str(name) in shipped:
        return shipped[str(name)]
    if isinstance(name, str) and name.count("/") == 1 and not name.startswith((".", "/")):
        return _download(name)
    raise MagratheaError(f"No world '{name}': it is no folder and no shipped world ({', '.join(shipped) or 'none'}).")


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.md"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise MagratheaError(f"No world '{name}': no such folder, and the hub did not give it ({error}).") from error


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise MagratheaError(f"World '{folder}' has a config.json that cannot be read ({error}).") from error
    version = config.get("format_version") if isinstance(config, dict) else None
    if version != FORMAT_VERSION:
        raise MagratheaError(
            f"World '{folder}' has format version {version}, but this Magrathea reads version {FORMAT_VERSION}; "
            "install the Magrathea that made it, or train it anew."
        )
    return config


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise MagratheaError(f"World file '{path}' is missing; copy the whole folder again.")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise MagratheaError(f"World file '{path}' is damaged ({error}); copy the whole folder again.") from error


def _read_tokenizers(config: dict[str, Any], tensors: dict[str, Tensor]) -> Tokenizers:
    tokenizers: Tokenizers = {}
    for role in ROLES:
        own = {key.removeprefix(f"{role}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{role}/")}
        space = space_from_config(config["spaces"][role])
        tokenizers[role] = tokenizer_from(config["tokenizers"][role], own, space)
    return tokenizers


# -- sharing ----------------------------------------------------------------------------------------------------------
def push_world(folder: str | Path, repo_id: str, *, private: bool = False) -> str:
    """Upload a world's folder to the Hugging Face Hub; returns its address there."""
    from huggingface_hub import HfApi

    folder = find_world(folder)
    api = HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    return str(api.upload_folder(repo_id=repo_id, folder_path=folder, ignore_patterns=[".*"]))
