"""The smoothest surface over a part of a picture that meets the rest at its border: what gradient-domain blending adds.

Source: Perez, Gangnet and Blake, Poisson image editing, 2003: of a source that is cloned whole, its equation (4).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_ROUNDS = 200  # of conjugate gradients at each size, at most; the next smaller one has solved what is coarse
_TOLERANCE = 3e-6  # of a step between pixels, rms over the part


def membrane(values: Tensor, inside: Tensor) -> Tensor:
    """Continues numbers into a part of a picture, so that each is the mean of its four neighbours.

    Beyond the edge of the picture nothing pulls. Each size of the picture begins with what half of it found.

    Args:
        values: Numbers that hold outside of the part; those inside do not count. float [C, h, w]
        inside: The part. bool [h, w]

    Returns:
        [C, h, w], equal to `values` outside. Where nothing is outside: zeros.
    """
    if inside.all():
        return torch.zeros_like(values)
    known = torch.where(inside, 0, values)
    if not inside.any():
        return known
    height, width = inside.shape
    if max(height, width) > 8:
        outside = (~inside).to(values)[None]
        share = F.avg_pool2d(outside, 2, ceil_mode=True)  # of known pixels; windows at the edge count theirs alone
        mean = F.avg_pool2d(known, 2, ceil_mode=True) / share.clamp(min=0.2)
        smaller = membrane(mean, share[0] == 0)
        guess = F.interpolate(smaller[None], (height, width), mode="bilinear")[0]
    else:
        guess = (known.sum((1, 2)) / (~inside).sum())[:, None, None].expand_as(known)
    return known + _relaxed(torch.where(inside, guess, 0), _pull(known, inside), inside)


def _pull(x: Tensor, inside: Tensor) -> Tensor:
    """Sums the differences from each pixel inside to its neighbours."""
    framed = F.pad(x[None], (1, 1, 1, 1), mode="replicate")[0]
    around = framed[:, :-2, 1:-1] + framed[:, 2:, 1:-1] + framed[:, 1:-1, :-2] + framed[:, 1:-1, 2:]
    return (around - 4 * x) * inside


def _relaxed(x: Tensor, pull: Tensor, inside: Tensor) -> Tensor:
    """Solves `_pull(x) + pull = 0` for x, which is 0 outside, by conjugate gradients from x on."""
    rest = pull + _pull(x, inside)
    along, power = rest, rest.square().sum((1, 2), keepdim=True)
    enough = _TOLERANCE**2 * inside.sum()
    for _ in range(_ROUNDS):
        if (power <= enough).all():
            break
        image = -_pull(along, inside)
        step = power / (along * image).sum((1, 2), keepdim=True).clamp(min=1e-30)
        x, rest = x + step * along, rest - step * image
        before, power = power, rest.square().sum((1, 2), keepdim=True)
        along = rest + power / before.clamp(min=1e-30) * along
    return x
