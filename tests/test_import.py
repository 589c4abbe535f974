"""Folders of `.npz` episodes and LeRobot datasets become datasets, with actions and rewards at their steps."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from gymnasium import spaces
from PIL import Image
from recorded_videos import SQUARE, frames, write_video

from magrathea.cli.main import main
from magrathea.data import Dataset, import_folder
from magrathea.data.foreign import ImportOptions
from magrathea.errors import MagratheaError


# -- npz --------------------------------------------------------------------------------------------------------------
def write_npz(folder: Path, num: int = 5, length: int = 12, **arrays: Any) -> Path:
    """Episodes whose observation at step t is t, and whose action from there is t % 3; arrays by (number, length)."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num):
        np.savez(folder / f"{number}.npz", **{name: make(number, length) for name, make in arrays.items()})
    return folder


def numbers(number: int, length: int) -> np.ndarray:
    return np.arange(length + 1, dtype=np.float64)[:, None] + np.array([0, 100 * number])


def pictures(number: int, length: int) -> np.ndarray:
    return np.stack(frames(length + 1, 16, 24, seed=number))


ACTIONS = lambda number, length: np.arange(length) % 3  # noqa: E731
REWARDS = lambda number, length: np.arange(length) / 10  # noqa: E731

ACTION_KINDS: dict[str, tuple[Any, spaces.Space]] = {
    "choices": (ACTIONS, spaces.Discrete(3)),
    "a column": (lambda n, t: (np.arange(t) % 3)[:, None], spaces.Discrete(3)),
    "one-hot": (lambda n, t: np.eye(3, dtype=np.float32)[np.arange(t) % 3], spaces.Discrete(3)),
    "several": (lambda n, t: np.stack([np.arange(t) % 3, np.arange(t) % 2], -1), spaces.MultiDiscrete([3, 2])),
    "amounts": (lambda n, t: np.linspace(-1, 2, t)[:, None], spaces.Box(-1, 2, (1,), np.float32)),
    "negative": (lambda n, t: np.arange(t) - 3, spaces.Box(-3, 8, (1,), np.float32)),
}


@pytest.mark.parametrize("kind", ACTION_KINDS)
def test_actions_are_choices_or_amounts(kind: str, tmp_path: Path) -> None:
    make, space = ACTION_KINDS[kind]
    dataset = import_folder(write_npz(tmp_path / "in", observation=numbers, action=make), tmp_path / "out")
    assert dataset.action_space == space and dataset.lengths == [12] * 5
    episode = dataset.episode(1)
    if isinstance(space, spaces.Discrete):
        np.testing.assert_array_equal(episode.action, np.arange(12) % 3)
    else:
        np.testing.assert_allclose(episode.action.ravel(), make(1, 12).ravel(), rtol=1e-6)


def test_pictures_numbers_rewards_and_endings_are_read(tmp_path: Path) -> None:
    folder = write_npz(
        tmp_path / "in",
        **{"obs/image": pictures, "obs/speed": numbers},
        actions=ACTIONS,
        rewards=REWARDS,
        dones=lambda number, length: np.arange(length) == (7 if number % 2 else length - 1),
        truncated=lambda number, length: (np.arange(length) == length - 1) & (number == 0),
    )
    dataset = import_folder(folder, tmp_path / "out")
    space = dataset.observation_space
    assert isinstance(space, spaces.Dict) and set(space.spaces) == {"image", "speed"}
    assert space["image"] == spaces.Box(0, 255, (16, 24, 3), np.uint8)
    assert dataset.lengths == [12, 8, 12, 8, 12]  # nothing after an ending
    first, second, third = (dataset.episode(index) for index in range(3))
    np.testing.assert_array_equal(first.observation["image"], pictures(0, 12))
    np.testing.assert_allclose(second.observation["speed"], numbers(1, 12)[:9])
    np.testing.assert_allclose(second.reward, np.arange(8) / 10, rtol=1e-6)
    assert not first.terminated.any() and first.truncated[-1]  # done, but cut
    assert second.terminated[-1] and third.terminated[-1] and not third.truncated.any()


@pytest.mark.parametrize("is_dreamer", [False, True])
def test_as_many_actions_as_observations(is_dreamer: bool, tmp_path: Path) -> None:
    folder = write_npz(
        tmp_path / "in",
        image=pictures,
        action=lambda number, length: (np.arange(length + 1) - is_dreamer) % 3,
        reward=lambda number, length: np.arange(length + 1) - is_dreamer,
        **({"is_first": lambda number, length: np.arange(length + 1) == 0} if is_dreamer else {}),
    )
    episode = import_folder(folder, tmp_path / "out").episode(0)
    np.testing.assert_array_equal(episode.action, np.arange(12) % 3)
    np.testing.assert_array_equal(episode.reward, np.arange(12))


def test_pictures_of_other_forms_are_converted(tmp_path: Path) -> None:
    folder = write_npz(
        tmp_path / "in", image=lambda n, t: np.moveaxis(pictures(n, t), -1, 1) / np.float32(255), action=ACTIONS
    )
    dataset = import_folder(folder, tmp_path / "out")
    np.testing.assert_array_equal(dataset.episode(2).observation, pictures(2, 12))
    small = import_folder(folder, tmp_path / "small", ImportOptions(height=16, width=16))
    assert small.observation_space.shape == (16, 16, 3)


def test_bad_npz_files_are_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_npz(tmp_path / "in", observation=numbers, action=ACTIONS)
    (folder / "a_broken.npz").write_bytes(b"PK no archive")
    whole = (folder / "0.npz").read_bytes()
    (folder / "half.npz").write_bytes(whole[: len(whole) // 2])
    with (folder / "array.npz").open("wb") as file:
        np.save(file, np.zeros((13, 2)))
    np.savez(folder / "object.npz", observation=np.array([{}, {}], dtype=object))
    np.savez(folder / "nan.npz", observation=np.full((13, 2), np.nan), action=np.zeros(12, int))
    np.savez(folder / "shape.npz", observation=np.zeros((13, 3)), action=np.zeros(12, int))
    np.savez(folder / "short.npz", observation=np.zeros((13, 2)), action=np.zeros(5, int))
    np.savez(folder / "without.npz", action=np.zeros(5, int))
    np.savez(folder / "no_action.npz", observation=np.zeros((13, 2)))
    assert main(["import", str(folder), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    names = ("a_broken", "half", "array", "object", "nan", "shape", "short", "without", "no_action")
    for name in names:
        assert said.count(f"{name}.npz' is left out: ") == 1, said
    assert "no 'observation' or 'image'" in said and "NaN" in said
    assert len(Dataset.open(tmp_path / "out")) == 5


# -- LeRobot ----------------------------------------------------------------------------------------------------------
LENGTHS = (30, 24, 36, 30)


def write_lerobot(folder: Path, camera: str = "video", version: str = "v3.0") -> Path:
    """Four episodes at 20 frames a second in two data files and one video, with a state, actions and rewards."""
    rows, table, offset = [], [], 0.0
    shown = [frames(length, 32, 48, seed=index) for index, length in enumerate(LENGTHS)]
    for index, length in enumerate(LENGTHS):
        row = {"episode_index": index, "length": length, "data/chunk_index": 0, "data/file_index": index // 2}
        key = "videos/observation.images.top"
        row |= {f"{key}/chunk_index": 0, f"{key}/file_index": 0, f"{key}/from_timestamp": offset}
        rows.append(row)
        offset += length / 20
        for step in range(length):
            of_step = {
                "episode_index": index,
                "frame_index": step,
                "timestamp": np.float32(step / 20),
                "observation.state": [float(step), 10.0 * index],
                "action": [step / 40, -1.0],
                "next.reward": float(step),
                "next.done": step == length - 1,
                "task_index": 0,
            }
            if camera == "image":
                buffer = io.BytesIO()
                Image.fromarray(shown[index][step]).save(buffer, "PNG")
                of_step["observation.images.top"] = {"bytes": buffer.getvalue(), "path": "x.png"}
            table.append(of_step)
    features = {
        "observation.state": {"dtype": "float32", "shape": [2]},
        "action": {"dtype": "float32", "shape": [2]},
        "observation.images.top": {"dtype": camera, "shape": [32, 48, 3]},
        "observation.images.wrist": {"dtype": "video", "shape": [32, 48, 3]},
        "next.reward": {"dtype": "float32", "shape": [1]},
        "timestamp": {"dtype": "float32", "shape": [1]},
    }
    (folder / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    info = {"codebase_version": version, "fps": 20, "features": features, "robot_type": "none"}
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(rows), folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    )
    (folder / "data" / "chunk-000").mkdir(parents=True)
    for file in range(2):
        own = [each for each in table if each["episode_index"] // 2 == file]
        path = folder / "data" / "chunk-000" / f"file-{file:03d}.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(own), path)
    if camera == "video":
        path = folder / "videos" / "observation.images.top" / "chunk-000" / "file-000.mp4"
        write_video(path, [picture for episode in shown for picture in episode], fps=20)
    return folder


def place(picture: np.ndarray) -> np.ndarray:
    return np.argwhere(np.abs(picture.astype(int) - SQUARE).sum(-1) < 120).mean(axis=0)


@pytest.mark.parametrize("camera", ["video", "image"])
def test_a_lerobot_dataset_is_imported(camera: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_lerobot(tmp_path / "robot", camera)
    dataset = import_folder(folder, tmp_path / "out", ImportOptions(camera="top"))
    space = dataset.observation_space
    assert isinstance(space, spaces.Dict) and set(space.spaces) == {"image", "state"}
    assert dataset.action_space.shape == (2,) and dataset.metadata["fps"] == 10
    assert dataset.lengths == [(length + 1) // 2 - 1 for length in LENGTHS]  # every second frame
    assert "wrist" in capsys.readouterr().err
    for index, length in enumerate(LENGTHS):
        episode, shown = dataset.episode(index), frames(length, 32, 48, seed=index)[::2]
        np.testing.assert_allclose(episode.observation["state"][:, 0], np.arange(0, length, 2))
        np.testing.assert_allclose(episode.observation["state"][:, 1], 10 * index)
        np.testing.assert_allclose(episode.action[:, 0], np.arange(0, length, 2)[:-1] / 40, rtol=1e-5)
        np.testing.assert_allclose(episode.reward, 4 * np.arange(len(episode)) + 1)  # of both frames
        for picture, expected in zip(episode.observation["image"], shown, strict=True):
            assert np.abs(place(picture) - place(expected)).max() < 0.7
        assert episode.terminated[-1] and not episode.terminated[:-1].any()


def test_all_frames_of_a_lerobot_dataset_may_be_kept(tmp_path: Path) -> None:
    dataset = import_folder(write_lerobot(tmp_path / "robot"), tmp_path / "out", ImportOptions(fps=20))
    assert dataset.lengths == [length - 1 for length in LENGTHS] and dataset.metadata["fps"] == 20


def test_damaged_lerobot_datasets_are_refused_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = write_lerobot(tmp_path / "old", version="v2.1")
    with pytest.raises(MagratheaError, match=r"convert it to v3\.0"):
        import_folder(old, tmp_path / "out")
    with pytest.raises(MagratheaError, match="has no camera 'side'; it has top, wrist"):
        import_folder(write_lerobot(tmp_path / "camera"), tmp_path / "out", ImportOptions(camera="side"))
    broken = write_lerobot(tmp_path / "broken")
    (broken / "data" / "chunk-000" / "file-001.parquet").write_bytes(b"PAR1")
    with pytest.raises(MagratheaError, match=r"file-001\.parquet' cannot be read"):
        import_folder(broken, tmp_path / "out")
    cut = write_lerobot(tmp_path / "cut")
    path = cut / "videos" / "observation.images.top" / "chunk-000" / "file-000.mp4"
    write_video(path, frames(60, 32, 48), fps=20)  # of the first two episodes
    with pytest.raises(MagratheaError, match="gives 2 episodes"):
        import_folder(cut, tmp_path / "out")
    assert "Episode 2 is left out: " in capsys.readouterr().err
    info = tmp_path / "cut" / "meta" / "info.json"
    info.write_text(info.read_text().replace('"fps": 20', '"fps": "many"'))
    with pytest.raises(MagratheaError, match=r"info\.json"):
        import_folder(cut, tmp_path / "out")


def test_a_minari_dataset_needs_no_import(tmp_path: Path) -> None:
    folder = write_npz(tmp_path / "in", observation=numbers, action=ACTIONS)
    import_folder(folder, tmp_path / "out")
    with pytest.raises(MagratheaError, match="is a dataset already"):
        import_folder(tmp_path / "out", tmp_path / "again")
