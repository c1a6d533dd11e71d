"""Perception written to memory, in Triton: the way of rules with larger filters or local maxima.

    y[n, f C + c] = sum over i, j of stencil_f[i][j] x_c(row + i - R, column + j - R)
    y[n, F C + c] = maximum of x_c over a window around the cell

A second way beside single_pass/filters.py, whose rows of three profiles hold filters of 3x3 only. A program takes BM
columns and some of the channels and slides down some rows; see through_memory/filters.py.
"""

import triton
import triton.language as tl

from ..cells import own_columns, row_here, seen_beside
from ..frames import field_of, frame_at, turn
from ..single_pass.filters import both
from .filters import mirrored, neighbours, profile, slide


@triton.jit
def largest_of_row(v, here, MAXIMUM: tl.constexpr, CIRCULAR: tl.constexpr):
    """Finds the maximum of the MAXIMUM neighbours in the middle of a row, and which it is: the first of several."""
    BEGIN: tl.constexpr = len(v) // 2 - MAXIMUM // 2
    most = tl.full(v[0].shape, -float("inf"), tl.float32)
    winner = tl.zeros(v[0].shape, tl.int32)
    for j in tl.static_range(MAXIMUM):
        rival = v[BEGIN + j] if CIRCULAR else tl.where(here[BEGIN + j], v[BEGIN + j], -float("inf"))
        larger = (rival > most) | (rival != rival)  # NaN wins, as in PyTorch
        most = tl.where(larger, rival, most)
        winner = tl.where(larger, j, winner)
    return most, winner


@triton.jit
def perception_fwd(
    x,
    y,
    winners,
    frames,
    first_sample,
    first_row,
    rows,
    H,
    W,
    program_rows,
    C: tl.constexpr,
    GROUP: tl.constexpr,
    K: tl.constexpr,
    REACH: tl.constexpr,
    EVEN: tl.constexpr,
    ODD: tl.constexpr,
    PROFILES: tl.constexpr,
    WEIGHTS: tl.constexpr,
    BEGIN: tl.constexpr,
    MAXIMUM: tl.constexpr,
    TURNS: tl.constexpr,
    WINNERS: tl.constexpr,
    PADDING: tl.constexpr,
    BM: tl.constexpr,
):
    """y = the perception of a range of rows, see cells.py.

    Args:
        x: [B, H, W, C], C a multiple of 4.
        y: Perception of the range, [cells, K]. Columns after the last kind are left alone.
        winners: With WINNERS, which neighbour is the maximum: its number in the window, the first of several;
            int8 [B, H, W, C].
        frames: With TURNS (frames.py), which turn the filters, float32 [1 or B, 2, H, W].
        program_rows: Rows of a program.
        GROUP: Channels of a program, a power of two that divides C.
        REACH, EVEN, ODD, PROFILES, WEIGHTS, BEGIN: The filters, see `RowProfiles`; there may be none.
        MAXIMUM: Odd width of the window of the maximum, at most 2 REACH + 1; 0 for none. What lies beyond the edges is
            looked at on a torus alone.
    """
    FILTERS: tl.constexpr = len(WEIGHTS)
    CARRIED: tl.constexpr = BEGIN[FILTERS]
    HALF: tl.constexpr = MAXIMUM // 2
    CIRCULAR: tl.constexpr = PADDING == "circular"
    sample, range_sample, first, end, column, there = own_columns(first_sample, first_row, rows, W, program_rows, BM)
    c = tl.program_id(1) * GROUP + tl.arange(0, GROUP)[None, :]
    x += sample * H * W * C
    winners += sample * H * W * C
    y += (range_sample * rows - first_row) * W * K
    to = (column * K)[:, None] + c
    own = (column * C)[:, None] + c
    cells = (tl.zeros((), tl.int64) + H) * W
    if len(TURNS) > 0:
        field = field_of(frames, sample, cells, TURNS)
    columns = ()
    offsets = ()
    for j in tl.static_range(2 * REACH + 1):
        beyond, _ = seen_beside(column, j - REACH, W, PADDING)
        columns = columns + (column + (j - REACH),)
        offsets = offsets + ((beyond * C)[:, None] + c,)

    nothing = tl.zeros((BM, GROUP), tl.float32)
    carried = ()
    for _ in tl.static_range(CARRIED):
        carried = carried + (nothing,)
    lowest = nothing - float("inf")
    first_winner = nothing.to(tl.int32)
    most = ()
    winner = ()
    for _ in tl.static_range(2 * HALF):
        most = most + (lowest,)
        winner = winner + (first_winner,)
    steps = end - first + 2 * REACH
    tl.assume(steps > 0)  # else registers are kept for the case that there are none
    for n in range(steps):
        row = first - REACH + n
        at, in_rows = seen_beside(row, 0, H, PADDING)
        here = row_here(columns, in_rows, W)
        v = neighbours(x + at.to(tl.int64) * (W * C), offsets, here, PADDING == "zero")

        sums, differences = mirrored(v)
        profiles = ()
        for p in tl.static_range(len(EVEN)):
            profiles = profiles + (profile(sums, differences, EVEN, ODD, p),)
        frame = ()
        if len(TURNS) > 0:
            for f in tl.static_range(FILTERS):  # of the row whose sums it finishes; the same for both of a pair
                done = tl.minimum(tl.maximum(row - len(WEIGHTS[f]) // 2, 0), H - 1)
                frame = frame + (frame_at(field, done.to(tl.int64) * W + column, cells),)
        kept = ()
        for f in tl.static_range(FILTERS):
            seen = slide(carried, profiles, PROFILES, WEIGHTS, BEGIN, f)
            done = row - len(seen) // 2
            answer = seen[0]
            if len(TURNS) > 0:
                other = slide(carried, profiles, PROFILES, WEIGHTS, BEGIN, TURNS[1][f][1])[0]
                answer = turn(answer, other, frame[f][0], frame[f][1], TURNS[1][f][0])
            tl.store(
                y + done.to(tl.int64) * (W * K) + to + f * C,
                answer.to(y.dtype.element_ty),
                mask=both(there, (done >= first) & (done < end)),
            )
            for i in tl.static_range(1, len(seen)):
                kept = kept + (seen[i],)
        carried = kept

        if MAXIMUM > 0:
            rival, which = largest_of_row(v, here, MAXIMUM, CIRCULAR)
            most = most + (lowest,)
            winner = winner + (first_winner,)
            new_most = ()
            new_winner = ()
            for i in tl.static_range(MAXIMUM):
                # The row is number MAXIMUM - 1 - i in the window of these cells.
                larger = (rival > most[i]) | (rival != rival)
                new_most = new_most + (tl.where(larger, rival, most[i]),)
                new_winner = new_winner + (tl.where(larger, (MAXIMUM - 1 - i) * MAXIMUM + which, winner[i]),)
            done = row - HALF
            mask = both(there, (done >= first) & (done < end))
            tl.store(y + done.to(tl.int64) * (W * K) + to + FILTERS * C, new_most[0].to(y.dtype.element_ty), mask=mask)
            if WINNERS:
                tl.store(winners + done.to(tl.int64) * (W * C) + own, new_winner[0].to(tl.int8), mask=mask)
            most = ()
            winner = ()
            for i in tl.static_range(1, MAXIMUM):
                most = most + (new_most[i],)
                winner = winner + (new_winner[i],)
