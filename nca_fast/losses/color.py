"""The colours of a style picture: how far those of others are from them, and the map that brings others near them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nca_fast.devices import moved

_SPAN = 3.0  # log ratios beyond this land in no bin; exp(3) = 20
_DARKEST = 1e-6  # keeps ratios of black pixels finite
# A distance of 0 has no slope to divide by; below this the root is flat.
_FLOOR = 1e-12
_GREY = 1e-4  # variance that every colour has in `color_map`, in units of 1; grey pictures have none off their line


class ColorHistogram(nn.Module):
    """The Hellinger distance between RGB-uv histograms.

        for each colour c of r, g, b, with the other two in the order r, g, b:
            u = log(c / first other),  v = log(c / second other)
            H_c(i, j) = sum over pixels of sqrt(r^2 + g^2 + b^2) k(u - i) k(v - j),   k(d) = 1 / (1 + (d / sigma)^2)
        all three divided by their sum;    D = sqrt(sum (sqrt H - sqrt H_target)^2 / 2), from 0 to 1
        loss = pixels * sum over samples of D

    with i, j on an even grid of [-3, 3]. Ratios know hue and saturation but not brightness, which only weighs them.

    Args:
        target: rgb [1, 3, H, W] in [0, 1], the style picture.
        bins: i and j take so many values. At least 2.
        sigma: width of the kernel; about the distance of two bins (6 / (bins - 1)) or more, or a small step of a colour
            goes unnoticed.
        positions: at most so many pixels of a picture take part, on a square lattice that is drawn anew at each call.

    Raises:
        ValueError: a target of another shape, or numbers out of range.

    Source: Afifi, Brubaker and Brown, HistoGAN, 2021; as used by Petersen, Neural Cellular Automata Image Manipulation,
    2022, with 256 bins and sigma 0.02 on pictures shrunk to 64 x 64. Departures: a sum over samples where Petersen has
    a root over the batch, a lattice of pixels where both shrink (a mean of two colours is a third), and the factor
    `pixels`, for the balance with the losses in `style`.
    """

    def __init__(self, target: Tensor, bins: int = 32, sigma: float = 0.2, positions: int = 16384):
        super().__init__()
        if target.ndim != 4 or target.shape[:2] != (1, 3) or target.numel() == 0 or not target.is_floating_point():
            raise ValueError(f"target must be float [1, 3, H, W], but got {target.dtype} {tuple(target.shape)}.")
        if bins < 2 or not 0 < sigma < math.inf or positions < 1:
            raise ValueError(
                f"bins must be at least 2, sigma positive and positions at least 1, but got {bins}, {sigma}, "
                f"{positions}."
            )
        self.sigma, self.positions = sigma, positions
        grid = torch.linspace(-_SPAN, _SPAN, bins, dtype=torch.float64)
        self.register_buffer("grid", grid.to(target), persistent=False)
        with torch.no_grad():
            root = self._histogram(target.detach().flatten(2)).sqrt()
        self.register_buffer("target_root", root, persistent=False)

    def draw(self, generator: torch.Generator | None, height: int, width: int) -> list[Tensor]:
        """Draws the rows and the columns of the lattice, on the CPU; nothing for pictures that need none.

        Args:
            generator: On the CPU. None: torch's own.
            height, width: Of the pictures.
        """
        stride = math.ceil(math.sqrt(height * width / self.positions))
        if stride == 1:
            return []
        first = torch.randint(stride, (2,), generator=generator).tolist()
        sides = (height, width)
        return [torch.arange(min(n, side - 1), side, stride) for n, side in zip(first, sides, strict=True)]

    def forward(
        self, rgb: Tensor, generator: torch.Generator | None = None, drawn: Sequence[Tensor] | None = None
    ) -> Tensor:
        """The distance of pictures to the target.

        Args:
            rgb: [B, 3, H, W]; values outside [0, 1] count as the nearer end, and get no gradient.
            generator: where the lattice is drawn from (a CPU generator), for pictures that need one.
            drawn: what `draw` gave, on the device of the pictures; None: it is drawn now.

        Returns:
            Scalar, summed over the batch.

        Raises:
            ValueError: another shape.
        """
        if rgb.ndim != 4 or rgb.shape[1] != 3:
            raise ValueError(f"rgb must be [B, 3, H, W], but got {tuple(rgb.shape)}.")
        cells = rgb.shape[2] * rgb.shape[3]
        if drawn is None:
            drawn = [moved(places, rgb.device) for places in self.draw(generator, *rgb.shape[2:])]
        for axis, places in zip((2, 3), drawn, strict=False):
            rgb = rgb.index_select(axis, places)
        difference = self._histogram(rgb.flatten(2)).sqrt() - self.target_root
        return cells * (difference.square().sum(dim=(1, 2, 3)) / 2 + _FLOOR).sqrt().sum()

    def _histogram(self, rgb: Tensor) -> Tensor:
        """[B, 3, N] -> [B, 3, bins, bins] with sum 1 per sample."""
        rgb = rgb.clamp(0, 1)
        intensity = (rgb.square().sum(dim=1, keepdim=True) + _DARKEST).sqrt()
        logs = (rgb + _DARKEST).log()
        red, green, blue = logs[:, 0], logs[:, 1], logs[:, 2]
        ratios = torch.stack([red - green, red - blue, green - blue], dim=1)
        # [B, 3, bins, N]: how much of every pixel each value of the grid sees.
        seen = 1 / (1 + ((ratios[:, :, None] - self.grid[:, None]) / self.sigma).square())
        # The grid is symmetric, so what log(g / r) is to a bin, log(r / g) is to the opposite one.
        red_green, red_blue, green_blue = seen.unbind(1)
        green_red, blue_red, blue_green = seen.flip(2).unbind(1)
        first = torch.stack([red_green, green_red, blue_red], dim=1)
        second = torch.stack([red_blue, green_blue, blue_green], dim=1)
        histogram = (first * intensity[:, :, None]) @ second.transpose(2, 3)
        return histogram / histogram.sum(dim=(1, 2, 3), keepdim=True)


def color_map(pixels: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The affine map that brings colours to the mean and covariance of others and moves them least.

        x -> A x + b,    A = R^-1 (R S R)^(1/2) R^-1,    R^2 the covariance of the pixels, S that of the wanted ones

    What was brighter, or redder, than other pixels stays so.

    Args:
        pixels, wanted: [3, n] and [3, m] in [0, 1].

    Returns:
        A [3, 3] and b [3], in float32 on the CPU; computed in float64.

    Source: the linear Monge-Kantorovich solution in Pitie and Kokaram, The linear Monge-Kantorovitch linear colour
    mapping for example-based colour transfer, 2007.
    """
    pixels, wanted = (colors.detach().to("cpu", torch.float64) for colors in (pixels, wanted))
    mean, goal = pixels.mean(1), wanted.mean(1)
    spread, desired = (torch.cov(colors) + _GREY * torch.eye(3, dtype=torch.float64) for colors in (pixels, wanted))
    root = _root(spread)
    inverse = torch.linalg.inv(root)
    matrix = inverse @ _root(root @ desired @ root) @ inverse
    return matrix.float(), (goal - matrix @ mean).float()


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
