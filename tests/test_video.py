"""Folders of videos and numbered pictures become datasets without actions, and worlds that go on as they do."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from recorded_videos import CLAY, NIGHT, SQUARE, frames, write_gif, write_pictures, write_video

from magrathea.cli.main import main
from magrathea.data import Dataset, import_folder
from magrathea.data.foreign import ImportOptions
from magrathea.data.video import Cuts, _fitting
from magrathea.errors import MagratheaError
from magrathea.server.action_inputs import ActionInputs
from magrathea.world import World


def place(picture: np.ndarray) -> np.ndarray:
    """The middle of the square."""
    return np.argwhere(np.abs(picture.astype(int) - SQUARE).sum(-1) < 120).mean(axis=0)


def ground(picture: np.ndarray) -> str:
    near = [np.abs(picture.reshape(-1, 3).astype(int) - each).sum(-1).mean() for each in (NIGHT, CLAY)]
    return ["night", "clay"][int(np.argmin(near))]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of every kind, and files that cannot be read."""
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "a.mp4", frames(90) + frames(60, seed=2, ground=CLAY))
    write_video(folder / "deep" / "b.webm", frames(60, seed=3), codec="libvpx-vp9")
    write_gif(folder / "c.gif", frames(40, seed=4))
    write_pictures(folder / "pictures", frames(50, seed=5))
    (folder / "pictures" / "frame7.png").write_bytes(b"no picture")
    (folder / "bad.mp4").write_bytes(b"no video" * 100)
    (folder / "empty.webm").touch()
    (folder / "notes.txt").write_text("of no interest")
    write_pictures(folder / "few", frames(3))
    return folder


def test_every_kind_of_file_is_read_and_bad_ones_are_named(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(clips), "--out", str(tmp_path / "data")]) == 0
    said = capsys.readouterr()
    assert "importing" in said.out
    for name in ("bad.mp4", "empty.webm", "frame7.png", "few/frame0.png"):
        assert said.err.count(name) == 1, name
    assert "notes.txt" not in said.err and said.err.count("convert or remove it") == 2
    dataset = Dataset.open(tmp_path / "data")
    assert dataset.action_space == spaces.Discrete(1)
    assert dataset.observation_space == spaces.Box(0, 255, (72, 128, 3), np.uint8)
    assert dataset.metadata["fps"] == 10
    assert sum(dataset.lengths) == pytest.approx(89 + 59 + 59 + 39 + 48, abs=3)
    assert len(dataset) == 6  # the longest scene was parted
    seen = set()
    for index in range(len(dataset)):
        episode = dataset.episode(index)
        assert len({ground(picture) for picture in episode.observation}) == 1  # none goes on over the cut
        seen.add(ground(episode.observation[0]))
        moves = np.abs(np.diff([place(picture) for picture in episode.observation], axis=0))
        assert np.median(moves, axis=0) == pytest.approx([1, 2], abs=0.3)  # no frame is missing, none comes twice
        assert episode.truncated[-1] and not episode.terminated.any() and not episode.reward.any()
    assert seen == {"night", "clay"}


def test_the_same_import_again_opens_its_dataset(clips: Path, tmp_path: Path) -> None:
    one = import_folder(clips, tmp_path / "data")
    written = (tmp_path / "data" / "data" / "main_data.hdf5").stat().st_mtime_ns
    assert len(import_folder(clips, tmp_path / "data")) == len(one)
    assert (tmp_path / "data" / "data" / "main_data.hdf5").stat().st_mtime_ns == written
    with pytest.raises(MagratheaError, match="other settings"):
        import_folder(clips, tmp_path / "data", ImportOptions(fps=5))


def test_rate_and_size_are_as_asked(tmp_path: Path) -> None:
    for index in range(4):
        write_video(tmp_path / "in" / f"{index}.mp4", frames(90, 144, 256, seed=index), fps=30)
    usual = import_folder(tmp_path / "in", tmp_path / "usual")
    assert usual.metadata["fps"] == 10 and usual.observation_space.shape == (72, 128, 3)
    slow = import_folder(tmp_path / "in", tmp_path / "slow", ImportOptions(fps=5, height=36, width=64, cut=1))
    assert slow.observation_space.shape == (36, 64, 3)
    for dataset, rows, steps in ((usual, 1 * 3 / 2, 29), (slow, 1 * 6 / 4, 14)):  # rows that it moves in a step
        assert dataset.lengths == pytest.approx([steps] * 4, abs=1)
        for index in range(4):
            moves = np.abs(np.diff([place(picture) for picture in dataset.episode(index).observation], axis=0))
            assert np.nanmedian(moves[:, 0]) == pytest.approx(rows, abs=0.3)


def test_a_slow_video_has_no_frame_twice(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in range(4):
        write_gif(tmp_path / "in" / f"{index}.gif", frames(20, seed=index), 250)
    dataset = import_folder(tmp_path / "in", tmp_path / "out")
    assert dataset.metadata["fps"] == 4 and dataset.lengths == [19] * 4
    fast = import_folder(tmp_path / "in", tmp_path / "fast", ImportOptions(fps=12))
    assert fast.lengths == [19] * 4


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_video_is_turned_as_its_file_says(quarters: int, tmp_path: Path) -> None:
    pictures = frames(40, 64, 64)
    for index in range(4):
        path = write_video(tmp_path / "in" / f"{index}.mp4", [np.rot90(each, quarters) for each in pictures])
        data = path.read_bytes()
        one = 1 << 16
        matrix = {1: (0, one, 0, -one, 0, 0), 2: (-one, 0, 0, 0, -one, 0), 3: (0, -one, 0, one, 0, 0)}[quarters]
        start = data.index(b"tkhd") + 4 + 4 + 4 * 5 + 8 + 8  # version 0: after times, duration, layer and volume
        path.write_bytes(data[:start] + struct.pack(">9i", *matrix, 0, 0, 1 << 30) + data[start + 36 :])
    dataset = import_folder(tmp_path / "in", tmp_path / "out")
    for number, picture in enumerate(dataset.episode(0).observation[:8]):
        assert np.abs(place(picture) - place(pictures[number])).max() < 1.5


def test_cuts_are_found_where_colors_change_and_not_where_things_move() -> None:
    rng = np.random.default_rng(0)
    scene = [rng.integers(0, 256, (32, 32, 3)).astype(np.uint8) for _ in range(2)]
    for least, expected in ((0.4, [False, False, True]), (1.0, [False] * 3)):
        cuts = Cuts(least)
        pictures = [np.full((32, 32, 3), 20, np.uint8), np.full((32, 32, 3), 22, np.uint8), scene[0]]
        assert [cuts.is_cut(picture) for picture in pictures] == expected
    moving = Cuts(0.4)
    assert not any(moving.is_cut(np.roll(scene[0], 5 * step, axis=1)) for step in range(20))  # it scrolls
    falling = Cuts(0.4)
    assert not any(falling.is_cut(picture) for picture in frames(100))
    fading = Cuts(0.4)
    assert not any(fading.is_cut(np.full((32, 32, 3), 3 * step, np.uint8)) for step in range(80))


def test_sizes_keep_the_shape() -> None:
    assert _fitting(1080, 1920) == (72, 128) and _fitting(1920, 1080) == (128, 72)
    assert _fitting(480, 640) == (88, 112) and _fitting(64, 64) == (64, 64)
    assert min(_fitting(10, 4000)) >= 16


REFUSED: dict[str, tuple[Any, str]] = {
    "nothing": (lambda folder: None, "holds none of these"),
    "bad files alone": (lambda folder: (folder / "a.mp4").write_bytes(b"x"), "no video or picture that can be read"),
    "one short clip": (lambda folder: write_video(folder / "a.mp4", frames(30)), "add longer or more"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_imported_is_refused_in_a_line(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = REFUSED[case]
    (tmp_path / "in").mkdir()
    make(tmp_path / "in")
    assert main(["import", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in last and last.startswith("magrathea: ")
    assert not (tmp_path / "out" / "data").exists()


def test_options_out_of_range_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--height", "64"], ["--height", "3", "--width", "3"], ["--cut", "0"], ["--fps", "-1"]):
        assert main(["import", str(tmp_path), "--out", str(tmp_path / "out"), *options]) == 2
    assert "give both" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.slow
def test_a_folder_is_trained_on_in_one_command_and_the_world_goes_on_without_keys(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "world"
    assert (
        main(["train", str(clips), "--out", str(out), "--size", "debug", "--steps", "10", "--report-minutes", "0.02"])
        == 0
    )
    assert (tmp_path / "world-dataset" / "data").is_dir() and (out / "report" / "index.html").is_file()
    world = World.from_pretrained(out)
    inputs = ActionInputs(world.action_space, world.metadata)
    assert inputs.has_noop and not any(button.keys for button in inputs.buttons)
    env = gymnasium.make("magrathea/Dream-v0", world=world, render_mode="rgb_array")
    env.reset(seed=0)
    env.step(0)
    assert env.render().shape == (72, 128, 3)
