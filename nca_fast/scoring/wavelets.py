"""Oriented waves at several scales and how they go together: what textures are told apart by, and no training uses."""

import math

import torch
from torch import Tensor

ORIENTATIONS = 4
# Luminance and two differences of colours, of unit length: red, green and blue as rows.
OPPONENT = torch.tensor([[1, 1, 1], [1, 0, -1], [-1, 2, -1]]) / torch.tensor([3, 2, 6]).sqrt()[:, None]
# Amplitudes that are hardly seen within a texture: of luminance's waves, and of colours', which eyes resolve worse.
_LEVELS = torch.tensor([4, 8, 8])[:, None, None, None] / 255
COLOUR_UNIT = 0.2  # of smoothed colours
_MARGIN = 2  # positions at each edge of a map that see across it


def opponent(rgb: Tensor) -> Tensor:
    """Turns red, green and blue into luminance and two differences of colours. [3, H, W] -> [3, H, W]"""
    return torch.tensordot(OPPONENT.to(rgb), rgb, 1)


def wavelet_maps(rgb: Tensor, scales: int) -> list[Tensor]:
    """Computes what oriented band-pass filters see in a picture, at scales an octave apart, each response bounded.

    At every scale the filters are `ORIENTATIONS` complex waves w, of an octave and 180 / ORIENTATIONS degrees. A map
    has the logarithms of their magnitudes, log(1 + |w| / e) with e what is hardly seen, for each of three colours, and
    for the luminance those at the next coarser scale; how its phases go with the doubled ones there (steps, lines and
    neither differ in that, and a picture of nothing but the right spectrum has none of it); and the smoothed colours.
    Their means and covariances are much what Portilla and Simoncelli's statistics are, but grow with the logarithm of a
    contrast. Positions near an edge, which see what is not there, are left out.

    Args:
        rgb: [3, H, W] in [0, 1], each side at least 2**(scales + 3).
        scales: Number of maps.

    Returns:
        For each scale s from the finest, [C, H', W'] with H' = ceil(H / 2**s) - 2 * margin, C = 3 * K + K + 2 * K + 3.

    Source: Portilla and Simoncelli, A parametric texture model based on joint statistics of complex wavelet
    coefficients, 2000. Logarithms in place of contrasts are ours.
    """
    colours = opponent(rgb)
    bands = [_bands(colours, scale) for scale in range(scales + 1)]
    maps = []
    for scale in range(scales):
        wave, low = bands[scale]
        fine, coarse = wave[0], bands[scale + 1][0][0]
        turned = _phase(coarse)
        together = _phase(fine) * (turned * turned).conj()
        parts = [
            _logarithm(wave).flatten(0, 1),
            _logarithm(coarse[None])[0],
            together.real,
            together.imag,
            low / COLOUR_UNIT,
        ]
        step = 2**scale
        found = torch.cat(parts)[:, ::step, ::step]
        maps.append(found[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN].contiguous())
    return maps


def _logarithm(wave: Tensor) -> Tensor:
    return torch.log1p(wave.abs() / _LEVELS[: len(wave)].to(wave.real))


def _phase(wave: Tensor) -> Tensor:
    """Waves of length 1, or less where there is hardly one."""
    return wave / (wave.abs() + float(_LEVELS[0]))


def _bands(colours: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    """The complex waves [3, ORIENTATIONS, H, W] of one scale, and the colours smoothed to it [3, H, W]."""
    height, width = colours.shape[1:]
    rows, columns = torch.fft.fftfreq(height)[:, None].to(colours), torch.fft.fftfreq(width)[None].to(colours)
    radius = torch.hypot(rows, columns).clamp(min=1e-9)
    octave = torch.log2(radius * 2 ** (scale + 1) / 0.7)  # 0 at the middle of the band
    radial = torch.where(octave.abs() < 1, torch.cos(octave * (math.pi / 2)), 0)
    direction = torch.atan2(rows.expand_as(radius), columns.expand_as(radius))
    angles = torch.arange(ORIENTATIONS).to(colours) * (math.pi / ORIENTATIONS)
    off = (direction - angles[:, None, None] + math.pi) % (2 * math.pi) - math.pi
    # Half of the plane of frequencies only: the wave becomes complex, its magnitude that of the envelope.
    angular = torch.where(off.abs() < math.pi / 2, off.cos().clamp(min=0) ** (ORIENTATIONS - 1), 0)
    spectrum = torch.fft.fft2(colours)
    wave = torch.fft.ifft2(spectrum[:, None] * (radial * angular))
    smooth = torch.exp(-0.5 * (radius * 2 ** (scale + 1) / 0.35) ** 2)
    return wave, torch.fft.ifft2(spectrum * smooth).real
