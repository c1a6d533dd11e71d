"""Draws the compositions of `captions`; what the words leave open (exact colours, angles) is random."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.small_clip.batch import SIZE, TAU, Batch, bars, within
from bench.small_clip.captions import Composition
from bench.small_clip.shapes import SHAPE_DRAWERS
from bench.small_clip.surfaces import SURFACE_DRAWERS


def render(compositions: Sequence[Composition], generator: torch.Generator, size: int = SIZE) -> Tensor:
    """Draws compositions. [N, 3, size, size] in [0, 1]"""
    groups = defaultdict(list)
    for index, what in enumerate(compositions):
        groups[what.kind].append(index)
    pictures = torch.empty(len(compositions), 3, size, size)
    for name, indices in groups.items():
        batch = Batch([compositions[i] for i in indices], generator, size)
        pictures[indices] = DRAWERS[name](batch)
    return pictures


THIN = {"thin": (4.5, 7.5), "thick": (15.0, 24.0), None: (8.5, 13.5)}


def _plain(batch: Batch) -> Tensor:
    shade = 1 + 0.08 * batch.bandpass(batch.uniform(10, 40), 0.8)[:, None] * batch.uniform(0, 1)[:, None]
    return batch.colour("front") * shade


def _stripes(batch: Batch) -> Tensor:
    _, across = batch.rotated()
    return batch.painted(bars(across, batch.between("scale", THIN), batch))


def _waves(batch: Batch) -> Tensor:
    along, across = batch.rotated()
    period = batch.between("scale", THIN)
    length = period * batch.uniform(1.6, 2.6) + 6
    across = across + length * batch.uniform(0.12, 0.2) * torch.sin(TAU * (along / length + batch.uniform(0, 1)))
    return batch.painted(bars(across, period, batch))


def _zigzags(batch: Batch) -> Tensor:
    along, across = batch.rotated()
    period = batch.between("scale", THIN)
    length = period * batch.uniform(1.3, 2.2) + 5
    triangle = ((along / length + batch.uniform(0, 1)) % 1.0 - 0.5).abs()
    return batch.painted(bars(across + length * batch.uniform(0.7, 1.1) * triangle, period, batch))


def _checks(batch: Batch) -> Tensor:
    along, across = batch.rotated()
    period = 2 * batch.between("scale", {"small": (3.5, 6.0), "large": (11.0, 18.0), None: (6.5, 10.0)})
    half = torch.full((batch.count, 1, 1), 0.5)
    a, b = bars(along, period, batch, half), bars(across, period, batch, half)
    return batch.painted(a + b - 2 * a * b)


def _grid(batch: Batch) -> Tensor:
    along, across = batch.rotated()
    period = batch.between("scale", {"small": (6.0, 9.0), "large": (17.0, 28.0), None: (10.0, 15.0)})
    duty = batch.uniform(0.16, 0.3)
    return batch.painted(torch.maximum(bars(along, period, batch, duty), bars(across, period, batch, duty)))


def _honeycomb(batch: Batch) -> Tensor:
    along, across = batch.rotated()
    period = batch.between("scale", {"small": (8.0, 11.0), "large": (19.0, 30.0), None: (12.0, 17.0)})
    root3 = math.sqrt(3)
    along, across = along / period + batch.uniform(0, 1), across / period + batch.uniform(0, 1)

    def inside(shift: float) -> Tensor:
        u = (along + shift) % 1.0 - 0.5
        v = (across + shift * root3) % root3 - root3 / 2
        return torch.maximum(u.abs(), u.abs() / 2 + v.abs() * (root3 / 2))

    edge = 0.5 - torch.minimum(inside(0.0), inside(0.5))  # distance to the border of the hexagon, in periods
    return batch.painted(within((batch.uniform(0.07, 0.13) - edge) * period))


def _lattice(batch: Batch, spacing: Tensor) -> Tensor:
    """Distance in pixels to the nearest point of a square or shifted lattice, slightly disturbed."""
    along, across = batch.rotated(spread=45.0)
    row = torch.floor(across / spacing)
    along = along + spacing * 0.5 * (row % 2) * (batch.uniform(0, 1) > 0.5) + spacing * batch.uniform(0, 1)
    u = (along / spacing) % 1.0 - 0.5
    v = (across / spacing) % 1.0 - 0.5
    return torch.hypot(u, v) * spacing


SPACING = {"dense": (2.3, 2.7), "sparse": (4.2, 5.6), None: (2.9, 3.7)}


def _dots(batch: Batch) -> Tensor:
    radius = batch.between("scale", {"small": (1.8, 2.9), "large": (6.0, 9.5), None: (3.4, 5.0)})
    distance = _lattice(batch, radius * batch.between("density", SPACING))
    return batch.painted(within(radius - distance, batch.uniform(0.4, 1.2)))


def _rings(batch: Batch) -> Tensor:
    radius = batch.between("scale", {"small": (3.5, 5.0), "large": (9.0, 13.0), None: (5.7, 8.0)})
    distance = _lattice(batch, radius * batch.between("density", SPACING))
    width = radius * batch.uniform(0.3, 0.45)
    return batch.painted(within(width / 2 - (distance - radius + width / 2).abs(), batch.uniform(0.5, 1.2)))


def _target(batch: Batch) -> Tensor:
    distance = torch.hypot(batch.x - batch.uniform(-18, 18), batch.y - batch.uniform(-18, 18))
    return batch.painted(bars(distance, batch.between("scale", THIN), batch))


def _spots(batch: Batch) -> Tensor:
    period = batch.between("scale", {"small": (7.0, 10.0), "large": (20.0, 30.0), None: (12.0, 17.0)})
    field = batch.bandpass(period)
    threshold = batch.between("density", {"dense": (0.35, 0.5), "sparse": (1.2, 1.5), None: (0.65, 1.0)})
    return batch.painted(within((field - threshold) * period / 6, batch.uniform(0.5, 1.2)))


def _maze(batch: Batch) -> Tensor:
    period = batch.between("scale", THIN)
    return batch.painted(within(batch.bandpass(period, 0.15) * period / 6, batch.uniform(0.6, 1.2)))


def _zebra(batch: Batch) -> Tensor:
    period = batch.between("scale", THIN)
    field = batch.bandpass(period, 0.2, batch.uniform(-math.pi / 2, math.pi / 2))
    return batch.painted(within((field + batch.uniform(-0.2, 0.2)) * period / 6, batch.uniform(0.6, 1.2)))


def _leopard(batch: Batch) -> Tensor:
    """Broken dark rings around a darker middle."""
    period = batch.between("scale", {"small": (9.0, 12.0), "large": (21.0, 30.0), None: (13.0, 19.0)})
    field = batch.bandpass(period, 0.2)
    ring = within((0.45 - (field - 0.75).abs()) * period / 5)
    gap = within(batch.bandpass(period * 0.5, 0.3) + 1.1)
    ring = (ring * gap)[:, None]
    middle = within((field - 0.75) * period / 5)[:, None]
    back = batch.colour("back")
    coat = back * (1 - 0.3 * middle)
    return coat + (batch.colour("front") - coat) * ring


def _bricks(batch: Batch) -> Tensor:
    """Rows of bricks of the front colour, each a little different, in mortar of the back colour."""
    height = batch.between("scale", {"small": (5.5, 7.5), "large": (13.0, 19.0), None: (8.0, 12.0)})
    _, turned = batch.rotated(spread=2.0)
    along, _ = batch.rotated(spread=2.0)
    length = height * batch.uniform(1.9, 2.6)
    down = turned / height + batch.uniform(0, 1)
    row = torch.floor(down)
    right = along / length + 0.5 * (row % 2) + batch.uniform(0, 1)
    u, v = right % 1.0, down % 1.0
    edge = torch.minimum(torch.minimum(u, 1 - u) * length, torch.minimum(v, 1 - v) * height)
    mortar = height * batch.uniform(0.07, 0.13)
    stone = within(edge - mortar)
    shade = torch.sin(row * 12.9898 + torch.floor(right) * 78.233 + batch.uniform(0, TAU))
    back = batch.colour("back")
    front = batch.colour("front") * (1 + batch.uniform(0.03, 0.18)[:, None] * shade[:, None])
    return back + (front - back) * stone[:, None]


def _clouds(batch: Batch) -> Tensor:
    field = batch.bandpass(batch.uniform(22, 60), 0.9) + 0.35 * batch.bandpass(batch.uniform(8, 16), 0.6)
    return batch.painted(0.5 + 0.4 * field)


def _noise(batch: Batch) -> Tensor:
    """Everything that is no pattern: noise of pixels or of small grains, grey or coloured, strong or weak."""
    shape = (batch.count, 3, batch.size, batch.size)
    colour = torch.rand(batch.count, 3, 1, 1, generator=batch.generator)
    grains = torch.randn(shape, generator=batch.generator)
    rough = torch.rand(shape, generator=batch.generator).round() * 2 - 1
    soft = torch.nn.functional.avg_pool2d(grains, 3, 1, 1, count_include_pad=False) * 2.5
    choice = torch.randint(0, 3, (batch.count, 1, 1, 1), generator=batch.generator)
    field = torch.where(choice == 0, grains, torch.where(choice == 1, rough, soft))
    grey = torch.rand(batch.count, 1, 1, 1, generator=batch.generator) < 0.3
    field = torch.where(grey, field[:, :1], field)
    return colour + field * batch.uniform(0.2, 0.6)[:, None]


DRAWERS: dict[str, Callable[[Batch], Tensor]] = {
    "plain": _plain,
    "stripes": _stripes,
    "waves": _waves,
    "zigzags": _zigzags,
    "checks": _checks,
    "grid": _grid,
    "honeycomb": _honeycomb,
    "dots": _dots,
    "rings": _rings,
    "target": _target,
    "spots": _spots,
    "maze": _maze,
    "zebra": _zebra,
    "leopard": _leopard,
    "bricks": _bricks,
    "clouds": _clouds,
    "noise": _noise,
    **SURFACE_DRAWERS,
    **SHAPE_DRAWERS,
}
