"""Filters of any size as sums of profiles of rows, for the Triton kernels that keep perception in memory.

    p(r, c) = sum over j of tap_j x(r, c + j)            y(r, c) = sum over i of weight_i p_i(r + i, c)

Rows of filters that are multiples of each other share a profile p. So a separable filter is a single profile and a sum
down the column, 9 + 9 products in place of 81 for 9x9; and the Sobel filter of 9x9, which is not separable, has five
profiles or four. All profiles are made of the sums and differences of mirrored neighbours:

    p = even_0 x(c) + sum over j > 0 of even_j (x(c + j) + x(c - j)) + odd_j (x(c + j) - x(c - j))

The kernels slide down the canvas and carry the sums that lack rows, so that a program reads a row of neighbours once.
"""

from typing import NamedTuple

import triton
import triton.language as tl


class RowProfiles(NamedTuple):
    """Filters as constants of a kernel.

    Args:
        reach: Of the farthest neighbours that any filter sees.
        even, odd: For each profile the factors of the sums and differences, reach + 1 each; odd_0 is 0.
        profiles, weights: For each filter the profile and the weight of each of its rows, as many as it has; -1 and
            0 for a row of zeros.
        used: For each filter its profiles, each once.
        carried: For each filter where its carried sums begin, see `slide`; and how many there are in all.
    """

    reach: int
    even: tuple[tuple[float, ...], ...]
    odd: tuple[tuple[float, ...], ...]
    profiles: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[float, ...], ...]
    used: tuple[tuple[int, ...], ...]
    carried: tuple[int, ...]


def row_profiles(stencils, window: int = 0) -> RowProfiles:
    """Writes filters [filters][size][size] as profiles; window: odd width of the local maximum, or 0."""
    trimmed = [_trimmed(stencil) for stencil in stencils]
    reach = max([window // 2, *(len(stencil) // 2 for stencil in trimmed)])
    known, profiles, weights, carried = [], [], [], [0]
    for stencil in trimmed:
        side = (0.0,) * (reach - len(stencil) // 2)
        found = [_as_multiple((*side, *row, *side), known) for row in stencil]
        profiles.append(tuple(profile for profile, _ in found))
        weights.append(tuple(weight for _, weight in found))
        carried.append(carried[-1] + len(stencil) - 1)
    known = known or [(0.0,) * (2 * reach + 1)]  # of filters of nothing but zeros
    pairs = [[(row[reach + j], row[reach - j]) for j in range(reach + 1)] for row in known]
    even = tuple(tuple((a + b) / 2 for a, b in row) for row in pairs)
    odd = tuple(tuple((a - b) / 2 for a, b in row) for row in pairs)
    used = tuple(tuple(n for n in dict.fromkeys(of_rows) if n >= 0) for of_rows in profiles)
    return RowProfiles(reach, even, odd, tuple(profiles), tuple(weights), used, tuple(carried))


def _trimmed(stencil):
    """Cuts off the zeros around a stencil."""
    while len(stencil) > 1 and not any(
        (*stencil[0], *stencil[-1], *(tap for row in stencil for tap in row[:: len(row) - 1]))
    ):
        stencil = tuple(row[1:-1] for row in stencil[1:-1])
    return stencil


def _as_multiple(row, known):
    """Finds (number, weight) of the known profile that a row is a multiple of, but for roundings; else adds the row."""
    if not any(row):
        return -1, 0.0
    for number, other in enumerate(known):
        largest = max(other, key=abs)
        weight = row[other.index(largest)] / largest
        if weight and all(
            abs(a - weight * b) <= abs(weight * largest) * 2**-22 for a, b in zip(row, other, strict=True)
        ):
            return number, weight
    known.append(row)
    return len(known) - 1, 1.0


@triton.jit
def neighbours(line, columns, here, MASKED: tl.constexpr):
    """Loads a row of neighbours as float32, the leftmost first.

    Args:
        line: Where the row begins.
        columns: Offsets of the neighbours, from the leftmost.
        here: With MASKED, whether each is on the canvas; else it is 0.
    """
    v = ()
    for j in tl.static_range(len(columns)):
        if MASKED:
            v = v + (tl.load(line + columns[j], mask=here[j], other=0.0).to(tl.float32),)
        else:
            v = v + (tl.load(line + columns[j]).to(tl.float32),)
    return v


@triton.jit
def mirrored(v):
    """Computes sums and differences, right minus left, of mirrored neighbours; the first are the cell itself and 0."""
    R: tl.constexpr = len(v) // 2
    sums = (v[R],)
    differences = (tl.zeros_like(v[R]),)
    for j in tl.static_range(1, R + 1):
        sums = sums + (v[R + j] + v[R - j],)
        differences = differences + (v[R + j] - v[R - j],)
    return sums, differences


@triton.jit
def profile(sums, differences, EVEN: tl.constexpr, ODD: tl.constexpr, p: tl.constexpr):
    """Computes profile p of a row, given the `mirrored` neighbours."""
    value = tl.zeros_like(sums[0])
    for j in tl.static_range(len(sums)):
        if EVEN[p][j] != 0.0:
            value = tl.fma(sums[j], EVEN[p][j], value)
        if ODD[p][j] != 0.0:
            value = tl.fma(differences[j], ODD[p][j], value)
    return value


@triton.jit
def slide(carried, profiles, PROFILES: tl.constexpr, WEIGHTS: tl.constexpr, BEGIN: tl.constexpr, f: tl.constexpr):
    """Adds one more row to the sums of filter f: the finished one first, then those that are carried to the next row.

    Args:
        carried: The unfinished sums of all filters, those of f from BEGIN[f] on, the one that lacks the fewest rows
            first.
        profiles: Of the row.
    """
    LAST: tl.constexpr = len(WEIGHTS[f]) - 1
    sums = ()
    for i in tl.static_range(LAST + 1):
        if i < LAST:
            total = carried[BEGIN[f] + i]
        else:
            total = tl.zeros_like(profiles[0])
        if WEIGHTS[f][LAST - i] != 0.0:
            total = tl.fma(profiles[PROFILES[f][LAST - i]], WEIGHTS[f][LAST - i], total)
        sums = sums + (total,)
    return sums
