"""Counters of `info` beside the picture: found, recorded, dreamt, and counted as events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from magrathea.cli.main import main
from magrathea.data import Dataset, collect, make_env, make_env_from_metadata
from magrathea.data.counters import KeepCounters, find_counters
from magrathea.errors import MagratheaError
from magrathea.evaluate.evaluation import evaluate
from magrathea.evaluate.recordings import Options
from magrathea.session import Session
from magrathea.spaces import counter_names
from magrathea.tokenizers import tokenizer_for
from magrathea.train import load_settings, train
from magrathea.world import World

SIDE = 16


class Lamps(gymnasium.Env):
    """A picture whose brightness is a level; action 1 raises it and scores, 2 lowers it and costs a life of three.

    `odd`: what is wrong with its info.
    """

    metadata: dict[str, Any] = {"render_modes": [], "info_names": {"lamps": ("red", "green")}}

    def __init__(self, odd: str = "", observation: str = "picture") -> None:
        self.odd, self.kind = odd, observation
        picture = spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
        kinds = {"picture": picture, "numbers": spaces.Box(0, 99, (2,), np.float32)}
        kinds |= {"dict": spaces.Dict(rgb=picture), "taken": spaces.Dict(counters=picture)}
        self.observation_space = kinds[observation]
        self.action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.time = self.score = 0
        self.lives = 3
        return self._observation(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.time += 1
        self.score += int(action == 1)
        self.lives -= int(action == 2 and self.np_random.random() < 0.5)
        return self._observation(), float(action == 1), self.lives == 0, self.time == 40, self._info()

    def _observation(self) -> Any:
        picture = np.full((SIDE, SIDE, 3), min(255, 20 * self.score + 5 * self.lives), np.uint8)
        return {
            "picture": picture,
            "numbers": np.array([self.score, self.lives], np.float32),
            "dict": {"rgb": picture},
            "taken": {"counters": picture},
        }[self.kind]

    def _info(self) -> dict[str, Any]:
        score: Any = self.score
        if self.odd == "late" and self.time < 2:
            return {"lives": self.lives}
        if self.odd == "type" and self.time > 2:
            score = "many"
        if self.odd == "fraction" and self.time > 2:
            score += 0.5
        if self.odd == "array" and self.time > 2:
            score = np.array([score, score])
        if self.odd == "none" and self.time == 3:
            score = None
        return {
            "lives": np.int64(self.lives),
            "score": score,
            "time": self.time,
            "bag": {"coins": self.score, "alive": self.lives > 0},
            "lamps": np.array([self.score % 2, self.lives % 2], np.int8),
            "place": np.array([self.score, 0], np.int16),
            "speed": 0.5,
            "map": np.zeros((3, 3), np.uint8),
            "object": object(),
        }


gymnasium.register("tests/Lamps-v0", Lamps)


def record(out: Path, info: Any = None, steps: int = 60, **env_kwargs: Any) -> Dataset:
    return collect("tests/Lamps-v0", steps, out, num_processes=1, info=info, env_kwargs=env_kwargs)


# -- what there is ----------------------------------------------------------------------------------------------------
def test_whole_numbers_of_info_are_found() -> None:
    found = find_counters(make_env("tests/Lamps-v0"))
    assert found.usual == ["lives", "score", "bag.coins", "bag.alive", "lamps.red", "lamps.green"]
    assert found.clocks == ["time"] and found.unnamed == ["place.0", "place.1"]
    assert "0.5" in found.others["speed"] and "(3, 3)" in found.others["map"] and "object" in found.others["object"]
    assert found.in_words() == "lives, score, bag (2 numbers), lamps (2 numbers)"


def test_the_command_says_once_which_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--steps", "20", "--num-processes", "1", "--out"]
    assert main(["collect", "tests/Lamps-v0", *arguments, str(tmp_path / "plain")]) == 0
    notes = capsys.readouterr().err
    assert notes.count("info holds counters: lives, score, bag (2 numbers), lamps (2 numbers). --info all") == 1
    assert main(["collect", "tests/Lamps-v0", *arguments, str(tmp_path / "kept"), "--info", "lives, bag"]) == 0
    assert "info holds" not in capsys.readouterr().err
    kept = Dataset.open(tmp_path / "kept")
    assert kept.metadata["counters"] == ["lives", "bag.coins", "bag.alive"]
    assert main(["collect", "tests/Lamps-v0", *arguments, str(tmp_path / "no"), "--info", "livs"]) == 2
    assert "shows no counter 'livs'" in capsys.readouterr().err
    assert main(["collect", "tests/Lamps-v0", *arguments, str(tmp_path / "no"), "--info", "speed"]) == 2
    assert "is 0.5, no whole number" in capsys.readouterr().err
    assert main(["collect", "CartPole-v1", *arguments, str(tmp_path / "no"), "--info", "all"]) == 2
    assert "holds no whole numbers" in capsys.readouterr().err


# -- what is recorded -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "key"), [("picture", "image"), ("numbers", "observation"), ("dict", "rgb")])
def test_a_recording_with_counters_is_the_one_without_and_the_counters(kind: str, key: str, tmp_path: Path) -> None:
    plain = record(tmp_path / "plain", observation=kind)
    kept = record(tmp_path / "kept", "all", observation=kind)
    assert len(plain) == len(kept) > 1
    names = kept.metadata["counters"]
    for index in range(len(plain)):
        one, other = plain.episode(index), kept.episode(index)
        seen = one.observation["rgb"] if kind == "dict" else one.observation
        np.testing.assert_array_equal(seen, other.observation[key])
        np.testing.assert_array_equal(one.action, other.action)
        values = other.observation["counters"]
        assert values.dtype == np.int32 and values.shape == (len(one) + 1, len(names))
        np.testing.assert_array_equal(values[:, names.index("lives")], one.infos["lives"])
        np.testing.assert_array_equal(values[:, names.index("lamps.green")], one.infos["lamps"][:, 1])
    again = make_env_from_metadata(kept.metadata)
    assert again.observation_space == kept.observation_space
    assert kept.metadata["env_kwargs"]["counters"] == names
    assert len(record(tmp_path / "kept", "all", observation=kind)) == len(kept)  # the same command again
    with pytest.raises(MagratheaError, match="other settings"):
        record(tmp_path / "kept", "lives", observation=kind)


ODD = {
    "late": ("is missing at the reset", [0, 0, 2, 3, 4]),
    "type": ("is 'many', no number in a step", [0, 1, 2, 2, 2]),
    "fraction": ("is 3.5, no whole number of 32 bits in a step", [0, 1, 2, 2, 2]),
    "array": ("is an array of shape (2,) in a step", [0, 1, 2, 2, 2]),
    "none": ("is missing in a step", [0, 1, 2, 2, 4]),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_infos_keep_the_last_value_and_are_noted(odd: str) -> None:
    env = make_env("tests/Lamps-v0", counters=["lives", "score"], odd=odd)
    assert isinstance(env, KeepCounters)
    observations = [env.reset(seed=0)[0], *(env.step(1)[0] for _ in range(4))]
    text, scores = ODD[odd]
    assert [int(each["counters"][1]) for each in observations] == scores
    assert [int(each["counters"][0]) for each in observations] == [3] * 5
    notes = env.take_notes()
    assert any(f"Counter 'score' of info {text}" in note for note in notes) and not env.take_notes()
    assert int(env.reset(seed=1)[0]["counters"][1]) == 0  # nothing is left of the episode before


def test_notes_of_odd_infos_reach_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = collect(
        "tests/Lamps-v0", 30, tmp_path, num_processes=1, env_kwargs={"odd": "late", "counters": ["score"]}
    )
    assert dataset.episode(0).observation["counters"].shape[1] == 1
    assert capsys.readouterr().err.count("Counter 'score' of info is missing at the reset") == 1


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MagratheaError, match="has a part 'counters' already"):
        make_env("tests/Lamps-v0", counters=["lives"], observation="taken")
    for names in ([], "lives", [3], 5, {"a": 1}):
        with pytest.raises(MagratheaError, match="give a list of names"):
            make_env("tests/Lamps-v0", counters=names)  # type: ignore[arg-type]
    for wanted in (5, [], [3]):
        with pytest.raises(MagratheaError, match="give a list of names"):
            collect("tests/Lamps-v0", 20, tmp_path, num_processes=1, env_kwargs={"counters": wanted})


def test_counters_of_real_environments() -> None:
    crafter = make_env("magrathea/Crafter-v0")
    usual = find_counters(crafter, 20).usual
    assert {"inventory.health", "achievements.collect_wood"} <= set(usual) and len(usual) == 39
    assert not find_counters(make_env("MiniGrid-Empty-5x5-v0"), 20).usual
    assert not find_counters(make_env("CartPole-v1")).counters
    assert find_counters(make_env("FrozenLake-v1")).others["prob"].startswith("is 0.33")


# -- tokens -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("values", [[0, 1, 2, 9], [0, 1], [7, 7], [-3, 5], [0, 40_000], [0, 250_000]])
def test_counters_are_exact_and_may_go_on_rising(values: list[int]) -> None:
    space = spaces.Box(-(2**31), 2**31 - 1, (1,), np.int32)
    tokenizer = tokenizer_for(space, numbers="delta")
    data = np.array(values, np.int32)[:, None]
    tokenizer.fit(data, previous=data)
    error = 0 if max(values) < 65_536 else 40
    assert np.abs(tokenizer.decode(tokenizer.encode(data, data)) - data).max() <= error
    if max(values) <= 9:
        before, step = np.array([[max(values)]], np.int32), np.zeros(1, np.int32)
        for _ in range(3 * max(1, max(values) - min(values))):
            after = before + 1
            step = tokenizer.decode(tokenizer.encode(after, before))
            assert step == after
            before = after


# -- a world ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Dataset]:
    out = tmp_path_factory.mktemp("lamps")
    dataset = record(out / "data", "lives,score,bag.alive", steps=800)
    settings = load_settings(size="debug", steps=200, seed=0)
    return train(out / "data", out / "world", settings, device="cpu"), dataset


@pytest.mark.slow
def test_a_world_dreams_its_counters(made: tuple[World, Dataset]) -> None:
    world, dataset = made
    assert counter_names(world.observation_space, world.metadata) == ["lives", "score", "bag.alive"]
    env = gymnasium.make("magrathea/Dream-v0", world=world, render_mode="rgb_array")
    observation, info = env.reset(seed=0, options={"start": 0})
    assert env.observation_space == dataset.observation_space
    assert info["counters"] == dict(zip(["lives", "score", "bag.alive"], observation["counters"].tolist(), strict=True))
    right = 0
    for _ in range(8):
        before = info["counters"]["score"]
        observation, _, _, _, info = env.step(1)
        assert info["counters"]["score"] == observation["counters"][1]
        right += info["counters"]["score"] == before + 1
    assert right >= 6  # action 1 scores
    assert env.render().shape == (SIDE, SIDE, 3)


@pytest.mark.slow
def test_dreams_side_by_side_have_their_counters(made: tuple[World, Dataset]) -> None:
    envs = gymnasium.make_vec("magrathea/Dream-v0", num_envs=2, world=made[0])
    _, infos = envs.reset(seed=0)
    observations, _, _, _, infos = envs.step(np.array([1, 0]))
    np.testing.assert_array_equal(infos["counters"]["score"], observations["counters"][:, 1])
    assert infos["_counters"].all() and infos["counters"]["_score"].shape == (2,)


@pytest.mark.slow
def test_a_saved_session_goes_on_with_its_counters(made: tuple[World, Dataset], tmp_path: Path) -> None:
    session = Session(made[0], seed=1)
    for action in (1, 0, 2):
        session.step(np.array([action]))
    session.save(tmp_path / "a.session")
    again = Session.load(tmp_path / "a.session", made[0])
    for action in (1, 1, 2, 1):
        one, other = (each.step(np.array([action])).observation["counters"] for each in (session, again))
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_rises_and_falls_are_counted_as_events(made: tuple[World, Dataset], tmp_path: Path) -> None:
    result = evaluate(*made, tmp_path, Options(num_dreams=16))
    events = result.dreams.events
    assert {"rise of score", "fall of lives", "fall of bag.alive"} <= set(events)
    never = events.get("rise of lives")  # at most a dream's mistake
    assert never is None or (never["reality"].value == 0 and never["dream"].value < 0.02)
    reality = events["rise of score"]["reality"]
    assert reality.value is not None and 0.2 < reality.value < 0.5  # a third of the actions
    assert events["rise of score"]["dream"].low is not None
    assert "rise of score" in (tmp_path / "index.html").read_text()
    assert json.loads((tmp_path / "metrics.json").read_text())["dreams"]["error"] == {}  # they are no numbers to it
    assert "counters" not in result.dreams.obedience
