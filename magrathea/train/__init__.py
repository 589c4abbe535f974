"""Training: from a dataset to a world."""

from magrathea.train.settings import TrainSettings, load_recipe
from magrathea.train.train import train

__all__ = ["TrainSettings", "load_recipe", "train"]
