"""Plug-ins that installed packages offer: found by name, imported on use, and refused with an error that says why."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import gymnasium
import pytest

from magrathea import plugins
from magrathea.data import make_env, register_environments
from magrathea.errors import MagratheaError
from magrathea.plugins import ENVIRONMENTS, EnvironmentPlugin, environment_plugin, environment_plugins, load_plugin

OFFERED = EnvironmentPlugin(name="offered", env_ids={"plugin_test/Board-v0": "board:Board"})
HEAVY = ("torch", "crafter", "minigrid", "vizdoom", "ale_py", "Box2D", "magrathea.environments.crafter.env")


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch):
    """Replaces the installed entry points by some of one's own."""

    def replace(*points: tuple[str, str]) -> None:
        found = [EntryPoint(name, value, ENVIRONMENTS) for name, value in points]
        monkeypatch.setattr(plugins, "entry_points", lambda group: found if group == ENVIRONMENTS else [])
        plugins._found.cache_clear()
        environment_plugins.cache_clear()

    yield replace
    monkeypatch.undo()
    plugins._found.cache_clear()
    environment_plugins.cache_clear()
    gymnasium.registry.pop("plugin_test/Board-v0", None)


def test_importing_magrathea_registers_environments_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, magrathea, gymnasium; assert 'magrathea/Crafter-v0' in gymnasium.registry; "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_environments_are_found_by_their_ids() -> None:
    ids = {
        "magrathea/Crafter-v0": "crafter",
        "BabyAI-GoToObj-v0": "minigrid",
        "VizdoomBasic-v1": "vizdoom",
        "ALE/Pong-v5": "atari",
        "magrathea/CarRacing-v0": "car_racing",
    }
    assert {env_id: plugin.name for env_id in ids if (plugin := environment_plugin(env_id))} == ids
    assert environment_plugin("CartPole-v1") is None and environment_plugin("") is None


def test_every_installed_environment_refers_to_what_there_is() -> None:
    for plugin in environment_plugins():
        if importlib.util.find_spec({"ale-py": "ale_py", "box2d": "Box2D"}.get(plugin.package, plugin.package)) is None:
            continue
        hooks = (plugin.make, plugin.describe_cells, plugin.visible_tiles, plugin.visible_events, plugin.resample)
        for reference in (*plugin.env_ids.values(), *plugin.policies.values(), *hooks):
            assert reference is None or callable(plugins.load_reference(reference))
        assert plugin.recipe_folder is None or list(Path(plugin.recipe_folder).glob("*.toml"))


def test_another_packages_environment_is_registered(offer) -> None:
    offer(("offered", f"{__name__}:OFFERED"))
    register_environments()
    assert make_env("plugin_test/Board-v0").unwrapped.__class__.__name__ == "Board"


def test_an_environment_id_that_is_taken_is_not_replaced(offer) -> None:
    gymnasium.register("plugin_test/Board-v0", entry_point="board:Other")
    offer(("offered", f"{__name__}:OFFERED"))
    with pytest.warns(RuntimeWarning, match=r"'plugin_test/Board-v0', which is taken"):
        register_environments()
    assert gymnasium.registry["plugin_test/Board-v0"].entry_point == "board:Other"


def test_a_built_in_name_cannot_be_taken(offer) -> None:
    offer(("offered", f"{__name__}:OFFERED"))
    assert load_plugin(ENVIRONMENTS, "own", EnvironmentPlugin, {"own": OFFERED}) is OFFERED
    with pytest.raises(MagratheaError, match=r"offered by several packages \(magrathea, unknown\)"):
        load_plugin(ENVIRONMENTS, "offered", EnvironmentPlugin, {"offered": OFFERED})


@pytest.mark.parametrize(
    ("points", "error"),
    [
        ([], r"Unknown environment plug-in 'offered'; installed are none\."),
        ([("offered", "nowhere:PLUGIN")], r"cannot be loaded from 'nowhere:PLUGIN' \(ModuleNotFoundError: No module"),
        ([("offered", "board:Missing")], r"cannot be loaded from 'board:Missing' \(AttributeError"),
        ([("offered", "board:Board")], r"'board:Board'\) is no EnvironmentPlugin"),
        ([("offered", "one:PLUGIN"), ("offered", "two:PLUGIN")], r"offered by several packages"),
    ],
)  # fmt: skip
def test_a_plugin_that_cannot_be_used_is_named(offer, points: list[tuple[str, str]], error: str) -> None:
    offer(*points)
    with pytest.raises(MagratheaError, match=error):
        load_plugin(ENVIRONMENTS, "offered", EnvironmentPlugin)


def test_a_broken_environment_leaves_the_others(offer) -> None:
    offer(("broken", "nowhere:PLUGIN"), ("offered", f"{__name__}:OFFERED"))
    with pytest.warns(RuntimeWarning, match="'broken'"):
        assert environment_plugins() == (OFFERED,)


def test_a_reference_must_name_a_module_and_an_attribute() -> None:
    with pytest.raises(MagratheaError, match=r"Plug-in 'game' refers to 'package.env'"):
        EnvironmentPlugin(name="game", env_ids={"Game-v0": "package.env"})
