"""Saving a world's folder: all of it or nothing, whatever happens, and through links."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from magrathea.cli.main import main
from magrathea.errors import MagratheaError
from magrathea.files import claim, replace_folder
from magrathea.pretrained import read_world
from magrathea.world import World

GOLDEN = Path(__file__).parent / "golden" / "board_world"


@pytest.fixture(scope="module")
def world() -> World:
    return World.from_pretrained(GOLDEN)


def save_for_ever(world: World, folder: Path) -> None:
    """In a process that is to be killed: save two worlds in turns."""
    try:
        while True:
            for name in ("one", "two"):
                world.metadata["name"] = name
                world.starts[:] = world.starts.roll(1, 0)
                world.save_pretrained(folder)
    finally:
        os._exit(1)


def check_kills(world: World, folder: Path, num: int) -> None:
    """Kill a process that saves at a random moment, again and again: the world is there and whole."""
    rng = random.Random(0)
    world.save_pretrained(folder)
    for _ in range(num):
        child = os.fork()
        if not child:
            save_for_ever(world, folder)
        time.sleep(rng.uniform(0.01, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert World.from_pretrained(folder).metadata["name"] in ("one", "two", "wild")


def test_a_killed_process_leaves_a_whole_world(world: World, tmp_path: Path) -> None:
    check_kills(world, tmp_path / "world", 20)


FILE_EVENTS = ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.chmod", "ctypes.dlopen")


def save_until_killed(world: World, folder: Path, kill_at: int) -> bool:
    """Save the world in a process that is killed just before its file event of that number; whether it came so far."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.WIFSIGNALED(status)
    num_events = 0

    def count(event: str, arguments: tuple) -> None:
        nonlocal num_events
        if event in FILE_EVENTS:
            num_events += 1
            if num_events > kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(count)
        world.save_pretrained(folder)
    finally:
        os._exit(0)


def lost_worlds(world: World, folder: Path) -> list[int]:
    """The file events of a save before which a kill leaves no world, or another one than the old or the new."""
    world.metadata["name"] = "old"
    world.save_pretrained(folder)
    world.metadata["name"] = "new"
    lost = []
    for kill_at in itertools.count():
        was_killed = save_until_killed(world, folder, kill_at)
        try:
            read_world(folder)
        except MagratheaError:
            lost.append(kill_at)
            for left in folder.parent.iterdir():
                shutil.rmtree(left)
            world.save_pretrained(folder)
        if not was_killed:
            return lost
    return lost


def test_a_kill_before_any_system_call_leaves_a_whole_world(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lost_worlds(world, tmp_path / "one" / "world") == []
    monkeypatch.setattr("magrathea.files._exchange", lambda one, other: False)
    assert lost_worlds(world, tmp_path / "two" / "world"), "two renames lose a world between them, which is found"


@pytest.mark.nightly
@pytest.mark.slow
def test_many_killed_processes_leave_whole_worlds(world: World, tmp_path: Path) -> None:
    check_kills(world, tmp_path / "world", 100)


def test_a_reader_finds_a_world_at_every_moment(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "world"
    world.save_pretrained(folder)
    child = os.fork()
    if not child:
        save_for_ever(world, folder)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        assert (folder / "config.json").exists()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_without_an_exchange_the_folder_is_replaced_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magrathea.files._exchange", lambda one, other: False)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert [path.name for path in tmp_path.rglob("*")] == ["old", "new"]


def test_a_link_is_written_through(world: World, tmp_path: Path) -> None:
    target, link = tmp_path / "disk" / "target", tmp_path / "link"
    target.mkdir(parents=True)
    (target / "notes.txt").write_text("kept")
    link.symlink_to(target)
    assert world.save_pretrained(link) == link
    assert link.is_symlink() and (target / "config.json").exists() and (target / "notes.txt").read_text() == "kept"
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "later")
    world.save_pretrained(dangling)
    assert dangling.is_symlink() and World.from_pretrained(tmp_path / "later").num_starts


@pytest.mark.parametrize("out", [".", "..", "../..", "/", "sub/..", "link", "file", "file/below"])
def test_folders_that_cannot_be_replaced_are_refused(
    out: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (here := tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(here)
    (here / "file").touch()
    (here / "link").symlink_to(here)
    with pytest.raises(MagratheaError, match="folder"):
        world.save_pretrained(out)
    if out != "file/below":
        assert main(["make", "CartPole-v1", "--out", out]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert sorted(path.name for path in here.iterdir()) == ["file", "link"]


def test_a_claim_is_held_by_one(tmp_path: Path) -> None:
    with claim(tmp_path / "lock"), pytest.raises(BlockingIOError), claim(tmp_path / "lock"):
        pass
    with claim(tmp_path / "lock"):
        pass
