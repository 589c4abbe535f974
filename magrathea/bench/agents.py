"""The agents that `magrathea learn` makes of a list of environments, their planners and PPO, in one table."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from magrathea.agents import Agent, Planner, Replay, rollout
from magrathea.agents.learn import EVALUATION_SEED, WORK_FOLDER, LearnSettings, learn
from magrathea.agents.reality import Acting, agent_acting, mean_interval, real_returns
from magrathea.bench.listed import ListedEnvironment, Row, run_list
from magrathea.data import Dataset, make_env
from magrathea.data.make_env import closed_after
from magrathea.files import atomic_write
from magrathea.settings import Count, Positive, Range, Seed
from magrathea.spaces import index_batch, stack

DEFAULT_LIST = Path(__file__).with_name("agents.toml")
SPEED_SECONDS = 2.0
TIMED_ACTIONS = 30


@dataclass(frozen=True, kw_only=True)
class AgentEnvironment(ListedEnvironment):
    """An environment that an agent learns.

    Attributes:
        real_steps: that are learned from.
        target: the real return that is wanted.
    """

    real_steps: Count = 20_000
    target: float | None = None


@dataclass(frozen=True, kw_only=True)
class AgentsSettings:
    """What is spent on each environment.

    Attributes:
        minutes: of recording and learning.
        size: named size of the worlds.
        episodes: that each return is measured on.
        planner_episodes: that the planner plays, and the policy beside it; 0 for none.
        baselines: whether random play and PPO are measured too.
        seed: of everything random.
    """

    minutes: Positive = 20.0
    size: str = "tiny"
    episodes: Annotated[int, Range(2, 10**6)] = 100
    planner_episodes: Annotated[int, Range(0, 10**6)] = 0
    baselines: bool = True
    seed: Seed = 0


def bench_agents(environments: Iterable[AgentEnvironment], out: str | Path, settings: AgentsSettings) -> list[Row]:
    """Learn and measure an agent for each environment, and write `agents.json` and `agents.md` after each; see
    `run_list`.

    Returns a row for each environment: its name and id, and "error", or for each policy the mean return with its
    interval, the gap, steps per second of dreams and of reality, and the planner's figures.
    """

    def make(environment: AgentEnvironment, folder: Path) -> Row:
        return _measured(environment, folder, settings)

    def show(rows: list[Row]) -> None:
        with atomic_write(Path(out) / "agents.json") as file:
            content = {"settings": asdict(settings), "environments": rows}
            file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        with atomic_write(Path(out) / "agents.md") as file:
            file.write_text(table(rows) + "\n", encoding="utf-8")

    return run_list(environments, Path(out), settings, make, "bench.json", show)


def _measured(environment: AgentEnvironment, folder: Path, settings: AgentsSettings) -> Row:
    how = LearnSettings(
        real_steps=environment.real_steps,
        minutes=settings.minutes,
        size=settings.size,
        env_kwargs=dict(environment.kwargs),
        episodes=settings.episodes,
        baselines=settings.baselines,
        seed=settings.seed,
    )
    agent = learn(environment.id, folder, how)
    returns = {name: mean_interval(np.array(own)) for name, own in agent.metadata["returns"].items()}
    dataset = Dataset.open(folder / WORK_FOLDER / f"dataset-{how.num_rounds - 1}")
    row = {
        "target": environment.target,
        "returns": returns,
        "dream_return": agent.metadata["dream_return"],
        "gap": agent.metadata["gap"],
        "speed": _speed(environment.id, agent, dataset),
    }
    if settings.planner_episodes:
        row["planner"] = _planned(environment.id, agent, settings)
    return row


def _speed(env_id: str, agent: Agent, dataset: Dataset) -> dict[str, float]:
    """Steps per second: of dreams in which the agent acts, and of the real environment with random actions."""
    replay, settings = Replay.of_dataset(agent.world, dataset), agent.settings
    start, num_dreamt = time.perf_counter(), 0
    while time.perf_counter() - start < SPEED_SECONDS:
        rollout(replay.dreams(settings.num_dreams), agent.network, settings.horizon)
        num_dreamt += settings.num_dreams * settings.horizon
    dreamt = num_dreamt / (time.perf_counter() - start)
    with closed_after(make_env(env_id, **dataset.metadata["env_kwargs"])) as env:
        env.reset(seed=0)
        env.action_space.seed(0)
        start, num_real = time.perf_counter(), 0
        while time.perf_counter() - start < SPEED_SECONDS:
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            num_real += 1
            if terminated or truncated:
                env.reset()
        return {"dream": dreamt, "reality": num_real / (time.perf_counter() - start)}


def _planned(env_id: str, agent: Agent, settings: AgentsSettings) -> dict[str, Any]:
    """Of the planner and of the policy, which takes its likeliest action, in the same episodes: the return with its
    interval, and the milliseconds that an action of one environment takes."""
    seconds: list[float] = []

    def planning(num_envs: int) -> Acting:
        planners = [Planner(agent, seed=index) for index in range(num_envs)]

        def act(observations: Any, is_first: np.ndarray) -> Any:
            actions = []
            for index, planner in enumerate(planners):
                if is_first[index]:
                    planner.reset()
                start = time.perf_counter()
                actions.append(planner.act(index_batch(observations, index)))
                seconds.append(time.perf_counter() - start)
            return stack(actions)

        return act

    how: dict[str, Any] = {"seed": EVALUATION_SEED + settings.seed, "env_kwargs": agent.metadata["env_kwargs"]}
    planned = real_returns(env_id, planning, settings.planner_episodes, **how)
    taken = real_returns(env_id, agent_acting(agent, sample=False), settings.planner_episodes, **how)
    return {
        "planner": {"return": mean_interval(planned), "milliseconds": 1000 * float(np.median(seconds))},
        "policy": {"return": mean_interval(taken), "milliseconds": _milliseconds(env_id, agent)},
    }


def _milliseconds(env_id: str, agent: Agent) -> float:
    """Of one action of the policy."""
    with closed_after(make_env(env_id, **agent.metadata["env_kwargs"])) as env:
        observation, _ = env.reset(seed=0)
    seconds = []
    for _ in range(TIMED_ACTIONS):
        start = time.perf_counter()
        agent.act(observation)
        seconds.append(time.perf_counter() - start)
    return 1000 * float(np.median(seconds))


def table(rows: Iterable[Row]) -> str:
    """The rows as a table in Markdown."""
    lines = ["| environment | policy | real return | 95% interval |", "| --- | --- | ---: | --- |"]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['name']} | {row['error']} | | |")
            continue
        for policy, (mean, low, high) in row["returns"].items():
            lines.append(f"| {row['name']} | {policy} | {mean:,.2f} | {low:,.2f} … {high:,.2f} |")
        for name, planned in row.get("planner", {}).items():
            mean, low, high = planned["return"]
            label = f"{name}, {planned['milliseconds']:.1f} ms an action"
            lines.append(f"| {row['name']} | {label} | {mean:,.2f} | {low:,.2f} … {high:,.2f} |")
        wanted = "no target" if row["target"] is None else f"target {row['target']:,.0f}"
        speed = row["speed"]
        note = f"{wanted}; gap {row['gap']:.0%}; steps per second {speed['dream']:,.0f}, real {speed['reality']:,.0f}"
        lines.append(f"| {row['name']} | in dreams ({note}) | {row['dream_return']:,.2f} | |")
    return "\n".join(lines)
