"""The environment plug-in of MiniGrid and BabyAI: rooms with doors, keys and balls, seen by an agent among them."""

from pathlib import Path

from magrathea.plugins import EnvironmentPlugin

PLUGIN = EnvironmentPlugin(
    name="minigrid",
    package="minigrid",
    env_ids={"magrathea/MiniGrid-v0": "magrathea.environments.minigrid.env:make_minigrid"},
    id_prefixes={"MiniGrid-": "minigrid", "BabyAI-": "minigrid"},
    make="magrathea.environments.minigrid.env:make_level",
    policies={"explorer": "magrathea.environments.minigrid.explorer:Explorer"},
    recipe_folder=Path(__file__).parent,
    describe_cells="magrathea.environments.minigrid.measures:describe_cells",
    visible_tiles="magrathea.environments.minigrid.measures:visible_tiles",
)
