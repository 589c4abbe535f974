"""A model from the weights of a world's files, which are checked before anything of their size is made."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from magrathea.errors import MagratheaError
from magrathea.interfaces import MemorySpec
from magrathea.layout import Layout
from magrathea.model.config import ModelConfig
from magrathea.model.joint import Part
from magrathea.model.layers import Codecs
from magrathea.model.transformer import MaskedTransformer
from magrathea.model.weight_names import current_name


def model_from_weights(
    layout: Layout,
    config: ModelConfig,
    memory: type[MemorySpec],
    codecs: Codecs,
    saved: Mapping[str, Tensor],
    part: Part | None = None,
) -> MaskedTransformer:
    """A trained model.

    Args:
        layout, config, memory, codecs: as of `MaskedTransformer`.
        saved: its weights, by the names that they have today or had first.
        part: of a joint layout, where the weights are those of all of its worlds.

    Raises:
        MagratheaError: where weights are missing, unknown or of another shape.
    """
    weights = {current_name(name): weight for name, weight in saved.items()}
    shapes = _weight_shapes(layout, config, memory, codecs, len(weights))
    if part is not None:
        weights = part.select(weights, list(shapes))
    _check_weights(weights, shapes)
    model = MaskedTransformer(layout, config, memory, codecs)
    model.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return model.eval()


def _weight_shapes(
    layout: Layout, config: ModelConfig, memory: type[MemorySpec], codecs: Codecs, num_weights: int
) -> dict[str, torch.Size]:
    """The weights of a model of these sizes, which is not made; raises MagratheaError where there are fewer than it has
    layers."""
    if config.num_layers + config.num_memory_layers > num_weights:
        raise MagratheaError("it has fewer weights than its model has layers; save it anew.")
    layout = Layout(layout.slots)  # whose cached tensors may be on the meta device
    with torch.device("meta"):
        model = MaskedTransformer(layout, config, memory, codecs)
        return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _check_weights(weights: dict[str, Tensor], expected: dict[str, torch.Size]) -> None:
    """Raises MagratheaError where weights are not those of a model with weights of these shapes, before one is made."""
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights or name not in expected:
            raise MagratheaError(f"weight '{name}' is {'missing' if name in expected else 'unknown'}; save it anew.")
        if weights[name].shape != expected[name] or not weights[name].is_floating_point():
            raise MagratheaError(
                f"weight '{name}' is {weights[name].dtype} of shape {tuple(weights[name].shape)}, not of "
                f"{tuple(expected[name])}; save it anew."
            )
