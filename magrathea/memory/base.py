"""What several memories share, and several memories combined into one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.interfaces import EpisodeReadout, Memory, MemoryOutputs, MemoryReadout, MemorySpec, Recurrence
from magrathea.layout import Layout
from magrathea.model.config import ModelConfig
from magrathea.named_tensors import join_tensors, tensors_of_part


def reset_indices(env_mask: Bool[Tensor, " B"] | None, batch_size: int) -> list[int]:
    """The batch indices that a reset concerns: where env_mask is True, or all."""
    return list(range(batch_size)) if env_mask is None else env_mask.nonzero().flatten().tolist()


@dataclass(frozen=True)
class CombinedSpec:
    """The specs of several memories by name, whose readouts are merged. Each combination of kinds has a subclass of its
    own, see `combination`."""

    kinds: ClassVar[dict[str, type[MemorySpec]]]

    parts: dict[str, MemorySpec]

    @classmethod
    def outputs(cls, layout: Layout) -> MemoryOutputs:
        """The outputs of all of them; raises MagratheaError where two have the same output."""
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
    def fit(cls, layout: Layout, episodes: Iterable[Int[Tensor, "_ N"]]) -> CombinedSpec:
        cls.outputs(layout)
        episodes = list(episodes)
        return cls({name: kind.fit(layout, episodes) for name, kind in cls.kinds.items()})

    @classmethod
    def from_tensors(cls, layout: Layout, tensors: dict[str, Tensor]) -> CombinedSpec:
        parts = {name: tensors_of_part(tensors, _stored(name)) for name in cls.kinds}
        return cls({name: kind.from_tensors(layout, parts[name]) for name, kind in cls.kinds.items()})

    @classmethod
    def recurrence(cls, config: ModelConfig, layout: Layout) -> Recurrence | None:
        made = (kind.recurrence(config, layout) for kind in cls.kinds.values())
        return next((recurrence for recurrence in made if recurrence is not None), None)

    def tensors(self) -> dict[str, Tensor]:
        return join_tensors({_stored(name): part.tensors() for name, part in self.parts.items()})

    def new(self, batch_size: int, model: Any) -> CombinedMemory:
        return CombinedMemory({name: part.new(batch_size, model) for name, part in self.parts.items()})

    def read_episode(self, tokens: Int[Tensor, "T N"], window: int) -> EpisodeReadout:
        readouts = [part.read_episode(tokens, window) for part in self.parts.values()]
        predicted = {slot: part for readout in readouts for slot, part in readout.predicted_tokens.items()}
        rest = {
            name: next((getattr(readout, name) for readout in readouts if getattr(readout, name) is not None), None)
            for name in ("sources", "features")
        }
        return EpisodeReadout(predicted, **rest)


class CombinedMemory:
    """The running memories of B worlds, by name. I batch indices, N tokens, P positions of a step, D width."""

    def __init__(self, parts: dict[str, Memory]) -> None:
        self.parts = parts

    def write(self, tokens: Int[Tensor, "I N"], encodings: Tensor, batch_indices: Sequence[int]) -> None:
        for part in self.parts.values():
            part.write(tokens, encodings, batch_indices)

    def read(
        self, tokens: Int[Tensor, "I N"], hole_mask: Bool[Tensor, "I N"], batch_indices: Sequence[int]
    ) -> MemoryReadout:
        readouts = (part.read(tokens, hole_mask, batch_indices) for part in self.parts.values())
        return reduce(MemoryReadout.merge, readouts)

    def reset(self, env_mask: Bool[Tensor, " B"] | None = None) -> None:
        for part in self.parts.values():
            part.reset(env_mask)

    def state_dict(self, batch_index: int) -> dict[str, Tensor]:
        return join_tensors({_stored(name): part.state_dict(batch_index) for name, part in self.parts.items()})

    def load_state_dict(self, batch_index: int, state: dict[str, Tensor]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(batch_index, tensors_of_part(state, _stored(name)))


def combination(kinds: dict[str, type[MemorySpec]]) -> type[CombinedSpec]:
    """The spec class of these kinds of memory, by the names that their stored tensors are prefixed with."""
    return type("CombinedSpec", (CombinedSpec,), {"kinds": kinds})


def _stored(name: str) -> str:
    """What a part's tensors are stored under, whatever its size: "retrieval:256" -> "retrieval"."""
    return name.partition(":")[0]


def checked(
    tensors: dict[str, Tensor],
    name: str,
    kind: str,
    shape: tuple[int | None, ...],
    low: float | np.ndarray = -np.inf,
    high: float | np.ndarray = np.inf,
) -> np.ndarray:
    """A tensor of a file as an array.

    Args:
        tensors: of the file.
        name: of the tensor.
        kind: "i" whole numbers, "f" numbers, "b" truth values.
        shape: of the array; None where a size may be any.
        low, high: of the values, both included.

    Raises:
        MagratheaError: where it is missing, of another kind or shape, not finite, or out of range.
    """
    tensor = tensors.get(name)
    if tensor is None:
        raise MagratheaError(f"A memory in a file lacks '{name}'; take a copy of the file that is whole.")
    is_kind = (
        tensor.is_floating_point()
        if kind == "f"
        else str(tensor.dtype).startswith("torch.bool" if kind == "b" else ("torch.int", "torch.uint"))
    )
    fits = len(shape) == tensor.ndim and all(size in (None, own) for size, own in zip(shape, tensor.shape, strict=True))
    if not is_kind or not fits:
        raise MagratheaError(
            f"'{name}' of a memory in a file is {tensor.dtype} of shape {tuple(tensor.shape)}, which does not fit its "
            "world; take a copy of the file that is whole."
        )
    array = tensor.detach().cpu().numpy()
    if kind != "b" and array.size and not ((array >= low) & (array <= high) & np.isfinite(array)).all():
        raise MagratheaError(f"'{name}' of a memory in a file has values out of range; take a copy that is whole.")
    return array


def checked_number(tensors: dict[str, Tensor], name: str, low: int, high: int) -> int:
    """A whole number of a file; raises MagratheaError as `checked` does."""
    return int(checked(tensors, name, "i", (), low, high))
