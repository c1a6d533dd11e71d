"""Which derivative of a state a filter takes: what a frame does to its answer hangs on that.

    value            one tap, in the middle
    first            odd to one axis and even to the other, not 0 on a slope; in pairs, along x and along y
    laplacian        even, the same along both axes, of sum 0, and not 0 on a parabola

Hexagonal filters, whose taps lie in skewed coordinates, are known by name.
"""

from collections.abc import Sequence
from typing import NamedTuple

from nca_fast.filters import Filter, named

_HEX_PAIR = tuple(named(name).taps for name in ("hex_sobel_x", "hex_sobel_y"))
_HEX_LAPLACIAN = named("hex_laplacian").taps
_EXACT = 1e-6  # of a filter's largest tap: a sum below that is zero


class Derivatives(NamedTuple):
    """The filters of a rule, by number.

    Args:
        pairs: (along x, along y) of first derivatives.
        laplacians: Second derivatives, the same in all directions.
        others: Filters that are neither, nor a value.
    """

    pairs: tuple[tuple[int, int], ...]
    laplacians: tuple[int, ...]
    others: tuple[int, ...]


def derivatives(filters: Sequence[Filter]) -> Derivatives:
    """Tells filters apart. A first derivative without the same one along the other axis is of the others."""
    pairs, laplacians, others, taken = [], [], [], set()
    for number, filter in enumerate(filters):
        if number in taken or _is_value(filter):
            continue
        if _is_laplacian(filter):
            laplacians.append(number)
            continue
        along_y = _partner(filter)
        partner = next((n for n, f in enumerate(filters) if n not in taken and along_y and _same(f, along_y)), None)
        if partner is None:
            others.append(number)
            continue
        taken |= {number, partner}
        pairs.append((number, partner))
    return Derivatives(tuple(pairs), tuple(laplacians), tuple(n for n in others if n not in taken))


def _same(filter, other):
    return filter.kernel == other.kernel


def _is_value(filter):
    middle = filter.size // 2
    return all(tap == 0 or i == j == middle for i, row in enumerate(filter.taps) for j, tap in enumerate(row))


def _mirrored(taps):
    return tuple(row[::-1] for row in taps)


def _is_laplacian(filter):
    taps = filter.taps
    if taps == _HEX_LAPLACIAN:
        return True
    even = taps == _mirrored(taps) == taps[::-1] == tuple(zip(*taps, strict=True))
    return even and not _sees(taps, 0) and _sees(taps, 2)


def _sees(taps, power):
    """Whether the answer to x to a power is not 0."""
    moment = sum(tap * (j - len(taps) // 2) ** power for row in taps for j, tap in enumerate(row))
    return abs(moment) > _EXACT * max(abs(tap) for row in taps for tap in row)


def _partner(filter):
    """The same derivative along y of one along x; None where the filter is none along x."""
    taps = filter.taps
    if taps == _HEX_PAIR[0]:
        return Filter(filter.name, _HEX_PAIR[1], filter.scale)
    opposite = tuple(tuple(-tap for tap in row) for row in taps)
    if _mirrored(taps) == opposite and taps[::-1] == taps and _sees(taps, 1):
        return Filter(filter.name, tuple(zip(*taps, strict=True)), filter.scale)
    return None
