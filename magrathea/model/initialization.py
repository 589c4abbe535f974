"""Initial vectors of tokens that are alike where the tokens are alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from magrathea.layout import Slot
from magrathea.model.transformer import MaskedTransformer


@torch.no_grad()
def init_from_features(model: MaskedTransformer, slot: Slot, token_features: Float[Tensor, "V F"]) -> None:
    """Before training: half of the initial vectors of a slot's tokens are principal components of given features, so
    that what is learned of one token holds for those with similar features."""
    index = model.layout.token_slots.index(slot)
    for part in (model.embedding.tokens, model.head.copy_vectors, model.head.out):
        if isinstance(part[index], nn.Identity):
            continue
        table = part[index].get_parameter("weight")[: slot.vocab_size]
        similar = principal_components(token_features, table.shape[1])
        table.copy_((table + similar * (table.std() / similar.std().clamp(min=1e-6))) * 0.5**0.5)


def principal_components(values: Tensor, width: int) -> Tensor:
    """(V, F) -> (V, width) along the directions in which they differ most, with square roots of the singular values."""
    centred = values.float() - values.float().mean(0)
    components, sizes, _ = torch.linalg.svd(centred, full_matrices=False)
    components = (components * sizes.sqrt())[:, :width]
    return F.pad(components, (0, width - components.shape[1]))
