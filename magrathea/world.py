"""A world: tokenizers that turn steps into tokens and back, the model that fills them, and where it may start."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from magrathea import masks
from magrathea.devices import resolve_device
from magrathea.display import world_html
from magrathea.errors import MagratheaError, one_line
from magrathea.filling import fill_steps
from magrathea.interfaces import EpisodeReadout, Memory, MemorySpec
from magrathea.layout import ROLES, Layout, Role
from magrathea.memory import WindowSpec, memory_class
from magrathea.model.config import ModelConfig
from magrathea.model.from_weights import model_from_weights
from magrathea.model.initialization import init_from_features
from magrathea.model.joint import Part
from magrathea.model.transformer import MaskedTransformer
from magrathea.model.weight_names import first_name
from magrathea.named_tensors import join_tensors, tensors_of_part
from magrathea.pretrained import WorldFiles, find_world, read_world, write_world
from magrathea.sampler import FillResult, FillSettings
from magrathea.space_config import space_from_config, space_to_config
from magrathea.spaces import index_batch
from magrathea.support import Support, check_support
from magrathea.tokenizers import tokenizer_from
from magrathea.tokenizers.roles import Tokenizers, check_layout, codecs_of, layout_for


@dataclass
class WorldConfig:
    """Settings and metadata of a world, stored with its weights.

    Attributes:
        model: sizes of the masked transformer.
        fill: how a dream's steps are filled unless a session says otherwise.
        metadata: name, env_id, fps, action_names, key_map, description, and how the world was trained.
    """

    model: ModelConfig
    fill: FillSettings = field(default_factory=FillSettings)
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StepResult:
    """What a step of B worlds brought.

    Attributes:
        observation: (B, *shape), a dict or tuple of such for composite spaces.
        reward: (B,) float32.
        expected_reward: (B,) float32, the mean of the distribution that a dreamt reward was drawn from.
        terminated: (B,) bool.
        tokens: (B, N) int64.
        uncertainty: for each slot (B, rows, columns), 1 - the probability of the likeliest token when it was filled.
        num_passes: (B,) passes of the model that the step took.
    """

    observation: Any
    reward: np.ndarray
    expected_reward: np.ndarray
    terminated: np.ndarray
    tokens: Tensor
    uncertainty: dict[str, np.ndarray]
    num_passes: np.ndarray


class World:
    """A learned world. Make one with `train`, load one with `from_pretrained`, run one as a `Session`.

    Args:
        tokenizers: one for each role: action, observation, reward, terminated.
        config: sizes and metadata.
        starts: (K, W, N) tokens of real steps, oldest first, from which dreams may start.
        model: a trained model; a new one if not given.
        memory: the fitted memory of the kind that the model's config names; the window alone if not given.
        support: the tokens that dreams may draw, as `fit_support` finds them; all, if not given.
    """

    def __init__(
        self,
        tokenizers: Tokenizers,
        config: WorldConfig,
        starts: Tensor,
        model: MaskedTransformer | None = None,
        memory: MemorySpec | None = None,
        support: Support | None = None,
    ) -> None:
        self.tokenizers, self.config, self.starts = tokenizers, config, starts.long()
        self.layout = model.layout if model is not None else layout_for(tokenizers)
        self.model = model if model is not None else self._new_model()
        self.memory: MemorySpec = WindowSpec() if memory is None else memory
        self.support: Support = support or {}
        if starts.ndim != 3 or starts.shape[-1] != self.layout.num_tokens:
            raise MagratheaError(
                f"A world's starts are (K, W, {self.layout.num_tokens}) tokens; got {tuple(starts.shape)}."
            )

    def _new_model(self) -> MaskedTransformer:
        """An untrained one, in which tokens with similar features have similar vectors."""
        kind, codecs = memory_class(self.config.model.memory), codecs_of(self.tokenizers)
        model = MaskedTransformer(self.layout, self.config.model, kind, codecs)
        for role in ROLES:
            for slot, spec in zip(self.layout.of_role(role), self.tokenizers[role].slot_specs.values(), strict=True):
                if spec.token_features is not None:
                    init_from_features(model, slot, torch.from_numpy(spec.token_features))
        return model

    def _repr_html_(self) -> str:
        return world_html(self)

    # -- what it is ---------------------------------------------------------------------------------------------------
    @property
    def metadata(self) -> dict[str, Any]:
        return self.config.metadata

    @property
    def num_starts(self) -> int:
        return len(self.starts)

    @property
    def action_space(self) -> Any:
        return self.tokenizers["action"].space

    @property
    def observation_space(self) -> Any:
        return self.tokenizers["observation"].space

    @property
    def device(self) -> torch.device:
        return self.model.device

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that shapes its dreams: weights, sizes, tokenizers, starts, support; not of its metadata."""
        weights = {first_name(name): tensor for name, tensor in self.model.state_dict().items()}
        parts = {"model": weights, "memory": self.memory.tensors(), "world": {"starts": self.starts} | self.support}
        parts |= {role: tokenizer.tensors() for role, tokenizer in self.tokenizers.items()}
        config = self._to_config()
        content = {key: config[key] for key in ("model", "layout", "tokenizers", "spaces")}
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
        for part, tensors in sorted(parts.items()):
            for name, tensor in sorted(tensors.items()):
                digest.update(f"{part}/{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def continues(self) -> list[str]:
        """Fingerprints of the worlds that its training went on from, with the same tokenizers and kind of memory: their
        sessions go on in it."""
        return self.metadata.get("continues") or []

    def to(self, device: str | torch.device) -> World:
        """Move the model; it then computes in the type that is fastest there.
        "auto" is a GPU if there is one; raises MagratheaError for a device that is not here."""
        own_device, self.model.compute_dtype = resolve_device(device)
        self.model.to(own_device)
        self.support = {name: allowed.to(own_device) for name, allowed in self.support.items()}
        return self

    def new_memory(self, batch_size: int) -> Memory:
        """The empty memories of B running worlds, of the kind that this world was trained with."""
        return self.memory.new(batch_size, self.model)

    def read_episode(self, tokens: Tensor) -> EpisodeReadout:
        """What the memory gives just before each step of a recorded episode (T, N)."""
        return self.memory.read_episode(tokens, self.config.model.window)

    # -- filling ------------------------------------------------------------------------------------------------------
    def fill(
        self,
        steps: Int[Tensor, "B T N"],
        holes: Bool[Tensor, ...],
        prompt: Int[Tensor, "P N"] | None = None,
        *,
        seed: int = 0,
        settings: FillSettings | None = None,
    ) -> FillResult:
        """Fill the holes of episodes' steps in their order, each given those before it: what every use of a world is;
        `magrathea.uses` has them by their names.

        Args:
            steps: tokens from the episodes' beginnings on, as `encode_episode` makes them.
            holes: True = hole; (B, T, N) or anything that broadcasts to it.
            prompt: a step to act toward, of `prompt_tokens`, for all episodes or one for each.
            seed: of episode 0; those after it have the next numbers.
            settings: the world's own, if not given, and the tokens of a first step one after the other: without a past
                only they say what else is there.

        Returns:
            tokens (B, T, N), in which known ones are as they were, confidence (B, T, N) and num_passes (B, T).
        """
        if steps.ndim != 3 or steps.shape[-1] != self.layout.num_tokens or not steps.shape[1]:
            raise MagratheaError(
                f"World.fill got steps {tuple(steps.shape)}; give (B, T, {self.layout.num_tokens}), T of 1 or more."
            )
        try:
            hole_mask = holes.expand(steps.shape).clone()
        except RuntimeError as error:
            raise MagratheaError(
                f"World.fill got holes {tuple(holes.shape)} for steps {tuple(steps.shape)}; give the same shape."
            ) from error
        if bool((hole_mask & self.layout.values_mask).any()):
            raise MagratheaError("World.fill got holes in values, which follow from their tokens; leave them known.")
        later = settings or self.config.fill
        first = settings or replace(later, order="autoregressive", shared_noise=None)
        filled = fill_steps(self.model, self.memory, steps, hole_mask, prompt, first, later, seed, self.support)
        return FillResult(filled.tokens.cpu(), filled.confidence.cpu(), filled.num_passes.cpu())

    def last_window(self, steps: Int[Tensor, "T N"]) -> Int[Tensor, "W1 N"]:
        """The last W + 1 of an episode's steps, those that `features` reads for the last one; where they are fewer, the
        first is repeated before them."""
        num_steps = self.config.model.window + 1
        return torch.cat([steps[:1].expand(max(0, num_steps - len(steps)), -1), steps[-num_steps:]])

    @torch.no_grad()
    def features(self, tokens: Int[Tensor, "B T N"]) -> Float[Tensor, "B K S F"]:
        """What the model knows of steps, for agents: at the S positions of the observation the trunk's output of when
        each is predicted from those before and its action, and the encoding of what it became.

        Of the T steps the first W, the window, are only shown, so that K = T - W; an episode's first step may be
        repeated before it. The memory beyond the window is not read. Raises MagratheaError for fewer than W + 1 steps.
        """
        first, tokens = self.config.model.window, tokens.to(self.device)
        if tokens.ndim != 3 or tokens.shape[1] <= first:
            raise MagratheaError(f"World.features got steps {tuple(tokens.shape)}; give (B, T, N), T over {first}.")
        kv_cache = self.model.segment_cache(tokens, first)
        time = torch.arange(first, tokens.shape[1], device=self.device).expand(len(tokens), -1)
        hole_mask = masks.forward_dynamics(self.layout).to(self.device).expand_as(tokens[:, first:])
        trunk = self.model.trunk(tokens[:, first:], hole_mask, time, kv_cache)
        return self.model.state_features(trunk.positions, tokens[:, first:])

    # -- files --------------------------------------------------------------------------------------------------------
    @classmethod
    def from_pretrained(cls, name: str | Path, device: str = "cpu") -> World:
        """Load a world from a folder, by the name of a shipped one, or from the Hugging Face Hub.

        Raises:
            MagratheaError: where there is none, or its files are damaged or foreign.
        """
        folder = find_world(name)
        files = read_world(folder)
        try:
            world = cls._from_files(files)
        except ImportError as error:
            raise MagratheaError(
                f"World '{folder}' needs a package that cannot be imported: {one_line(error)}; install it, or install "
                "magrathea again"
            ) from error
        except Exception as error:  # of plug-ins that the config names, whose settings only they know
            raise MagratheaError(
                f"World '{folder}' has files that do not fit its config.json: {one_line(error)}"
            ) from error
        return world.to(device)

    @classmethod
    def _from_files(cls, files: WorldFiles) -> World:
        config, tensors = files.config, files.tensors
        tokenizers: Tokenizers = {}
        for role in ROLES:
            own, space = tensors_of_part(tensors["tokenizers"], role), space_from_config(config["spaces"][role])
            tokenizers[role] = tokenizer_from(config["tokenizers"][role], own, space)
        layout, model_config = Layout.from_config(config["layout"]), ModelConfig(**config["model"])
        check_layout(layout, tokenizers)
        memory, part = memory_class(model_config.memory), None
        if files.joint_layout is not None:
            part = Part(Layout.from_config(files.joint_layout), layout, tuple(config["joint_slots"]))
        model = model_from_weights(layout, model_config, memory, codecs_of(tokenizers), tensors["model"], part)
        starts = tensors["starts"].get("starts", torch.zeros(0, 1, layout.num_tokens, dtype=torch.int32))
        support = tensors_of_part(tensors["starts"], "support")
        _check_starts(starts, layout)
        check_support(support, layout)
        return cls(
            tokenizers,
            WorldConfig(model_config, FillSettings(**config["fill"]), config["metadata"]),
            starts,
            model,
            memory.from_tensors(layout, tensors["memory"]),
            support,
        )

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.bfloat16) -> Path:
        """Write the world as a folder, atomically; the model's weights are kept as `dtype`."""
        return write_world(self.files(dtype), folder)

    def files(self, dtype: torch.dtype = torch.bfloat16) -> WorldFiles:
        """What its files hold; the model's weights as `dtype`."""
        tensors = {
            "model": {name: tensor.to(dtype) for name, tensor in self.model.state_dict().items()},
            "tokenizers": join_tensors({role: own.tensors() for role, own in self.tokenizers.items()}),
            "memory": self.memory.tensors(),
            "starts": {"starts": self.starts.to(torch.int32)} | join_tensors({"support": self.support}),
        }
        return WorldFiles(self._to_config(), tensors)

    def _to_config(self) -> dict[str, Any]:
        return {
            "model": self.config.model.to_config(),
            "fill": self.config.fill.to_config(),
            "layout": self.layout.to_config(),
            "tokenizers": {role: tokenizer.to_config() for role, tokenizer in self.tokenizers.items()},
            "spaces": {role: space_to_config(tokenizer.space) for role, tokenizer in self.tokenizers.items()},
            "metadata": self.metadata,
        }

    # -- values to tokens ---------------------------------------------------------------------------------------------
    def _encode_role(self, role: Role, values: Any, num_steps: int) -> np.ndarray:
        """(num_steps, tokens of the role); absent where there are no values."""
        if values is None:
            absent = self.layout.absent_tokens[self.layout.role_span(role)].numpy()
            return np.broadcast_to(absent, (num_steps, len(absent)))
        tokens = self.tokenizers[role].encode(values)
        if tokens.ndim != 2 or len(tokens) != num_steps:
            raise MagratheaError(f"The {role} has leading shape {tokens.shape[:-1]}; give {num_steps} of them.")
        return tokens

    def encode(
        self,
        action: Any,
        observation: Any,
        reward: Any = None,
        terminated: Any = None,
        previous: Int[Tensor, "B N"] | None = None,
    ) -> Int[Tensor, "B N"]:
        """One step of B worlds, and the tokens of the one before -> tokens. What is None is absent, as the action of a
        reset is."""
        before = None if previous is None else self.decode_observation(previous)
        seen = self.tokenizers["observation"].encode(observation, before)
        values = {"action": action, "reward": reward, "terminated": terminated}
        parts = [seen if role == "observation" else self._encode_role(role, values[role], len(seen)) for role in ROLES]
        return torch.from_numpy(np.concatenate(parts, axis=-1))

    def encode_episode(
        self, observation: Any, action: Any, reward: Any = None, terminated: Any = None
    ) -> Int[Tensor, "T N"]:
        """T observations and the T - 1 actions, rewards and endings between them -> tokens."""
        seen = self._encode_in_order(observation)
        num_steps = len(seen) - 1
        parts = []
        for role, values in (("action", action), ("reward", reward), ("terminated", terminated)):
            first = self._encode_role(role, None, 1)  # type: ignore[arg-type]
            rest = self._encode_role(role, values, num_steps) if num_steps else first[:0]  # type: ignore[arg-type]
            parts.append(np.concatenate([first, rest]))
        return torch.from_numpy(np.concatenate([parts[0], seen, *parts[1:]], axis=-1))

    def _encode_in_order(self, observation: Any) -> np.ndarray:
        """Observations (T, *shape), each given the one before -> their tokens (T, …)."""
        tokenizer = self.tokenizers["observation"]
        if not self.layout.values_slots:
            return tokenizer.encode(observation)
        first = tokenizer.encode(index_batch(observation, slice(0, 1)))
        later = index_batch(observation, slice(1, None))
        return np.concatenate([first, tokenizer.encode(later, index_batch(observation, slice(0, -1)))])

    def prompt_tokens(self, *, goal: Any = None, total_reward: float | None = None) -> Int[Tensor, "1 N"]:
        """A prompt to act toward: an observation to reach, or a return over the next 64 steps."""
        if (goal is None) == (total_reward is None):
            raise MagratheaError("A prompt is a goal or a return: give one of the two.")
        role: Role = "observation" if goal is not None else "reward"
        tokens = self.layout.absent_tokens[None].clone()
        given = self.tokenizers[role].encode(goal if goal is not None else np.float32(total_reward))
        tokens[0, self.layout.role_span(role)] = torch.from_numpy(given).reshape(-1)
        return tokens

    # -- tokens to values ---------------------------------------------------------------------------------------------
    def _part(self, tokens: Tensor, role: Role) -> np.ndarray:
        return tokens[..., self.layout.role_span(role)].cpu().numpy()

    def _present(self, tokens: Tensor, role: Role, default: Any) -> np.ndarray:
        """The role's tokens, with those of `default` where they are absent."""
        part, slot = self._part(tokens, role), self.layout.of_role(role)[0]
        return np.where(part == slot.absent, self.tokenizers[role].encode(np.asarray(default)), part)

    def decode_observation(self, tokens: Int[Tensor, "*n N"]) -> Any:
        """Tokens -> observations (..., *shape), a dict or tuple of such for composite spaces."""
        return self.tokenizers["observation"].decode(self._part(tokens, "observation"))

    def decode_action(self, tokens: Int[Tensor, "*n N"]) -> Any:
        """Tokens of steps that have an action -> actions (...)."""
        return self.tokenizers["action"].decode(self._part(tokens, "action"))

    def decode_reward(self, tokens: Int[Tensor, "*n N"]) -> np.ndarray:
        """Tokens -> rewards (...) float32; an absent reward is 0."""
        return self.tokenizers["reward"].decode(self._present(tokens, "reward", np.float32(0)))

    def decode_terminated(self, tokens: Int[Tensor, "*n N"]) -> np.ndarray:
        """Tokens -> endings (...) bool; an absent one is no end."""
        return self.tokenizers["terminated"].decode(self._present(tokens, "terminated", np.bool_(False))).astype(bool)

    @cached_property
    def _reward_values(self) -> np.ndarray:
        """(V,) float32 what each token of a reward stands for."""
        tokenizer = self.tokenizers["reward"]
        return tokenizer.decode(np.arange(tokenizer.vocab_size)[:, None]).astype(np.float32)

    def decode_step(self, filled: FillResult) -> StepResult:
        """Decode steps (B, N) that were filled."""
        tokens, uncertainty = filled.tokens.cpu(), 1 - filled.confidence.cpu().numpy()
        reward, probabilities = self.decode_reward(tokens), filled.reward_probabilities
        expected = reward if probabilities is None else probabilities.cpu().numpy() @ self._reward_values
        return StepResult(
            observation=self.decode_observation(tokens),
            reward=reward,
            expected_reward=expected,
            terminated=self.decode_terminated(tokens),
            tokens=tokens,
            uncertainty={
                slot.name: uncertainty[:, self.layout.span(slot.name)].reshape(-1, *slot.grid)
                for slot in self.layout.token_slots
            },
            num_passes=filled.num_passes.cpu().numpy(),
        )


def _check_starts(starts: Tensor, layout: Layout) -> None:
    """Raises MagratheaError where starts are not steps (K, W, N) that end with an observation."""
    most = layout.absent_tokens
    if starts.is_floating_point() or starts.ndim != 3 or starts.shape[2:] != most.shape or not starts.shape[1]:
        raise MagratheaError(f"its starts are {starts.dtype} of shape {tuple(starts.shape)}; save it anew.")
    seen = layout.role_span("observation")
    if bool(((starts < 0) | (starts > most)).any()) or bool((starts[:, -1, seen] == most[seen]).any()):
        raise MagratheaError("its starts have tokens that it does not have; save it anew.")
