"""The command line: finds the command that was asked for, runs it, and prints a mistake as one line."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from inspect import cleandoc
from typing import IO

from magrathea.cli.allocator import keep_memory
from magrathea.cli.bench import (
    bench,
    bench_agents,
    bench_arena,
    bench_history,
    bench_memories,
    bench_memory_sizes,
    bench_players,
    bench_profile,
)
from magrathea.cli.build import collect, import_recordings, make, train
from magrathea.cli.evaluate import (
    evaluate,
    evaluate_actions,
    evaluate_any_to_any,
    evaluate_drift,
    evaluate_episodes,
    evaluate_memory,
    evaluate_sound,
    evaluate_text,
)
from magrathea.cli.fill import fill
from magrathea.cli.learn import learn
from magrathea.cli.options import run_command
from magrathea.cli.play import play
from magrathea.cli.sessions import backup
from magrathea.errors import MagratheaError, exit_on_sigterm
from magrathea.files import system_error
from magrathea.plugins import environment_plugins

TRAIN_PACKAGES = {"minari", "h5py", "tensorboard", "torchmetrics", "av", "matplotlib", "cattrs", "jinja2"}
"""What the extra `train` of this package installs."""

COMMANDS: dict[str, Callable[..., None]] = {
    "collect": collect,
    "import": import_recordings,
    "train": train,
    "eval": evaluate,
    "eval memory": evaluate_memory,
    "eval drift": evaluate_drift,
    "eval episodes": evaluate_episodes,
    "eval text": evaluate_text,
    "eval sound": evaluate_sound,
    "eval any-to-any": evaluate_any_to_any,
    "eval actions": evaluate_actions,
    "fill": fill,
    "play": play,
    "sessions backup": backup,
    "make": make,
    "learn": learn,
    "bench": bench,
    "bench profile": bench_profile,
    "bench history": bench_history,
    "bench players": bench_players,
    "bench memories": bench_memories,
    "bench memory-sizes": bench_memory_sizes,
    "bench arena": bench_arena,
    "bench agents": bench_agents,
}
"""Every command by its words; the longest name that an invocation begins with is the one that runs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for what could not be done, 130 for Ctrl-C, 141 where nobody reads
    the output any more (as in `magrathea --help | head -1`)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "" not in sys.path:
        sys.path.insert(0, "")  # so that "module:id" finds a module in the working directory, as `python -m` does
    keep_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may lack letters
    try:
        try:
            with exit_on_sigterm():
                _run(arguments)
        finally:  # also after --help, which exits
            sys.stdout.flush()
    except MagratheaError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        return _fail(_missing(error))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads(sys.stdout):
            _discard(sys.stdout)
            return 141
        refused = system_error(error)
        if refused is None:
            raise
        _discard(sys.stdout)
        return _fail(str(refused))
    return 0


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return
    name = command_name(arguments)
    run_command(COMMANDS[name], arguments[len(name.split()) :], prog=f"magrathea {name}")


def _nobody_reads(stream: IO[str]) -> bool:
    """Whether a stream is a pipe whose other end is closed."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # no file, or not on this system
        return True


def _discard(stream: IO[str]) -> None:
    """Drop what could not be written, so that Python does not try again when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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
    with suppress(OSError):
        print("magrathea: " + " ".join(message.split()), file=sys.stderr, flush=True)
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
