"""The networks of the autoencoder tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from magrathea.tokenizers.scalar_quantization import ScalarQuantizer

HEAD_WIDTH = 32
_LEAST_SCALE = 0.02  # smallest scale of a principal component that is used, relative to the first one's
_LEAST_VARIANCE = 1e-6  # of a component; less is not a grey level


class MaskedAutoencoder(nn.Module):
    """A ViT that encodes each patch as one quantized latent, and a ViT that decodes the latents to patches.

    Patches hidden in training are replaced by a learned token, so latents must say what an image is and not only what
    each patch looks like (He et al. 2022, arXiv 2111.06377; Hafner et al. 2025, arXiv 2509.24527).
    B images, R rows and C columns of patches, P values of a patch in [-1, 1], D width.
    """

    def __init__(
        self, grid: tuple[int, int], patch_length: int, levels: Sequence[int], width: int, num_layers: int
    ) -> None:
        super().__init__()
        self.quantizer = ScalarQuantizer(levels)
        self.embed = nn.Linear(patch_length, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.encoder = _Transformer(grid, width, num_layers)
        self.to_latent = nn.Linear(width, len(levels))
        self.from_latent = nn.Linear(len(levels), width)
        self.decoder = _Transformer(grid, width, num_layers)
        self.to_patch = nn.Linear(width, patch_length)

    def encode(self, patches: Tensor, hidden_mask: Tensor | None = None) -> Tensor:
        """patches (B, R*C, P), hidden_mask (B, R*C) -> quantized latents (B, R*C, number of levels)."""
        embedded = self.embed(patches)
        if hidden_mask is not None:
            embedded = torch.where(hidden_mask[..., None], self.mask_token, embedded)
        return self.quantizer(self.to_latent(self.encoder(embedded)))

    def decode(self, latents: Tensor) -> Tensor:
        """quantized latents -> patches (B, R*C, P)."""
        return self.to_patch(self.decoder(self.from_latent(latents)))

    def forward(self, patches: Tensor, hidden_mask: Tensor | None = None) -> Tensor:
        """patches -> reconstructions of all patches, the hidden ones included."""
        return self.decode(self.encode(patches, hidden_mask))

    @torch.no_grad()
    def init_from_patches(self, patches: Tensor) -> None:
        """Initialize to principal component analysis of patches (M, P): latents are their first components, quantized,
        and the output is the least-squares reconstruction. The layers add nothing at first."""
        precise = patches.double()
        variances, components = torch.linalg.eigh(torch.cov(precise.T, correction=0))
        scales, num = variances.flip(0).clamp_min(_LEAST_VARIANCE).sqrt(), self.to_latent.out_features
        count = min(int((scales > _LEAST_SCALE * scales[0]).sum()), len(self.embed.weight))
        self.embed.weight[:count] = (components.flip(1) / scales).T[:count].float()
        self.embed.bias.copy_(-self.embed.weight @ patches.mean(0))
        self.to_latent.weight.copy_(torch.eye(num, len(self.embed.weight)))
        self.from_latent.weight[:num] = torch.eye(num)
        for linear in (self.to_latent, self.from_latent):
            linear.bias.zero_()
        latents = self.quantizer(self.embed(patches)[:, :num]).double()
        middle, mean = latents.mean(0), precise.mean(0)
        drawn = torch.linalg.lstsq(latents - middle, precise - mean).solution
        self.to_patch.weight.zero_()
        self.to_patch.weight[:, :num] = drawn.T.float()
        self.to_patch.bias.copy_((mean - middle @ drawn).float())


class _Transformer(nn.Module):
    """Pre-norm layers over a grid of patches with learned rows and columns as positions."""

    def __init__(self, grid: tuple[int, int], width: int, num_layers: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(grid[0], 1, width) * 0.02)
        self.columns = nn.Parameter(torch.randn(1, grid[1], width) * 0.02)
        layer = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        self.layers = nn.Sequential(
            *(nn.TransformerEncoderLayer(width, width // HEAD_WIDTH, 4 * width, **layer) for _ in range(num_layers))
        )
        for name, parameter in self.layers.named_parameters():
            if "out_proj" in name or "linear2" in name:
                nn.init.zeros_(parameter)

    def forward(self, embedded: Tensor) -> Tensor:
        return self.layers(embedded + (self.rows + self.columns).flatten(0, 1))
