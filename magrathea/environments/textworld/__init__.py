"""The environment plug-in of TextWorld: generated text adventures, played in words."""

from pathlib import Path

from magrathea.plugins import EnvironmentPlugin

PLUGIN = EnvironmentPlugin(
    name="textworld",
    package="textworld",
    env_ids={"magrathea/TextWorld-v0": "magrathea.environments.textworld.env:TextWorld"},
    policies={"explorer": "magrathea.environments.textworld.explorer:explorer"},
    text_checks="magrathea.environments.textworld.checks:text_checks",
    recipe_folder=Path(__file__).parent,
)
