"""Worlds as folders: config.json, model.safetensors, tokenizers.safetensors, memory.safetensors, starts.safetensors and
README.md; shipped with Magrathea, of one's own, or on the Hugging Face Hub. See docs/worlds.md."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from magrathea.errors import MagratheaError

FORMAT_VERSION = 1
WORLDS_FOLDER = Path(__file__).parent / "worlds"
TENSOR_FILES = ("model", "tokenizers", "memory", "starts")


@dataclass(frozen=True)
class WorldFiles:
    """The contents of a world's folder.

    Attributes:
        config: of config.json: model, fill, layout, tokenizers, spaces, metadata.
        tensors: for each of `TENSOR_FILES` its tensors by name.
    """

    config: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def shipped_worlds() -> dict[str, Path]:
    """Name -> folder of every world that comes with Magrathea."""
    return {folder.parent.name: folder.parent for folder in sorted(WORLDS_FOLDER.glob("*/config.json"))}


def find_world(name: str | Path) -> Path:
    """The folder of a world: a path, the name of a shipped world, or an id on the Hugging Face Hub (owner/name).

    Raises:
        MagratheaError: where there is none.
    """
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


def push_world(folder: str | Path, repo_id: str, *, private: bool = False) -> str:
    """Upload a world's folder to the Hugging Face Hub; returns its address there."""
    from huggingface_hub import HfApi

    folder = find_world(folder)
    api = HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    return str(api.upload_folder(repo_id=repo_id, folder_path=folder, ignore_patterns=[".*"]))


# -- reading ----------------------------------------------------------------------------------------------------------
def read_world(folder: Path) -> WorldFiles:
    """The contents of a world's folder; raises MagratheaError where files are missing, damaged or of another
    version."""
    return WorldFiles(
        _read_config(folder), {name: _read_tensors(folder / f"{name}.safetensors") for name in TENSOR_FILES}
    )


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


# -- writing ----------------------------------------------------------------------------------------------------------
def write_world(files: WorldFiles, folder: str | Path) -> Path:
    """Write a world's folder in one step: either all of it is new, or nothing has changed. Keeps other files there."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        if folder.exists():
            shutil.copytree(folder, fresh, dirs_exist_ok=True)
        _write_files(files, fresh, folder.name)
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


def _write_files(files: WorldFiles, folder: Path, name: str) -> None:
    for file, tensors in files.tensors.items():
        save_file(
            {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, folder / f"{file}.safetensors"
        )
    config = {"format_version": FORMAT_VERSION} | files.config
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    card = folder / "README.md"
    if not card.exists():
        card.write_text(f"# {files.config['metadata'].get('name', name)}\n\nA world made with Magrathea.\n")
