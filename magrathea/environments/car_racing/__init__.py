"""The environment plug-in of CarRacing: a car on a race track, seen from above."""

from pathlib import Path

from magrathea.plugins import EnvironmentPlugin

PLUGIN = EnvironmentPlugin(
    name="car_racing",
    package="box2d",
    env_ids={"magrathea/CarRacing-v0": "magrathea.environments.car_racing.env:CarRacingEnv"},
    policies={"explorer": "magrathea.environments.car_racing.explorer:Explorer"},
    recipe_folder=Path(__file__).parent,
)
