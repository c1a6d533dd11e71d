"""What draws share: the random numbers, coordinates, colours and fields of a batch of compositions."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.small_clip.captions import COLOURS, Composition

SIZE = 64
TAU = 2 * math.pi


class Batch:
    """Compositions of one kind, and the random numbers and coordinates to draw them with; all [N, ...]."""

    def __init__(self, compositions: Sequence[Composition], generator: torch.Generator, size: int):
        self.compositions, self.generator, self.size = compositions, generator, size
        axis = torch.arange(size) + 0.5 - size / 2
        self.y, self.x = axis[None, :, None], axis[None, None, :]
        self.count = len(compositions)

    def alone(self, index: int) -> "Batch":
        """The batch of one of its compositions."""
        return Batch([self.compositions[index]], self.generator, self.size)

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


def within(signed: Tensor, sharpness: Tensor | float = 1.0) -> Tensor:
    """1 inside, 0 outside of a boundary at signed distance 0 (in pixels), with an edge of about a pixel."""
    return (signed * sharpness + 0.5).clamp(0, 1)


def bars(across: Tensor, period: Tensor, batch: Batch, duty: Tensor | None = None) -> Tensor:
    """Alternation along `across`, of that period; sharp or soft."""
    duty = batch.uniform(0.4, 0.6) if duty is None else duty
    phase = (across / period + batch.uniform(0, 1)) % 1.0
    distance = torch.minimum(phase, duty - phase).maximum(phase - 1) * period  # the second bar's edge wraps around
    return within(distance, batch.uniform(0.35, 1.2))


def spread_points(batch: Batch, spacing: float, jitter: float = 0.45) -> tuple[Tensor, Tensor]:
    """Points of a lattice of shifted rows, each moved at random; they cover more than the picture. [N, P] each"""
    reach = math.ceil(batch.size / 2 / spacing) + 2
    rows, columns = torch.meshgrid(torch.arange(-reach, reach + 1), torch.arange(-reach, reach + 1), indexing="ij")
    columns = columns + 0.5 * (rows % 2)
    moved = (torch.rand(2, batch.count, rows.numel(), generator=batch.generator) * 2 - 1) * jitter
    shift = torch.rand(2, batch.count, 1, generator=batch.generator)
    return (columns.reshape(1, -1) + moved[0] + shift[0]) * spacing, (
        rows.reshape(1, -1) + moved[1] + shift[1]
    ) * spacing


def nearest(batch: Batch, spacing: float, jitter: float = 0.45, kept: int = 2) -> tuple[Tensor, Tensor]:
    """Distances to the nearest of such points, and which these are. [N, kept, size, size] each"""
    x, y = spread_points(batch, spacing, jitter)
    square = (batch.x[:, None] - x[:, :, None, None]) ** 2 + (batch.y[:, None] - y[:, :, None, None]) ** 2
    values, indices = [], []
    for _ in range(kept):
        near = square.min(dim=1, keepdim=True)
        values.append(near.values)
        indices.append(near.indices)
        square.scatter_(1, near.indices, math.inf)
    return torch.cat(values, 1).sqrt(), torch.cat(indices, 1)


def shades(batch: Batch, indices: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """A random number for each point, where it is nearest. [N, size, size] -> same"""
    values = torch.rand(batch.count, int(indices.max()) + 1, generator=batch.generator) * (high - low) + low
    return values.gather(1, indices.flatten(1)).reshape(indices.shape)
