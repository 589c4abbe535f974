"""CompositeTokenizer: Dict and Tuple spaces, whose leaves' tokens follow one another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import gymnasium
import numpy as np
import optree
import torch

from magrathea.errors import MagratheaError
from magrathea.named_tensors import join_tensors, tensors_of_part
from magrathea.spaces import leaf_spaces_of, map_leaves, space_tree
from magrathea.tokenizers.base import SlotSpec, Tokenizer

ReadTokenizer = Callable[[dict[str, Any], dict[str, torch.Tensor], gymnasium.Space], Tokenizer]


class CompositeTokenizer(Tokenizer):
    """`Dict` or `Tuple`, nested as you like: `leaves` maps "key", "0" or "outer/inner" to the leaf's tokenizer.

    Values are what the space holds, batched: {key: array (..., *shape)} or a tuple of arrays. Tokens are the leaves'
    one after another, a Dict's in the order of its sorted keys; as a whole it has a vocabulary as large as its largest
    leaf's, and one row.
    """

    type_name = "composite"

    def __init__(self, space: gymnasium.Space, leaves: dict[str, Tokenizer]) -> None:
        if not leaves:
            raise MagratheaError(f"CompositeTokenizer got {space}, which holds nothing; give it at least one space")
        self.space = space
        self._leaves = dict(leaves)
        self._tree = optree.tree_structure(space_tree(space))

    @property
    def leaves(self) -> dict[str, Tokenizer]:
        return dict(self._leaves)

    @property
    def slot_specs(self) -> dict[str, SlotSpec]:
        named = ((key, name, part) for key, leaf in self._leaves.items() for name, part in leaf.slot_specs.items())
        return {f"{key}/{name}" if name else key: part for key, name, part in named}

    @property
    def vocab_size(self) -> int:
        return max(leaf.vocab_size for leaf in self._leaves.values())

    @property
    def grid(self) -> tuple[int, int]:
        return (1, sum(leaf.tokens_per_step for leaf in self._leaves.values()))

    def fit(self, values: Any, *, previous: Any = None, seed: int = 0) -> Self:
        for key, part, before in zip(self._leaves, self._flatten(values), self._flatten(previous), strict=True):
            _named(
                key, lambda key=key, part=part, before=before: self._leaves[key].fit(part, previous=before, seed=seed)
            )
        return self

    def encode(self, values: Any, previous: Any = None) -> np.ndarray:
        parts = [
            _named(key, lambda key=key, part=part, before=before: self._leaves[key].encode(part, before))
            for key, part, before in zip(self._leaves, self._flatten(values), self._flatten(previous), strict=True)
        ]
        if len({part.shape[:-1] for part in parts}) != 1:
            shapes = {key: part.shape[:-1] for key, part in zip(self._leaves, parts, strict=True)}
            raise MagratheaError(f"CompositeTokenizer.encode got different leading shapes {shapes}; make them equal")
        return np.concatenate(parts, axis=-1)

    def decode(self, tokens: Any) -> Any:
        array = self.check_tokens(tokens)
        edges = np.cumsum([leaf.tokens_per_step for leaf in self._leaves.values()])[:-1]
        parts = np.split(array, edges, axis=-1)
        decoded = [
            _named(key, lambda key=key, part=part: self._leaves[key].decode(part))
            for key, part in zip(self._leaves, parts, strict=True)
        ]
        return optree.tree_unflatten(self._tree, decoded)

    def _flatten(self, values: Any) -> list[Any]:
        if values is None:
            return [None] * len(self._leaves)
        parts = map_leaves(lambda leaf, part: part, self.space, values, "The value to tokenize")
        return self._tree.flatten_up_to(parts)

    def _encode(self, values: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
        raise NotImplementedError("a composite encodes leaf by leaf")

    def _decode(self, tokens: np.ndarray) -> np.ndarray:
        raise NotImplementedError("a composite decodes leaf by leaf")

    def to_config(self) -> dict[str, Any]:
        return {"type": self.type_name, "leaves": {key: leaf.to_config() for key, leaf in self._leaves.items()}}

    def tensors(self) -> dict[str, torch.Tensor]:
        return join_tensors({key: leaf.tensors() for key, leaf in self._leaves.items()})

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, torch.Tensor], space: gymnasium.Space) -> Tokenizer:
        raise NotImplementedError("a composite is read leaf by leaf, by from_leaf_configs")

    @classmethod
    def from_leaf_configs(
        cls, config: dict[str, Any], tensors: dict[str, torch.Tensor], space: gymnasium.Space, read_leaf: ReadTokenizer
    ) -> Tokenizer:
        """The inverse of `to_config` and `tensors`; `read_leaf(config, tensors, space)` makes the leaves."""
        leaf_spaces = dict(leaf_spaces_of(space))
        if set(leaf_spaces) != set(config["leaves"]):
            raise MagratheaError(f"The saved tokenizer has leaves {sorted(config['leaves'])}, which do not fit {space}")
        leaves = {
            key: read_leaf(config["leaves"][key], tensors_of_part(tensors, key), leaf_space)
            for key, leaf_space in leaf_spaces.items()
        }
        return cls(space, leaves)


def _named(key: str, call: Callable[[], Any]) -> Any:
    """Run a leaf's method; its errors name the leaf."""
    try:
        return call()
    except MagratheaError as error:
        raise MagratheaError(f"At '{key}': {error}") from error
