"""The gradient of perception in Triton: every cell gathers what the cells that perceive it return.

    grad_x_c(n) = grad_c(n) + sum over f, i, j of stencil_f[i][j] grad_y_f,c(n - (i - R, j - R))
                            + sum over the neighbours whose maximum was n of their grad_y_F,c

The transpose of perception_forward.py, which slides down the canvas, too: the sums that it carries are of grad_x, for
all filters together. Nothing is scattered, so that sums have one order.

With reflection and replication the cells around the canvas are perceived too, and stand for some of it. So the sums are
made for REACH rows and columns more at each edge, and a second kernel adds them where they belong.
"""

import triton
import triton.language as tl

from ..cells import beside, own_cells, own_columns, row_here, source
from ..frames import field_of, frame_at, turn
from ..single_pass.filters import both
from .filters import mirrored, neighbours, profile


@triton.jit
def replaced(totals, middle):
    """Replaces the totals in the middle."""
    BEGIN: tl.constexpr = len(totals) // 2 - len(middle) // 2
    new = ()
    for i in tl.static_range(BEGIN):
        new = new + (totals[i],)
    new = new + middle
    for i in tl.static_range(BEGIN + len(middle), len(totals)):
        new = new + (totals[i],)
    return new


@triton.jit
def add_returned(totals, q, PROFILES: tl.constexpr, WEIGHTS: tl.constexpr, f: tl.constexpr, p: tl.constexpr):
    """Adds to the sums of all rows what the rows of filter f with profile p return: q, each with its weight."""
    BEGIN: tl.constexpr = len(totals) // 2 - len(WEIGHTS[f]) // 2
    new = ()
    for i in tl.static_range(len(WEIGHTS[f])):
        total = totals[BEGIN + i]
        if PROFILES[f][i] == p:
            total = tl.fma(q, WEIGHTS[f][i], total)
        new = new + (total,)
    return replaced(totals, new)


@triton.jit
def add_won(totals, won, g, MAXIMUM: tl.constexpr, j: tl.constexpr):
    """Adds to the sums of all rows what a column of neighbours returns to their maxima, if those are in column j."""
    BEGIN: tl.constexpr = len(totals) // 2 - MAXIMUM // 2
    new = ()
    for i in tl.static_range(MAXIMUM):
        new = new + (totals[BEGIN + i] + tl.where(won == i * MAXIMUM + j, g, 0.0),)
    return replaced(totals, new)


@triton.jit
def each_turned_back(v, partner, frame, KIND: tl.constexpr):
    """Turns back what each of a row of neighbours returns to a filter; frame: their (a, b)."""
    back = ()
    for j in tl.static_range(len(v)):
        back = back + (turn(v[j], partner[j], frame[j][0], -frame[j][1], KIND),)
    return back


@triton.jit
def perception_bwd(
    grad,
    grad_y,
    winners,
    grad_x,
    frames,
    scale,
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
    USED: tl.constexpr,
    MAXIMUM: tl.constexpr,
    TURNS: tl.constexpr,
    PADDING: tl.constexpr,
    SCALED: tl.constexpr,
    BM: tl.constexpr,
):
    """grad_x = grad + what perception returns, for all cells.

    Args:
        grad: Gradient that reaches the state straight, not by way of perception. [B, H, W, C].
        grad_y: Gradient of the perception, times `scale` with SCALED. [B, H, W, K].
        winners: See `perception_fwd`. Read with MAXIMUM.
        frames: With TURNS, see `perception_fwd`; grad_y is that of what they turned.
        grad_x: Written. [B, H, W, C]; with reflection and replication float32 [B, H + 2 REACH, W + 2 REACH, C], and
            without grad.
        USED: See `RowProfiles`.
        The others as in `perception_fwd`.
    """
    FILTERS: tl.constexpr = len(WEIGHTS)
    CIRCULAR: tl.constexpr = PADDING == "circular"
    RING: tl.constexpr = REACH if PADDING == "reflect" or PADDING == "replicate" else 0
    rows = H + 2 * RING
    width = W + 2 * RING
    sample, _, first, end, column, there = own_columns(0, 0, rows, width, program_rows, BM)
    c = tl.program_id(1) * GROUP + tl.arange(0, GROUP)[None, :]
    grad_y += sample * H * W * K
    winners += sample * H * W * C
    grad += sample * H * W * C
    grad_x += sample * rows * width * C
    own = (column * C)[:, None] + c
    if SCALED:
        down = 1.0 / tl.load(scale)
    else:
        down = 1.0
    # The cells that see this one at the left, ..., at the right: those right of it first.
    columns = ()
    offsets = ()
    won_offsets = ()
    seers = ()
    for j in tl.static_range(2 * REACH + 1):
        if RING > 0:
            seer = source(column + (REACH - j - RING), W, "replicate")  # one that is there, and masked where it is not
        else:
            seer, _ = beside(column, REACH - j, W)
        columns = columns + (column + (REACH - j - RING),)
        offsets = offsets + ((seer * K)[:, None] + c,)
        won_offsets = won_offsets + ((seer * C)[:, None] + c,)
        seers = seers + (seer,)
    cells = (tl.zeros((), tl.int64) + H) * W
    if len(TURNS) > 0:
        field = field_of(frames, sample, cells, TURNS)

    carried = ()
    for _ in tl.static_range(2 * REACH):
        carried = carried + (tl.zeros((BM, GROUP), tl.float32),)
    steps = end - first + 2 * REACH
    tl.assume(steps > 0)  # else registers are kept for the case that there are none
    for n in range(steps):
        row = first - REACH + n  # of the cells that saw
        if RING > 0:
            at = source(row - RING, H, "replicate")
            in_rows = (row >= RING) & (row < RING + H)
        else:
            at, in_rows = beside(row, 0, H)
        line = grad_y + at.to(tl.int64) * (W * K)
        here = row_here(columns, in_rows, W)
        totals = carried + (tl.zeros((BM, GROUP), tl.float32),)
        frame = ()
        if len(TURNS) > 0:
            for j in tl.static_range(2 * REACH + 1):
                frame = frame + (frame_at(field, at.to(tl.int64) * W + seers[j], cells),)
        for f in tl.static_range(FILTERS):
            returned = neighbours(line + f * C, offsets, here, not CIRCULAR)
            if len(TURNS) > 0:
                partner = neighbours(line + TURNS[1][f][1] * C, offsets, here, not CIRCULAR)
                returned = each_turned_back(returned, partner, frame, TURNS[1][f][0])
            sums, differences = mirrored(returned)
            for i in tl.static_range(len(USED[f])):
                q = profile(sums, differences, EVEN, ODD, USED[f][i])
                totals = add_returned(totals, q, PROFILES, WEIGHTS, f, USED[f][i])
        if MAXIMUM > 0:
            BEGIN: tl.constexpr = REACH - MAXIMUM // 2
            g = neighbours(line + FILTERS * C, offsets, here, not CIRCULAR)
            for j in tl.static_range(MAXIMUM):
                won = tl.load(winners + at.to(tl.int64) * (W * C) + won_offsets[BEGIN + j])
                totals = add_won(totals, won, g[BEGIN + j], MAXIMUM, j)

        done = row - REACH
        mine = both(there, (done >= first) & (done < end))
        to = done.to(tl.int64) * (width * C) + own
        if RING > 0:
            tl.store(grad_x + to, totals[0] * down, mask=mine)
        else:
            total = tl.fma(totals[0], down, tl.load(grad + to, mask=mine, other=0.0).to(tl.float32))
            tl.store(grad_x + to, total.to(grad_x.dtype.element_ty), mask=mine)
        carried = ()
        for i in tl.static_range(1, 2 * REACH + 1):
            carried = carried + (totals[i],)


@triton.jit
def add_ring(
    grad,
    ring,
    grad_x,
    cells,
    H,
    W,
    C: tl.constexpr,
    GROUP: tl.constexpr,
    REACH: tl.constexpr,
    PADDING: tl.constexpr,
    BM: tl.constexpr,
):
    """grad_x = grad + the sums of `perception_bwd` for a cell and for those around the canvas that it stands for.

    Args:
        grad, grad_x: As there; [B, H, W, C].
        ring: The sums, float32 [B, H + 2 REACH, W + 2 REACH, C].
        cells: H * W.
    """
    sample, whole, _, row, column, there = own_cells(0, 0, cells, H, W, BM)
    c = tl.program_id(1) * GROUP + tl.arange(0, GROUP)[None, :]
    own = whole * C + tl.arange(0, BM)[:, None] * C + c
    width = W + 2 * REACH
    ring += sample * (H + 2 * REACH) * width * C
    total = tl.load(grad + own, mask=there[:, None], other=0.0).to(tl.float32)
    for i in tl.static_range(2 * REACH + 1):
        at_row, rows_mine = stands_for(row, i, H, REACH, PADDING)
        for j in tl.static_range(2 * REACH + 1):
            at_column, columns_mine = stands_for(column, j, W, REACH, PADDING)
            at = (at_row.to(tl.int64) + REACH) * width + (at_column + REACH)
            mine = (rows_mine & columns_mine & there)[:, None]
            total += tl.load(ring + at[:, None] * C + c, mask=mine, other=0.0)
    tl.store(grad_x + own, total.to(grad_x.dtype.element_ty), mask=there[:, None])


@triton.jit
def stands_for(i, number: tl.constexpr, n, REACH: tl.constexpr, PADDING: tl.constexpr):
    """Returns a place, i itself or one of the 2 REACH around the n rows or columns; and whether i stands for it."""
    if number == 0:
        return i, i >= 0
    elif number <= REACH:
        return i * 0 - number, source(i * 0 - number, n, PADDING) == i
    else:
        return i * 0 + (n - 1 + number - REACH), source(i * 0 + (n - 1 + number - REACH), n, PADDING) == i
