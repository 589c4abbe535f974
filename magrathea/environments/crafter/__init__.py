"""The environment plug-in of Crafter: survival on an island, with day and night."""

from pathlib import Path

from magrathea.plugins import EnvironmentPlugin

PLUGIN = EnvironmentPlugin(
    name="crafter",
    package="crafter",
    env_ids={"magrathea/Crafter-v0": "magrathea.environments.crafter.env:CrafterEnv"},
    policies={"explorer": "magrathea.environments.crafter.explorer:Explorer"},
    recipe_folder=Path(__file__).parent,
    describe_cells="magrathea.environments.crafter.measures:describe_cells",
    visible_tiles="magrathea.environments.crafter.measures:visible_tiles",
    picture_status="magrathea.environments.crafter.status:picture_status",
    picture_events="magrathea.environments.crafter.reading:picture_events",
    resample="magrathea.environments.crafter.measures:resample",
)
