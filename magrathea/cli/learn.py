"""The command that makes an agent: explore, learn a world, learn in its dreams, collect with the agent, and again."""

from __future__ import annotations

from typing import Annotated

from magrathea.cli.options import (
    EnvId,
    EnvKwargs,
    Folder,
    MaxEpisodeSteps,
    OptionalCount,
    OptionalText,
    Policy,
    Size,
    json_object,
)
from magrathea.settings import Count, Positive, Range, Seed


def learn(
    env_id: EnvId,
    *,
    out: Folder,
    real_steps: Count = 20_000,
    minutes: Positive = 60.0,
    rounds: OptionalCount = None,
    world: OptionalText = None,
    size: Size = "tiny",
    policy: Policy = "explore",
    max_episode_steps: MaxEpisodeSteps = None,
    env_kwargs: EnvKwargs = "{}",
    seed: Seed = 0,
    episodes: Annotated[int, Range(2, 10**6)] = 100,
    baselines: bool = True,
    world_updates: OptionalCount = None,
    agent_updates: OptionalCount = None,
) -> None:
    """Learn an agent in the dreams of a world that is learned meanwhile, and compare it in the real environment with
    random play and with PPO. Run it again to resume after an interruption.

    Each round records new real steps (the first by --policy, the others by the agent), trains a world on all of them
    and lets an agent learn in its dreams. The table at the end is of whole episodes of the real environment.

    Args:
        out: folder of the agent; its worlds, datasets and TensorBoard's logs go into the folder ".learning" inside it.
        real_steps: most steps of the real environment that are learned from, over all rounds.
        minutes: of recording and learning, over all rounds; measuring comes on top.
        rounds: how often a world is learned; by default 4, or 1 where a world is given.
        world: name or folder of a trained world in whose dreams the agent learns, in place of new ones; the real steps
            are where its dreams begin.
        size: size of the worlds' models.
        seed: seed of everything random.
        episodes: real episodes that each line of the table is measured on.
        baselines: measure random play, and PPO with as many real steps and with five times as many; needs the extra
            "agents".
        world_updates: updates of each round's world, in place of half of its minutes.
        agent_updates: updates of each round's agent, in place of the other half.
    """
    from magrathea.agents.learn import LearnSettings
    from magrathea.agents.learn import learn as run_learning

    settings = LearnSettings(
        real_steps=real_steps,
        minutes=minutes,
        rounds=rounds,
        world=world,
        size=size,
        policy=policy,
        max_episode_steps=max_episode_steps,
        env_kwargs=json_object(env_kwargs, "--env-kwargs"),
        seed=seed,
        episodes=episodes,
        baselines=baselines,
        world_updates=world_updates,
        agent_updates=agent_updates,
    )
    run_learning(env_id, out, settings)
    print(f"{out} holds the agent; record what it plays with: magrathea collect {env_id} --policy {out} --out DATASET")
