"""The environment plug-in of ViZDoom: rooms in 3D, a hall to defend, and the levels that the package registers."""

from pathlib import Path

from magrathea.plugins import EnvironmentPlugin

PLUGIN = EnvironmentPlugin(
    name="vizdoom",
    package="vizdoom",
    env_ids={
        "magrathea/ViZDoom-v0": "magrathea.environments.vizdoom.env:ViZDoomEnv",
        "magrathea/ViZDoomLine-v0": "magrathea.environments.vizdoom.line:ViZDoomLineEnv",
    },
    id_prefixes={"Vizdoom": "vizdoom.gymnasium_wrapper"},
    make="magrathea.environments.vizdoom.levels:make_level",
    policies={"explorer": "magrathea.environments.vizdoom.policies:explorer"},
    recipe_folder=Path(__file__).parent,
)
