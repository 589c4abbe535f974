"""Training: from a dataset to a world."""

from magrathea.train.many import train_many
from magrathea.train.settings import TrainSettings, load_settings
from magrathea.train.train import train

__all__ = ["TrainSettings", "load_settings", "train", "train_many"]
