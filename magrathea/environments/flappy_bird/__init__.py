"""The environment plug-in of Flappy Bird: a bird that flaps its way between pipes."""

from pathlib import Path

from magrathea.plugins import EnvironmentPlugin

PLUGIN = EnvironmentPlugin(
    name="flappy_bird",
    package="flappy-bird-gymnasium",
    env_ids={"magrathea/FlappyBird-v0": "magrathea.environments.flappy_bird.env:FlappyBirdEnv"},
    policies={"explorer": "magrathea.environments.flappy_bird.explorer:Explorer"},
    recipe_folder=Path(__file__).parent,
)
