"""The settings of a training, and the recipes (TOML files) that hold them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from cattrs import AttributeValidationNote, ClassValidationError, Converter, ForbiddenExtraKeysError

from magrathea.data.playing import Recording
from magrathea.errors import MagratheaError
from magrathea.model.config import SIZES, ModelConfig, model_size
from magrathea.plugins import environment_plugins
from magrathea.sampler import FillSettings
from magrathea.settings import Count, Range, check_value
from magrathea.train.trainer import TrainerConfig


@dataclass(frozen=True, kw_only=True)
class TrainSettings(TrainerConfig):
    """Everything that makes a world from a dataset: how its model is trained, and what it is built of.

    Attributes:
        model: shape of the masked transformer; in a recipe, what differs from the named `size`.
        tokenizer: arguments of `tokenizer_for`: `image` and `numbers` (kinds of tokenizers, "motion" and "delta" if not
            given) and those tokenizers' options.
        fill: how the world's dreams are sampled; if not given, as suits its tokenizers.
        held_out: fraction of the episodes that are kept for evaluation, of few episodes more; 0 for none.
        num_starts: number of stored start states.
        init_from: folder or name of a world whose tokenizers and weights the training starts from.
        trainable: prefixes of the names of the parameters that are trained ("goal_proj"); all, if none is given.
        metadata: name, description, fps and the like, added to what the dataset says.
        collect: how the dataset of a recipe was recorded.
    """

    model: ModelConfig = SIZES["tiny"]
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    fill: FillSettings | None = None
    held_out: Annotated[float, Range(0, 0.9)] = 0.05
    num_starts: Count = 64
    init_from: str | None = None
    trainable: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    collect: Recording | None = None

    def to_config(self) -> dict[str, Any]:
        return asdict(self)


def load_settings(
    recipe: str | Path | None = None, *, size: str | None = None, memory: str | None = None, **changes: Any
) -> TrainSettings:
    """The settings of a recipe with some of them changed; raises MagratheaError for any that is not allowed.

    Args:
        recipe: name of a recipe or path of a .toml file; the default settings if not given.
        size: named size of the model ("debug", "tiny", "small" or "base").
        memory: memory of the model, such as "retrieval" or "window+recurrent".
        changes: further fields of TrainSettings; None leaves a setting as it is.
    """
    table = {} if recipe is None else read_recipe(recipe)
    if recipe is not None:
        _structure(table, f"Recipe '{recipe}'")
    given = {"size": size, **changes}
    table |= {name: value for name, value in given.items() if value is not None}
    if memory is not None:
        table["model"] = {**table.get("model", {}), "memory": memory}
    return _structure(table, "The settings of the training")


def shipped_recipes() -> dict[str, Path]:
    """The recipes of the environment plug-ins by name, which is the file's name without its ending."""
    folders = [plugin.recipe_folder for plugin in environment_plugins() if plugin.recipe_folder is not None]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


def read_recipe(name: str | Path) -> dict[str, Any]:
    """The content of a recipe, given by its path or by its name among the shipped ones."""
    path = Path(name) if Path(name).suffix == ".toml" else shipped_recipes().get(str(name))
    if path is None or not path.exists():
        known = ", ".join(sorted(shipped_recipes()))
        raise MagratheaError(f"No recipe '{name}'; give the path of a .toml file, or one of: {known}.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MagratheaError(f"Recipe '{name}' is not TOML: {error}.") from error


# -- from a table to the dataclasses ----------------------------------------------------------------------------------
# Only tables become dataclasses here, and lists tuples; a dataclass checks the values of its fields itself.
_converter = Converter(forbid_extra_keys=True)
_converter.register_structure_hook_func(
    lambda kind: not any(isinstance(one, type) and is_dataclass(one) for one in (kind, *get_args(kind))),
    lambda value, kind: tuple(value) if get_origin(kind) is tuple and isinstance(value, list) else value,
)
for _kind in (int, float, str, bool):
    _converter.register_structure_hook(_kind, lambda value, kind: value)


def _structure(table: Mapping[str, Any], source: str) -> TrainSettings:
    """The settings in a table; raises MagratheaError, which begins with the source, for the first mistake."""
    try:
        for name in ("model", "batch", "fill", "collect"):
            check_value(name, table.get(name, {}), Mapping[str, Any])
        model = model_size(table.get("size", "tiny")).to_config() | table.get("model", {})
        rest = {name: value for name, value in table.items() if name != "size"}
        return _converter.structure(rest | {"model": model}, TrainSettings)
    except ClassValidationError as error:
        raise MagratheaError(next(_mistakes(error, source))) from error
    except MagratheaError as error:
        raise MagratheaError(f"{source}: {error}") from error


def _mistakes(error: ClassValidationError, where: str) -> Iterator[str]:
    """Every mistake in a table, and in which of its tables it is."""
    for mistake in error.exceptions:
        notes = [note.name for note in getattr(mistake, "__notes__", []) if isinstance(note, AttributeValidationNote)]
        place = f"{where} [{notes[0]}]" if notes else where
        if isinstance(mistake, ClassValidationError):
            yield from _mistakes(mistake, place)
        elif isinstance(mistake, ForbiddenExtraKeysError):
            known = {setting.name for setting in fields(mistake.cl)}
            known |= {"size"} if mistake.cl is TrainSettings else set()
            unknown = min(mistake.extra_fields)
            yield f"{where} has no setting '{unknown}'; choose among {', '.join(sorted(known))}."
        elif isinstance(mistake, KeyError):
            yield f"{where} lacks the setting {mistake}; add it."
        else:
            yield f"{place}: {mistake}"
