"""Golden traces: the SHA-256 of every observation, reward and ending of short runs of the shipped worlds.

A change that must not alter behaviour must not alter these. They are of one type of machine, since other vector units
round differently: `environment` names it, and `tests/test_golden.py` compares only where it is the same.

    python tests/golden/record.py           # write the traces anew
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from magrathea.envs.dream import DreamEnv
from magrathea.envs.vector import DreamVectorEnv
from magrathea.session import Session
from magrathea.world import World

FOLDER = Path(__file__).parent
WORLDS = ("crafter", "minigrid")
SAVED = {"crafter": "crafter", "minigrid": "minigrid"} | {
    name: str(FOLDER / f"{name}_world") for name in ("board", "board_clock")
}
"""Sessions that an earlier version saved, and their worlds."""
SEEDS = (0, 1, 2)
NUM_STEPS = 200
NUM_ENVS = 4


def environment() -> dict[str, str]:
    """What the traces' last bits depend on."""
    return {"torch": torch.__version__.partition("+")[0], "cpu_capability": torch.backends.cpu.get_cpu_capability()}


def load_world(name: str) -> World:
    """A world that computes in float32."""
    world = World.from_pretrained(name)
    world.model.compute_dtype = torch.float32
    return world


def digest(*values: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of arrays, and of dicts of them."""
    sha = hashlib.sha256()
    for value in values:
        if isinstance(value, dict):
            value = [value[key] for key in sorted(value)]
            sha.update(digest(*value).encode())
        else:
            array = np.ascontiguousarray(value)
            sha.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return sha.hexdigest()[:16]


def random_actions(world: World, seed: int, num_steps: int = NUM_STEPS, num_envs: int = 1) -> np.ndarray:
    """(num_steps, num_envs) int64"""
    return np.random.default_rng(seed).integers(world.action_space.n, size=(num_steps, num_envs))


def trace_env(world: World, seed: int) -> Iterator[str]:
    """`DreamEnv`, which begins anew where a dream ends."""
    env = DreamEnv(world)
    yield digest(env.reset(seed=seed)[0])
    for action in random_actions(world, seed)[:, 0]:
        observation, reward, terminated, _, _ = env.step(action)
        yield digest(observation, np.float64(reward), np.bool_(terminated))
        if terminated:
            yield digest(env.reset()[0])


def trace_vector_env(world: World, seed: int) -> Iterator[str]:
    """`DreamVectorEnv` of four."""
    envs = DreamVectorEnv(world, num_envs=NUM_ENVS)
    yield digest(envs.reset(seed=seed)[0])
    for actions in random_actions(world, seed, num_envs=NUM_ENVS):
        observation, reward, terminated, _, _ = envs.step(actions)
        yield digest(observation, reward, terminated)
    envs.close()


def _play(session: Session, actions: np.ndarray) -> Iterator[str]:
    for action in actions:
        result = session.step(action)
        yield digest(result.observation, result.reward, result.terminated, result.tokens.numpy())


def trace_session(world: World, seed: int) -> Iterator[str]:
    """A session that is saved and restored in the middle, forked with another seed, and rewound."""
    actions, half = random_actions(world, seed), NUM_STEPS // 2
    session = Session(world, seed=seed)
    yield from _play(session, actions[:half])
    with tempfile.TemporaryDirectory() as folder:
        session = Session.load(session.save(Path(folder) / "session"), world)
    yield from _play(session, actions[half : half + 40])
    forked = session.fork(seed=seed + 1000)
    yield from _play(forked, actions[half + 40 : half + 60])
    yield digest(session.rewind(70))
    yield from _play(session, actions[half + 60 :])


def trace_saved_session(name: str, world: World) -> Iterator[str]:
    """What a session that an earlier version saved goes on with."""
    session = Session.load(FOLDER / f"{name}.session", world)
    yield digest(session.observation)
    yield from _play(session, random_actions(world, 5, 60, session.batch_size))


TRACES = {"env": trace_env, "vector_env": trace_vector_env, "session": trace_session}


def main() -> None:
    torch.set_num_threads(1)
    recorded: dict[str, Any] = {"environment": environment()}
    for name in WORLDS:
        world = load_world(name)
        for kind, trace in TRACES.items():
            for seed in SEEDS:
                recorded[f"{name}/{kind}/{seed}"] = list(trace(world, seed))
                print(name, kind, seed, recorded[f"{name}/{kind}/{seed}"][-1], flush=True)
    for name, folder in SAVED.items():
        recorded[f"{name}/saved_session"] = list(trace_saved_session(name, load_world(folder)))
    (FOLDER / "traces.json").write_text(json.dumps(recorded, indent=0) + "\n")


if __name__ == "__main__":
    main()
