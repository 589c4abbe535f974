"""Importing folders that other programs wrote: videos, numbered pictures, `.npz` episodes and LeRobot datasets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from magrathea.data.dataset import METADATA_FILE_NAME, Dataset
from magrathea.data.foreign import ImportOptions, Note, Reader, import_recordings
from magrathea.data.lerobot import LeRobotReader, is_lerobot
from magrathea.data.npz import NpzReader, has_npz
from magrathea.data.video import PICTURES, VIDEOS, VideoReader, has_videos
from magrathea.errors import MagratheaError

MakeReader = Callable[[Path, ImportOptions, Note], Reader]


def kind_of(folder: Path) -> str:
    """What a folder holds: "dataset" (Minari's), one of `KINDS`, or "" for anything else."""
    if any((place / METADATA_FILE_NAME).exists() for place in (folder / "data", folder)):
        return "dataset"
    if (folder / ".collecting").exists() or not folder.is_dir():
        return ""
    return next((kind for kind, (is_one, _) in KINDS.items() if is_one(folder)), "")


KINDS: dict[str, tuple[Callable[[Path], bool], MakeReader]] = {
    "lerobot": (is_lerobot, LeRobotReader),
    "npz": (has_npz, NpzReader),
    "videos": (has_videos, VideoReader),
}
"""What can be imported: whether a folder holds it, and its reader. The first that fits is taken."""


def import_folder(source: str | Path, out: str | Path, options: ImportOptions | None = None) -> Dataset:
    """Import a folder of recordings that another program wrote into a dataset, with progress; files that cannot be
    read are named and left out.

    Args:
        source: the folder.
        out: folder of the dataset. Where it holds the one that was made of the same files with the same options, that
            is opened.
        options: of pictures and videos.

    Raises:
        MagratheaError: for a folder that holds nothing that can be imported, too little, or what does not fit together.
    """
    source, out, options = Path(source), Path(out).resolve(), options or ImportOptions()
    kind = kind_of(source)
    if kind not in KINDS:
        what = "is a dataset already" if kind else "does not exist" if not source.exists() else "holds none of these"
        raise MagratheaError(
            f"'{source}' {what}; give a folder of videos ({', '.join(VIDEOS)}), of numbered pictures "
            f"({', '.join(PICTURES)}) or of .npz episodes, or a LeRobot dataset."
        )
    make = KINDS[kind][1]
    settings = {"kind": kind, **{key: value for key, value in asdict(options).items() if key != "labels"}}
    return import_recordings(source, out, lambda note: make(source, options, note), settings, options)
