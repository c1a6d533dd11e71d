"""Linear light: numbers that are proportional to it, as those of sRGB, in which pictures are stored, are not.

Source: IEC 61966-2-1:1999.
"""

import torch
from torch import Tensor


def to_linear(srgb: Tensor) -> Tensor:
    """Converts sRGB in [0, 1] to linear light in [0, 1], each number for itself."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb.clamp(min=0) + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: Tensor) -> Tensor:
    """Converts linear light to sRGB; the inverse of `to_linear`. What is brighter than white becomes white."""
    linear = linear.clamp(0, 1)
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=1e-9) ** (1 / 2.4) - 0.055)


def luminance(linear: Tensor) -> Tensor:
    """The brightness of colours in linear light, [3, h, w] -> [h, w]: ITU-R BT.709."""
    return torch.einsum("chw,c->hw", linear, torch.tensor((0.2126, 0.7152, 0.0722)).to(linear))
