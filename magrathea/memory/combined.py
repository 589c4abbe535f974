"""Several memories side by side: each gives what it gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.interfaces import EpisodeReadout, Memory, MemoryOutputs, MemoryReadout, MemorySpec, Recurrence
from magrathea.layout import Layout
from magrathea.model.config import ModelConfig


@dataclass(frozen=True)
class CombinedSpec:
    """What several memories know. Each class of it has its own kinds; see `combination`."""

    kinds: ClassVar[dict[str, type[MemorySpec]]]

    parts: dict[str, MemorySpec]

    @classmethod
    def outputs(cls, layout: Layout) -> MemoryOutputs:
        """What all of them give; raises MagratheaError where two of them give the same."""
        giver: dict[str, str] = {}
        each = {name: kind.outputs(layout) for name, kind in cls.kinds.items()}
        for name, outputs in each.items():
            for output in outputs.names():
                if output in giver:
                    raise MagratheaError(
                        f"Memories '{giver[output]}' and '{name}' both give '{output}'; choose one of them."
                    )
                giver[output] = name
        return MemoryOutputs(
            slots=tuple(slot for outputs in each.values() for slot in outputs.slots),
            **{name: name in giver for name in ("steps", "state", "features")},
        )

    @classmethod
    def fit(cls, layout: Layout, episodes: Iterable[Tensor]) -> CombinedSpec:
        cls.outputs(layout)
        episodes = list(episodes)
        return cls({name: kind.fit(layout, episodes) for name, kind in cls.kinds.items()})

    @classmethod
    def from_tensors(cls, layout: Layout, tensors: dict[str, Tensor]) -> CombinedSpec:
        return cls({name: kind.from_tensors(layout, _of(name, tensors)) for name, kind in cls.kinds.items()})

    @classmethod
    def recurrence(cls, config: ModelConfig, layout: Layout) -> Recurrence | None:
        made = (kind.recurrence(config, layout) for kind in cls.kinds.values())
        return next((recurrence for recurrence in made if recurrence is not None), None)

    def tensors(self) -> dict[str, Tensor]:
        return _named({name: part.tensors() for name, part in self.parts.items()})

    def new(self, batch_size: int, model: Any) -> CombinedMemory:
        return CombinedMemory({name: part.new(batch_size, model) for name, part in self.parts.items()})

    def read_episode(self, tokens: Tensor, window: int) -> EpisodeReadout:
        readouts = [part.read_episode(tokens, window) for part in self.parts.values()]
        predicted = {slot: part for readout in readouts for slot, part in readout.predicted_tokens.items()}
        rest = {
            name: next((getattr(readout, name) for readout in readouts if getattr(readout, name) is not None), None)
            for name in ("sources", "features")
        }
        return EpisodeReadout(predicted, **rest)


class CombinedMemory:
    """The running memories of B worlds."""

    def __init__(self, parts: dict[str, Memory]) -> None:
        self.parts = parts

    def write(self, tokens: Tensor, encodings: Tensor, batch_indices: Sequence[int]) -> None:
        for part in self.parts.values():
            part.write(tokens, encodings, batch_indices)

    def read(self, tokens: Tensor, hole_mask: Tensor, batch_indices: Sequence[int]) -> MemoryReadout:
        return reduce(
            MemoryReadout.merge, (part.read(tokens, hole_mask, batch_indices) for part in self.parts.values())
        )

    def reset(self, env_mask: Tensor | None = None) -> None:
        for part in self.parts.values():
            part.reset(env_mask)

    def state_dict(self, batch_index: int) -> dict[str, Tensor]:
        return _named({name: part.state_dict(batch_index) for name, part in self.parts.items()})

    def load_state_dict(self, batch_index: int, state: dict[str, Tensor]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(batch_index, _of(name, state))


def combination(kinds: dict[str, type[MemorySpec]]) -> type[CombinedSpec]:
    """The class of memories that are of these kinds, by their names."""
    return type("CombinedSpec", (CombinedSpec,), {"kinds": kinds})


def _named(parts: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {_prefix(name) + key: tensor for name, tensors in parts.items() for key, tensor in tensors.items()}


def _of(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = _prefix(name)
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _prefix(name: str) -> str:
    """Of a part's tensors, whatever its size."""
    return f"{name.partition(':')[0]}/"
