"""The command line: finds the command that was asked for, runs it, and prints a mistake as one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from inspect import cleandoc

from magrathea.cli.allocator import keep_memory
from magrathea.cli.bench import bench, bench_history, bench_memories, bench_memory_sizes, bench_players, bench_profile
from magrathea.cli.build import collect, make, train
from magrathea.cli.evaluate import evaluate, evaluate_drift, evaluate_memory
from magrathea.cli.options import run_command
from magrathea.cli.play import play
from magrathea.cli.sessions import backup
from magrathea.errors import MagratheaError
from magrathea.plugins import environment_plugins

TRAIN_PACKAGES = {"minari", "h5py", "tensorboard", "torchmetrics", "av", "matplotlib", "cattrs", "jinja2"}
"""What the extra `train` of this package installs."""

COMMANDS: dict[str, Callable[..., None]] = {
    "collect": collect,
    "train": train,
    "eval": evaluate,
    "eval memory": evaluate_memory,
    "eval drift": evaluate_drift,
    "play": play,
    "sessions backup": backup,
    "make": make,
    "bench": bench,
    "bench profile": bench_profile,
    "bench history": bench_history,
    "bench players": bench_players,
    "bench memories": bench_memories,
    "bench memory-sizes": bench_memory_sizes,
}
"""Every command by its words; the longest name that an invocation begins with is the one that runs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for a mistake in what was asked, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "" not in sys.path:
        sys.path.insert(0, "")  # so that "module:id" finds a module in the working directory, as `python -m` does
    keep_memory()
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(overview())
            return 0
        name = command_name(arguments)
        run_command(COMMANDS[name], arguments[len(name.split()) :], prog=f"magrathea {name}")
    except MagratheaError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        return _fail(_missing(error))
    except KeyboardInterrupt:
        return 130
    return 0


def command_name(arguments: Sequence[str]) -> str:
    """The command that the arguments begin with; raises MagratheaError if there is none."""
    for name in (" ".join(arguments[:2]), arguments[0]):
        if name in COMMANDS:
            return name
    known = ", ".join(name for name in COMMANDS if " " not in name)
    raise MagratheaError(f"No command '{arguments[0]}'; give one of {known}, or --help.")


def overview() -> str:
    """The help page of `magrathea` itself: every command with the first paragraph of its help."""
    width = 2 + max(map(len, COMMANDS))
    lines = [f"  {name:{width}}{_summary(command)}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: magrathea COMMAND ... (magrathea COMMAND --help lists the options of a command)",
            "",
            "Magrathea builds worlds: it learns a small generative world from an environment.",
            "",
            "commands:",
            *lines,
        ]
    )


def _summary(command: Callable[..., None]) -> str:
    """The first sentence of a command's help."""
    return cleandoc(command.__doc__ or "").partition("\n")[0].partition(". ")[0].rstrip(".")


def _fail(message: str) -> int:
    print("magrathea: " + " ".join(message.split()), file=sys.stderr)
    return 2


def _missing(error: ModuleNotFoundError) -> str:
    """What to install for a module that is missing; raises the error itself where it is one of this package."""
    package = (error.name or "").partition(".")[0]
    if package in ("", "magrathea"):
        raise error
    if package in TRAIN_PACKAGES:
        return f"This needs the package '{package}'; install it with: pip install 'magrathea[train]'"
    for plugin in environment_plugins():
        if package == plugin.package.replace("-", "_"):
            return f"This needs the package '{plugin.package}'; install it with: pip install {plugin.package}"
    return f"There is no module '{package}'; install it, or run this in the folder that holds it."
