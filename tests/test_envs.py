"""Dreams as Gymnasium environments: conformance, start options, autoreset, and an agent that learns in one."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from lights import IMAGE, lights_world, play_lights
from stable_baselines3 import PPO

from magrathea.envs import DREAM_ID, DreamEnv, DreamVectorEnv
from magrathea.errors import MagratheaError
from magrathea.model.config import model_size
from magrathea.sampler import FillSettings
from magrathea.session import Session
from magrathea.tokenizers import RewardTokenizer, TerminatedTokenizer, tokenizer_for
from magrathea.world import World, WorldConfig


@pytest.fixture(scope="module")
def untrained() -> World:
    return lights_world()


@pytest.fixture(scope="module")
def trained() -> World:
    return lights_world(num_updates=60)


@pytest.fixture(scope="module")
def saved(untrained: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(untrained.save_pretrained(tmp_path_factory.mktemp("worlds") / "lights"))


def test_conforms_to_gymnasium(saved: str) -> None:
    check_env(gymnasium.make(DREAM_ID, world=saved, render_mode="rgb_array").unwrapped)


def test_conforms_with_a_loaded_world(untrained: World) -> None:
    check_env(gymnasium.make(DREAM_ID, world=untrained).unwrapped)


def test_env_has_the_spaces_and_metadata_of_its_world(untrained: World) -> None:
    env = gymnasium.make(DREAM_ID, world=untrained)
    assert env.observation_space == IMAGE and env.action_space == spaces.Discrete(2)
    assert env.metadata["render_fps"] == 5
    env.reset(seed=0)
    dream = env.unwrapped
    assert isinstance(dream, DreamEnv) and isinstance(dream.session, Session)


def test_seed_determines_the_dream(untrained: World) -> None:
    first, second = (gymnasium.make(DREAM_ID, world=untrained) for _ in range(2))
    for seed in (3, 4):
        assert np.array_equal(first.reset(seed=seed)[0], second.reset(seed=seed)[0])
        for action in (0, 1, 1):
            one, two = first.step(action), second.step(action)
            assert np.array_equal(one[0], two[0]) and one[1:] == two[1:]


def test_starts_from_a_stored_start(untrained: World) -> None:
    env = DreamEnv(untrained)
    for number in (0, 5):
        observation, _ = env.reset(options={"start": number})
        assert np.array_equal(observation, untrained.decode_observation(untrained.starts[number, -1]))


def test_starts_from_recorded_steps(untrained: World) -> None:
    observation, action, reward, _ = play_lights(6, seed=1)
    env = DreamEnv(untrained)
    last, _ = env.reset(seed=0, options={"observation": observation, "action": action})
    assert np.array_equal(last, observation[-1])
    recorded = untrained.encode_episode(observation, action)
    assert env.session.history.equal(recorded[None])
    env.reset(options={"observation": list(observation), "action": list(action), "reward": reward})
    assert env.session.world.decode_reward(env.session.tokens)[0] == reward[-1]
    assert env.reset(options={"observation": observation[:1]})[0].shape == IMAGE.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"begin": 1}, "Reset option 'begin' is unknown"),
        ({"start": 99}, "Start state 99 does not exist; the world has 0 to 7"),
        ({"start": "a"}, "give the number of a start state"),
        ({"action": [0]}, "needs 'observation' too"),
        ({"observation": np.zeros((0, 4, 8, 3), np.uint8)}, "is empty"),
        ({"observation": np.zeros((3, 4, 8, 3), np.uint8), "action": [0]}, "'action' has 1 entries for 3 observations"),
        ({"observation": np.zeros((2, 5, 8, 3), np.uint8), "action": [0]}, "this world needs"),
        ({"observation": np.zeros((2, 4, 8, 3), np.uint8), "action": [7]}, "DiscreteTokenizer"),
        ({"observation": np.full((2, 4, 8, 3), np.nan), "action": [0]}, "PatchTokenizer"),
        ({"observation": np.zeros((2, 4, 8, 3), np.uint8), "action": [0], "terminated": [True]}, "cannot go on"),
    ],
)
def test_refuses_wrong_options_in_one_line(untrained: World, options: dict, message: str) -> None:
    with pytest.raises(MagratheaError, match=message) as error:
        DreamEnv(untrained).reset(options=options)
    assert "\n" not in str(error.value)


def test_refuses_invalid_arguments(untrained: World) -> None:
    with pytest.raises(MagratheaError, match="call reset first"):
        DreamEnv(untrained).step(0)
    with pytest.raises(MagratheaError, match="Render mode 'human' is unknown"):
        DreamEnv(untrained, render_mode="human")
    with pytest.raises(MagratheaError, match="they may hold order"):
        DreamEnv(untrained, settings={"heat": 1})
    with pytest.raises(MagratheaError, match="num_envs is 0"):
        DreamVectorEnv(untrained, 0)
    env = DreamEnv(untrained)
    env.reset()
    with pytest.raises(MagratheaError, match="Action 2 is not in Discrete"):
        env.step(2)


def test_fill_settings_reach_the_session(untrained: World) -> None:
    env = DreamEnv(untrained, settings={"order": "one_shot"})
    env.reset()
    assert env.session.settings == FillSettings(order="one_shot")
    assert env.step(0)[4]["num_passes"] == 1


def test_vector_env_equals_single_environments(trained: World) -> None:
    vector = gymnasium.make_vec(DREAM_ID, num_envs=3, world=trained, max_episode_steps=4)
    assert isinstance(vector, DreamVectorEnv)
    assert vector.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert vector.observation_space.shape == (3, *IMAGE.shape)
    singles = gymnasium.vector.SyncVectorEnv(
        [lambda: gymnasium.make(DREAM_ID, world=trained, max_episode_steps=4)] * 3  # the same autoreset mode
    )
    assert np.array_equal(vector.reset(seed=7)[0], singles.reset(seed=7)[0])
    random = np.random.default_rng(0)
    for _ in range(12):
        actions = random.integers(2, size=3)
        for ours, reference in zip(vector.step(actions)[:4], singles.step(actions)[:4], strict=True):
            assert np.array_equal(ours, reference) and ours.dtype == reference.dtype


def test_same_step_autoreset_gives_the_final_observation(untrained: World) -> None:
    vector = DreamVectorEnv(untrained, 2, max_episode_steps=2, autoreset_mode="SameStep")
    vector.reset(seed=0, options={"start": [1, 2]})
    for _ in range(4):
        observations, _, terminated, truncated, infos = vector.step(np.array([0, 1]))
        ended = terminated | truncated
        if ended.any():
            assert np.array_equal(infos["_final_obs"], ended)
            assert all(infos["final_obs"][index] in IMAGE for index in np.flatnonzero(ended))
        assert observations in vector.observation_space
        assert np.array_equal(vector.session.num_steps == 0, ended)


def test_disabled_autoreset_needs_a_reset_by_the_caller(untrained: World) -> None:
    vector = DreamVectorEnv(untrained, 2, max_episode_steps=1, autoreset_mode="Disabled")
    vector.reset(seed=[4, None])
    vector.step(np.array([0, 0]))
    with pytest.raises(MagratheaError, match=r"Dreams \[0, 1\] have ended"):
        vector.step(np.array([0, 0]))
    vector.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(MagratheaError, match=r"Dreams \[1\] have ended"):
        vector.step(np.array([0, 0]))
    with pytest.raises(MagratheaError, match="reset_mask"):
        vector.reset(options={"reset_mask": np.array([False, False])})


def test_renders_pictures(untrained: World) -> None:
    env = gymnasium.make(DREAM_ID, world=untrained, render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    assert np.array_equal(env.render(), observation)
    vector = DreamVectorEnv(untrained, 2, render_mode="rgb_array")
    observations, _ = vector.reset(seed=0)
    pictures = vector.render()
    assert pictures is not None and np.array_equal(np.stack(pictures), observations)


def test_composite_spaces() -> None:
    world = _composite_world()
    env = gymnasium.make(DREAM_ID, world=world, render_mode="rgb_array")
    check_env(env.unwrapped, skip_render_check=True)
    vector = DreamVectorEnv(world, 3)
    observations, _ = vector.reset(seed=0)
    assert observations in vector.observation_space
    observations, *_ = vector.step(vector.action_space.sample())
    assert observations in vector.observation_space
    recorded = [world.observation_space.sample() for _ in range(3)]
    actions = [world.action_space.sample() for _ in range(2)]
    last, _ = env.reset(options={"observation": recorded, "action": actions})
    assert last["direction"] == recorded[-1]["direction"] and env.render().shape == IMAGE.shape
    stacked = {key: np.stack([step[key] for step in recorded]) for key in recorded[0]}
    pairs = tuple(np.array(part) for part in zip(*actions, strict=True))
    env.reset(seed=1, options={"observation": stacked, "action": pairs})
    assert env.unwrapped.session.tokens.shape == (1, world.layout.num_tokens)
    with pytest.raises(MagratheaError, match="has no 'direction'"):
        env.reset(options={"observation": {"image": stacked["image"]}, "action": actions})


def _composite_world() -> World:
    """An untrained world of a picture with a direction, and actions of two parts."""
    observation = spaces.Dict({"image": IMAGE, "direction": spaces.Discrete(4)}, seed=0)
    action = spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)], seed=0)
    samples = [observation.sample() for _ in range(50)]
    tokenizers = {
        "action": tokenizer_for(action),
        "observation": tokenizer_for(observation, patch=(4, 4)),
        "reward": RewardTokenizer().fit(np.zeros(3, np.float32)),
        "terminated": TerminatedTokenizer(),
    }
    tokenizers["observation"].fit({key: np.stack([sample[key] for sample in samples]) for key in observation.spaces})
    num_tokens = sum(tokenizer.tokens_per_step for tokenizer in tokenizers.values())
    return World(tokenizers, WorldConfig(model_size("debug")), torch.zeros(2, 3, num_tokens))


@pytest.mark.slow
def test_stable_baselines_agent_learns_in_a_dream(trained: World) -> None:
    env = gymnasium.make(DREAM_ID, world=trained, max_episode_steps=16)
    agent = PPO("MlpPolicy", env, n_steps=128, batch_size=32, learning_rate=5e-3, gamma=0.0, seed=0, device="cpu")
    before, after = _mean_reward(agent, trained), _mean_reward(agent.learn(512), trained)
    assert before < 0.75 and after > 0.8, (before, after)


def _mean_reward(agent: PPO, world: World) -> float:
    env = DreamVectorEnv(world, 16)
    observations, _ = env.reset(seed=100)
    total = 0.0
    for _ in range(8):
        actions, _ = agent.predict(observations, deterministic=False)
        observations, rewards, *_ = env.step(actions)
        total += rewards.mean()
    return total / 8
