"""An agent: a world and the actor and critic on its features, saved as a folder; acts in real environments."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from magrathea.agents.learner import ActorCritic, LearnerSettings
from magrathea.data.policies import Policy, PolicyMaker
from magrathea.errors import MagratheaError, one_line
from magrathea.files import read_json, replace_folder
from magrathea.pretrained import folder_to_write, user_path
from magrathea.spaces import index_batch, stack
from magrathea.world import World

FORMAT_VERSION = 1
CONFIG_FILE, WEIGHTS_FILE, WORLD_FOLDER = "config.json", "agent.safetensors", "world"
AGENT_FOLDER = "agent"  # in a world's folder: the agent that comes with it


class Agent:
    """A policy and a value on the features of a world.

    Args:
        world: whose memory is the window alone; raises MagratheaError for another.
        settings: how the agent learns, of which its networks have the width.
        metadata: what its card says: env_id, env_kwargs, and figures by name.
        seed: of the initial weights.
    """

    def __init__(
        self,
        world: World,
        settings: LearnerSettings | None = None,
        metadata: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        if world.config.model.memory != "window":
            raise MagratheaError(
                f"An agent acts on what a world's window shows, but this world has the memory "
                f"'{world.config.model.memory}'; train one with the memory 'window'."
            )
        self.world, self.settings = world, settings or LearnerSettings()
        self.metadata: dict[str, Any] = dict(metadata or {})
        slots = world.layout.of_role("observation")
        torch.manual_seed(seed)
        num_positions, num_features = sum(slot.num_positions for slot in slots), 2 * world.config.model.width
        self.network = ActorCritic(num_positions, num_features, world.action_space, self.settings.width)
        self._player = Player(self, 1)
        self._is_first = True

    # -- acting -------------------------------------------------------------------------------------------------------
    def reset(self) -> None:
        """An episode of the environment begins."""
        self._is_first = True

    def act(self, observation: Any, *, sample: bool = False) -> Any:
        """The action for an environment's observation, given those since `reset`: the likeliest, or a drawn one.

        An observation from another environment than the world's is refused as its tokenizers refuse it.
        """
        self._player.observe_one(observation, self._is_first)
        self._is_first = False
        return index_batch(self._player.choose(sample=sample), 0)

    def new_player(self) -> Player:
        """One that acts in an environment of its own, apart from `act`."""
        return Player(self, 1)

    @torch.no_grad()
    def decide(self, features: Float[Tensor, "1 S F"]) -> tuple[Any, float]:
        """The likeliest action, given what the agent's world knows of the last step (`features_after`, or those of a
        `Session`), and the value there: the discounted rewards that it expects to follow."""
        features = features.cpu()
        action = self.network.action_map.to_space(self.network.policy(features).mode())
        return index_batch(action, 0), float(self.network.value(features))

    def features_after(self, steps: Int[Tensor, "T N"]) -> Float[Tensor, "1 S F"]:
        """What the agent's world knows after steps, of which it reads the last W + 1."""
        return self.world.features(self.world.last_window(steps)[None])[:, 0]

    def check_fits(self, world: World) -> None:
        """Raises MagratheaError for a world in which the agent cannot act: one of other spaces."""
        for name in ("observation_space", "action_space"):
            own, other = getattr(self.world, name), getattr(world, name)
            if own != other:
                raise MagratheaError(
                    f"The agent's {name.replace('_', ' ')} is {own}, but the world's is {other}; play it in a world of "
                    "its own environment."
                )

    # -- files --------------------------------------------------------------------------------------------------------
    @classmethod
    def from_pretrained(cls, folder: str | Path, world: World | None = None) -> Agent:
        """Load an agent from its folder; raises MagratheaError where there is none, or its files are damaged. Its own
        world may be given where it is loaded already."""
        folder = user_path(folder)
        if not is_agent(folder):
            raise MagratheaError(f"No agent in '{folder}'; train one with 'magrathea learn ENV --out {folder}'.")
        config = read_json(folder / CONFIG_FILE, dict[str, Any], "copy the agent's folder again")
        if config.get("format_version") != FORMAT_VERSION:
            raise MagratheaError(
                f"Agent '{folder}' is of format version {config.get('format_version')}, but this Magrathea reads "
                f"version {FORMAT_VERSION}; install the Magrathea that made it, or train it anew."
            )
        world = world or World.from_pretrained(world_folder_of(folder))
        try:
            agent = cls(world, LearnerSettings(**config["settings"]), config["metadata"])
            agent.network.load_state_dict(load_file(folder / WEIGHTS_FILE))
        except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise MagratheaError(
                f"Agent '{folder}' is damaged or does not fit its world ({one_line(error, 200)}); copy it again."
            ) from error
        return agent

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the agent and its world as a folder, atomically; other files that are there stay. In the folder `agent`
        of its own world it needs no world beside it."""
        real = folder_to_write(folder)
        real.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{real.name}-", dir=real.parent))
        try:
            if real.exists():
                shutil.copytree(real, fresh, dirs_exist_ok=True)
            if not self._comes_with(real):
                self.world.save_pretrained(fresh / WORLD_FOLDER, dtype=torch.float32)
            weights = {name: tensor.detach().contiguous() for name, tensor in self.network.state_dict().items()}
            save_file(weights, fresh / WEIGHTS_FILE)
            (fresh / WEIGHTS_FILE).chmod(0o644)
            about = {"format_version": FORMAT_VERSION, "settings": self.settings.to_config(), "metadata": self.metadata}
            (fresh / CONFIG_FILE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
            (fresh / "README.md").write_text(self._card(), encoding="utf-8")
            fresh.chmod(0o755)
            replace_folder(fresh, real)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return Path(folder)

    def _comes_with(self, folder: Path) -> bool:
        """Whether a folder is that of the agent which comes with this agent's world."""
        if folder.name != AGENT_FOLDER or not (folder.parent / CONFIG_FILE).exists():
            return False
        return World.from_pretrained(folder.parent).fingerprint == self.world.fingerprint

    def _card(self) -> str:
        env_id, table = self.metadata.get("env_id", "an environment"), self.metadata.get("table", "Not measured yet.")
        return (
            f"# An agent for {env_id}\n\nIt learned in the dreams of its world (Magrathea). "
            f"`Agent.from_pretrained(folder).act(observation)` acts in the real environment.\n\n{table}\n"
        )


class Player:
    """Acts in B environments at once, each with its own last steps as tokens. It is not told rewards and endings, as a
    policy of `collect` is not; the world is trained with such a context too.

    Args:
        agent: that acts.
        num_envs: B.
    """

    def __init__(self, agent: Agent, num_envs: int) -> None:
        self.agent, world = agent, agent.world
        self._tokens = torch.zeros(num_envs, world.config.model.window + 1, world.layout.num_tokens, dtype=torch.long)
        self._actions: Any = None

    def act(self, observations: Any, is_first: np.ndarray, *, sample: bool = True) -> Any:
        """Actions (B, …) for observations (B, …), of which some begin an episode: drawn ones, or the likeliest."""
        self.observe(observations, is_first)
        return self.choose(sample=sample)

    def observe(self, observations: Any, is_first: np.ndarray) -> Tensor:
        """Take in what followed the last actions; returns the last steps (B, W + 1, N) as tokens."""
        world, first = self.agent.world, torch.from_numpy(is_first)
        if not first.all():
            now = world.encode(self._actions, observations, previous=self._tokens[:, -1])
            self._tokens = torch.cat([self._tokens[:, 1:], now[:, None]], dim=1)
        if first.any():
            begun = world.encode(None, index_batch(observations, np.flatnonzero(is_first)))
            self._tokens[first] = begun[:, None].expand(-1, self._tokens.shape[1], -1)
        return self._tokens

    def observe_one(self, observation: Any, is_first: bool) -> Tensor:
        """The same for the only environment's observation."""
        return self.observe(stack([observation]), np.array([is_first]))

    @torch.no_grad()
    def choose(self, *, sample: bool) -> Any:
        """The policy's actions (B, …) after what was observed."""
        policy = self.agent.network.policy(self.agent.world.features(self._tokens)[:, 0].cpu())
        return self.took(policy.sample() if sample else policy.mode())

    def take(self, action: Any) -> None:
        """The only environment's action is taken, which somebody else has chosen."""
        self._actions = stack([action])

    def took(self, actions: Tensor) -> Any:
        """Actions (B, A) are taken; returns them as the environment's (B, …)."""
        self._actions = self.agent.network.action_map.to_space(actions)
        return self._actions


def world_folder_of(folder: str | Path) -> Path:
    """Where the world of an agent is: in its folder, or around it where the agent comes with a world."""
    folder = user_path(folder)
    own = folder / WORLD_FOLDER
    return folder.parent if folder.name == AGENT_FOLDER and not own.exists() else own


def is_agent(folder: str | Path) -> bool:
    """Whether a folder is an agent's."""
    return (user_path(folder) / WEIGHTS_FILE).is_file()


@lru_cache(maxsize=2)
def _loaded(folder: str, changed: float) -> Agent:
    return Agent.from_pretrained(folder)


def policy_of(folder: str) -> PolicyMaker:
    """The policy of an agent's folder, as `collect` plays it: it draws its actions with the generator."""
    path = Path(folder).expanduser().resolve()
    weights = path / WEIGHTS_FILE
    agent = _loaded(str(path), weights.stat().st_mtime if weights.exists() else 0.0)

    def make(env: gymnasium.Env, rng: np.random.Generator) -> Policy:
        agent.reset()

        def act(observation: Any, info: dict[str, Any]) -> Any:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(rng.integers(2**31)))
                return agent.act(observation, sample=True)

        return act

    return make
