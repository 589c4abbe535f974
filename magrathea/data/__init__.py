"""Data: environments, policies that play them, and datasets of the episodes."""

from magrathea.data.collect import collect
from magrathea.data.dataset import Dataset, merge_datasets
from magrathea.data.episode import Episode
from magrathea.data.importing import import_folder
from magrathea.data.make_env import make_env, make_env_from_metadata, name_environment, register_environments
from magrathea.data.recorder import play_episode

__all__ = [
    "Dataset",
    "Episode",
    "collect",
    "import_folder",
    "make_env",
    "make_env_from_metadata",
    "merge_datasets",
    "name_environment",
    "play_episode",
    "register_environments",
]

register_environments()
