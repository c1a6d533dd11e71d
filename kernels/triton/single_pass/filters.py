"""Filters of 3x3 in Triton, of rows of cells in registers.

The state is channels-last, [B, H, W, C], so that a row of cells is a matrix whose left and right neighbours are the
same addresses one cell further: three loads per row. From them come three profiles,

    S = left + 2 centre + right        D = right - left        M = centre

and any 3x3 filter is a sum of at most nine terms over the profiles of three rows: its row (a, b, c) is
(a + c)/2 S + (c - a)/2 D + (b - a - c) M. A Sobel filter has two or three terms, the Laplacian four.

Channels are handled in groups of 8, the last one of 4 if C is no multiple of 8, so that 12 channels are not computed
as 16. How groups lie in the matrices of the products is in single_pass/operands.py.
"""

import triton
import triton.language as tl

from ..cells import source
from ..frames import turned


@triton.jit
def offsets(cell, C: tl.constexpr):
    """Computes where a row's cells have their first 8 and their last 4 channels: [cells, 8] and [cells, 4]."""
    first = (cell * C)[:, None] + tl.arange(0, 8)[None, :]
    last = (cell * C + (C - 4))[:, None] + tl.arange(0, 4)[None, :]
    # These deal loads out to threads as the matrix unit wants them, so that nothing has to change hands.
    first = tl.max_contiguous(tl.multiple_of(first, (1, 2)), (1, 8))
    last = tl.max_contiguous(tl.multiple_of(last, (1, 1)), (1, 4))
    return first, last


@triton.jit
def group_pointers(row, at, k: tl.constexpr, C: tl.constexpr, NARROW: tl.constexpr = False):
    """Points to group k of the channels of cells, [cells, 8 or 4]: row points to their row, at is from `offsets`.

    Groups of 8 share their offsets, which saves registers. With NARROW they are kept as bytes in 32 bits, of which a
    row has less than 2**32, in place of 64: half as many.
    """
    if NARROW:
        WIDTH: tl.constexpr = 8 if 8 * k + 8 <= C else 4
        SIZE: tl.constexpr = row.dtype.element_ty.primitive_bitwidth // 8
        of = (at[1 - WIDTH // 8] * SIZE).to(tl.uint32).to(tl.uint64)
        p = row.to(tl.pointer_type(tl.int8), bitcast=True) + of + 8 * k * SIZE * (WIDTH // 8)
        p = p.to(tl.pointer_type(row.dtype.element_ty), bitcast=True)
        return tl.max_contiguous(tl.multiple_of(p, (1, WIDTH // 4 * SIZE)), (1, WIDTH))  # as in `offsets`
    elif 8 * k + 8 <= C:
        return row + at[0] + 8 * k
    else:
        return row + at[1]


@triton.jit
def group_channels(k: tl.constexpr, C: tl.constexpr):
    """Numbers the channels of group k, int32 [8 or 4]."""
    if 8 * k + 8 <= C:
        return 8 * k + tl.arange(0, 8)
    else:
        return C - 4 + tl.arange(0, 4)


@triton.jit
def blank(BW: tl.constexpr, k: tl.constexpr, C: tl.constexpr):
    """Makes zeros in the shape of group k."""
    if 8 * k + 8 <= C:
        return tl.zeros((BW, 8), dtype=tl.float32)
    else:
        return tl.zeros((BW, 4), dtype=tl.float32)


@triton.jit
def both(mask, condition):
    """Returns mask & condition, the latter one number. (Of `&` the interpreter of triton 3.9 makes integers.)"""
    return mask & (tl.where(condition, 1, 0) + tl.zeros(mask.shape, tl.int32) > 0)


@triton.jit
def wrapped(row, H):
    """Wraps a row number from -2 to H + 1 around the torus. The clamp is for H = 1, where one turn is not enough."""
    row = tl.where(row < 0, row + H, row)
    row = tl.where(row >= H, row - H, row)
    return tl.minimum(tl.maximum(row, 0), H - 1)


@triton.jit
def next_columns(cell, W, PADDING: tl.constexpr):
    """Returns the columns that stand left and right of each; with zero padding any, where none does."""
    if PADDING == "reflect" or PADDING == "replicate":
        return source(cell - 1, W, PADDING), source(cell + 1, W, PADDING)
    else:
        return (cell + W - 1) % W, (cell + 1) % W


@triton.jit
def profiles(
    x,
    row,
    H,
    stride,
    left,
    centre,
    right,
    left_there,
    there,
    right_there,
    C: tl.constexpr,
    PADDING: tl.constexpr,
    NARROW: tl.constexpr = False,
):
    """Computes S, D, M of a row of cells for every group of channels, float32; with zero padding, which is told alone
    whether cells are there, those that are not are zero.

    Args:
        row: -1 to H.
        left, centre, right: Offsets of the cells and their neighbours in a row, see `offsets`.
        left_there, there, right_there: Whether the cells are on the canvas, [cells, 1].
        NARROW: See `group_pointers`.
    """
    if PADDING == "circular":
        base = x + wrapped(row, H).to(tl.int64) * stride
    elif PADDING == "reflect" or PADDING == "replicate":
        base = x + source(row, H, PADDING).to(tl.int64) * stride
    else:
        base = x + tl.minimum(tl.maximum(row, 0), H - 1).to(tl.int64) * stride
    inside = (row >= 0) & (row < H)
    p = ()
    for k in tl.static_range((C + 7) // 8):
        if PADDING != "zero":
            a = tl.load(group_pointers(base, left, k, C, NARROW)).to(tl.float32)
            b = tl.load(group_pointers(base, centre, k, C, NARROW)).to(tl.float32)
            c = tl.load(group_pointers(base, right, k, C, NARROW)).to(tl.float32)
        else:
            a = tl.load(group_pointers(base, left, k, C, NARROW), mask=both(left_there, inside), other=0.0).to(
                tl.float32
            )
            b = tl.load(group_pointers(base, centre, k, C, NARROW), mask=both(there, inside), other=0.0).to(tl.float32)
            c = tl.load(group_pointers(base, right, k, C, NARROW), mask=both(right_there, inside), other=0.0).to(
                tl.float32
            )
        p = p + (tl.fma(b, 2.0, a + c), c - a, b)
    return p


@triton.jit
def combination(above, here, below, k: tl.constexpr, TERMS: tl.constexpr, f: tl.constexpr):
    """Sums weight * profile over TERMS[f] = (3 * row + profile, weight, ...), not empty, for group k."""
    rows = (above[3 * k], above[3 * k + 1], above[3 * k + 2], here[3 * k], here[3 * k + 1], here[3 * k + 2]) + (
        below[3 * k],
        below[3 * k + 1],
        below[3 * k + 2],
    )
    total = rows[TERMS[f][0]] * TERMS[f][1]
    for n in tl.static_range(2, len(TERMS[f]), 2):
        total = tl.fma(rows[TERMS[f][n]], TERMS[f][n + 1], total)
    return total


@triton.jit
def group_responses(
    above, here, below, frame, k: tl.constexpr, TERMS: tl.constexpr, TURNS: tl.constexpr, DOT: tl.constexpr
):
    """Applies the filters to group k, [cells, 8 or 4] each; see `filter_responses`."""
    seen = ()
    for f in tl.static_range(len(TERMS)):
        if len(TERMS[f]) > 0:
            seen = seen + (combination(above, here, below, k, TERMS, f),)
    if len(TURNS) > 0:
        seen = turned(seen, frame[0], frame[1], TURNS)
    y = ()
    for f in tl.static_range(len(TERMS)):
        if len(TERMS[f]) > 0:
            y = y + (seen[f].to(DOT),)
        else:
            y = y + (tl.full(here[3 * k].shape, 1.0, DOT),)
    return y


@triton.jit
def filter_responses(above, here, below, frame, TERMS: tl.constexpr, TURNS: tl.constexpr, DOT: tl.constexpr):
    """Computes the perception of every cell: for every group of channels FP tensors [cells, 8 or 4].

    Args:
        above, here, below: Profiles of the rows.
        frame: With TURNS (frames.py), the cells' (a, b), [cells, 1] each.
        TERMS: For each of FP filters (a power of two), see `combination`; filters without terms are 1.
    """
    y = ()
    for k in tl.static_range(len(here) // 3):
        y = y + (group_responses(above, here, below, frame, k, TERMS, TURNS, DOT),)
    return y


@triton.jit
def add_through_filters(total, y, TRANSPOSED: tl.constexpr, n: tl.constexpr, FIRST: tl.constexpr):
    """Adds to total what the filters return to profile n of a cell whose grad_y is y[FIRST:]; see `step_bwd`."""
    for k in tl.static_range(0, len(TRANSPOSED[n]), 2):
        total = tl.fma(y[FIRST + TRANSPOSED[n][k]], TRANSPOSED[n][k + 1], total)
    return total


@triton.jit
def moved_in(a, b, NARROW: tl.constexpr):
    """Adds a of the cell to the left and b of the cell to the right, in the program's ring of cells.

    With NARROW a group of 8 moves in halves, as a group of 4 does, so that they share what says where to.
    """
    BW: tl.constexpr = a.shape[0]
    if NARROW and a.shape[1] == 8:
        a0, a1 = tl.split(tl.reshape(a, (BW, 4, 2)))
        b0, b1 = tl.split(tl.reshape(b, (BW, 4, 2)))
        return tl.reshape(tl.join(moved_in(a0, b0, NARROW), moved_in(a1, b1, NARROW)), (BW, 8))
    moved = tl.join(a, b)
    step = tl.where(tl.arange(0, 2) == 0, BW - 1, 1)
    of = (tl.arange(0, BW)[:, None, None] + step[None, None, :]) % BW + tl.zeros(moved.shape, tl.int32)
    left, right = tl.split(tl.gather(moved, of, 0))
    return left + right
