"""The command line: runs one of the commands, and says in one line what was wrong with what was asked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import tyro

from magrathea.cli.allocator import keep_memory
from magrathea.cli.build import collect, make, train
from magrathea.cli.measure import bench, compare, evaluate
from magrathea.cli.play import play
from magrathea.errors import MagratheaError

EXTRAS = {
    "worlds": {"crafter", "minigrid", "ale_py", "vizdoom"},
    "train": {"minari", "h5py", "tensorboard", "torchmetrics", "av", "matplotlib"},
}
"""The packages of the extras that commands need."""

COMMANDS: dict[str, Callable[..., None]] = {
    "collect": collect,
    "train": train,
    "eval": evaluate,
    "play": play,
    "bench": bench,
    "make": make,
    "compare": compare,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for a mistake in what was asked, 130 for Ctrl-C."""
    if "" not in sys.path:
        sys.path.insert(0, "")  # so that "module:id" finds a module in the working directory, as `python -m` does
    keep_memory()
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="magrathea",
            description="Magrathea builds worlds: it learns a small generative world from an environment.",
            args=arguments,
        )
    except MagratheaError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        return _fail(_missing(error))
    except KeyboardInterrupt:
        return 130
    return 0


def _fail(message: str) -> int:
    print("magrathea: " + " ".join(message.split()), file=sys.stderr)
    return 2


def _missing(error: ModuleNotFoundError) -> str:
    """What to do about a module that is not there; raises the error itself where a module of ours is not."""
    package = (error.name or "").partition(".")[0]
    if package in ("", "magrathea"):
        raise error
    for extra, packages in EXTRAS.items():
        if package in packages:
            return f"This needs the package '{package}'; install it with: pip install 'magrathea[{extra}]'"
    return f"There is no module '{package}'; install it, or run this in the folder that holds it."
