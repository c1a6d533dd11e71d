"""How far a picture has moved from the one it was made of: distances that know, or do not know, where things are.

    distance = cells * sum over samples and maps of D(map, wanted map)

with D free of units, and `cells` the positions of the first map, the pixels: the form of the losses in `style`, so that
weights of the two compare. Unlike there every sample has its own wanted maps, those of the picture it started from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from nca_fast.losses.units import gram_unit, variance_unit

# In squared units of maps that are of order 1; much less in one channel is noise, which would be blown up.
_CONTRAST_FLOOR = 1e-2


def feature_distance(maps: Sequence[Tensor], wanted: Sequence[Tensor], layers: Sequence[int]) -> Tensor:
    """What is where.

        D = mean over channels and positions of (map - wanted)^2 / variance of wanted

    Args:
        maps: [B, C_l, H_l, W_l] each, as an extractor returns them.
        wanted: those of the pictures that should be recognised, of the same shapes; without gradient.
        layers: which of the maps take part, as positions in the lists.

    Returns:
        Scalar, summed over the batch; 0 for pictures that are still the same, about 1 per cell and map for flat ones.

    Raises:
        ValueError: maps that do not fit each other; no layers, or layers that are not there.

    Source: Gatys et al., A neural algorithm of artistic style, 2015. Departure: the division by the variance.
    """

    def distance(map: Tensor, goal: Tensor) -> Tensor:
        return ((map - goal).square().mean(dim=(1, 2, 3)) / variance_unit(goal.flatten(2))).sum()

    return _over_layers(distance, maps, wanted, layers)


def structure_distance(maps: Sequence[Tensor], wanted: Sequence[Tensor], layers: Sequence[int]) -> Tensor:
    """What is where, whatever its colours and contrast: `feature_distance` of maps brought to mean 0 and variance 1.

        D = mean over channels and positions of (N(map) - N(wanted))^2,    N(m) = (m - mean) / sqrt(variance + floor)

    with mean and variance of each sample and channel over positions. A style brings colours of its own; here they may
    replace those of the picture as long as edges stay edges. Arguments, result and errors: see `feature_distance`.

    Source: the normalised perceptual loss of Li et al., Demystifying neural style transfer, 2017, and later work.
    """

    def normalized(map: Tensor) -> Tensor:
        variance, mean = torch.var_mean(map, dim=(2, 3), unbiased=False, keepdim=True)
        return (map - mean) * (variance + _CONTRAST_FLOOR).rsqrt()

    def distance(map: Tensor, goal: Tensor) -> Tensor:
        return (normalized(map) - normalized(goal)).square().mean(dim=(1, 2, 3)).sum()

    return _over_layers(distance, maps, wanted, layers)


def gram_distance(maps: Sequence[Tensor], wanted: Sequence[Tensor], layers: Sequence[int]) -> Tensor:
    """Which channels are active together, wherever that is: what Petersen's notebook calls content.

        G = map map^T / n,    D = mean over entries of (G - G_wanted)^2 / mean over entries of G_wanted^2

    Arguments, result and errors are those of `feature_distance`.

    Source: Petersen, Neural Cellular Automata Image Manipulation, 2022 (at relu4_2 of VGG-19). Departure: the division.
    """

    def distance(map: Tensor, goal: Tensor) -> Tensor:
        found, gram = _gram(map), _gram(goal)
        return ((found - gram).square().mean(dim=(1, 2)) / gram_unit(goal.flatten(2), gram)).sum()

    return _over_layers(distance, maps, wanted, layers)


def guide_distance(rgb: Tensor, wanted: Tensor, side: int) -> Tensor:
    """Which colour is where, seen from afar: within squares of some pixels anything may be drawn.

        D = mean over channels and squares of (mean of the square - wanted mean)^2 / variance of the wanted means

    Args:
        rgb: Pictures, [B, 3, H, W].
        wanted: Those that they should look like from afar, of the same shape; without gradient.
        side: Of the squares, in pixels; 1 to H and W. What is left over at the end is not looked at.

    Returns:
        Scalar: pixels times the sum of D over the batch, as the other losses here.

    Raises:
        ValueError: Another shape, or a side that does not fit.
    """
    if rgb.shape != wanted.shape or rgb.ndim != 4 or not 1 <= side <= min(rgb.shape[2:]):
        raise ValueError(
            f"rgb and wanted must be [B, 3, H, W] of one shape, with side from 1 to H and W, but got "
            f"{tuple(rgb.shape)}, {tuple(wanted.shape)} and {side}."
        )
    seen, goal = F.avg_pool2d(rgb, side), F.avg_pool2d(wanted, side)
    squares = (seen - goal).square().mean(dim=(1, 2, 3)) / variance_unit(goal.flatten(2))
    return rgb.shape[2] * rgb.shape[3] * squares.sum()


CONTENT_LOSSES = {"structure": structure_distance, "features": feature_distance, "gram": gram_distance}


def check_layers(layers: Sequence[int], maps: int, features: str) -> None:
    """Raises ValueError for layers that are not among so many maps of some features."""
    if max(layers) >= maps:
        raise ValueError(
            f"content_layers must be from 0 to {maps - 1} with features {features!r}, but got {tuple(layers)}."
        )


def _over_layers(
    distance: Callable[[Tensor, Tensor], Tensor],
    maps: Sequence[Tensor],
    wanted: Sequence[Tensor],
    layers: Sequence[int],
) -> Tensor:
    if not layers or min(layers) < 0 or max(layers) >= len(maps):
        raise ValueError(f"layers must be one or more of the {len(maps)} maps, 0 to {len(maps) - 1}, but got {layers}.")
    shapes, goals = [tuple(map.shape) for map in maps], [tuple(map.shape) for map in wanted]
    if shapes != goals or maps[0].ndim != 4:
        raise ValueError(f"maps and wanted must be [B, C, H, W] of the same shapes, but got {shapes} and {goals}.")
    cells = maps[0].shape[2] * maps[0].shape[3]
    return cells * torch.stack([distance(maps[layer], wanted[layer]) for layer in layers]).sum()


def _gram(map: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, C]"""
    flat = map.flatten(2)
    return torch.bmm(flat, flat.transpose(1, 2)) / flat.shape[2]
