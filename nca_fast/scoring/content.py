"""Whether a picture that was redrawn still shows what it showed."""

import torch
from torch import Tensor

from nca_fast.scoring.wavelets import ORIENTATIONS, wavelet_maps

_SCALES = 3


def content_kept(redrawn: Tensor, original: Tensor) -> float:
    """How much of where things are is kept: 1 all, 0 nothing, whatever the colours.

    The correlation over positions of the logarithms of luminance's oriented waves, the mean over orientations and
    scales but the finest, which is the style's.

    Args:
        redrawn, original: [3, H, W] in [0, 1], of one size, at least 64 pixels on each side.
    """
    found = []
    maps = (wavelet_maps(picture, _SCALES + 1)[1:] for picture in (redrawn, original))
    for a, b in zip(*maps, strict=True):
        a, b = (m[:ORIENTATIONS].flatten(1) for m in (a, b))
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        found.append((a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt().clamp(min=1e-12))
    return float(torch.stack(found).mean())
