"""The commands that measure speed, and the comparison of memories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from magrathea.cli.options import (
    DatasetFolder,
    Device,
    Folder,
    MeasuringMinutes,
    OptionalSize,
    OptionalText,
    Recipe,
    Size,
    TrainingMinutes,
    TrainingSteps,
    WorldName,
    json_object,
)
from magrathea.settings import Count, Positive, Range, Seed

Length = Annotated[int, Range(1, 10_000_000)]
ArenaIds = Annotated[Positional[tuple[str, ...]], arg(metavar="[ENV_ID ...]")]
NumPlayers = Annotated[int, Range(1, 1024)]


def bench(
    world: WorldName,
    *,
    batch_sizes: tuple[Count, ...] = (1, 8, 32, 128),
    seconds: Positive = 5.0,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Measure the speed of a world's dreams and of its training on this machine; prints JSON. Run nothing else
    meanwhile.

    Args:
        batch_sizes: numbers of dreams that are stepped together.
        seconds: duration of each measurement.
        seed: seed of the start states, actions and dreams.
    """
    from magrathea.bench import bench as measure

    _print_json(measure(world, batch_sizes, seconds=seconds, device=device, seed=seed))


def bench_profile(world: WorldName, *, device: Device = "auto") -> None:
    """Print the operations that the steps of one dream spend their time in, as PyTorch's profiler counts them."""
    from magrathea.bench import profile_steps
    from magrathea.world import World

    print(profile_steps(World.from_pretrained(world, device=device)))


def bench_history(
    world: WorldName,
    *,
    lengths: tuple[Length, ...] = (100, 10_000, 100_000),
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Measure the time of a step and the bytes of a session after histories of several lengths; prints JSON.

    Args:
        lengths: numbers of steps that a dream has behind it.
        seed: seed of the histories.
    """
    from magrathea.bench import measure_history
    from magrathea.world import World

    _print_json(measure_history(World.from_pretrained(world, device=device), lengths, seed))


def bench_players(
    world: WorldName,
    *,
    counts: tuple[NumPlayers, ...] = (1, 4, 16, 32),
    seconds: Positive = 5.0,
    own_speed: bool = False,
    agent: Annotated[Path | None, arg(metavar="FOLDER")] = None,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Measure how many steps per second one server gives to several players at once; prints JSON.

    Args:
        counts: numbers of players.
        seconds: duration of each measurement.
        own_speed: let the players step at the world's own speed, instead of without a pause.
        agent: folder of an agent that plays one more session at the world's own speed, and imagines futures.
        seed: seed of the actions and dreams.
    """
    from magrathea.server.load_test import measure_players
    from magrathea.server.server import open_catalog
    from magrathea.world import World

    if agent is None:
        loaded, playing = World.from_pretrained(world, device=device), None
    else:
        catalog, world_id = open_catalog(world, device=device, agent=agent)
        loaded, playing = catalog.world(str(world_id)), catalog.agent(str(world_id))
    _print_json(measure_players(loaded, counts, seconds, seed, own_speed=own_speed, agent=playing))


def bench_memories(
    dataset: DatasetFolder,
    *,
    out: Folder,
    memories: str = "window,spatial_map,retrieval,recurrent,spatial_map+recurrent",
    seeds: str = "1",
    minutes: TrainingMinutes = None,
    steps: TrainingSteps = None,
    size: OptionalSize = None,
    recipe: Recipe = None,
    report_minutes: MeasuringMinutes = None,
    num_episodes: Count = 64,
    device: Device = "auto",
) -> None:
    """Train the same world with several memories and compare what they remember. Run it again to resume it.

    Args:
        dataset: folder of a dataset that records the pose of every step, as Crafter's and MiniGrid's do.
        out: folder of the worlds, the table (Markdown and JSON) and the figure.
        memories: names of memories, separated by commas; "retrieval:256" is one of that size.
        seeds: number of seeds that each is trained from: a number, or one for some of them, as in
            "window:3,retrieval:3".
        num_episodes: highest number of held-out episodes to measure on.
    """
    from magrathea.bench.memories import compare, parse_memories
    from magrathea.pretrained import folder_to_write
    from magrathea.train import load_settings

    folder_to_write(out)
    settings = load_settings(recipe, minutes=minutes, steps=steps, size=size)
    measuring: dict[str, Any] = {"report_minutes": report_minutes, "num_episodes": num_episodes, "device": device}
    print(compare(dataset, out, settings, memories=parse_memories(memories, seeds), **measuring))
    print(f"The table and the figure are in {out}")


def bench_memory_sizes(
    world: WorldName,
    dataset: DatasetFolder,
    *,
    out: Folder,
    sizes: tuple[Length, ...] = (63, 125, 250, 500, 1000),
    minutes: MeasuringMinutes = None,
    num_episodes: Count = 64,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Compare what a world remembers with a memory of several sizes, without training it again.

    Args:
        dataset: folder of a dataset that records the pose of every step, as Crafter's and MiniGrid's do.
        out: folder of the table (Markdown and JSON) and the figure.
        sizes: highest numbers of locations or entries that the memory keeps.
        num_episodes: highest number of held-out episodes to measure on.
        seed: seed of the choice of episodes.
    """
    from magrathea.bench.memories import compare_sizes
    from magrathea.evaluate.recordings import Options
    from magrathea.pretrained import folder_to_write

    folder_to_write(out)
    options = Options(num_episodes=num_episodes, minutes=minutes, device=device, seed=seed)
    print(compare_sizes(world, dataset, out, sizes, options))
    print(f"The table and the figure are in {out}")


def bench_arena(
    environments: ArenaIds = (),
    *,
    out: Folder,
    list_file: OptionalText = None,
    minutes: Positive = 5.0,
    steps: Count = 20_000,
    size: Size = "tiny",
    report_minutes: Positive = 2.0,
    num_processes: Annotated[int, Range(1, 1024)] = 2,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Make worlds of environments that nobody tuned for and compare them with reality. Run it again to resume it.

    Each is recorded, trained and measured by default settings; a table with filmstrips shows them all.

    Args:
        environments: Gymnasium ids, or "module:id"; keyword arguments may follow an id as a JSON object, as in
            'CarRacing-v3 {"continuous": false}'.
        out: folder of the table (JSON and a page) and of a dataset, a world and a report for each environment.
        list_file: TOML file with a table [[environment]] (id, name, kwargs, needs, policy) for each; used where no
            environments are given. By default the list that comes with Magrathea.
        minutes: training time of each.
        steps: number of steps of each to record.
        size: size of the models.
        report_minutes: approximate time to measure each.
        num_processes: number of processes that record in parallel.
        seed: seed of everything random.
    """
    from magrathea.bench.arena import DEFAULT_LIST, ArenaEnvironment, ArenaSettings, read_environments, run_arena
    from magrathea.pretrained import folder_to_write

    folder_to_write(out)
    listed = [ArenaEnvironment(**given) for given in map(_environment, environments)]
    settings = ArenaSettings(
        minutes=minutes,
        steps=steps,
        size=size,
        report_minutes=report_minutes,
        num_processes=num_processes,
        device=device,
        seed=seed,
    )
    run_arena(listed or read_environments(list_file or DEFAULT_LIST), out, settings)
    print(f"The table is {out / 'arena.html'}")


def bench_agents(
    environments: ArenaIds = (),
    *,
    out: Folder,
    list_file: OptionalText = None,
    minutes: Positive = 20.0,
    real_steps: Count = 20_000,
    size: Size = "tiny",
    episodes: Annotated[int, Range(2, 10**6)] = 100,
    planner_episodes: Annotated[int, Range(0, 10**6)] = 0,
    baselines: bool = True,
    seed: Seed = 0,
) -> None:
    """Learn agents and compare their real returns with random play and with PPO. Run it again to resume it.

    Each is made by `magrathea learn`; the table has real returns with intervals, the agent's return in dreams, and
    how many steps a second dreams and reality make.

    Args:
        environments: Gymnasium ids, or "module:id"; keyword arguments may follow an id as a JSON object, as in
            'MiniGrid-DoorKey-6x6-v0 {"pixels": true}'.
        out: folder of the table (JSON and Markdown) and of an agent for each environment.
        list_file: TOML file with a table [[environment]] (id, name, kwargs, needs, real_steps, target) for each; used
            where no environments are given. By default the list that comes with Magrathea.
        minutes: of recording and learning for each.
        real_steps: that each agent learns from, where environments are given.
        size: size of the worlds' models.
        episodes: real episodes that each return is measured on.
        planner_episodes: real episodes that the planner plays, and the policy beside it; none by default.
        baselines: measure random play, and PPO with as many real steps and with five times as many; needs the extra
            "agents".
        seed: seed of everything random.
    """
    from magrathea.bench.agents import DEFAULT_LIST, AgentEnvironment, AgentsSettings, table
    from magrathea.bench.agents import bench_agents as run_bench
    from magrathea.bench.listed import read_list
    from magrathea.pretrained import folder_to_write

    folder_to_write(out)
    listed = [AgentEnvironment(**given, real_steps=real_steps) for given in map(_environment, environments)]
    settings = AgentsSettings(
        minutes=minutes,
        size=size,
        episodes=episodes,
        planner_episodes=planner_episodes,
        baselines=baselines,
        seed=seed,
    )
    print(table(run_bench(listed or read_list(list_file or DEFAULT_LIST, AgentEnvironment), out, settings)))


def _environment(text: str) -> dict[str, Any]:
    """An id, and keyword arguments after it as a JSON object."""
    env_id, _, keywords = text.partition(" ")
    return {"id": env_id, "kwargs": json_object(keywords or "{}", f"'{env_id}'")}


def _print_json(measured: dict[str, Any]) -> None:
    print(json.dumps(measured, indent=1))
