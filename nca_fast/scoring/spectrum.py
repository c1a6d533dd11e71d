"""What the power spectrum of a picture says, a picture that has nothing but the right one, and seams."""

import math

import torch
from torch import Tensor

from nca_fast.scoring.wavelets import opponent

_RINGS, _SECTORS = 12, 6


def phase_randomised(rgb: Tensor, seed: int) -> Tensor:
    """Makes a picture of the same spectrum, the same colours and nothing else: all phases moved at random.

    The phases of the three colours move alike, so that they stay correlated. A picture is no torus; the jump at its
    border, which would be a cross in the spectrum, is taken away before.

    Args:
        rgb: [3, H, W] in [0, 1].
        seed: Fixes the phases.

    Returns:
        [3, H, W], clipped to [0, 1], a torus.

    Source: Galerne, Gousseau and Morel, Random phase textures, 2011; the border: Moisan, Periodic plus smooth image
    decomposition, 2011.
    """
    noise = torch.randn(rgb.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    spectrum = torch.fft.fft2(periodic(rgb.double()))
    turn = torch.fft.fft2(noise)
    turn = turn / turn.abs().clamp(min=1e-12)
    turn[0, 0] = 1  # the mean colour stays
    return torch.fft.ifft2(spectrum * turn).real.clamp(0, 1).to(rgb.dtype)


def periodic(rgb: Tensor) -> Tensor:
    """Takes from a picture [..., H, W] the smooth part that explains the jumps at its border; the mean stays."""
    height, width = rgb.shape[-2:]
    jumps = torch.zeros_like(rgb)
    across, along = rgb[..., -1, :] - rgb[..., 0, :], rgb[..., :, -1] - rgb[..., :, 0]
    jumps[..., 0, :] += across
    jumps[..., -1, :] -= across
    jumps[..., :, 0] += along
    jumps[..., :, -1] -= along
    rows = torch.cos(torch.arange(height).to(rgb) * (2 * math.pi / height))[:, None]
    columns = torch.cos(torch.arange(width).to(rgb) * (2 * math.pi / width))[None]
    laplacian = 2 * rows + 2 * columns - 4
    laplacian[0, 0] = 1
    smooth = torch.fft.fft2(jumps) / laplacian
    smooth[..., 0, 0] = 0
    return rgb - torch.fft.ifft2(smooth).real


def spectrum(rgb: Tensor) -> Tensor:
    """The power of luminance and colours over octaves' thirds and directions, in decibel. [3, H, W] -> [3, bins]

    0 is a noise of one grey level, and whatever is less; bins without a frequency, as small pictures have, hold it too.
    """
    power = torch.fft.fft2(opponent(periodic(rgb.double()))).abs().square() / rgb[0].numel() ** 2
    height, width = rgb.shape[1:]
    rows, columns = torch.fft.fftfreq(height)[:, None].double(), torch.fft.fftfreq(width)[None].double()
    radius = torch.hypot(rows, columns)
    ring = ((torch.log2(radius.clamp(min=1e-9) / 0.5) + _RINGS / 3) * 3).floor()
    sector = ((torch.atan2(rows, columns.expand_as(rows + columns)) % math.pi) / math.pi * _SECTORS).floor()
    index = (ring.clamp(max=_RINGS - 1) * _SECTORS + sector.clamp(max=_SECTORS - 1)).long()
    index = torch.where((ring >= 0) & (radius > 0), index, _RINGS * _SECTORS).flatten()
    sums = torch.zeros(3, _RINGS * _SECTORS + 1, dtype=torch.float64).index_add_(1, index, power.flatten(1))
    counts = torch.bincount(index, minlength=_RINGS * _SECTORS + 1).clamp(min=1)
    floor = 1 / 255**2
    return (10 * torch.log10((sums / counts * rgb[0].numel()).clamp(min=floor) / floor))[:, :-1]


def autocorrelation(rgb: Tensor) -> Tensor:
    """How much the luminance of a picture resembles itself after a shift by up to a quarter of its sides; 1 at none.

    [3, H, W] -> [2 * (H // 4) + 1, W // 4 + 1]
    """
    grey = periodic(rgb.double().mean(0))
    grey = grey - grey.mean()
    found = torch.fft.ifft2(torch.fft.fft2(grey).abs().square()).real
    found = found / found[0, 0].clamp(min=1e-12)
    height, width = found.shape
    return found.roll(height // 4, 0)[: 2 * (height // 4) + 1, : width // 4 + 1]


def seam(rgb: Tensor) -> float:
    """How far the step from the last row or column to the first stands out; 0 on a torus.

    Args:
        rgb: [3, H, W] in [0, 1].

    Returns:
        (step at the border / 95th hundredth of the steps between neighbouring lines inside) - 1 of the worse direction,
        at least 0; a step is the mean absolute difference of two lines.
    """
    found = 0.0
    for picture in (rgb, rgb.transpose(1, 2)):
        inside = (picture[:, 1:] - picture[:, :-1]).abs().mean((0, 2))
        across = (picture[:, 0] - picture[:, -1]).abs().mean()
        found = max(found, float(across / torch.quantile(inside, 0.95).clamp(min=1 / 255)) - 1)
    return found
