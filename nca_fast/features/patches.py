"""Neighbourhoods of pixels as features: nothing is learned and nothing is random."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from nca_fast.features.pixels import Normalize
from nca_fast.features.torus import wrap_pad


class Patches(nn.Module):
    """The k x k neighbourhood of every pixel as channels, at several scales.

    Channel `c * k * k + i * k + j` of a map is channel c of the pixel at (row + i - k // 2, column + j - k // 2) on the
    torus; scale s halves the picture s times by averaging. Sliced optimal transport on such maps matches the
    distribution of patches, as GPDM does (there one scale after the other, here all at once).

    Args:
        size: k, odd.
        scales: number of scales, at least 1; an odd height or width loses its last row or column when halved.

    Returns (of the call):
        The normalised pixels [B, 3, H, W], then [B, 3 k k, H / 2**s, W / 2**s] for s = 0 .. scales - 1.

    Source: Elnekave and Weiss, Generating natural images with direct patch distributions matching, 2022.
    """

    def __init__(self, size: int = 5, scales: int = 4):
        super().__init__()
        if size < 3 or size % 2 == 0:
            raise ValueError(f"size must be odd and at least 3 (1 is the pixels themselves), but got {size}.")
        if scales < 1:
            raise ValueError(f"scales must be at least 1, but got {scales}.")
        self.size = size
        self.scales = scales
        # The coarsest scale must still hold half a patch: the torus can be wrapped around once, not twice.
        self.normalize = Normalize(size // 2 * 2 ** (scales - 1))
        self.eval()

    def forward(self, rgb: torch.Tensor) -> list[torch.Tensor]:
        pixels = self.normalize(rgb)
        maps = [pixels]
        level = pixels.contiguous()  # unfold is faster on this layout
        for scale in range(self.scales):
            if scale:
                level = F.avg_pool2d(level, 2)
            patches = F.unfold(wrap_pad(level, self.size // 2), self.size)
            maps.append(patches.unflatten(2, level.shape[2:]))
        return maps
