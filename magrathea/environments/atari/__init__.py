"""The environment plug-in of the Arcade Learning Environment: the Atari games whose ids begin with "ALE/"."""

from pathlib import Path

from magrathea.plugins import EnvironmentPlugin

PLUGIN = EnvironmentPlugin(
    name="atari",
    package="ale-py",
    id_prefixes={"ALE/": "ale_py"},
    make="magrathea.environments.atari.env:make_game",
    visible_events="magrathea.environments.atari.events:visible_events",
    recipe_folder=Path(__file__).parent,
)
