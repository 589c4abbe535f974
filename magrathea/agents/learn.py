"""The loop of learning: explore, learn a world, learn in its dreams, collect with the agent, and again.

A folder holds all of it: `.learning/` the datasets, worlds and agents of the rounds, and the folder itself the agent.
Everything is written atomically; run again, finished parts stay and the one that was interrupted goes on.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from magrathea.agents.agent import Agent
from magrathea.agents.learner import ActorCritic, Learner, LearnerSettings, rollout
from magrathea.agents.novelty import Novelty, says_nothing
from magrathea.agents.reality import (
    ActingMaker,
    agent_acting,
    mean_interval,
    ppo_acting,
    random_acting,
    real_returns,
)
from magrathea.agents.recording import record_round, recorded_env_kwargs
from magrathea.agents.replay import Replay
from magrathea.agents.worlds import knows, most_passes
from magrathea.data import Dataset, make_env
from magrathea.data.make_env import closed_after
from magrathea.data.playing import episode_limit
from magrathea.errors import MagratheaError
from magrathea.files import atomic_write, claim_folder, read_json
from magrathea.pretrained import folder_to_write
from magrathea.progress import Stages
from magrathea.settings import Count, Positive, Range, Seed, check
from magrathea.train import load_settings, train
from magrathea.train.checkpoint import load_checkpoint, save_checkpoint
from magrathea.world import World

WORK_FOLDER = ".learning"
WORLD_SHARE = 0.5  # of a round's time
LAST_ROUND = 2.0  # times as long as one of the others
CHECKPOINT_SECONDS = 30.0
NUM_SCALED = 2048  # states by which the features are standardized
NUM_DREAMS = 16  # whose returns are compared with those of as many real episodes
CHUNK = 16  # steps of a dream that are kept at once
EVALUATION_SEED = 10**6  # of real episodes that are measured, which are none of those that are learned from


@dataclass(frozen=True, kw_only=True)
class LearnSettings:
    """What is spent on an agent, and how.

    Attributes:
        real_steps: most steps of the real environment that are learned from, over all rounds.
        minutes: of recording, of training worlds, and of learning in dreams, over all rounds.
        rounds: how often a world is learned; each has as many new real steps. If not given, 4, or 1 where a world is.
        world: name or folder of a trained world, in whose dreams the agent learns; then no other is trained.
        size: named size of the worlds.
        policy: that records the first round.
        max_episode_steps: longer episodes are cut there, in reality and in dreams.
        env_kwargs: of the environment.
        seed: of everything random.
        episodes: that the final table is measured on.
        baselines: whether random play and PPO are measured too.
        world_updates, agent_updates: of each round, in place of shares of the minutes.
        agent: how the agent learns.
    """

    real_steps: Count = 20_000
    minutes: Positive = 60.0
    rounds: Annotated[int, Range(1, 1000)] | None = None
    world: str | None = None
    size: str = "tiny"
    policy: str = "explore"
    max_episode_steps: Count | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    seed: Seed = 0
    episodes: Annotated[int, Range(2, 10**6)] = 100
    baselines: bool = True
    world_updates: Count | None = None
    agent_updates: Count | None = None
    agent: LearnerSettings = field(default_factory=LearnerSettings)

    def __post_init__(self) -> None:
        check(self)

    @property
    def num_rounds(self) -> int:
        return self.rounds or (4 if self.world is None else 1)


@dataclass
class AgentProgress:
    """How far an agent has learned: updates, seconds, and the learner's scale of returns."""

    updates: int = 0
    seconds: float = 0.0
    scale: float = 0.0


def learn(env_id: str, out: str | Path, settings: LearnSettings | None = None) -> Agent:
    """Learn an agent for an environment and write its folder; resumes what was interrupted.

    Args:
        env_id: a Gymnasium id, or "module:id".
        out: folder of the agent.
        settings: what is spent.

    Raises:
        MagratheaError: for an environment whose spaces cannot be learned or acted in, and for a folder that holds
            an agent of other settings, or in which another process learns.
    """
    real = folder_to_write(out)
    with claim_folder(real, "learning into"), Stages() as stages:
        run = _Run(env_id, real, settings or LearnSettings(), stages)
        for number in range(len(run.rows), run.settings.num_rounds):
            run.round(number)
        return run.finish(out)


class _Run:
    """One learning of an agent.

    Attributes:
        rows: what each finished round measured.
    """

    def __init__(self, env_id: str, out: Path, settings: LearnSettings, stages: Stages) -> None:
        self.env_id, self.settings, self.stages, self.work = env_id, settings, stages, out / WORK_FOLDER
        with closed_after(make_env(env_id, **settings.env_kwargs)) as env:
            ActorCritic(1, 1, env.action_space, 1)  # refuses what an agent cannot act in
            self.limit = episode_limit(env, settings.max_episode_steps)
        wanted = json.loads(json.dumps({"env_id": env_id, **asdict(settings)}))
        claim = self.work / "settings.json"
        remedy = f"remove the folder '{out}' to learn again from the start, or give another --out"
        if claim.exists() and read_json(claim, dict[str, Any], remedy) != wanted:
            raise MagratheaError(f"Folder '{out}' holds an agent of other settings; {remedy}.")
        if out.exists() and not claim.exists() and any(out.iterdir()):
            raise MagratheaError(f"'{out}' exists and is not an agent; give another --out.")
        self.work.mkdir(parents=True, exist_ok=True)
        self._write(claim, wanted)
        self._rows_file = self.work / "rounds.json"
        self.rows = read_json(self._rows_file, list[dict[str, Any]], remedy) if self._rows_file.exists() else []
        self.writer = SummaryWriter(str(self.work / "tensorboard"))

    @staticmethod
    def _write(path: Path, content: Any) -> None:
        with atomic_write(path) as file:
            file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    # -- one round ----------------------------------------------------------------------------------------------------
    def round(self, number: int) -> None:
        """Record, learn a world, learn in its dreams, and measure dreams against reality."""
        start, seconds = time.monotonic(), self._round_seconds(number)
        self.stages.prefix = f"round {number + 1} of {self.settings.num_rounds}: "
        last_return = self.rows[-1]["real_return"] if number else None
        dataset = record_round(self.env_id, self.settings, self.work, number, last_return, self.stages)
        recording = time.monotonic() - start
        share = WORLD_SHARE if self.settings.world is None else 0.0
        world = self._learn_world(number, dataset, share * seconds)
        training = 60 * world.metadata["training"]["minutes"] if share else 0.0
        agent, replay, progress = self._learn_agent(
            number, world, dataset, max(0.2 * seconds, seconds - training - recording)
        )
        learned = time.monotonic()
        self.stages.begin("measuring")
        dreamt = dream_returns(replay, agent.network, NUM_DREAMS, self.limit)
        real = self._real_returns(agent_acting(agent), NUM_DREAMS)
        row = {
            "real_steps": dataset.num_steps,
            "agent_updates": progress.updates,
            "dream_return": float(dreamt.mean()),
            "real_return": float(real.mean()),
            "gap": gap(dreamt, real),
            "seconds": {
                "recording": round(recording, 1),
                "world": round(training, 1),
                "agent": round(progress.seconds, 1),
                "measuring": round(time.monotonic() - learned, 1),
                "all": round(time.monotonic() - start, 1),
            },
        }
        for name in ("dream_return", "real_return", "gap"):
            self.writer.add_scalar(f"agent/{name}", row[name], dataset.num_steps)
        agent.save_pretrained(self.work / f"agent-{number}")
        self.rows.append(row)
        self._write(self._rows_file, self.rows)
        self.stages.note(
            f"Round {number + 1}: {row['real_steps']:,} real steps, {row['agent_updates']:,} updates, return "
            f"{row['dream_return']:.1f} in dreams, {row['real_return']:.1f} in reality"
        )

    def _round_seconds(self, number: int) -> float:
        rounds = self.settings.num_rounds
        weight = LAST_ROUND if number == rounds - 1 else 1.0
        return 60 * self.settings.minutes * weight / (rounds - 1 + LAST_ROUND)

    def _learn_world(self, number: int, dataset: Dataset, seconds: float) -> World:
        """A world of all real steps so far, or the one that was given."""
        settings = self.settings
        if settings.world is not None:
            world = World.from_pretrained(settings.world)
            if (world.observation_space, world.action_space) != (dataset.observation_space, dataset.action_space):
                raise MagratheaError(
                    f"World '{settings.world}' has other spaces than '{self.env_id}' as it was recorded; give a world "
                    "of this environment, and the same --env-kwargs."
                )
            return world
        how = load_settings(
            size=settings.size,
            seed=settings.seed + number,
            steps=settings.world_updates,
            minutes=None if settings.world_updates else seconds / 60,
            passes=None if settings.world_updates else most_passes(dataset),
            held_out=0.0,
            init_from=self._world_to_continue(number, dataset),
            metadata={"name": re.split("[:/]", self.env_id)[-1]},
        )
        return train(dataset.folder, self.work / f"world-{number}", how, stages=self.stages)

    def _world_to_continue(self, number: int, dataset: Dataset) -> str | None:
        """The folder of the last round's world, where this round's starts from its weights: pictures and numbers take
        long to learn. It keeps its tokenizers, so that these must know what was recorded."""
        if not number:
            return None
        folder = self.work / f"world-{number - 1}"
        world = World.from_pretrained(folder)
        return str(folder) if world.model.codecs and knows(world, dataset) else None

    def _learn_agent(
        self, number: int, world: World, dataset: Dataset, seconds: float
    ) -> tuple[Agent, Replay, AgentProgress]:
        settings = self.settings
        self.stages.begin("learning in dreams")
        agent = Agent(world, settings.agent, {"env_id": self.env_id}, settings.seed)
        if number and (settings.world is not None or world.metadata["training"]["recipe"]["init_from"] is not None):
            agent.network.load_state_dict(Agent.from_pretrained(self.work / f"agent-{number - 1}").network.state_dict())
        learner, progress = Learner(agent.network, settings.agent), AgentProgress()
        checkpoint = self.work / f"agent-{number}.safetensors"
        if checkpoint.exists():
            progress = load_checkpoint(checkpoint, agent.network, learner.optimizer, AgentProgress)
            learner.scale = progress.scale
        replay = Replay.of_dataset(world, dataset, settings.seed + progress.updates)
        recorded = replay.features(NUM_SCALED)
        if not progress.updates:
            agent.network.fit_scale(recorded)
        novelty = Novelty(agent.network.standardized(recorded), settings.seed) if says_nothing(dataset) else None
        start = saved = time.monotonic()
        before = progress.seconds
        while (done := self._fraction(progress, seconds)) < 1:
            dreams = rollout(replay.dreams(settings.agent.num_dreams), agent.network, settings.agent.horizon)
            if novelty is not None:
                dreams = replace(dreams, rewards=novelty(agent.network.standardized(dreams.features[:, 1:])))
            real = None
            if settings.agent.real_weight and number:
                real = replay.segments(settings.agent.num_dreams, settings.agent.horizon, agent.network)
            logs = learner.update(dreams, real, rate=max(0.05, 1 - done))
            progress.updates, progress.scale = progress.updates + 1, learner.scale
            progress.seconds = before + time.monotonic() - start
            self.stages.update(done, f"update {progress.updates}, return {logs['return']:.1f}")
            for name, value in logs.items() if progress.updates % 10 == 0 else ():
                self.writer.add_scalar(f"round-{number + 1}/{name}", value, progress.updates)
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                save_checkpoint(checkpoint, agent.network, learner.optimizer, vars(progress))
                saved = time.monotonic()
        save_checkpoint(checkpoint, agent.network, learner.optimizer, vars(progress))
        return agent, replay, progress

    def _fraction(self, progress: AgentProgress, seconds: float) -> float:
        if self.settings.agent_updates:
            return progress.updates / self.settings.agent_updates
        return progress.seconds / seconds

    # -- the end ------------------------------------------------------------------------------------------------------
    def finish(self, out: str | Path) -> Agent:
        """Measure the agent and what it is compared with, print the table, and write the agent's folder."""
        number = self.settings.num_rounds - 1
        agent, num_steps = Agent.from_pretrained(self.work / f"agent-{number}"), self.rows[-1]["real_steps"]
        self.stages.prefix = ""
        self.stages.begin("measuring the agent")
        dataset = Dataset.open(self.work / f"dataset-{number}")
        replay = Replay.of_dataset(agent.world, dataset, self.settings.seed)
        dreamt = dream_returns(replay, agent.network, 2 * NUM_DREAMS, self.limit)
        returns = {f"agent, {num_steps:,} real steps": self._real_returns(agent_acting(agent), self.settings.episodes)}
        for name, num_ppo_steps in self._baselines(num_steps).items():
            returns[name] = self._baseline(name, num_ppo_steps, agent)
        table = self._table(returns, dreamt)
        agent.metadata |= {
            "env_id": self.env_id,
            "env_kwargs": dataset.metadata["env_kwargs"],
            "real_steps": num_steps,
            "rounds": self.rows,
            "returns": {name: own.round(4).tolist() for name, own in returns.items()},
            "dream_return": float(dreamt.mean()),
            "gap": gap(dreamt, next(iter(returns.values()))),
            "table": table,
        }
        agent.save_pretrained(out)
        self.writer.close()
        self.stages.close()
        print(table)
        return agent

    def _baselines(self, num_steps: int) -> dict[str, int]:
        """The names of what the agent is compared with, and PPO's number of real steps."""
        if not self.settings.baselines:
            return {}
        return {"random play": 0} | {f"PPO, {each:,} real steps": each for each in (num_steps, 5 * num_steps)}

    def _baseline(self, name: str, num_steps: int, agent: Agent) -> np.ndarray:
        """Returns (E,), from the file where they were measured before."""
        path = self.work / f"{name.replace(',', '').replace(' ', '-')}.json"
        if path.exists():
            return np.array(read_json(path, list[float], f"remove '{path}' and run the same command again"))
        self.stages.begin(f"measuring {name}")
        kwargs, seed = recorded_env_kwargs(self.work), self.settings.seed
        acting = random_acting(agent.world.action_space, seed)
        if num_steps:
            acting = ppo_acting(self.env_id, num_steps, seed=seed, env_kwargs=kwargs)
        returns = self._real_returns(acting, self.settings.episodes)
        self._write(path, returns.tolist())
        return returns

    def _real_returns(self, acting: ActingMaker, num_episodes: int) -> np.ndarray:
        kwargs = recorded_env_kwargs(self.work)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            return real_returns(
                self.env_id,
                acting,
                num_episodes,
                seed=EVALUATION_SEED + self.settings.seed,
                env_kwargs=kwargs,
                max_episode_steps=self.settings.max_episode_steps,
                report=self.stages.update,
            )

    def _table(self, returns: Mapping[str, np.ndarray], dreamt: np.ndarray) -> str:
        lines = ["| policy | real return | 95% interval | episodes |", "| --- | ---: | --- | ---: |"]
        for name, own in returns.items():
            mean, low, high = mean_interval(own)
            lines.append(f"| {name} | {mean:,.2f} | {low:,.2f} … {high:,.2f} | {len(own)} |")
        real = next(iter(returns.values()))
        rounds = ["| real steps | return in dreams | in reality | gap |", "| ---: | ---: | ---: | ---: |"]
        for row in self.rows:
            dream_return, real_return = (f"{row[name]:,.2f}" for name in ("dream_return", "real_return"))
            rounds.append(f"| {row['real_steps']:,} | {dream_return} | {real_return} | {row['gap']:.0%} |")
        return "\n".join(
            [
                *lines,
                "",
                f"After each round, in {NUM_DREAMS} dreams and as many real episodes:",
                "",
                *rounds,
                "",
                f"The agent's return in {len(dreamt)} dreams is {dreamt.mean():,.2f}: an exploitation gap of "
                f"{dreamt.mean() - real.mean():,.2f}, {gap(dreamt, real):.0%} of the real return. Episodes that are "
                "measured are not learned from, and not counted.",
            ]
        )


def gap(dreamt: np.ndarray, real: np.ndarray) -> float:
    """How much more a policy's dreams return than reality, as a share of the size of the real return."""
    return float((dreamt.mean() - real.mean()) / max(abs(real.mean()), 1e-6))


def dream_returns(replay: Replay, network: ActorCritic, num_dreams: int, num_steps: int) -> np.ndarray:
    """The returns (num_dreams,) of dreams that begin as recorded episodes do, cut after a number of steps."""
    session = replay.dreams(num_dreams, from_beginnings=True)
    returns, running = torch.zeros(num_dreams), torch.ones(num_dreams, dtype=torch.bool)
    for begin in range(0, num_steps, CHUNK):
        steps = rollout(session, network, min(CHUNK, num_steps - begin))
        returns += (steps.rewards * steps.valid).sum(1) * running
        running &= steps.valid[:, -1] & (steps.continues[:, -1] > 0)
        if not running.any():
            break
    return returns.numpy()
