"""What style losses look at: frozen modules that turn pictures into lists of feature maps.

Every extractor takes `rgb` [B, 3, H, W], nominally in [0, 1] but not clipped (losses must feel values outside), and
returns maps [B, C_l, H_l, W_l]; the first one is the normalised pixels.
"""

from __future__ import annotations

import os
from typing import Literal, get_args

import torch
from torch import nn

FeaturesName = Literal["random", "patches", "vgg16", "vgg19"]
NAMES = get_args(FeaturesName)


def load(
    name: str, weights: str | os.PathLike | None = None, seed: int = 0, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """Build a feature extractor by name, in evaluation mode and without trainable parameters.

    Args:
        name: `random` (a VGG-like network with random weights), `patches` (neighbourhoods of pixels), `vgg16` or
            `vgg19` (trained on ImageNet). The first two need no files.
        weights: for VGG only: a .pth or .safetensors file in torchvision's layout; without it torchvision's cache is
            used, then its download.
        seed: for `random` only: the integer that fixes its weights.
        dtype: what networks multiply, see `half`; maps are float32 in any case. Patches multiply nothing.

    Returns:
        The module: rgb [B, 3, H, W] -> [maps [B, C_l, H_l, W_l], ...].

    Raises:
        ValueError: unknown name, weights for an extractor that has none, a bad weights file.
        OSError: no VGG weights at hand and none to be downloaded.
    """
    if name not in NAMES:
        raise ValueError(f"features must be one of {', '.join(NAMES)}, but got {name!r}.")
    if name.startswith("vgg"):
        from nca_fast.features.vgg import VGG

        return VGG(name, weights=weights, dtype=dtype)
    if weights is not None:
        raise ValueError(
            f"weights are for vgg16 and vgg19, but features are {name!r}; leave weights out: {str(weights)!r}."
        )
    if name == "random":
        from nca_fast.features.random_vgg import RandomVGG

        return RandomVGG(seed=seed, dtype=dtype)
    from nca_fast.features.patches import Patches

    return Patches()
