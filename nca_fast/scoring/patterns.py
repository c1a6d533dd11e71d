"""Which of eight neighbours are brighter or darker than a pixel: histograms of local patterns."""

import torch
from torch import Tensor

_NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
_DEAD = 0.15  # differences below this share of the picture's own contrast count as none, or flat areas would be noise


def pattern_codes(rgb: Tensor, reaches: int, contrast: float) -> list[Tensor]:
    """Names the pattern around each pixel, at distances of 1, 2, 4 ... pixels, of a picture smoothed to them.

    Args:
        rgb: [3, H, W] in [0, 1].
        reaches: Number of distances.
        contrast: Standard deviation of the original's luminance, the unit of differences.

    Returns:
        For each distance d the codes int64 [2, (H - 2 d) / d, (W - 2 d) / d], from 0 to 255: bit n of the first is set
        where neighbour n is brighter than the pixel, of the second where it is darker.

    Source: Ojala, Pietikainen and Maenpaa, Multiresolution gray-scale and rotation invariant texture classification
    with local binary patterns, 2002; two thresholds as in Tan and Triggs, 2010.
    """
    grey, codes = rgb.mean(0), []
    dead = _DEAD * contrast
    for reach in (2**i for i in range(reaches)):
        smooth = torch.nn.functional.avg_pool2d(grey[None, None], reach, 1)[0, 0] if reach > 1 else grey
        height, width = (side - 2 * reach for side in smooth.shape)
        middle = smooth[reach : reach + height, reach : reach + width]
        code = torch.zeros(2, height, width, dtype=torch.int64)
        for bit, (down, right) in enumerate(_NEIGHBOURS):
            top, left = reach * (1 + down), reach * (1 + right)
            difference = smooth[top : top + height, left : left + width] - middle
            code[0] += (difference > dead) * 2**bit
            code[1] += (difference < -dead) * 2**bit
        step = max(1, reach // 2)
        codes.append(code[:, ::step, ::step])
    return codes


def histograms(codes: Tensor) -> Tensor:
    """Counts codes [2, n] into shares. [2, 256]"""
    counts = torch.stack([torch.bincount(code.flatten(), minlength=256) for code in codes]).double()
    return counts / counts.sum(1, keepdim=True)


def hellinger(shares: Tensor, wanted: Tensor) -> float:
    """The squared Hellinger distance of histograms [2, 256], from 0 to 1, the mean of the two."""
    return float(1 - (shares * wanted).sqrt().sum(1).mean())
