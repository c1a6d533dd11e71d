"""What cells see, written to memory, in Triton: the way of rules with larger filters or local maxima.

    y[n, f C + c] = sum over i, j of stencil_f[i][j] x_c(row + i - R, column + j - R)
    y[n, F C + c] = maximum of x_c over a window around the cell

A second way beside perception_triton.py, whose rows of three profiles hold filters of 3x3 only. A program takes BM
cells and some of their channels, and reads every neighbour that a filter looks at once.
"""

import triton
import triton.language as tl
from nca_fast.kernels.neighbours_triton import beside, load_neighbour, own_cells


@triton.jit
def add_tap(total, v, STENCILS: tl.constexpr, tap: tl.constexpr, f: tl.constexpr):
    """total + the weight of a tap of filter f times v."""
    if STENCILS[f][tap] != 0.0:
        return tl.fma(v, STENCILS[f][tap], total)
    else:
        return total


@triton.jit
def add_taps(totals, v, STENCILS: tl.constexpr, tap: tl.constexpr):
    """The sums of all filters, after the neighbour v at a tap."""
    sums = ()
    for f in tl.static_range(len(totals)):
        sums = sums + (add_tap(totals[f], v, STENCILS, tap, f),)
    return sums


@triton.jit
def perceive_fwd(
    x,
    y,
    winners,
    first_sample,
    first_cell,
    cells,
    H,
    W,
    C: tl.constexpr,
    CHUNK: tl.constexpr,
    K: tl.constexpr,
    STENCILS: tl.constexpr,
    USED: tl.constexpr,
    MAXIMUM: tl.constexpr,
    WINNERS: tl.constexpr,
    CIRCULAR: tl.constexpr,
    BM: tl.constexpr,
):
    """y = the perception of a range of cells, see neighbours_triton.py.

    Args:
        x: [B, H, W, C], C a multiple of 4.
        y: Perception of the range, [cells, K]. Columns after the last kind are left alone.
        winners: With WINNERS, which neighbour is the maximum: its number in the window, the first of several;
            int8 [B, H, W, C].
        CHUNK: Channels of a program, a power of two that divides C.
        STENCILS: Taps of the filters, [filters][(2 R + 1)^2]; without filters no kind but the maximum.
        USED: [2 R + 1][2 R + 1], whether any filter or the maximum looks there.
        MAXIMUM: Odd width of the window of the maximum, at most 2 R + 1; 0 for none.
    """
    R: tl.constexpr = len(USED) // 2
    HALF: tl.constexpr = MAXIMUM // 2
    sample, whole, place, row, column, there = own_cells(first_sample, first_cell, cells, H, W, BM)
    c = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)[None, :]
    x += sample * H * W * C
    sums = ()
    for _ in tl.static_range(len(STENCILS)):
        sums = sums + (tl.zeros((BM, CHUNK), tl.float32),)
    most = tl.full((BM, CHUNK), -float("inf"), tl.float32)
    winner = tl.zeros((BM, CHUNK), tl.int32)
    for i in tl.static_range(2 * R + 1):
        down, in_rows = beside(row, i - R, H)
        line = x + (down.to(tl.int64) * (W * C))[:, None]
        for j in tl.static_range(2 * R + 1):
            if USED[i][j]:
                right, in_columns = beside(column, j - R, W)
                here = (in_rows & in_columns)[:, None]
                v = load_neighbour(line + ((right * C)[:, None] + c), here, CIRCULAR)
                if MAXIMUM > 0 and i >= R - HALF and i <= R + HALF and j >= R - HALF and j <= R + HALF:
                    rival = v if CIRCULAR else tl.where(here, v, -float("inf"))
                    larger = (rival > most) | (rival != rival)  # NaN wins, as in PyTorch
                    most = tl.where(larger, rival, most)
                    winner = tl.where(larger, (i - R + HALF) * MAXIMUM + j - R + HALF, winner)
                sums = add_taps(sums, v, STENCILS, i * (2 * R + 1) + j)
    to = y + place * K + tl.arange(0, BM)[:, None] * K + c
    for f in tl.static_range(len(STENCILS)):
        tl.store(to + f * C, sums[f].to(y.dtype.element_ty), mask=there[:, None])
    if MAXIMUM > 0:
        tl.store(to + len(STENCILS) * C, most.to(y.dtype.element_ty), mask=there[:, None])
        if WINNERS:
            own = whole * C + tl.arange(0, BM)[:, None] * C + c
            tl.store(winners + own, winner.to(tl.int8), mask=there[:, None])
