"""Every file that a resumed command reads back: where it is empty, cut or something else, one line names it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest

from magrathea.cli import main as cli
from magrathea.data import Dataset
from magrathea.errors import MagratheaError

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "list": lambda data: b"[]",
    "number": lambda data: b"7",
    "nested": lambda data: b"[" * 100_000,
}
TRAINED = [
    "config.json",
    "model.safetensors",
    "tokenizers.safetensors",
    "memory.safetensors",
    "starts.safetensors",
    ".training/settings.json",
    ".training/checkpoint.safetensors",
    ".training/tokens/episodes.json",
    ".training/tokens/tokens.npy",
    ".training/tokens/returns.npy",
]
RECORDED = ["data/metadata.json", "data/main_data.hdf5"]


@pytest.fixture(scope="module")
def board() -> str:
    if "test/Damaged-v0" not in gymnasium.registry:
        gymnasium.register("test/Damaged-v0", entry_point="board:Board")
    return "test/Damaged-v0"


@pytest.fixture(scope="module")
def made(board: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small dataset and a world of two updates."""
    folder = tmp_path_factory.mktemp("made")
    assert cli.main(record(folder, board)) == 0
    assert cli.main(train(folder)) == 0
    return folder


def record(folder: Path, board: str) -> list[str]:
    options = ["--steps", "80", "--max-episode-steps", "8", "--num-processes", "1"]
    return ["collect", board, "--out", str(folder / "data"), *options]


def train(folder: Path) -> list[str]:
    options = ["--size", "debug", "--steps", "2", "--no-report"]
    return ["train", str(folder / "data"), "--out", str(folder / "world"), *options]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", TRAINED)
def test_a_training_that_is_resumed_names_the_damaged_file(
    name: str, damage: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made, tmp_path / "copy")
    file = tmp_path / "copy" / "world" / name
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    assert cli.main(train(tmp_path / "copy")) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("magrathea: ") and (Path(name).name in error) and "; " in error


def test_a_token_cache_with_a_header_that_is_no_python_is_named(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made, tmp_path / "copy")
    file = tmp_path / "copy" / "world" / ".training/tokens/tokens.npy"
    data = file.read_bytes()
    file.write_bytes(data[:11] + b"(" + data[12:])
    assert cli.main(train(tmp_path / "copy")) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("magrathea: ") and "tokens.npy" in error and "remove the folder" in error


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", RECORDED)
def test_a_damaged_dataset_is_named(
    name: str, damage: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made / "data", tmp_path / "data")
    file = tmp_path / "data" / name
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    assert cli.main(train(tmp_path)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("magrathea: ") and str(tmp_path / "data") in error and "record" in error


EDITS: dict[str, Callable[[Any], Any]] = {
    "observations one shorter": lambda group: edit(group, "observations", lambda part: part[:-1]),
    "observations of another shape": lambda group: edit(group, "observations", lambda part: part[None]),
    "observations of text": lambda group: edit(group, "observations", lambda part: part.astype("S3")),
    "observations beyond their space": lambda group: edit(group, "observations", lambda part: part.astype(int) + 300),
    "actions beyond their space": lambda group: edit(group, "actions", lambda part: part + 100),
    "actions of halves": lambda group: edit(group, "actions", lambda part: part + 0.5),
    "infinite rewards": lambda group: edit(group, "rewards", lambda part: part + np.inf),
    "rewards of two numbers": lambda group: edit(group, "rewards", lambda part: np.stack([part, part], 1)),
    "no rewards": lambda group: edit(group, "rewards", lambda part: part[:0]),
    "flags of sevens": lambda group: edit(group, "terminations", lambda part: part + 7),
}


def edit(group: Any, name: str, change: Callable[[Any], Any]) -> None:
    values = group[name][()]
    del group[name]
    group[name] = change(values)


@pytest.mark.parametrize("name", EDITS)
def test_an_episode_that_does_not_fit_its_spaces_is_named(name: str, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "data", tmp_path / "data")
    with h5py.File(tmp_path / "data" / "data" / "main_data.hdf5", "r+") as file:
        EDITS[name](file["episode_1"])
    data = Dataset.open(tmp_path / "data")
    assert len(data.episode(0))
    with pytest.raises(MagratheaError, match=r"Episode 1 of '.*/data'.*(correct|record it again)"):
        data.episode(1)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_recording_that_is_resumed_names_its_damaged_settings(
    damage: str, board: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "data" / ".collecting"
    work.mkdir(parents=True)
    (work / "recording.json").write_bytes(DAMAGES[damage](b'{"steps": 80}'))
    assert cli.main(record(tmp_path, board)) == 2
    error = capsys.readouterr().err.strip()
    assert f"File '{work / 'recording.json'}' is damaged" in error and "remove the folder" in error


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_episodes_are_played_again(damage: str, made: Path, board: str, tmp_path: Path) -> None:
    work = tmp_path / "data" / ".collecting"
    work.mkdir(parents=True)
    (work / "episode_000001.hdf5").write_bytes(DAMAGES[damage]((made / "data/data/main_data.hdf5").read_bytes()))
    assert cli.main(record(tmp_path, board)) == 0
    one, other = Dataset.open(made / "data"), Dataset.open(tmp_path / "data")
    assert [len(one.episode(index)) for index in range(len(one))] == [len(other.episode(i)) for i in range(len(other))]
