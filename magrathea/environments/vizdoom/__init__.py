"""The environment plug-in of ViZDoom: rooms in 3D, and the levels that the package itself registers."""

from pathlib import Path

from magrathea.plugins import EnvironmentPlugin

PLUGIN = EnvironmentPlugin(
    name="vizdoom",
    package="vizdoom",
    env_ids={"magrathea/ViZDoom-v0": "magrathea.environments.vizdoom.env:ViZDoomEnv"},
    id_prefixes={"Vizdoom": "vizdoom.gymnasium_wrapper"},
    make="magrathea.environments.vizdoom.levels:make_level",
    policies={"explorer": "magrathea.environments.vizdoom.explorer:Explorer"},
    recipe_folder=Path(__file__).parent,
)
