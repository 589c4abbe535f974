"""The command line: collect, train, eval, play, bench, compare, and make, which does the first three in one.

Every command imports what it needs when it runs, so ``magrathea --help`` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from magrathea.allocator import keep_memory
from magrathea.errors import MagratheaError

EnvId = Annotated[Positional[str], arg(metavar="ENV_ID")]
WorldName = Annotated[Positional[str], arg(metavar="WORLD")]
Folder = Annotated[Path, arg(metavar="FOLDER")]
DatasetFolder = Annotated[Positional[Path], arg(metavar="DATASET")]
Minutes = Annotated[float | None, arg(metavar="FLOAT")]
Number = Annotated[int | None, arg(metavar="INT")]
Names = Annotated[tuple[str, ...], arg(metavar="[WORLD ...]")]
Name = Annotated[str | None, arg(metavar="STR")]
Size = Literal["debug", "tiny", "small", "base"]

REPORT, OVERHEAD = 0.08, 0.18
"""Shares of the minutes of ``make``: for the evaluation; for it, its plots and the tokenizers together."""

EXTRAS = {
    "worlds": {"crafter", "minigrid", "ale_py", "vizdoom"},
    "train": {"minari", "h5py", "tensorboard", "torchmetrics", "av", "matplotlib"},
}
"""The packages of the extras that commands need."""


def collect(
    env_id: EnvId,
    *,
    out: Folder,
    steps: int = 20_000,
    policy: str = "sticky",
    num_processes: int = 2,
    seed: int = 0,
    max_episode_steps: Number = None,
    env_kwargs: str = "{}",
) -> None:
    """Record any Gymnasium environment into a Minari dataset. Run it again to go on after an interruption.

    Args:
        env_id: a Gymnasium id, or "module:id" to import the module that registers it first.
        out: folder of the dataset.
        steps: number of environment steps to record.
        policy: "random", "sticky" (holds its actions, so it travels) or "module:function".
        num_processes: number of processes that record at once.
        seed: the same seed records the same dataset.
        max_episode_steps: longer episodes are cut there.
        env_kwargs: JSON object of keyword arguments for gymnasium.make; "size": [height, width] resizes pictures.
    """
    keywords = _json(env_kwargs)
    from magrathea.data import collect as record

    record(
        env_id,
        steps,
        out,
        policy=policy,
        num_processes=num_processes,
        seed=seed,
        max_episode_steps=max_episode_steps,
        env_kwargs=keywords,
    )


def train(
    dataset: DatasetFolder,
    *,
    out: Folder,
    size: Annotated[Size | None, arg(metavar="{debug,tiny,small,base}")] = None,
    minutes: Minutes = None,
    steps: Number = None,
    recipe: Name = None,
    device: str = "auto",
    seed: Number = None,
    begin_from: Name = None,
    report: bool = True,
    report_minutes: Minutes = None,
) -> None:
    """Learn a world from a dataset and measure it on held-out episodes. Run it again to go on after a kill.

    Several processes learn together under "torchrun --nproc-per-node=2 -m magrathea.cli train ...".

    Args:
        dataset: folder of a Minari dataset, made by "magrathea collect" or by Minari itself.
        out: folder of the world; its report goes into the folder "report" inside it.
        size: size of the model: tiny, unless a recipe says otherwise.
        minutes: how long the model learns: 10 minutes, if neither this nor steps is given.
        steps: number of updates of the model.
        recipe: name of a shipped recipe, or a .toml file; what is given here besides wins over it.
        device: "auto", "cpu" or "cuda".
        seed: seed of everything that is drawn.
        begin_from: a world whose tokenizers and weights to begin with.
        report: evaluate the world when it is learned.
        report_minutes: about how long the evaluation may take; without it, everything is measured in full.
    """
    from magrathea.train import train as learn

    rank, device = _join_processes(device)
    learn(
        dataset,
        out,
        size=size,
        minutes=minutes,
        steps=steps,
        recipe=recipe,
        device=device,
        seed=seed,
        begin_from=begin_from,
    )
    if report and rank == 0:
        evaluate(str(out), dataset, out=out / "report", minutes=report_minutes, device=device)


def evaluate(
    world: WorldName,
    dataset: DatasetFolder,
    *,
    out: Folder = Path("report"),
    num_episodes: int = 64,
    num_dreams: int = 64,
    minutes: Minutes = None,
    orders: bool = False,
    memory: bool = False,
    drift: bool = False,
    beside: Names = (),
    device: str = "auto",
    seed: int = 0,
) -> None:
    """Measure a world on held-out episodes: JSON, plots, videos and a page that shows them.

    Args:
        world: folder of a world, name of a shipped one, or its id on the Hugging Face hub.
        dataset: folder of the dataset that the world was trained on, or of another one of the same environment.
        out: folder of the report.
        num_episodes: most episodes to measure on.
        num_dreams: most dreams of 64 steps; with --memory or --drift at most 16, long ones.
        minutes: about how long it may take; without it, everything is measured in full.
        orders: compare the orders of filling instead, and print a Markdown table.
        memory: measure instead what the world remembers beyond its attention window.
        drift: measure instead how dreams of 2,000 steps drift from what is real.
        beside: further worlds, whose memories are compared with this one's.
        device: "auto", "cpu" or "cuda".
        seed: seed of the choice of episodes and of the dreams.
    """
    from magrathea.evaluate import compare_orders, drift_report, memory_report
    from magrathea.evaluate import evaluate as measure

    options: dict[str, Any] = {"num_episodes": num_episodes, "num_dreams": num_dreams, "minutes": minutes}
    options |= {"device": device, "seed": seed}
    if memory or beside:
        print(memory_report([world, *beside], dataset, out, **options))
        return
    if drift:
        print(drift_report(world, dataset, out, **options))
        return
    if orders:
        print(compare_orders(world, dataset, minutes=minutes, device=device, seed=seed))
        return
    metrics = measure(world, dataset, out, **options)
    for item in metrics["headlines"]:
        print(f"{item['name']}: {_figure(item)}" + (f" ({item['beside']})" if item["beside"] else ""))
    print(f"The report is {out / 'index.html'}")


def make(
    env_id: EnvId,
    *,
    out: Folder,
    minutes: float = 10.0,
    steps: int = 20_000,
    size: Annotated[Size | None, arg(metavar="{debug,tiny,small,base}")] = None,
    recipe: Name = None,
    policy: str = "sticky",
    env_kwargs: str = "{}",
    device: str = "auto",
    seed: int = 0,
) -> None:
    """Turn an environment into a playable world: collect, train and eval in one command, within a time budget.

    Args:
        env_id: a Gymnasium id, or "module:id" to import the module that registers it first.
        out: folder of the world; its dataset goes into a folder beside it, named after it.
        minutes: minutes that all of it may take.
        steps: number of environment steps to record.
        size: size of the model: tiny, unless a recipe says otherwise.
        recipe: name of a shipped recipe, or a .toml file; its model learns for as long as the minutes allow.
        policy: "random", "sticky" (holds its actions, so it travels) or "module:function".
        env_kwargs: JSON object of keyword arguments for gymnasium.make.
        device: "auto", "cpu" or "cuda".
        seed: seed of everything that is drawn.
    """
    began = time.monotonic()
    dataset = out.with_name(f"{out.name}-dataset")
    collect(env_id, out=dataset, steps=steps, policy=policy, seed=seed, env_kwargs=env_kwargs)
    left = minutes - (time.monotonic() - began) / 60
    learning = left - OVERHEAD * minutes
    if learning <= 0:
        raise MagratheaError(
            f"Recording took {minutes - left:.1f} of {minutes:g} minutes, which leaves none to learn in; "
            "give more --minutes or fewer --steps."
        )
    options: dict[str, Any] = {"size": size, "recipe": recipe, "minutes": learning, "device": device, "seed": seed}
    train(dataset, out=out, **options, report_minutes=REPORT * minutes)
    print(f"{out} was made in {(time.monotonic() - began) / 60:.1f} minutes; play it with: magrathea play {out}")


def play(
    world: Annotated[Positional[str | None], arg(metavar="[WORLD]")] = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str = "cpu",
    open_browser: bool = True,
    store: Annotated[Path | None, arg(metavar="FILE")] = None,
    token: Name = None,
) -> None:
    """Play a world in the browser. Without a world, a start page shows the shipped ones. Every session is kept.

    Args:
        world: folder of a world, name of a shipped one, or its id on the Hugging Face hub.
        host: address to listen on; 0.0.0.0 lets other machines in.
        port: port to listen on; 0 takes any free one.
        device: "cpu" or "cuda".
        open_browser: open the page in the default browser; never where the environment variable CI is set.
        store: file that sessions are kept in; without it, sessions.db in the folder that the environment variable
            MAGRATHEA_HOME names, or in the user's own folder for data.
        token: what visitors must show; where other machines are let in, the server makes one if none is given.
    """
    from magrathea.app import play as serve

    open_browser = open_browser and not os.environ.get("CI")
    serve(world, host=host, port=port, device=device, open_browser=open_browser, store=store, token=token)


def bench(
    world: WorldName,
    *,
    batch_sizes: tuple[int, ...] = (1, 8, 32, 128),
    seconds: float = 5.0,
    device: str = "auto",
    seed: int = 0,
    profile: bool = False,
    players: str = "",
    history: str = "",
) -> None:
    """Measure how fast a world dreams and learns on this machine; prints JSON. Leave the machine alone meanwhile.

    Args:
        world: folder of a world, name of a shipped one, or its id on the Hugging Face hub.
        batch_sizes: numbers of dreams in lockstep; the batch of 1 is the one player.
        seconds: seconds that each measurement takes.
        device: "auto", "cpu" or "cuda".
        seed: seed of starts, actions and dice.
        profile: print the operations that one player's steps spend their time in, and nothing else.
        players: numbers such as 1,4,16,32: measure only how one server serves so many players at once.
        history: numbers such as 100,10000,100000: measure only what a step costs after so many.
    """
    from magrathea.bench import bench as measure
    from magrathea.bench import measure_history, profile_steps
    from magrathea.world import World

    if profile:
        print(profile_steps(World.from_pretrained(world, device=device)))
    elif history:
        lengths = _numbers(history, "--history", "100,10000,100000", 10_000_000)
        print(json.dumps(measure_history(World.from_pretrained(world, device=device), lengths, seed), indent=1))
    elif players:
        from magrathea.app.crowd import measure_players

        counts, world_here = (
            _numbers(players, "--players", "1,4,16,32", 1024),
            World.from_pretrained(world, device=device),
        )
        print(json.dumps(measure_players(world_here, counts, seconds, seed), indent=1))
    else:
        print(json.dumps(measure(world, batch_sizes, seconds=seconds, device=device, seed=seed), indent=1))


def compare(
    dataset: DatasetFolder,
    *,
    out: Folder,
    memories: str = "window,places,retrieval,recurrent,places+recurrent",
    seeds: str = "1",
    minutes: Minutes = None,
    steps: Number = None,
    size: Annotated[Size | None, arg(metavar="{debug,tiny,small,base}")] = None,
    recipe: Name = None,
    report_minutes: Minutes = None,
    num_episodes: int = 64,
    device: str = "auto",
) -> None:
    """Train the same world with several memories and compare what they remember. Run it again to go on after a kill.

    Args:
        dataset: folder of a dataset that says which place its pictures show, as Crafter's and MiniGrid's do.
        out: folder of the worlds, the table (Markdown and JSON) and the figure.
        memories: their names, with commas between them; "retrieval:256" is one of that size.
        seeds: how many seeds each is trained from: a number, or one for some of them, as in "window:3,places:3".
        minutes: how long each model learns: 10 minutes, if neither this nor steps is given.
        steps: number of updates of each model.
        size: size of the models: tiny, unless a recipe says otherwise.
        recipe: name of a shipped recipe, or a .toml file; what is given here besides wins over it.
        report_minutes: about how long measuring one world may take; without it, everything is measured in full.
        num_episodes: most held-out episodes to measure on.
        device: "auto", "cpu" or "cuda".
    """
    from magrathea.compare import compare as run
    from magrathea.compare import parse_memories

    training: dict[str, Any] = {"minutes": minutes, "steps": steps, "size": size, "recipe": recipe}
    measuring: dict[str, Any] = {"report_minutes": report_minutes, "num_episodes": num_episodes, "device": device}
    print(run(dataset, out, memories=parse_memories(memories, seeds), **measuring, **training))
    print(f"The table and the figure are in {out}")


COMMANDS: dict[str, Callable[..., None]] = {
    "collect": collect,
    "train": train,
    "eval": evaluate,
    "play": play,
    "bench": bench,
    "make": make,
    "compare": compare,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for a mistake in what was asked, 130 for Ctrl-C."""
    if "" not in sys.path:
        sys.path.insert(0, "")  # so that "module:id" finds a module in the working directory, as `python -m` does
    keep_memory()
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="magrathea",
            description="Magrathea builds worlds: it learns a small generative world from an environment.",
            args=arguments,
        )
    except MagratheaError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        return _fail(_missing(error))
    except KeyboardInterrupt:
        return 130
    return 0


def _fail(message: str) -> int:
    print("magrathea: " + " ".join(message.split()), file=sys.stderr)
    return 2


def _join_processes(device: str) -> tuple[int, str]:
    """Under torchrun, join its processes. The number of this one, from 0, and its own device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, device
    import torch
    import torch.distributed as dist

    dist.init_process_group()
    on_gpu = device != "cpu" and torch.cuda.is_available()
    return dist.get_rank(), f"cuda:{os.environ['LOCAL_RANK']}" if on_gpu else "cpu"


def _missing(error: ModuleNotFoundError) -> str:
    """What to do about a module that is not there; raises the error itself where a module of ours is not."""
    package = (error.name or "").partition(".")[0]
    if package in ("", "magrathea"):
        raise error
    for extra, packages in EXTRAS.items():
        if package in packages:
            return f"This needs the package '{package}'; install it with: pip install 'magrathea[{extra}]'"
    return f"There is no module '{package}'; install it, or run this in the folder that holds it."


def _figure(item: dict[str, Any]) -> str:
    """A headline's value as text, in percent or decibel."""
    value = item["figure"]["value"]
    return f"{100 * value:.1f}%" if item["unit"] == "%" else f"{value:.2f} {item['unit']}".strip()


def _numbers(text: str, option: str, example: str, most: int) -> list[int]:
    """Whole numbers given on the command line."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= most for part in parts):
        raise MagratheaError(f"Option {option} is '{text}'; give numbers from 1 to {most}, like {example}.")
    return [int(part) for part in parts]


def _json(text: str) -> dict[str, Any]:
    """A JSON object given on the command line."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise MagratheaError(f"Option --env-kwargs is not JSON ({error}): {text!r}.") from error
    if not isinstance(value, dict):
        raise MagratheaError(f"Option --env-kwargs is {text!r}; give a JSON object, like '{{\"size\": 5}}'.")
    return value


if __name__ == "__main__":
    sys.exit(main())
