"""What a training is asked to do, and the recipes that name such askings."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from magrathea.errors import MagratheaError
from magrathea.model.config import ModelConfig, model_size
from magrathea.plugins import environment_plugins
from magrathea.sampler import FillSettings
from magrathea.train.batches import BatchConfig


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Everything that makes a world of a dataset; a recipe is a file of these.

    Attributes:
        size: a name in `magrathea.model.config.SIZES`.
        model: sizes that differ from the named one's.
        tokenizer: how observations are tokenized: `image` ("patch" or "autoencoder") and that tokenizer's options.
        minutes, steps: how long to train the heart; whichever comes first.
        batch: segments of an update, and their length; see BatchConfig.
        learning_rate: the greatest.
        held_out: share of the episodes that are kept for evaluation.
        num_starts: stored start states.
        begin_from: folder or name of a world whose tokenizers and weights the training begins with.
        learns: the parts of the model that learn, by what their names begin with ("aim"); all of it, if none is named.
        seed: of everything drawn.
        metadata: name, description, fps and the like, added to what the dataset tells.
    """

    size: str = "tiny"
    model: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, Any] = field(default_factory=dict)
    minutes: float | None = None
    steps: int | None = None
    batch: dict[str, Any] = field(default_factory=dict)
    learning_rate: float = 2.5e-3
    held_out: float = 0.05
    num_starts: int = 64
    begin_from: str | None = None
    learns: list[str] = field(default_factory=list)
    seed: int = 0
    fill: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in (self.model_config, self.fill_settings, self.batch_config):
            part()  # raises MagratheaError for an option that there is not

    def to_config(self) -> dict[str, Any]:
        return asdict(self)

    def model_config(self) -> ModelConfig:
        with _telling_of("model"):
            return replace(model_size(self.size), **self.model)

    def fill_settings(self) -> FillSettings:
        with _telling_of("fill"):
            return FillSettings(**self.fill)

    def batch_config(self) -> BatchConfig:
        with _telling_of("batch"):
            return BatchConfig(**self.batch)


@contextmanager
def _telling_of(part: str) -> Iterator[None]:
    try:
        yield
    except TypeError as error:  # an argument that there is not
        raise MagratheaError(f"The options [{part}] of the recipe cannot be used: {error}.") from error


def shipped_recipes() -> dict[str, Path]:
    """Recipes of the environment plug-ins, by name: the file's name without its ending."""
    folders = [plugin.recipe_folder for plugin in environment_plugins() if plugin.recipe_folder is not None]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


def load_recipe(name: str | Path) -> TrainSettings:
    """A recipe by its path, or by its name among the shipped ones; raises MagratheaError if it cannot be used."""
    path = Path(name) if Path(name).suffix == ".toml" else shipped_recipes().get(str(name))
    if path is None or not path.exists():
        known = ", ".join(sorted(shipped_recipes()))
        raise MagratheaError(f"No recipe '{name}'; give the path of a .toml file, or one of: {known}.")
    try:
        content = tomllib.loads(path.read_text())
        content.pop("collect", None)  # how its dataset was recorded
        return TrainSettings(**content)
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise MagratheaError(f"Recipe '{path}' cannot be used: {error}.") from error


def with_changes(settings: TrainSettings, **changes: Any) -> TrainSettings:
    """The settings with every change that is not None."""
    return replace(settings, **{name: value for name, value in changes.items() if value is not None})
