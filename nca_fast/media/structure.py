"""How large the things in a picture are, found from how it resembles itself after a shift; whether it has any."""

import torch
from torch import Tensor
from torch.nn import functional as F

_LARGEST = 512  # pixels on the longer side that are looked at; larger pictures are shrunk for it
_DEEP = 0.005  # of the variance: so far below what follows a minimum must lie, to be one (stochastic ones: 0.0065)
_FLAT = 1 / 255  # rms: a JPEG of one colour has less
_GREY = 0.5 / 255  # rms: where colours differ by less, nobody sees any


def is_flat(picture: Tensor) -> bool:
    """Says whether a picture [C, h, w] in [0, 1] has a single colour, as far as anybody could see."""
    return float(picture.std((1, 2), correction=0).max()) < _FLAT


def is_grey(picture: Tensor) -> bool:
    """Says whether a picture [3, h, w] in [0, 1] has no colours that anybody could see."""
    return float((picture - picture.mean(0)).square().mean()) < _GREY * _GREY


def period(picture: Tensor) -> float | None:
    """Finds how far apart the things in a picture repeat, in pixels: from one brick's course, dot or grain to the next.

    That is twice the distance at which the autocorrelation, averaged over all directions, has its first minimum: where
    one lies on what is between two of them.

    Args:
        picture: [3, H, W] in [0, 1].

    Returns:
        None where there is no minimum within half of the shorter side: one thing fills the picture, or it is flat.
    """
    shrink = max(1.0, max(picture.shape[1:]) / _LARGEST)
    if shrink > 1:
        size = [max(1, round(side / shrink)) for side in picture.shape[1:]]
        picture = F.interpolate(picture[None], size, mode="bilinear", antialias=True)[0]
    found = _autocorrelation(picture)
    for distance in range(2, len(found)):
        around = max(2, distance // 3)
        lowest = found[distance] <= found[max(0, distance - around) : distance + around + 1].min()
        if lowest and found[distance : 2 * distance + 1].max() - found[distance] > _DEEP:
            return 2 * distance * shrink
    return None


def _autocorrelation(picture: Tensor) -> Tensor:
    """The mean autocorrelation at every distance up to half of the shorter side, 1 at 0; flat pictures have zeros."""
    height, width = picture.shape[1:]
    varying = picture.double() - picture.double().mean((1, 2), keepdim=True)
    size = (2 * height, 2 * width)  # zeros around it, so that nothing meets what is at the other edge
    power = torch.fft.rfft2(varying, s=size).abs().square().sum(0)
    products = torch.fft.irfft2(power, s=size)
    down = torch.fft.fftfreq(2 * height, 1 / (2 * height))[:, None].abs()
    across = torch.fft.fftfreq(2 * width, 1 / (2 * width))[None].abs()
    products = products / ((height - down).clamp(min=1) * (width - across).clamp(min=1))
    distance, reach = torch.hypot(down, across).round().long(), min(height, width) // 2
    near = distance <= reach
    sums = torch.zeros(reach + 1, dtype=torch.float64).index_add_(0, distance[near], products[near])
    means = sums / torch.bincount(distance[near], minlength=reach + 1)
    return means / means[0] if means[0] > 1e-9 else torch.zeros_like(means)
