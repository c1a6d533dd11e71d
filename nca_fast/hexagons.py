"""The hexagonal grid: the stencils of its cells, and where these lie.

A state of it is a tensor like any other. The cell in row r and column c lies at

    x = c + r / 2 + 1/2,    y = (r + 1/2) * sqrt(3) / 2

in distances of neighbours, so that its neighbours are those in its row, and (r - 1, c), (r - 1, c + 1), (r + 1, c) and
(r + 1, c - 1): what the stencils of `filters` called hex_ look at. Rows repeat after W columns, and fill a rectangle.
The row below the last is the first again, H / 2 further right: where H is a multiple of 2 W, the rectangle is a tile.

Source: Niklasson et al., "Self-Organising Textures" (Distill 2021), whose automata live on it without being trained
anew.
"""

import math
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor

from nca_fast import filters
from nca_fast.choices import GridName
from nca_fast.filters import Filter
from nca_fast.nca import NCA
from nca_fast.rule import Rule

ROW = math.sqrt(3) / 2  # from one row to the next
_TWINS = {"identity": "identity"} | {name: f"hex_{name}" for name in ("sobel_x", "sobel_y", "laplacian")}


def grid_of(rule: Rule) -> GridName:
    """Says on which grid an automaton lives, by its stencils."""
    return "hex" if any(filter.name.startswith("hex_") for filter in rule.filters) else "square"


def draws_hexagons(nca: NCA) -> bool:
    """Whether what an automaton grows is drawn as hexagons; a picture that it redraws is one of squares."""
    return grid_of(nca.rule) == "hex" and nca.start != "image"


def on_grid(nca: NCA, grid: GridName | None) -> NCA:
    """Moves an automaton to another grid: the same weights, which see their neighbourhood through the stencils there.

    Args:
        nca: On any grid.
        grid: None: it stays where it is.

    Returns:
        Itself where it lives there already; on its device.

    Raises:
        ValueError: There is no such grid, or a filter that has no twin there.
    """
    if grid is not None and grid not in get_args(GridName):
        raise ValueError(f"grid must be one of {', '.join(get_args(GridName))}, but got {grid!r}.")
    if grid is None or grid == grid_of(nca.rule):
        return nca
    twins = _TWINS if grid == "hex" else {twin: name for name, twin in _TWINS.items()}
    unknown = [filter.name for filter in nca.rule.filters if filter.name not in twins]
    if unknown or nca.rule.learned_filters or nca.rule.alive_channel is not None or nca.rule.maximum_window:
        what = f"the filter {unknown[0]}" if unknown else "a learned filter, an alive mask or a local maximum"
        raise ValueError(
            f"grid {grid} must be one for which an automaton has stencils, but this one has {what}, of which there is "
            f"no other than on its own. Those of {', '.join(twins)} have: textures with the default preset."
        )
    moved = tuple(_moved(filter, twins[filter.name]) for filter in nca.rule.filters)
    there = NCA(
        replace(nca.rule, filters=moved),
        rgb_channel=nca.rgb_channel,
        start=nca.start,
        textures=nca.textures,
        maps=nca.maps,
    )
    there.load_state_dict(nca.state_dict())
    return there.to(nca.device)


def _moved(filter: Filter, name: str) -> Filter:
    return replace(filters.named(name), scale=filter.scale)


def training_size(cells: int) -> tuple[int, int]:
    """Rows and columns of a canvas that is a tile and has about as many cells as a square of `cells` on a side."""
    columns = max(16, 8 * round(cells / math.sqrt(2) / 8))  # whole vectors of the kernel
    return 2 * columns, columns


def levelled(pictures: Tensor) -> Tensor:
    """Shows what lies on hexagons on squares as large as the distance of neighbours, as losses and scores look at it.

    Between cells it is interpolated by cubic splines (Catmull and Rom), which are sharper than straight lines.

    Args:
        pictures: Numbers of all cells, float [B, C, H, W].

    Returns:
        [B, C, round(H * sqrt(3) / 2), W], differentiable.
    """
    height, width = pictures.shape[2:]
    rows = torch.arange(-2, height + 3, device=pictures.device)
    beside = torch.arange(width, device=pictures.device) - (rows // 2)[:, None]
    extended = pictures[:, :, rows % height]
    lines = 0
    # An odd row lies half a cell further right: between the second and the third of four cells.
    for offset, share in zip((1, 0, -1, -2), _cubic(torch.tensor(0.5)).tolist(), strict=True):
        weights = torch.where(rows % 2 == 1, share, float(offset == 0)).to(pictures)[:, None]
        columns = ((beside + offset) % width).expand(*extended.shape[:2], -1, -1)
        lines = lines + weights * extended.gather(3, columns)
    count = max(1, round(height * ROW))
    place = (torch.arange(count, device=pictures.device) + 0.5) * (height / count) - 0.5 + 2  # among the extended rows
    first, between = place.floor().long(), (place - place.floor()).to(pictures)
    mix = pictures.new_zeros(count, len(rows))
    for offset, share in zip((-1, 0, 1, 2), _cubic(between), strict=True):
        mix[torch.arange(count, device=mix.device), first + offset] += share
    return mix @ lines


def _cubic(t: Tensor) -> Tensor:
    """Weights of four numbers for a place between the second and the third, 0 to 1. [...] -> [4, ...]"""
    return torch.stack(
        [
            -t / 2 + t**2 - t**3 / 2,
            1 - 2.5 * t**2 + 1.5 * t**3,
            t / 2 + 2 * t**2 - 1.5 * t**3,
            -(t**2) / 2 + t**3 / 2,
        ]
    )
