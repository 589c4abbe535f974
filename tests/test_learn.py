"""`magrathea learn`: the loop, its files, and what it does after an interruption."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from exact_worlds import CorridorEnv
from gymnasium.envs.registration import EnvSpec
from steered_square import ENV_ID, SteeredSquare

from magrathea.agents import Agent, LearnerSettings
from magrathea.agents import learn as loop
from magrathea.agents.reality import agent_acting, mean_interval, random_acting, real_returns
from magrathea.agents.recording import record_round
from magrathea.agents.worlds import knows, most_passes
from magrathea.cli.main import main
from magrathea.data import Dataset, collect, merge_datasets
from magrathea.errors import MagratheaError
from magrathea.progress import Stages
from magrathea.train import load_settings, train
from magrathea.world import World

ROOT = Path(__file__).parents[1]
CORRIDOR = "exact_worlds:test/Corridor-v0"
SETTINGS = loop.LearnSettings(
    real_steps=400,
    rounds=2,
    size="debug",
    policy="random",
    episodes=30,
    baselines=False,
    world_updates=240,
    agent_updates=30,
    agent=LearnerSettings(discount=0.9, num_dreams=32, horizon=6, width=32, learning_rate=3e-3),
)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An agent of the corridor, whose second round was interrupted and run again."""
    out = tmp_path_factory.mktemp("learned") / "agent"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Run, "_learn_agent", _interrupted_at(1))
        with pytest.raises(KeyboardInterrupt):
            loop.learn(CORRIDOR, out, SETTINGS)
    assert not (out / "agent.safetensors").exists()
    first = (out / ".learning" / "rounds.json").read_text()
    CorridorEnv.num_steps = 0
    loop.learn(CORRIDOR, out, SETTINGS)
    measured = 30 * 6 + 16 * 6  # steps of the episodes that are measured, at most
    assert CorridorEnv.num_steps <= measured, "recordings that were finished were played again"
    assert json.loads((out / ".learning" / "rounds.json").read_text())[0] == json.loads(first)[0]
    return out


def _interrupted_at(number: int) -> Any:
    learn_agent = loop._Run._learn_agent

    def interrupted(run: Any, now: int, *rest: Any) -> Any:
        if now == number:
            raise KeyboardInterrupt
        return learn_agent(run, now, *rest)

    return interrupted


@pytest.mark.slow
def test_the_agent_walks_to_the_exit_in_reality(learned: Path) -> None:
    agent = Agent.from_pretrained(learned)
    returns = real_returns(CORRIDOR, agent_acting(agent, sample=False), 30, seed=7)
    assert returns.mean() == 1.0
    by_chance = real_returns(CORRIDOR, random_acting(agent.world.action_space, 0), 30, seed=7)
    assert by_chance.mean() < 0.7
    assert agent.world.metadata["name"] == "Corridor-v0"
    assert agent.metadata["real_steps"] == 400 and len(agent.metadata["rounds"]) == 2
    assert abs(agent.metadata["gap"]) < 0.15
    card = (learned / "README.md").read_text()
    assert "exploitation gap" in card and "| 200 | " in card and "| 400 | " in card, "it has no line for each round"


@pytest.mark.slow
def test_worlds_of_pictures_and_their_agents_go_on_from_round_to_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They start from the last round's weights, unless rewards were recorded that its world does not know."""
    monkeypatch.setitem(gymnasium.registry, ENV_ID, EnvSpec(ENV_ID, SteeredSquare))
    quick = replace(SETTINGS, real_steps=800, world_updates=2, agent_updates=1, episodes=2, max_episode_steps=10)
    loop.learn(ENV_ID, tmp_path / "agent", quick)
    work = tmp_path / "agent" / loop.WORK_FOLDER
    first, second = (World.from_pretrained(work / f"world-{number}") for number in range(2))
    assert second.metadata["training"]["recipe"]["init_from"] == "world-0"
    before, after = (dict(world.model.named_parameters()) for world in (first, second))
    fresh = dict(World(first.tokenizers, first.config, first.starts).model.named_parameters())
    name = "layers.0.feed_forward.up.weight"
    moved, apart = ((one - other).norm() for one, other in ((before[name], after[name]), (fresh[name], after[name])))
    assert moved < 0.5 * apart
    agents = [dict(Agent.from_pretrained(work / f"agent-{number}").network.named_parameters()) for number in range(2)]
    layer = "actor.layers.0.0.weight"
    assert (agents[0][layer] - agents[1][layer]).norm() < 0.8 * agents[1][layer].norm(), "others would be 1.4 apart"
    dataset = Dataset.open(work / "dataset-1")
    assert knows(second, dataset)
    monkeypatch.setattr(Dataset, "episode", lambda own, number: _paid(episode(own, number)))
    assert not knows(second, dataset)


@pytest.mark.parametrize(
    ("space", "num_steps", "passes"),
    [
        (gymnasium.spaces.Discrete(16), 20_000, 40),
        (gymnasium.spaces.Box(-1, 1, (4,)), 500, 400),
        (gymnasium.spaces.Dict(picture=gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)), 500, None),
        (gymnasium.spaces.Tuple([gymnasium.spaces.Discrete(2), gymnasium.spaces.Text(9)]), 500, None),
    ],
)
def test_worlds_without_pictures_and_texts_are_not_trained_for_ever(
    space: gymnasium.Space, num_steps: int, passes: float | None
) -> None:
    dataset: Any = SimpleNamespace(observation_space=space, num_steps=num_steps)
    assert most_passes(dataset) == passes


def test_worlds_of_numbers_go_on_while_their_tokens_tell_what_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = collect("CartPole-v1", 300, tmp_path / "data", num_processes=1, exact=True)
    world = train(dataset.folder, tmp_path / "world", load_settings(size="debug", steps=1, held_out=0.0))
    assert knows(world, dataset)
    monkeypatch.setattr(Dataset, "episode", lambda own, number: _further(episode(own, number)))
    assert not knows(world, dataset), "values beyond those it was fitted to"


def _further(episode: Any) -> Any:
    return replace(episode, observation=10 * episode.observation)


episode = Dataset.episode


def _paid(episode: Any) -> Any:
    return replace(episode, reward=episode.reward + 5 * (np.arange(len(episode.reward)) == 3))


@pytest.mark.slow
def test_an_agent_learns_in_a_world_that_is_given(learned: Path, tmp_path: Path) -> None:
    """No world is trained, and one of another environment is refused."""
    given, out = str(learned / "world"), tmp_path / "agent"
    agent = loop.learn(CORRIDOR, out, replace(SETTINGS, real_steps=100, rounds=None, world=given))
    assert not (out / ".learning" / "world-0").exists() and len(agent.metadata["rounds"]) == 1
    assert real_returns(CORRIDOR, agent_acting(agent, sample=False), 10, seed=7).mean() == 1.0
    with pytest.raises(MagratheaError, match="has other spaces than 'CartPole-v1'"):
        loop.learn("CartPole-v1", tmp_path / "other", replace(SETTINGS, real_steps=60, world=given))


@pytest.mark.slow
@pytest.mark.parametrize(("last_return", "num_explored"), [(0.1, 100), (1.0, 0)])
def test_the_policy_explores_again_while_the_agent_is_no_better(
    learned: Path, tmp_path: Path, last_return: float, num_explored: int
) -> None:
    shutil.copytree(learned, tmp_path / "agent-0", ignore=shutil.ignore_patterns(loop.WORK_FOLDER))
    stages = Stages(quiet=True)
    first = record_round(CORRIDOR, SETTINGS, tmp_path, 0, None, stages)
    both = record_round(CORRIDOR, SETTINGS, tmp_path, 1, last_return, stages)
    assert (first.num_steps, both.num_steps) == (200, 400)
    assert Dataset.open(tmp_path / "acted-1").num_steps == 200 - num_explored
    assert (tmp_path / "explored-1").exists() == (num_explored > 0)
    seeds = [both.episode(number).seed for number in range(len(both))]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/agents.md"])
def test_the_documented_lines_act_in_the_real_environment(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = replace(SETTINGS, real_steps=800, rounds=1, world_updates=5, agent_updates=1, episodes=2)
    loop.learn("CartPole-v1", "my-agent", quick)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    (lines,) = [block for block in blocks if "Agent.from_pretrained" in block]
    names: dict[str, Any] = {}
    exec(lines, names)
    assert names["reward"] == 1 and names["env"].unwrapped.state is not None


@pytest.mark.slow
def test_the_folder_is_claimed_by_its_settings(learned: Path, tmp_path: Path) -> None:
    with pytest.raises(MagratheaError, match="agent of other settings"):
        loop.learn(CORRIDOR, learned, replace(SETTINGS, real_steps=500))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(MagratheaError, match="is not an agent"):
        loop.learn(CORRIDOR, tmp_path / "notes", SETTINGS)


@pytest.mark.slow
def test_an_agents_folder_records_a_dataset(learned: Path, tmp_path: Path) -> None:
    policy = str(learned)
    one, other = (
        collect(CORRIDOR, 40, tmp_path / f"data-{processes}", policy=policy, num_processes=processes)
        for processes in (1, 2)
    )
    first, second = (Dataset.open(each.folder).episode(3) for each in (one, other))
    assert first.action.tolist() == second.action.tolist(), "it depends on the number of processes"
    assert np.mean([one.episode(index).reward.sum() for index in range(len(one))]) > 0.9


def test_actions_that_cannot_be_learned_are_refused_before_anything_is_recorded(tmp_path: Path) -> None:
    assert main(["learn", "CartPole-v1", "--out", str(tmp_path / "a"), "--real-steps", "0"]) == 2
    with pytest.raises(MagratheaError, match="cannot act in Text"):
        loop.learn("exact_worlds:test/TextActions-v0", tmp_path / "b", SETTINGS)
    assert not (tmp_path / "b" / ".learning").exists()


def test_merged_datasets_have_all_episodes_in_order(tmp_path: Path) -> None:
    parts = [
        collect(CORRIDOR, 20, tmp_path / f"part-{seed}", policy="random", num_processes=1, seed=seed) for seed in (0, 9)
    ]
    merged = merge_datasets([part.folder for part in parts], tmp_path / "merged")
    assert merged.num_steps == sum(part.num_steps for part in parts) == merged.metadata["steps"]
    expected = [part.episode(index) for part in parts for index in range(len(part))]
    assert len(merged) == len(expected)
    for index, episode in enumerate(expected):
        found = merged.episode(index)
        assert found.action.tolist() == episode.action.tolist() and found.seed == episode.seed
        assert found.observation.tolist() == episode.observation.tolist()
    assert merge_datasets([], tmp_path / "merged").num_steps == merged.num_steps, "it was made again"


def test_intervals_hold_the_mean() -> None:
    mean, low, high = mean_interval(np.array([0.0, 1.0, 1.0, 0.0, 1.0]))
    assert mean == pytest.approx(0.6) and 0 <= low < mean < high <= 1


def test_real_returns_are_of_whole_episodes_each_counted_once() -> None:
    """More episodes than environments: those that end early do not count more."""

    def acting(num_envs: int) -> Any:
        return lambda observations, is_first: np.ones(num_envs, int)

    assert real_returns(CORRIDOR, acting, 60, seed=0).tolist() == [1.0] * 60
