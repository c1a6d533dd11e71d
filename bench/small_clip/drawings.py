"""Draws the compositions of `captioned_patterns`; what the words leave open (exact colours, angles) is random."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.small_clip.captions import COLOURS, Composition

SIZE = 64
TAU = 2 * math.pi


def render(compositions: Sequence[Composition], generator: torch.Generator, size: int = SIZE) -> Tensor:
    """Draws compositions. [N, 3, size, size] in [0, 1]"""
    groups = defaultdict(list)
    for index, what in enumerate(compositions):
        groups[what.kind].append(index)
    pictures = torch.empty(len(compositions), 3, size, size)
    for name, indices in groups.items():
        batch = _Batch([compositions[i] for i in indices], generator, size)
        pictures[indices] = DRAWERS[name](batch)
    return pictures


class _Batch:
    """Compositions of one kind, and the random numbers and coordinates to draw them with; all [N, ...]."""

    def __init__(self, compositions: Sequence[Composition], generator: torch.Generator, size: int):
        self.compositions, self.generator, self.size = compositions, generator, size
        axis = torch.arange(size) + 0.5 - size / 2
        self.y, self.x = axis[None, :, None], axis[None, None, :]
        self.count = len(compositions)

    def uniform(self, low: float, high: float) -> Tensor:
        """[N, 1, 1]"""
        return torch.rand(self.count, 1, 1, generator=self.generator) * (high - low) + low

    def noise(self) -> Tensor:
        """[N, size, size]"""
        return torch.randn(self.count, self.size, self.size, generator=self.generator)

    def between(self, attribute: str, ranges: dict[str | None, tuple[float, float]]) -> Tensor:
        """A random number in the range that the attribute of each composition names. [N, 1, 1]"""
        bounds = torch.tensor([ranges[getattr(what, attribute)] for what in self.compositions])
        low, high = bounds[:, :1, None], bounds[:, 1:, None]
        return low + (high - low) * torch.rand(self.count, 1, 1, generator=self.generator)

    def colour(self, attribute: str) -> Tensor:
        """[N, 3, 1, 1]"""
        names = [getattr(what, attribute) for what in self.compositions]
        bounds = torch.tensor([COLOURS[name] for name in names], dtype=torch.float32)
        hsv = bounds[..., 0] + (bounds[..., 1] - bounds[..., 0]) * torch.rand(self.count, 3, generator=self.generator)
        hue, saturation, value = hsv[:, :1] / 60, hsv[:, 1:2], hsv[:, 2:]
        k = (torch.tensor([[5.0, 3.0, 1.0]]) + hue) % 6
        return (value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1))[:, :, None, None]

    def rotated(self, spread: float = 8.0) -> tuple[Tensor, Tensor]:
        """Coordinates along and across the orientation (a random quarter where there is none), `spread` degrees off."""
        degrees = []
        for what in self.compositions:
            sign = 1 if torch.rand((), generator=self.generator) < 0.5 else -1
            degrees.append({"horizontal": 0, "vertical": 90, "diagonal": 45 * sign}.get(what.orientation, 0))
        angle = torch.tensor(degrees)[:, None, None] * (TAU / 360) + self.uniform(-spread, spread) * (TAU / 360)
        cos, sin = angle.cos(), angle.sin()
        return self.x * cos + self.y * sin, self.y * cos - self.x * sin

    def painted(self, front: Tensor) -> Tensor:
        """Front colour where `front` [N, size, size] is 1, back colour where it is 0."""
        front = front[:, None].clamp(0, 1)
        back = self.colour("back")
        return back + (self.colour("front") - back) * front

    def bandpass(self, period: Tensor, width: float = 0.25, angle: Tensor | None = None) -> Tensor:
        """Noise of that period in pixels, unit variance; with an angle its waves run in that direction."""
        rows = torch.fft.fftfreq(self.size)[:, None]
        columns = torch.fft.rfftfreq(self.size)[None]
        frequency = torch.hypot(rows, columns)
        window = torch.exp(-0.5 * ((frequency * period - 1) / width) ** 2)
        if angle is not None:
            direction = torch.atan2(rows.expand_as(frequency), columns.expand_as(frequency))
            window = window * torch.exp(3 * (torch.cos(2 * (direction - angle)) - 1))
        field = torch.fft.irfft2(torch.fft.rfft2(self.noise()) * window, s=(self.size, self.size))
        return field / field.std(dim=(1, 2), keepdim=True).clamp(min=1e-6)


THIN = {"thin": (4.5, 7.5), "thick": (15.0, 24.0), None: (8.5, 13.5)}


def _edge(signed: Tensor, sharpness: Tensor | float = 1.0) -> Tensor:
    """1 inside, 0 outside of a boundary at signed distance 0 (in pixels), with an edge of about a pixel."""
    return (signed * sharpness + 0.5).clamp(0, 1)


def _bars(across: Tensor, period: Tensor, batch: _Batch, duty: Tensor | None = None) -> Tensor:
    """Alternation along `across`, of that period; sharp or soft."""
    duty = batch.uniform(0.4, 0.6) if duty is None else duty
    phase = (across / period + batch.uniform(0, 1)) % 1.0
    distance = torch.minimum(phase, duty - phase).maximum(phase - 1) * period  # the second bar's edge wraps around
    return _edge(distance, batch.uniform(0.35, 1.2))


def _plain(batch: _Batch) -> Tensor:
    shade = 1 + 0.08 * batch.bandpass(batch.uniform(10, 40), 0.8)[:, None] * batch.uniform(0, 1)[:, None]
    return batch.colour("front") * shade


def _stripes(batch: _Batch) -> Tensor:
    _, across = batch.rotated()
    return batch.painted(_bars(across, batch.between("scale", THIN), batch))


def _waves(batch: _Batch) -> Tensor:
    along, across = batch.rotated()
    period = batch.between("scale", THIN)
    length = period * batch.uniform(1.6, 2.6) + 6
    across = across + length * batch.uniform(0.12, 0.2) * torch.sin(TAU * (along / length + batch.uniform(0, 1)))
    return batch.painted(_bars(across, period, batch))


def _zigzags(batch: _Batch) -> Tensor:
    along, across = batch.rotated()
    period = batch.between("scale", THIN)
    length = period * batch.uniform(1.3, 2.2) + 5
    triangle = ((along / length + batch.uniform(0, 1)) % 1.0 - 0.5).abs()
    return batch.painted(_bars(across + length * batch.uniform(0.7, 1.1) * triangle, period, batch))


def _checks(batch: _Batch) -> Tensor:
    along, across = batch.rotated()
    period = 2 * batch.between("scale", {"small": (3.5, 6.0), "large": (11.0, 18.0), None: (6.5, 10.0)})
    half = torch.full((batch.count, 1, 1), 0.5)
    a, b = _bars(along, period, batch, half), _bars(across, period, batch, half)
    return batch.painted(a + b - 2 * a * b)


def _grid(batch: _Batch) -> Tensor:
    along, across = batch.rotated()
    period = batch.between("scale", {"small": (6.0, 9.0), "large": (17.0, 28.0), None: (10.0, 15.0)})
    duty = batch.uniform(0.16, 0.3)
    return batch.painted(torch.maximum(_bars(along, period, batch, duty), _bars(across, period, batch, duty)))


def _honeycomb(batch: _Batch) -> Tensor:
    along, across = batch.rotated()
    period = batch.between("scale", {"small": (8.0, 11.0), "large": (19.0, 30.0), None: (12.0, 17.0)})
    root3 = math.sqrt(3)
    along, across = along / period + batch.uniform(0, 1), across / period + batch.uniform(0, 1)

    def inside(shift: float) -> Tensor:
        u = (along + shift) % 1.0 - 0.5
        v = (across + shift * root3) % root3 - root3 / 2
        return torch.maximum(u.abs(), u.abs() / 2 + v.abs() * (root3 / 2))

    edge = 0.5 - torch.minimum(inside(0.0), inside(0.5))  # distance to the border of the hexagon, in periods
    return batch.painted(_edge((batch.uniform(0.07, 0.13) - edge) * period))


def _lattice(batch: _Batch, spacing: Tensor) -> Tensor:
    """Distance in pixels to the nearest point of a square or shifted lattice, slightly disturbed."""
    along, across = batch.rotated(spread=45.0)
    row = torch.floor(across / spacing)
    along = along + spacing * 0.5 * (row % 2) * (batch.uniform(0, 1) > 0.5) + spacing * batch.uniform(0, 1)
    u = (along / spacing) % 1.0 - 0.5
    v = (across / spacing) % 1.0 - 0.5
    return torch.hypot(u, v) * spacing


SPACING = {"dense": (2.3, 2.7), "sparse": (4.2, 5.6), None: (2.9, 3.7)}


def _dots(batch: _Batch) -> Tensor:
    radius = batch.between("scale", {"small": (1.8, 2.9), "large": (6.0, 9.5), None: (3.4, 5.0)})
    distance = _lattice(batch, radius * batch.between("density", SPACING))
    return batch.painted(_edge(radius - distance, batch.uniform(0.4, 1.2)))


def _rings(batch: _Batch) -> Tensor:
    radius = batch.between("scale", {"small": (3.5, 5.0), "large": (9.0, 13.0), None: (5.7, 8.0)})
    distance = _lattice(batch, radius * batch.between("density", SPACING))
    width = radius * batch.uniform(0.3, 0.45)
    return batch.painted(_edge(width / 2 - (distance - radius + width / 2).abs(), batch.uniform(0.5, 1.2)))


def _target(batch: _Batch) -> Tensor:
    distance = torch.hypot(batch.x - batch.uniform(-18, 18), batch.y - batch.uniform(-18, 18))
    return batch.painted(_bars(distance, batch.between("scale", THIN), batch))


def _spots(batch: _Batch) -> Tensor:
    period = batch.between("scale", {"small": (7.0, 10.0), "large": (20.0, 30.0), None: (12.0, 17.0)})
    field = batch.bandpass(period)
    threshold = batch.between("density", {"dense": (0.35, 0.5), "sparse": (1.2, 1.5), None: (0.65, 1.0)})
    return batch.painted(_edge((field - threshold) * period / 6, batch.uniform(0.5, 1.2)))


def _maze(batch: _Batch) -> Tensor:
    period = batch.between("scale", THIN)
    return batch.painted(_edge(batch.bandpass(period, 0.15) * period / 6, batch.uniform(0.6, 1.2)))


def _zebra(batch: _Batch) -> Tensor:
    period = batch.between("scale", THIN)
    field = batch.bandpass(period, 0.2, batch.uniform(-math.pi / 2, math.pi / 2))
    return batch.painted(_edge((field + batch.uniform(-0.2, 0.2)) * period / 6, batch.uniform(0.6, 1.2)))


def _leopard(batch: _Batch) -> Tensor:
    """Broken dark rings around a darker middle."""
    period = batch.between("scale", {"small": (9.0, 12.0), "large": (21.0, 30.0), None: (13.0, 19.0)})
    field = batch.bandpass(period, 0.2)
    ring = _edge((0.45 - (field - 0.75).abs()) * period / 5)
    gap = _edge(batch.bandpass(period * 0.5, 0.3) + 1.1)
    ring = (ring * gap)[:, None]
    middle = _edge((field - 0.75) * period / 5)[:, None]
    back = batch.colour("back")
    coat = back * (1 - 0.3 * middle)
    return coat + (batch.colour("front") - coat) * ring


def _bricks(batch: _Batch) -> Tensor:
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
    stone = _edge(edge - mortar)
    shade = torch.sin(row * 12.9898 + torch.floor(right) * 78.233 + batch.uniform(0, TAU))
    back = batch.colour("back")
    front = batch.colour("front") * (1 + batch.uniform(0.03, 0.18)[:, None] * shade[:, None])
    return back + (front - back) * stone[:, None]


def _clouds(batch: _Batch) -> Tensor:
    field = batch.bandpass(batch.uniform(22, 60), 0.9) + 0.35 * batch.bandpass(batch.uniform(8, 16), 0.6)
    return batch.painted(0.5 + 0.4 * field)


def _noise(batch: _Batch) -> Tensor:
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


DRAWERS: dict[str, Callable[[_Batch], Tensor]] = {
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
}
