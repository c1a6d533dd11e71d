"""The units in which losses measure feature maps: the variance of the wanted ones, or the power of flat ones."""

from __future__ import annotations

from torch import Tensor

# In squared units of maps that are of order 1: two levels of 255, as a standard deviation. Low-contrast pictures have
# a hundred times as much; pixels of a brick wall that was averaged down to 4 x 4, twice.
VARIANCE_FLOOR = 1e-3


def variance_unit(map: Tensor) -> Tensor:
    """The variance against which an error in a map is measured.

        v + floor + flatness,    flatness = (1 + power) max(0, 1 - v / floor)^2

    with v the mean variance of a channel and `power` the mean square of the map. A variance of nothing is no unit: a
    picture of one colour would make all errors a thousand times too large, and its rounding errors with them. There the
    unit is what an ordinary picture of that power has; the two meet smoothly at v = floor.

    Args:
        map: [..., C, n], n positions.

    Returns:
        [...]
    """
    return _variance(map) + VARIANCE_FLOOR + _flatness(map)


def gram_unit(map: Tensor, gram: Tensor) -> Tensor:
    """The power of a Gram matrix, against which squared errors in its entries are measured.

        mean over entries of gram^2 + floor^2 + flatness^2,    floor and flatness as in `variance_unit`

    A flat map has little power where its colour happens to be the mean of all pictures.

    Args:
        map: [..., C, n].
        gram: map map^T / n, [..., C, C].

    Returns:
        [...]
    """
    return gram.square().mean(dim=(-2, -1)) + VARIANCE_FLOOR**2 + _flatness(map).square()


def _variance(map: Tensor) -> Tensor:
    return map.var(dim=-1, unbiased=False).mean(dim=-1)


def _flatness(map: Tensor) -> Tensor:
    share = (1 - _variance(map) / VARIANCE_FLOOR).clamp(min=0)
    return (1 + map.square().mean(dim=(-2, -1))) * share.square()
