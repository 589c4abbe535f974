"""A world: tokenizers that turn steps into tokens and back, the model that fills them, and where it may start."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from magrathea.devices import resolve_device
from magrathea.errors import MagratheaError
from magrathea.layout import ROLES, Layout, Role, Slot, group_for
from magrathea.memory import EpisodeReadout, Memory, MemoryReadout, MemorySpec, WindowSpec
from magrathea.model.config import ModelConfig
from magrathea.model.transformer import MaskedTransformer
from magrathea.model.weight_names import first_name
from magrathea.sampler import FillSettings
from magrathea.spaces import space_to_config
from magrathea.tokenizers import Tokenizer

Tokenizers = dict[Role, Tokenizer]


@dataclass
class WorldConfig:
    """What is written beside a world's weights.

    Attributes:
        model: sizes of the masked transformer.
        fill: how a dream's steps are filled unless a session says otherwise.
        metadata: name, env_id, fps, action_names, key_map, description, and how the world was trained.
    """

    model: ModelConfig
    fill: FillSettings = field(default_factory=FillSettings)
    metadata: dict[str, Any] = field(default_factory=dict)


def layout_for(tokenizers: Tokenizers) -> Layout:
    """One slot for every leaf of every role's tokenizer, in the order of the roles."""
    slots = []
    for role in ROLES:
        for key, part in tokenizers[role].parts.items():
            name = f"{role}/{key}" if key else role
            slots.append(
                Slot(name=name, role=role, vocab_size=part.vocab_size, grid=part.grid, group=group_for(part.grid))
            )
    return Layout(tuple(slots))


def absent_tokens(layout: Layout) -> Tensor:
    """(N,) a step of which nothing is there."""
    return torch.cat([torch.full((slot.num_tokens,), slot.absent) for slot in layout.slots])


class World:
    """A learned world. Make one with `train`, load one with `from_pretrained`, run one as a `Session`.

    Args:
        tokenizers: one for each role: action, observation, reward, terminated.
        config: sizes and metadata.
        starts: (K, W, N) tokens of real steps, oldest first, from which dreams may start.
        model: a trained model; a new one if not given.
        memory: what the memory that the model's config names has learned; remembers nothing if not given.
    """

    def __init__(
        self,
        tokenizers: Tokenizers,
        config: WorldConfig,
        starts: Tensor,
        model: MaskedTransformer | None = None,
        memory: MemorySpec | None = None,
    ) -> None:
        self.tokenizers, self.config, self.starts = tokenizers, config, starts.long()
        self.layout = model.layout if model is not None else layout_for(tokenizers)
        self.model = model if model is not None else self._new_model()
        self.memory: MemorySpec = WindowSpec() if memory is None else memory
        if starts.ndim != 3 or starts.shape[-1] != self.layout.num_tokens:
            raise MagratheaError(
                f"A world's starts are (K, W, {self.layout.num_tokens}) tokens; got {tuple(starts.shape)}."
            )

    def _new_model(self) -> MaskedTransformer:
        """An untrained one, to which tokens that look alike are alike."""
        model = MaskedTransformer(self.layout, self.config.model)
        for role in ROLES:
            for slot, part in zip(self.layout.of_role(role), self.tokenizers[role].parts.values(), strict=True):
                if part.token_features is not None:
                    model.init_from_features(slot, torch.from_numpy(part.token_features))
        return model

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
        """A hash (sha256) of all that shapes its dreams: weights, sizes, tokenizers, starts; not of its metadata."""
        config = {
            "model": self.config.model.to_config(),
            "layout": self.layout.to_config(),
            "tokenizers": {role: tokenizer.to_config() for role, tokenizer in self.tokenizers.items()},
            "spaces": {role: space_to_config(tokenizer.space) for role, tokenizer in self.tokenizers.items()},
        }
        weights = {first_name(name): tensor for name, tensor in self.model.state_dict().items()}
        parts = {"model": weights, "memory": self.memory.tensors(), "world": {"starts": self.starts}}
        parts |= {role: tokenizer.tensors() for role, tokenizer in self.tokenizers.items()}
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
        for part, tensors in sorted(parts.items()):
            for name, tensor in sorted(tensors.items()):
                digest.update(f"{part}/{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def to(self, device: str | torch.device) -> World:
        """Move the model; it then computes in the type that is fastest there.
        "auto" is a GPU if there is one; raises MagratheaError for a device that is not here."""
        own_device, self.model.compute_dtype = resolve_device(device)
        self.model.to(own_device)
        return self

    def new_memory(self, batch_size: int) -> Memory:
        """The empty memories of B running worlds, of the kind that this world was trained with."""
        return self.memory.new(batch_size, self.model)

    def read_episode(self, tokens: Tensor) -> EpisodeReadout:
        """What the memory recalls just before each step of a recorded episode (T, N)."""
        return self.memory.read_episode(tokens, self.config.model.window)

    # -- files --------------------------------------------------------------------------------------------------------
    @classmethod
    def from_pretrained(cls, name: str | Path, device: str = "cpu") -> World:
        """Load a world from a folder, by the name of a shipped one, or from the Hugging Face Hub."""
        from magrathea.pretrained import load_world

        return load_world(name, device)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the world as a folder, atomically."""
        from magrathea.pretrained import save_world

        return save_world(self, folder)

    # -- values to tokens ---------------------------------------------------------------------------------------------
    def _tokens_of(self, role: Role, values: Any, num_steps: int) -> np.ndarray:
        """(num_steps, tokens of the role); absent where there are no values."""
        if values is None:
            absent = [np.full(slot.num_tokens, slot.absent) for slot in self.layout.of_role(role)]
            return np.broadcast_to(np.concatenate(absent), (num_steps, sum(map(len, absent))))
        tokens = self.tokenizers[role].encode(values)
        if tokens.ndim != 2 or len(tokens) != num_steps:
            raise MagratheaError(f"The {role} has leading shape {tokens.shape[:-1]}; give {num_steps} of them.")
        return tokens

    def encode(self, action: Any, observation: Any, reward: Any = None, terminated: Any = None) -> Tensor:
        """One step of B worlds -> tokens (B, N). What is None is absent, as the action of a reset is."""
        seen = self.tokenizers["observation"].encode(observation)
        values = {"action": action, "reward": reward, "terminated": terminated}
        parts = [seen if role == "observation" else self._tokens_of(role, values[role], len(seen)) for role in ROLES]
        return torch.from_numpy(np.concatenate(parts, axis=-1))

    def encode_episode(self, observation: Any, action: Any, reward: Any = None, terminated: Any = None) -> Tensor:
        """T + 1 observations and the T actions, rewards and endings between them -> tokens (T + 1, N)."""
        seen = self.tokenizers["observation"].encode(observation)
        num_steps = len(seen) - 1
        parts = []
        for role, values in (("action", action), ("reward", reward), ("terminated", terminated)):
            first = self._tokens_of(role, None, 1)  # type: ignore[arg-type]
            rest = self._tokens_of(role, values, num_steps) if num_steps else first[:0]  # type: ignore[arg-type]
            parts.append(np.concatenate([first, rest]))
        return torch.from_numpy(np.concatenate([parts[0], seen, *parts[1:]], axis=-1))

    # -- tokens to values ---------------------------------------------------------------------------------------------
    def _part(self, tokens: Tensor, role: Role) -> np.ndarray:
        spans = [self.layout.span(slot.name) for slot in self.layout.of_role(role)]
        return tokens[..., spans[0].start : spans[-1].stop].cpu().numpy()

    def _present(self, tokens: Tensor, role: Role, default: Any) -> np.ndarray:
        """The role's tokens, with those of `default` where they are absent."""
        part, slot = self._part(tokens, role), self.layout.of_role(role)[0]
        return np.where(part == slot.absent, self.tokenizers[role].encode(np.asarray(default)), part)

    def decode_observation(self, tokens: Tensor) -> Any:
        """tokens (..., N) -> observations (..., *shape), a dict or tuple of such for composite spaces."""
        return self.tokenizers["observation"].decode(self._part(tokens, "observation"))

    def decode_action(self, tokens: Tensor) -> Any:
        """tokens (..., N), of steps that have an action -> actions (...)."""
        return self.tokenizers["action"].decode(self._part(tokens, "action"))

    def decode_reward(self, tokens: Tensor) -> np.ndarray:
        """tokens (..., N) -> rewards (...) float32; an absent reward is 0."""
        return self.tokenizers["reward"].decode(self._present(tokens, "reward", np.float32(0)))

    def decode_terminated(self, tokens: Tensor) -> np.ndarray:
        """tokens (..., N) -> endings (...) bool; an absent one is no end."""
        return self.tokenizers["terminated"].decode(self._present(tokens, "terminated", np.bool_(False))).astype(bool)

    # -- the heart on real steps --------------------------------------------------------------------------------------
    @torch.inference_mode()
    def predict_segment(
        self,
        tokens: Tensor,
        hole_mask: Tensor,
        first: int = 1,
        prompt: Tensor | None = None,
        recalled: MemoryReadout = MemoryReadout(),  # noqa: B008 (it never changes)
        earlier: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Teacher-forced logits: what the model would fill into each step, given the real steps before it.

        Args:
            tokens: (B, T, N) real steps; the window before a step may be shorter at the beginning.
            hole_mask: (B, T - first, N), or anything that broadcasts to it; True = hole.
            first: steps before it are only seen, not filled.
            prompt: (B, N) or None.
            recalled: (B, T - first, ...) what the memory recalls.
            earlier: (B, E, N) the real steps before, for a recurrent memory; absent tokens where there are none.

        Returns:
            for each slot (B, T - first, its tokens, its vocabulary) float32.
        """
        tokens, device = tokens.to(self.device), self.device
        prompt, earlier = (None if given is None else given.to(device) for given in (prompt, earlier))
        past = self.model.segment(tokens, first, prompt, recalled.each(lambda part: part.to(device)), earlier)
        steps = tokens[:, first:]
        time = torch.arange(first, tokens.shape[1], device=device).expand(steps.shape[:2])
        logits = self.model.predict(steps, hole_mask.to(device).expand(steps.shape), time, past)
        return {name: slot_logits.float() for name, slot_logits in logits.items()}

    def prompt_tokens(self, *, goal: Any = None, total_reward: float | None = None) -> Tensor:
        """A prompt to act toward: an observation to reach, or a return over the next 64 steps -> (1, N)."""
        if (goal is None) == (total_reward is None):
            raise MagratheaError("A prompt is a goal or a return: give one of the two.")
        tokens = absent_tokens(self.layout)[None]
        role: Role = "observation" if goal is not None else "reward"
        spans = [self.layout.span(slot.name) for slot in self.layout.of_role(role)]
        given = self.tokenizers[role].encode(goal if goal is not None else np.float32(total_reward))
        tokens[0, spans[0].start : spans[-1].stop] = torch.from_numpy(given).reshape(-1)
        return tokens
