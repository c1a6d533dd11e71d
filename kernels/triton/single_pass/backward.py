"""The gradient of one step in Triton, in a single pass: perception and hidden units are computed again.

    grad_u = m grad        grad_h = (W^T grad_u) f1'        grad_y = W1^T grad_h
    grad_x = grad + filters^T grad_y
    grad_W = sum of grad_u h^T        grad_W1 = sum of grad_h y^T        grad_b = sum of grad_u, ... over all cells

For one hidden layer, whose slope is that of its result, and no function of the update; the gradients of others go
through memory (through_memory/steps.py).

A program slides down the rows of a strip of BW - 2 columns, as in `step_fwd`. grad_x of a cell needs grad_y of its
eight neighbours, so the program computes one column more at either side and one row more at either end; on a torus of
BW columns (RING) the strip is the whole row, which has no sides. With P, T and Z the sums over the filters, and over
the rows above, of and below a cell, of grad_y times the filters' weights on the profiles S, D and M,

    grad_x(c) = grad(c) + Z(c) + 2 P(c) + (P + T)(c - 1) + (P - T)(c + 1).

The sums over rows are carried down in registers; the last two terms are the tensor moved by one cell. Weight gradients
are accumulated in registers over the program's own cells, and added to the program's own partial sum.

Strips are cut into bands of R rows, and a program takes some bands, one after another: down to the end of a strip, then
on with the next strip. They are dealt out so that all programs run at once (single_pass/plan.py).

Where registers do not hold all of that, the host launches the kernel several times: once for grad_x, and, without the
additional cells, for the weights of all layers or of some.
"""

import triton
import triton.language as tl

from ..fire import channel_fires, fires, rates_of
from ..frames import add_turns, field_of, frame_at, turn_gradients, turned_back
from ..products import (
    add_back,
    add_bias,
    add_channels,
    add_layer,
    add_products,
    back,
    dot,
    gated,
    load_bias,
    load_layer,
    units,
    zero_tiles,
    zeros,
)
from ..update import is_written, kept, masked
from .filters import (
    add_through_filters,
    blank,
    both,
    filter_responses,
    group_channels,
    group_pointers,
    moved_in,
    offsets,
    profiles,
    wrapped,
)
from .operands import from_matrices, output_matrix, to_matrices, to_matrix_rows


@triton.jit(do_not_specialize=["R", "columns", "bands_down", "all_bands", "bands", "programs", "origin_column"])
def step_bwd(
    x,
    grad,
    grad_x,
    partial,
    scale,
    keys,
    fire,
    living,
    frames,
    turns,
    weights,
    biases,
    weights_stride,
    biases_stride,
    H,
    W,
    R,
    columns,
    bands_down,
    all_bands,
    bands,
    programs,
    origin_column,
    C: tl.constexpr,
    TERMS: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    INPUTS: tl.constexpr,
    HIDDEN1: tl.constexpr,
    OUTPUTS: tl.constexpr,
    UNITS1: tl.constexpr,
    BIAS1: tl.constexpr,
    OUT_BIAS: tl.constexpr,
    PADDING: tl.constexpr,
    FROZEN: tl.constexpr,
    WRITTEN: tl.constexpr,
    FUNCTIONS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    LIVING: tl.constexpr,
    LANES: tl.constexpr,
    ONE_COLUMN: tl.constexpr,
    TURNS: tl.constexpr,
    WORDS: tl.constexpr,
    MAP: tl.constexpr,
    SCALED: tl.constexpr,
    DOT: tl.constexpr,
    PRODUCT: tl.constexpr,
    BW: tl.constexpr,
    GRAD_X: tl.constexpr,
    GRAD_W1: tl.constexpr,
    GRAD_W: tl.constexpr,
    CARRIED: tl.constexpr,
    RING: tl.constexpr,
    SEVERAL: tl.constexpr,
    NARROW: tl.constexpr,
):
    """grad_x = the gradient of x, given grad, that of the state after the step; partial += that of the weights.

    Args:
        x, grad, grad_x: [B, H, W, C], C a multiple of 4.
        partial: Partial sums, float32, [programs, packed weights and biases], or more.
        scale: With SCALED, one float32 power of two by which grad is multiplied before it is rounded to DOT.
        turns: With TURNS and GRAD_X, added to: the gradients of frames, see frames.py. float32 [B, 2, H, W].
        R: Rows of a band.
        columns: Strips of a sample.
        bands_down: Bands of a strip.
        all_bands: Bands of the samples that share weights: of all, or of one.
        bands: Of a program: the last ones may have fewer, and with SEVERAL none.
        programs: For the samples that share weights.
        TRANSPOSED: For each profile the (filter, weight, ...) of the filters that use it.
        GRAD_X, GRAD_W1, GRAD_W: What this launch computes: grad_x, the gradients of the first layer, those of the later
            layers. Without GRAD_X a strip has BW columns.
        CARRIED: Whether the profiles of two rows are carried down, or loaded again to save registers.
        RING: Whether the canvas is a torus of BW columns, which are a strip.
        SEVERAL: Whether the bands of a program may lie in several strips.
        NARROW: Whether to save registers that hold addresses, see `group_pointers` and `moved_in`.
        The others as in `step_fwd`.
    """
    FP: tl.constexpr = len(TERMS)
    GROUPS: tl.constexpr = (C + 7) // 8
    K: tl.constexpr = GROUPS * 8 * FP
    COLUMNS: tl.constexpr = OUTPUTS[1]
    PACKED: tl.constexpr = UNITS1 * K + COLUMNS * UNITS1 + UNITS1 + COLUMNS
    CIRCULAR: tl.constexpr = PADDING == "circular"
    BY_CHANNEL: tl.constexpr = LANES or MAP >= 4
    EDGE: tl.constexpr = 1 if GRAD_X else 0  # rows more at either end, and columns at either side
    HALO: tl.constexpr = 0 if RING else EDGE
    if RING:  # numbers that the compiler knows
        W, columns = BW, 1
    program = tl.program_id(0)
    rule = program // programs  # 0, or the sample
    first_band = program % programs * bands
    end_band = tl.minimum(first_band + bands, all_bands)
    first_strip = first_band // bands_down
    lane = tl.arange(0, BW)
    stride = tl.zeros((), tl.int64) + W * C
    below_threshold = tl.load(fire)
    if SCALED:
        up = tl.load(scale)
        down = 1.0 / up
    else:
        up = 1.0
        down = 1.0

    weights += rule.to(tl.int64) * weights_stride
    biases += rule.to(tl.int64) * biases_stride
    w1 = load_layer(weights, K, INPUTS, HIDDEN1)
    b1 = load_bias(biases, HIDDEN1)
    w = load_layer(weights + UNITS1 * K, UNITS1, HIDDEN1, OUTPUTS)

    ROW: tl.constexpr = (0, 16)  # a row of sums is the first of 16, the fewest that the matrix unit computes
    if GRAD_W1:
        grad_w1 = zero_tiles(INPUTS, HIDDEN1)
        grad_b1 = zero_tiles(ROW, HIDDEN1)
    if GRAD_W:
        grad_w = zero_tiles(HIDDEN1, OUTPUTS)
        grad_b = ()  # no product makes it, so that it is summed as it is, not rounded to DOT
        if OUT_BIAS:
            for k in tl.static_range(GROUPS):
                grad_b = grad_b + (blank(BW, k, C),)

    for turn in range(tl.cdiv(end_band, bands_down) - first_strip if SEVERAL else 1):
        strip = first_strip + turn
        first = tl.maximum(first_band - strip * bands_down, 0) * R
        end = tl.minimum((end_band - strip * bands_down) * R, H)
        sample = (rule + strip // columns).to(tl.int64)
        column = strip % columns * (BW - 2 * HALO) - HALO + lane
        if CIRCULAR:
            cell = (column + W) % W
        else:
            cell = tl.minimum(tl.maximum(column, 0), W - 1)
        on_canvas = (column >= 0) & (column < W)
        own = on_canvas & (lane >= HALO) & (lane < BW - HALO)
        left = offsets((cell + W - 1) % W, C)
        centre = offsets(cell, C)
        right = offsets((cell + 1) % W, C)
        left_there = (cell > 0)[:, None]
        there = (lane >= 0)[:, None]
        right_there = (cell < W - 1)[:, None]
        written = own[:, None]
        x_of = x + sample * H * stride
        grad_of = grad + sample * H * stride
        grad_x_of = grad_x + sample * H * stride
        keys_of = keys + sample * H * WORDS
        column_part = (cell + origin_column).to(tl.uint32) * 0x9E3779B9
        if ONE_COLUMN:
            column_part = tl.zeros_like(column_part)
        cells = (tl.zeros((), tl.int64) + H) * W
        fire_of = fire
        if MAP >= 2:
            fire_of = fire + rates_of(sample, cells, WRITTEN, MAP)
        if len(TURNS) > 0:
            field = field_of(frames, sample, cells, TURNS)

        # Unfinished rows of grad_x: P, T, Z over the rows read so far, for the row above the next and for the next.
        done = ()
        begun = ()
        for k in tl.static_range(GROUPS):
            nothing = blank(BW, k, C)
            done = done + (nothing, nothing, nothing)
            begun = begun + (nothing, nothing, nothing)
        if CARRIED:
            above = profiles(
                x_of,
                first - EDGE - 1,
                H,
                stride,
                left,
                centre,
                right,
                left_there,
                there,
                right_there,
                C,
                PADDING,
                NARROW,
            )
            here = profiles(
                x_of, first - EDGE, H, stride, left, centre, right, left_there, there, right_there, C, PADDING, NARROW
            )
        rows = end - first + 2 * EDGE
        tl.assume(rows > 0)  # else registers are kept for the case that there are none
        for n in range(rows):
            row = first - EDGE + n
            if not CARRIED:
                above = profiles(
                    x_of, row - 1, H, stride, left, centre, right, left_there, there, right_there, C, PADDING, NARROW
                )
                here = profiles(
                    x_of, row, H, stride, left, centre, right, left_there, there, right_there, C, PADDING, NARROW
                )
            below = profiles(
                x_of, row + 1, H, stride, left, centre, right, left_there, there, right_there, C, PADDING, NARROW
            )
            at = wrapped(row, H).to(tl.int64)  # without a torus, rows outside are masked below
            frame = ()
            if len(TURNS) > 0:
                frame = frame_at(field, at * W + cell, cells)
            seen = filter_responses(above, here, below, frame, TERMS, TURNS, DOT)
            y = to_matrices(seen, own, False, DOT, PRODUCT)

            if BY_CHANNEL:
                m = lane >= 0
            else:
                limit = tl.load(fire_of + at * W + cell) if MAP else below_threshold
                m = fires(column_part, keys_of + at * WORDS, limit)
            if not CIRCULAR or not GRAD_X:
                m = both(m & on_canvas, (row >= 0) & (row < H))
            alive = True
            if LIVING > 0:
                alive = tl.load(living + sample * cells + at * W + cell) != 0
                if LIVING == 1:
                    m = m & alive
            mine = both(own, (row >= first) & (row < end))
            sums = ()
            fired = ()
            sums_b = ()
            for k in tl.static_range(GROUPS):
                g = tl.load(group_pointers(grad_of + at * stride, centre, k, C, NARROW)).to(tl.float32) * up
                fires_here = m[:, None]
                if BY_CHANNEL:
                    c = group_channels(k, C)
                    key = keys_of + at * WORDS
                    fires_here &= channel_fires(
                        column_part, key, fire_of, at * W + cell, cells, c, FROZEN, WRITTEN, LANES, MAP
                    )
                straight = g
                if LIVING == 2 or not RESIDUAL:
                    written_here = is_written(group_channels(k, C), FROZEN, WRITTEN)
                    if LIVING == 2:
                        g = masked(g, alive[:, None], written_here)
                    straight = kept(g, fires_here, written_here, RESIDUAL)
                sums = sums + (begun[3 * k + 2] + straight,)
                fired = fired + (tl.where(fires_here, g, 0.0).to(DOT),)
                if GRAD_W and OUT_BIAS:
                    summed = (m & mine)[:, None]
                    if BY_CHANNEL:
                        summed = fires_here & mine[:, None]
                    sums_b = sums_b + (grad_b[k] + tl.where(summed, g, 0.0),)
            grad_u = output_matrix(fired, own, False, COLUMNS, DOT, PRODUCT)
            if GRAD_X:  # the sums over cells leave out those of other programs
                own_y = to_matrices(seen, mine, True, DOT, PRODUCT)
                own_grad_u = output_matrix(fired, mine, True, COLUMNS, DOT, PRODUCT)
            else:
                own_y = y
                own_grad_u = grad_u
            if GRAD_W1 and BIAS1:
                own_rows = to_matrix_rows(mine[:, None])
                own_row = tl.where((tl.arange(0, 16)[:, None] == 0) & tl.reshape(own_rows, (1, BW)), 1.0, 0.0).to(DOT)
            sums_w1 = ()
            sums_b1 = ()
            sums_w = ()
            grad_y = ()
            for i in tl.static_range(len(y)):
                grad_y = grad_y + (zeros(BW, y[i].shape[1]),)

            for j in tl.static_range(len(w)):
                h = units(y, w1, b1, j, BIAS1, FUNCTIONS[0], DOT, PRODUCT)
                grad_h = gated(back((grad_u,), (w[j],), 0, 1, DOT, PRODUCT), h, FUNCTIONS[0], DOT, PRODUCT)
                if GRAD_W:
                    sums_w = sums_w + (dot(tl.trans(h), own_grad_u, grad_w[j], DOT, PRODUCT),)
                if GRAD_W1:
                    sums_w1 = sums_w1 + add_products(grad_w1, own_y, grad_h, j, DOT, PRODUCT)
                    if BIAS1:
                        sums_b1 = sums_b1 + (dot(own_row, grad_h, grad_b1[j], DOT, PRODUCT),)
                if GRAD_X:
                    grad_y = add_back(grad_y, grad_h, w1, j, DOT, PRODUCT)
            if GRAD_W1:
                grad_w1 = sums_w1
                if BIAS1:
                    grad_b1 = sums_b1
            if GRAD_W:
                grad_w = sums_w
                grad_b = sums_b

            # Row r of grad_y reaches grad_x through the filters' upper row at r - 1, middle at r, lower at r + 1.
            if GRAD_X:
                q = from_matrices(grad_y, GROUPS, TERMS, C)
                if len(TURNS) > 0:
                    by_scale = tl.zeros((BW,), tl.float32)
                    by_angle = tl.zeros((BW,), tl.float32)
                    for k in tl.static_range(GROUPS):
                        by_scale, by_angle = turn_gradients(seen[k], q, by_scale, by_angle, TURNS, k * FP)
                    turns_of = turns + sample * 2 * cells
                    add_turns(turns_of, at * W + cell, cells, by_scale, by_angle, down, mine)
                    q = turned_back(q, frame[0], frame[1], TURNS, FP)
                to = grad_x_of + (row - 1).to(tl.int64) * stride
                new_done = ()
                new_begun = ()
                for k in tl.static_range(GROUPS):
                    p = add_through_filters(done[3 * k], q, TRANSPOSED, 0, k * FP)
                    t = add_through_filters(done[3 * k + 1], q, TRANSPOSED, 1, k * FP)
                    z = add_through_filters(done[3 * k + 2], q, TRANSPOSED, 2, k * FP)
                    a = tl.fma(p, 2.0, z) + moved_in(p + t, p - t, NARROW)
                    tl.store(
                        group_pointers(to, centre, k, C, NARROW),
                        (a * down).to(grad_x.dtype.element_ty),
                        mask=both(written, row > first),
                    )
                    p = add_through_filters(begun[3 * k], q, TRANSPOSED, 3, k * FP)
                    t = add_through_filters(begun[3 * k + 1], q, TRANSPOSED, 4, k * FP)
                    z = add_through_filters(sums[k], q, TRANSPOSED, 5, k * FP)
                    new_done = new_done + (p, t, z)
                    nothing = blank(BW, k, C)
                    p = add_through_filters(nothing, q, TRANSPOSED, 6, k * FP)
                    t = add_through_filters(nothing, q, TRANSPOSED, 7, k * FP)
                    z = add_through_filters(nothing, q, TRANSPOSED, 8, k * FP)
                    new_begun = new_begun + (p, t, z)
                done = new_done
                begun = new_begun
            if CARRIED:
                above = here
                here = below

    partial += program.to(tl.int64) * PACKED
    to_biases = partial + (PACKED - UNITS1 - COLUMNS)
    if GRAD_W1:
        add_layer(partial, grad_w1, down, K, INPUTS, HIDDEN1)
        if BIAS1:
            add_bias(to_biases, grad_b1, down, HIDDEN1)
    if GRAD_W:
        add_layer(partial + UNITS1 * K, grad_w, down, UNITS1, HIDDEN1, OUTPUTS)
        for k in tl.static_range(len(grad_b)):
            add_channels(to_biases + (UNITS1 + 8 * k), grad_b[k], down)
