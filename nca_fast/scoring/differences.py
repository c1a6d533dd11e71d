"""Differences that everybody understands, each beside what parts of the original differ by: spectrum, colours ..."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import torch
from torch import Tensor

from nca_fast.losses.sorting import sort_values
from nca_fast.scoring.spectrum import autocorrelation, spectrum
from nca_fast.scoring.wavelets import opponent

_SAMPLES = 8  # of a picture, at most


@dataclass(frozen=True)
class Difference:
    """A difference between parts of the picture and of the original.

    Args:
        value: The mean.
        real: The same between parts of the original.
    """

    value: float
    real: float


def differences(pictures: Sequence[Tensor], reference: Tensor) -> dict[str, Difference]:
    """Measures how pictures [3, H, W] differ from an original, part by part, wherever things are in them.

    Returns:
        spectrum: Root mean square difference of `spectrum`, in decibel.
        autocorrelation: The same of `autocorrelation`, of 1: whether the picture repeats itself as the original does.
        color: Root mean square transport distance of colours, in levels of 255.
    """
    size = tuple(min(reference.shape[axis] // 2, *(picture.shape[axis] for picture in pictures)) for axis in (1, 2))
    parts = _parts(reference, size)
    shown = [part for picture in pictures for part in _spread(_parts(picture, size))]
    found = {}
    for name, see in (("spectrum", spectrum), ("autocorrelation", autocorrelation), ("color", _colours)):
        seen, wanted = [see(part) for part in shown], [see(part) for part in parts]
        value = fmean(_distance(a, b) for a in seen for b in wanted)
        found[name] = Difference(value, fmean(_distance(a, b) for a, b in combinations(wanted, 2)))
    return found


def _parts(rgb: Tensor, size: tuple[int, int]) -> list[Tensor]:
    height, width = size
    tops, lefts = range(0, rgb.shape[1] - height + 1, height), range(0, rgb.shape[2] - width + 1, width)
    return [rgb[:, top : top + height, left : left + width] for top in tops for left in lefts]


def _spread(parts: list[Tensor]) -> list[Tensor]:
    return parts[:: -(-len(parts) // _SAMPLES)]


def _colours(rgb: Tensor) -> Tensor:
    """Sorted colours along the axes of `opponent` and of RGB, [6, n]; the root mean square of lines is that of RGB."""
    lines = torch.cat([opponent(rgb), rgb]).flatten(1).contiguous()
    return sort_values(lines) * 255


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt())
