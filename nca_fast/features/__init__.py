"""What style losses look at: frozen modules that turn pictures into lists of feature maps.

Every extractor takes `rgb` [B, 3, H, W], nominally in [0, 1] but not clipped (losses must feel values outside), and
returns maps [B, C_l, H_l, W_l]; the first one is the normalised pixels.
"""

from __future__ import annotations

import os
from typing import get_args

import torch
from torch import nn

from nca_fast.choices import FeaturesName

NAMES = get_args(FeaturesName)


def best(offline: FeaturesName, weights: str | os.PathLike | None = None) -> FeaturesName:
    """Chooses features: VGG-16 where its weights are given or in torchvision's cache, or else others.

    Args:
        offline: Those that need no download.
        weights: A file that the user gave for VGG-16.
    """
    from nca_fast.features.vgg import at_hand

    return "vgg16" if weights is not None or at_hand("vgg16") else offline


def said(name: FeaturesName) -> str:
    """Says in a line what some features are, and what would be better."""
    from nca_fast.features.vgg import cache_file

    if name.startswith("vgg"):
        return f"features: {name}, trained on ImageNet"
    found = {"dictionary": "learned from the picture itself", "random": "a network with random weights"}
    return (
        f"features: {name}, {found.get(name, 'neighbourhoods of pixels')}; --features auto takes vgg16 where its "
        f"weights are in {cache_file('vgg16')}"
    )


def awaited(name: FeaturesName) -> str:
    """Says what is waited for while `load` makes some features."""
    if name.startswith("vgg"):
        return f"reading the weights of {name}"
    return {"dictionary": "learning from the picture what to look at"}.get(name, "making what looks at pictures")


def load(
    name: str,
    weights: str | os.PathLike | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    picture: torch.Tensor | None = None,
    even_hues: bool = False,
) -> nn.Module:
    """Build a feature extractor by name, in evaluation mode and without trainable parameters.

    Args:
        name: `random` (a VGG-like network with random weights), `patches` (neighbourhoods of pixels),
            `dictionary` (a network that is learned from a picture), `vgg16` or `vgg19` (trained on ImageNet, the only
            ones that need files).
        weights: for VGG only: a .pth or .safetensors file in torchvision's layout; without it torchvision's cache is
            used, then its download.
        seed: for `random` and `dictionary`: the integer that fixes their weights.
        dtype: what networks multiply, see `half`; maps are float32 in any case. Patches multiply nothing.
        picture: for `dictionary` only, which learns from it. [3, h, w] in [0, 1], on any device.
        even_hues: for `dictionary` only: hues of which the picture has little count as much as its light.

    Returns:
        The module: rgb [B, 3, H, W] -> [maps [B, C_l, H_l, W_l], ...].

    Raises:
        ValueError: unknown name, weights for an extractor that has none, a bad weights file, no picture to learn from.
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
    if name == "dictionary":
        from nca_fast.features.dictionary import Dictionary

        if picture is None:
            raise ValueError("features 'dictionary' must be learned from a picture, but there is none: choose others.")
        return Dictionary(picture.cpu(), seed=seed, dtype=dtype, even_hues=even_hues)
    from nca_fast.features.patches import Patches

    return Patches()
