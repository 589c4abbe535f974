"""The types of command-line options, with their ranges, and how a command is run with the options that were given."""

from __future__ import annotations

import inspect
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import is_dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro
from tyro.conf import Positional, arg
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from magrathea.errors import MagratheaError, one_line
from magrathea.settings import Count, DeviceName, Positive, Seed, check_value

# The help of an option that several commands have stands with its type, that of others in their docstrings.
EnvId = Annotated[
    Positional[str],
    arg(metavar="ENV_ID", help='a Gymnasium id, or "module:id" to import the module that registers it first.'),
]
WorldName = Annotated[
    Positional[str],
    arg(
        metavar="WORLD",
        help="folder of a world, name of a shipped one, or its id on the Hugging Face hub. Of several worlds in one "
        "folder, FOLDER/NAME, or FOLDER where a dataset says which.",
    ),
]
Folder = Annotated[Path, arg(metavar="FOLDER")]
DatasetFolders = Annotated[Positional[tuple[Path, ...]], arg(metavar="DATASET [DATASET ...]")]
DatasetFolder = Annotated[Positional[Path], arg(metavar="DATASET")]
OptionalFloat = Annotated[Positive | None, arg(metavar="FLOAT")]
OptionalCount = Annotated[Count | None, arg(metavar="INT")]
OptionalSeed = Annotated[Seed | None, arg(metavar="INT")]
OptionalText = Annotated[str | None, arg(metavar="STR")]
Device = Annotated[DeviceName, arg(metavar="STR", help='"auto", "cpu", "cuda" or "cuda:N".')]
Size = Literal["debug", "tiny", "small", "base"]
OptionalSize = Annotated[
    Size | None, arg(metavar="{debug,tiny,small,base}", help="size of the model; the recipe's, or tiny.")
]
Recipe = Annotated[
    str | None,
    arg(metavar="STR", help="name of a recipe or path of a .toml file; the options given here override it."),
]
TrainingMinutes = Annotated[
    Positive | None,
    arg(metavar="FLOAT", help="training time of a model; 10 minutes if neither this nor steps is given."),
]
TrainingSteps = Annotated[Count | None, arg(metavar="INT", help="number of updates of a model.")]
MeasuringMinutes = Annotated[
    Positive | None,
    arg(metavar="FLOAT", help="approximate time to measure; without it, everything is measured in full."),
]
OwnEnvId = Annotated[
    str | None,
    arg(
        metavar="STR",
        help='the id of the environment, where no installed package offers it: "module:id" imports the module. '
        "A world or a dataset alone never does.",
    ),
]
Policy = Annotated[
    str,
    arg(
        help='"explore" (holds each action for a while, and draws those that change something more often; lets '
        'continuous ones drift), "random", "sticky" (holds each action for a while), the "explorer" of the ready-made '
        'environments, the folder of an agent that "magrathea learn" made, or "module:function"; several with "+" '
        "between them take turns by chance, each for an episode."
    ),
]
MaxEpisodeSteps = Annotated[
    Count | None,
    arg(
        metavar="INT",
        help="episodes are truncated after so many steps; where an environment has no time limit of its own, "
        "after 1000.",
    ),
]
OnError = Annotated[
    Literal["stop", "skip"], arg(help="whether an episode that fails stops the recording, or is left out.")
]
Info = Annotated[
    str | None,
    arg(
        metavar="NAMES",
        help="counters that the environment reports in `info` (score, lives, inventory), which become part of the "
        'world: names joined by commas, or "all"; without it, none, and the command says which there are.',
    ),
]
Pixels = Annotated[bool, arg(help="learn from the pictures that the environment draws, in place of what it observes.")]
EnvKwargs = Annotated[
    str,
    arg(
        help='JSON object of keyword arguments for gymnasium.make; "size": [height, width] resizes pictures.',
    ),
]

_registry = ConstructorRegistry()


def name_environment(env_id: str | None) -> None:
    """Allow the environment that a world or a dataset comes from, where the user named it with --env-id."""
    if env_id is not None:
        from magrathea.data import name_environment as allow  # imports packages that a player may not have

        allow(env_id)


def run_command(command: Callable[..., None], arguments: Sequence[str], prog: str) -> None:
    """Run a command with options given as text; raises MagratheaError for options that it does not have or lacks, and
    for a value that its type does not allow."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            run = tyro.cli(_checked(command), prog=prog, args=arguments, registry=_registry)
    except SystemExit as error:
        if not error.code:  # --help
            raise
        raise MagratheaError(f"{_box_text(said.getvalue())}; see '{prog} --help'.") from error
    run()


def _box_text(box: str) -> str:
    """What a frame of tyro around an error says, without its title and the help of single options."""
    _, *lines = (re.sub(r"^│|│$", "", line).rstrip() for line in box.splitlines())
    words = [line.strip() for line in lines if re.match(r" {1,6}([^\s─-]|--)", line) and line.strip(" ─-╰╯")]
    return one_line(" ".join(words).partition("For full helptext")[0].strip(" .:"))


def _checked(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """A function of the command's options that checks them, and returns the command with these options."""
    signature = inspect.signature(command)

    @wraps(command)
    def checked(*arguments: Any, **options: Any) -> Callable[[], None]:
        _check(command, signature.bind(*arguments, **options).arguments)
        return partial(command, *arguments, **options)

    return checked


def _check(owner: Any, given: Mapping[str, Any]) -> None:
    """Check the options of a command, or the fields of a dataclass of options, by their types."""
    hints = get_type_hints(owner, include_extras=True)
    for name, value in given.items():
        if is_dataclass(value) and not isinstance(value, type):
            _check(type(value), vars(value))
        else:
            check_value(_shown_name(name, hints[name]), value, hints[name])


def _shown_name(name: str, hint: Any) -> str:
    metadata = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    is_positional = any(marker is Positional or "Positional" in repr(marker) for marker in metadata)
    return name.upper() if is_positional else f"Option --{name.replace('_', '-')}"


@_registry.primitive_rule
def _number_or_text(kind: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Reads a number; what is none stays a text, so that a command refuses it as it does a number out of range."""
    if kind.type not in (int, float):
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.type.__name__.upper(),
        instance_from_str=lambda texts: _converted(texts[0], kind.type),
        is_instance=lambda value: isinstance(value, int | float),
        str_from_instance=lambda value: [str(value)],
    )


@_registry.primitive_rule
def _path(kind: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Reads a path, in which "~" is the home folder, also behind "=", where a shell leaves it."""
    if kind.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda texts: _without_home(Path(texts[0])),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


@_registry.primitive_rule
def _choice(kind: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Reads one of a few words; the command refuses any other."""
    if get_origin(kind.type) is not Literal:
        return None
    choices = get_args(kind.type)
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{{','.join(choices)}}}",
        instance_from_str=lambda texts: texts[0],
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: [str(value)],
    )


def _without_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # the home of nobody
        return path


def _converted(text: str, kind: type[int] | type[float]) -> Any:
    try:
        return kind(text)
    except ValueError:
        return text


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def json_object(text: str, option: str) -> dict[str, Any]:
    """A JSON object given as text; raises MagratheaError for anything else."""
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise MagratheaError(
            f"Option {option} is not JSON ({one_line(error, 200)}): '{one_line(text, 200)}'."
        ) from error
    if not isinstance(value, dict):
        raise MagratheaError(
            f"Option {option} is '{one_line(text, 200)}'; give a JSON object, like '{{\"size\": [64, 64]}}'."
        )
    return value
