"""Worlds as folders: config.json, model.safetensors, tokenizers.safetensors, memory.safetensors, starts.safetensors and
README.md; shipped with Magrathea, of one's own, or on the Hugging Face Hub. See docs/worlds.md."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from magrathea.errors import MagratheaError, one_line
from magrathea.files import replace_folder

FORMAT_VERSION = 1
WORLDS_FOLDER = Path(__file__).parent / "worlds"
HUB_ID = r"[A-Za-z0-9][\w-]*/[\w-][\w.-]*"  # owner/name
WORLD_NAME = r"[\w][\w.+-]{0,99}"  # of several that share their weights: a folder's name
TENSOR_FILES = ("model", "tokenizers", "memory", "starts")


@dataclass(frozen=True)
class WorldFiles:
    """The contents of a world's folder.

    Attributes:
        config: of config.json: model, fill, layout, tokenizers, spaces, metadata.
        tensors: for each of `TENSOR_FILES` its tensors by name.
        joint_layout: of a world that shares its weights with others the layout of them all; the weights are then those
            of all of them.
    """

    config: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]
    joint_layout: list[dict[str, Any]] | None = None


# -- what config.json may hold ----------------------------------------------------------------------------------------
# Sizes are checked here, before anything of that size is made. The sizes of the model are checked by `ModelConfig`, the
# settings of the sampler by `FillSettings`, and spaces by `space_from_config`.
MOST_CONFIG_BYTES = 16 * 2**20
MOST_TOKENS = 2**18  # of a step, values included
_Name = Annotated[str, msgspec.Meta(max_length=200)]
_Side = Annotated[int, msgspec.Meta(ge=1, le=MOST_TOKENS)]


class _SlotConfig(msgspec.Struct, forbid_unknown_fields=True):
    name: _Name
    role: Literal["action", "observation", "reward", "terminated"]
    vocab_size: Annotated[int, msgspec.Meta(ge=1, le=2**24)]
    grid: tuple[_Side, _Side]
    group: tuple[_Side, _Side]
    is_sequence: bool | None = None
    smoothing: Annotated[float, msgspec.Meta(gt=0, le=2**24)] | None = None
    nothing: Annotated[int, msgspec.Meta(ge=0, lt=2**24)] | None = None
    values_of: _Name | None = None


_KeyAction = (
    Annotated[int, msgspec.Meta(ge=0, lt=2**18)]
    | Annotated[list[Annotated[float, msgspec.Meta(ge=-(2**53), le=2**53)]], msgspec.Meta(max_length=4096)]
)


class _Metadata(msgspec.Struct):
    """What other parts read of the metadata, which may hold more."""

    name: _Name = ""
    env_id: _Name | None = None
    env_kwargs: dict[str, Any] | None = None
    fps: Annotated[float, msgspec.Meta(gt=0, le=1000)] | None = None
    action_names: Annotated[list[_Name], msgspec.Meta(max_length=2**16)] | None = None
    key_map: dict[_Name, _KeyAction] | None = None
    description: str | None = None
    held_out: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    split_seed: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] | None = None
    dataset_id: _Name | None = None
    continues: Annotated[list[_Name], msgspec.Meta(max_length=1024)] | None = None
    training: dict[str, Any] | None = None


class _Config(msgspec.Struct):
    model: dict[str, Any]
    fill: dict[str, Any]
    layout: Annotated[list[_SlotConfig], msgspec.Meta(min_length=4, max_length=1024)]
    tokenizers: dict[str, dict[str, Any]]
    spaces: dict[str, dict[str, Any]]
    metadata: _Metadata
    joint_slots: Annotated[list[_Name], msgspec.Meta(max_length=1024)] | None = None


class _JointConfig(msgspec.Struct):
    """The config.json of a folder of several worlds: their names, which are those of its folders, and the layout of
    their weights."""

    layout: Annotated[list[_SlotConfig], msgspec.Meta(min_length=4, max_length=2**14)]
    worlds: Annotated[list[Annotated[str, msgspec.Meta(pattern=f"^{WORLD_NAME}$")]], msgspec.Meta(min_length=1)]


def check_config(config: dict[str, Any]) -> None:
    """Raises ValueError where a world's config has other fields, types or sizes than one may have."""
    typed = msgspec.convert(config, _Config)
    if sum(slot.grid[0] * slot.grid[1] for slot in typed.layout) > MOST_TOKENS:
        raise ValueError(f"a step of more than {MOST_TOKENS} tokens")
    for slot in typed.layout:
        if any(group > size for group, size in zip(slot.group, slot.grid, strict=True)):
            raise ValueError(f"slot '{slot.name}' has groups larger than its grid")


def shipped_worlds() -> dict[str, Path]:
    """Name -> folder of every world that comes with Magrathea."""
    return {folder.parent.name: folder.parent for folder in sorted(WORLDS_FOLDER.glob("*/config.json"))}


def find_world(name: str | Path) -> Path:
    """The folder of a world: a path, the name of a shipped world, or an id on the Hugging Face Hub (owner/name).

    Raises:
        MagratheaError: where there is none.
    """
    folder = user_path(name)
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise MagratheaError(f"World folder '{folder}' has no config.json; build one with 'magrathea train'.")
        members = worlds_in(folder)
        if members:
            raise MagratheaError(
                f"'{folder}' holds the worlds {', '.join(members)}; name one, as '{folder}/{members[0]}'."
            )
        return folder
    shipped = shipped_worlds()
    if str(folder) in shipped:
        return shipped[str(folder)]
    if isinstance(name, str) and re.fullmatch(HUB_ID, name):
        return _download(name)
    raise MagratheaError(
        f"No world '{name}'; give a world's folder, its owner/name on the Hub, or a shipped one: "
        f"{', '.join(shipped) or 'there is none'}."
    )


def worlds_in(name: str | Path) -> list[str]:
    """The names of the worlds that share the weights in a folder, which are those of its folders; [] where it is a
    world's own, or none."""
    folder = user_path(name)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    return _read_joint(folder).worlds if isinstance(config, dict) and "worlds" in config else []


def world_folders(name: str | Path) -> dict[str, Path]:
    """The folders of worlds by name: of all that share their weights in a folder, or of the one that `find_world`
    finds."""
    folder = user_path(name)
    members = worlds_in(folder)
    return {member: folder / member for member in members} or {str(name): find_world(name)}


def user_path(name: str | Path) -> Path:
    """The path that a name is, with the home folder for "~"; raises MagratheaError where there is no such user."""
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise MagratheaError(f"'{name}' begins with the home folder of nobody; give the whole path.") from error


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
    config = read_config(folder)
    joined = config.get("joint_slots") is not None
    joint = folder.resolve().parent if joined else folder
    homes = {name: joint if name == "model" else folder for name in TENSOR_FILES}
    tensors = {name: _read_tensors(home / f"{name}.safetensors") for name, home in homes.items()}
    return WorldFiles(config, tensors, msgspec.to_builtins(_read_joint(joint).layout) if joined else None)


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a world's folder; raises MagratheaError as `read_world` does."""
    return _read_json(folder, check_config)


def _read_joint(folder: Path) -> _JointConfig:
    return msgspec.convert(_read_json(folder, lambda config: msgspec.convert(config, _JointConfig)), _JointConfig)


def _read_json(folder: Path, check: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        if not path.is_file() or path.stat().st_size > MOST_CONFIG_BYTES:
            raise ValueError(f"it is no file of up to {MOST_CONFIG_BYTES >> 20} MiB")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MagratheaError(
            f"World '{folder}' has a config.json that cannot be read ({one_line(error)}); copy it again or train anew."
        ) from error
    version = config.get("format_version") if isinstance(config, dict) else None
    if version != FORMAT_VERSION:
        raise MagratheaError(
            f"World '{folder}' has a config.json of format version {version}, but this Magrathea reads version "
            f"{FORMAT_VERSION}; install the Magrathea that made it, or train it anew."
        )
    try:
        check(config)
    except (ValueError, RecursionError) as error:
        raise MagratheaError(
            f"World '{folder}' has a config.json that lacks or misnames something ({one_line(error)}); copy it again."
        ) from error
    return config


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise MagratheaError(f"World file '{path}' is missing; copy the whole folder again.")
    try:
        tensors = load_file(path)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
                raise ValueError(f"'{name}' is not finite")
        return tensors
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise MagratheaError(f"World file '{path}' is damaged ({error}); copy the whole folder again.") from error


# -- writing ----------------------------------------------------------------------------------------------------------
def write_world(files: WorldFiles, folder: str | Path) -> Path:
    """Write a world's folder in one step: either all of it is new, or nothing has changed. Keeps other files there."""
    with _replaced(folder) as (fresh, name):
        _write_files(files, fresh, name)
    return user_path(folder)


def write_worlds(
    members: dict[str, WorldFiles], layout: list[dict[str, Any]], weights: dict[str, Tensor], folder: str | Path
) -> Path:
    """Write worlds that share these weights, of this layout, likewise; each of them is a folder in the folder."""
    with _replaced(folder) as (fresh, _):
        _write_tensors(fresh, {"model": weights})
        _write_config(fresh, {"layout": layout, "worlds": list(members)})
        for name, files in members.items():
            (fresh / name).mkdir(exist_ok=True)
            _write_files(files, fresh / name, name)
            (fresh / name / "model.safetensors").unlink(missing_ok=True)
    return user_path(folder)


@contextmanager
def _replaced(folder: str | Path) -> Iterator[tuple[Path, str]]:
    """A copy of a folder, or an empty one where there is none, that takes its place in one step at the end; and the
    folder's name."""
    real = folder_to_write(folder)
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{real.name}-", dir=real.parent))
    except OSError as error:
        raise MagratheaError(
            f"World folder '{folder}' cannot be written ({error.strerror}); choose another."
        ) from error
    try:
        if real.exists():
            shutil.copytree(real, fresh, dirs_exist_ok=True)
        yield fresh, real.name
        fresh.chmod(0o755)
        for file in fresh.glob("**/*.safetensors"):
            file.chmod(0o644)
        replace_folder(fresh, real)
    except (OSError, SafetensorError) as error:
        raise MagratheaError(f"World folder '{folder}' cannot be written ({error}); nothing was changed.") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def folder_to_write(folder: str | Path) -> Path:
    """The folder that a world or a report named so is written to: where a link leads, that is the folder it leads to.

    Raises:
        MagratheaError: for a file, and for the working directory and those above it, which cannot be replaced.
    """
    real = user_path(folder).resolve()
    if real == Path.cwd() or real in Path.cwd().parents:
        raise MagratheaError(f"'{folder}' is the folder that you are in, or one above it; name another one.")
    if real.exists() and not real.is_dir():
        raise MagratheaError(f"'{folder}' is a file; name a folder.")
    return real


def _write_tensors(folder: Path, files: dict[str, dict[str, Tensor]]) -> None:
    for file, tensors in files.items():
        save_file(
            {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, folder / f"{file}.safetensors"
        )


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    content = {"format_version": FORMAT_VERSION} | config
    (folder / "config.json").write_text(json.dumps(content, indent=1) + "\n")


def _write_files(files: WorldFiles, folder: Path, name: str) -> None:
    _write_tensors(folder, files.tensors)
    _write_config(folder, files.config)
    card = folder / "README.md"
    if not card.exists():
        card.write_text(f"# {files.config['metadata'].get('name', name)}\n\nA world made with Magrathea.\n", "utf-8")
