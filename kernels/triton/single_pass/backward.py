"""The gradient of one step in Triton, in a single pass: perception and hidden units are computed again.

    grad_u = m grad        grad_h = (W^T grad_u) [h > 0]        grad_y = W1^T grad_h
    grad_x = grad + filters^T grad_y
    grad_W = sum of grad_u h^T        grad_W1 = sum of grad_h y^T        grad_b = sum of grad_u, ... over all cells

For one hidden layer; the gradient of two goes through memory (through_memory/steps.py).

A program takes BW - 2 columns and slides down R rows, as in `step_fwd`. grad_x of a cell needs grad_y of its eight
neighbours, so the program computes one column more at either side and one row more at either end. With P, T and Z the
sums over the filters, and over the rows above, of and below a cell, of grad_y times the filters' weights on the
profiles S, D and M,

    grad_x(c) = grad(c) + Z(c) + 2 P(c) + (P + T)(c - 1) + (P - T)(c + 1).

The sums over rows are carried down in registers; the last two terms are the tensor moved by one cell. Weight gradients
are accumulated in registers over the program's own cells, on top of the program's own partial sum.

Where registers do not hold all of that, the host launches the kernel several times: once for grad_x, and, without the
additional cells, for the weights of all layers or of some.
"""

import triton
import triton.language as tl

from ..fire import fires
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
from .filters import (
    add_through_filters,
    blank,
    both,
    filter_responses,
    group_pointers,
    moved_in,
    offsets,
    profiles,
    wrapped,
)
from .operands import from_matrices, output_matrix, to_matrices, to_matrix_rows


@triton.jit(do_not_specialize=["origin_column"])
def step_bwd(
    x,
    grad,
    grad_x,
    partial,
    scale,
    keys,
    fire,
    weights,
    biases,
    weights_stride,
    biases_stride,
    H,
    W,
    R,
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
    CIRCULAR: tl.constexpr,
    MAP: tl.constexpr,
    SCALED: tl.constexpr,
    DOT: tl.constexpr,
    PRODUCT: tl.constexpr,
    BW: tl.constexpr,
    GRAD_X: tl.constexpr,
    GRAD_W1: tl.constexpr,
    GRAD_W: tl.constexpr,
    CARRIED: tl.constexpr,
):
    """grad_x = the gradient of x, given grad, that of the state after the step; partial += that of the weights.

    Args:
        x, grad, grad_x: [B, H, W, C], C a multiple of 4.
        partial: Partial sums, float32, [B * programs of a sample with GRAD_X, packed weights and biases].
        scale: With SCALED, one float32 power of two by which grad is multiplied before it is rounded to DOT.
        TRANSPOSED: For each profile the (filter, weight, ...) of the filters that use it.
        GRAD_X, GRAD_W1, GRAD_W: What this launch computes: grad_x, the gradients of the first layer, those of the later
            layers. The grid differs: without GRAD_X a program has BW columns.
        CARRIED: Whether the profiles of two rows are carried down, or loaded again to save registers.
        The others as in `step_fwd`.
    """
    FP: tl.constexpr = len(TERMS)
    GROUPS: tl.constexpr = (C + 7) // 8
    K: tl.constexpr = GROUPS * 8 * FP
    COLUMNS: tl.constexpr = OUTPUTS[1]
    PACKED: tl.constexpr = UNITS1 * K + COLUMNS * UNITS1 + UNITS1 + COLUMNS
    HALO: tl.constexpr = 1 if GRAD_X else 0
    columns = tl.cdiv(W, BW - 2 * HALO)
    programs_down = tl.cdiv(H, R)
    program = tl.program_id(0)
    sample = program // (columns * programs_down)
    first = program // columns % programs_down * R
    end = tl.minimum(first + R, H)
    lane = tl.arange(0, BW)
    column = program % columns * (BW - 2 * HALO) - HALO + lane

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

    stride = (W * C).to(tl.int64)
    x += sample.to(tl.int64) * H * stride
    grad += sample.to(tl.int64) * H * stride
    grad_x += sample.to(tl.int64) * H * stride
    keys += sample.to(tl.int64) * H * 2
    column_part = (cell + origin_column).to(tl.uint32) * 0x9E3779B9
    below_threshold = tl.load(fire)
    if SCALED:
        up = tl.load(scale)
        down = 1.0 / up
    else:
        up = 1.0
        down = 1.0

    weights += sample.to(tl.int64) * weights_stride
    biases += sample.to(tl.int64) * biases_stride
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

    # Unfinished rows of grad_x: P, T, Z over the rows read so far, for the row above the next and for the next itself.
    done = ()
    begun = ()
    for k in tl.static_range(GROUPS):
        nothing = blank(BW, k, C)
        done = done + (nothing, nothing, nothing)
        begun = begun + (nothing, nothing, nothing)
    if CARRIED:
        above = profiles(
            x, first - HALO - 1, H, stride, left, centre, right, left_there, there, right_there, C, CIRCULAR
        )
        here = profiles(x, first - HALO, H, stride, left, centre, right, left_there, there, right_there, C, CIRCULAR)
    rows = end - first + 2 * HALO
    tl.assume(rows > 0)  # else registers are kept for the case that there are none
    for n in range(rows):
        row = first - HALO + n
        if not CARRIED:
            above = profiles(x, row - 1, H, stride, left, centre, right, left_there, there, right_there, C, CIRCULAR)
            here = profiles(x, row, H, stride, left, centre, right, left_there, there, right_there, C, CIRCULAR)
        below = profiles(x, row + 1, H, stride, left, centre, right, left_there, there, right_there, C, CIRCULAR)
        seen = filter_responses(above, here, below, TERMS, DOT)
        y = to_matrices(seen, own, False, DOT, PRODUCT)

        at = wrapped(row, H).to(tl.int64)  # without a torus, rows outside are masked below
        m = fires(column_part, keys + at * 2, tl.load(fire + at * W + cell) if MAP else below_threshold)
        if not CIRCULAR or not GRAD_X:
            m = both(m & on_canvas, (row >= 0) & (row < H))
        mine = both(own, (row >= first) & (row < end))
        sums = ()
        fired = ()
        sums_b = ()
        for k in tl.static_range(GROUPS):
            g = tl.load(group_pointers(grad + at * stride, centre, k, C)).to(tl.float32) * up
            sums = sums + (begun[3 * k + 2] + g,)
            fired = fired + (tl.where(m[:, None], g, 0.0).to(DOT),)
            if GRAD_W and OUT_BIAS:
                sums_b = sums_b + (grad_b[k] + tl.where((m & mine)[:, None], g, 0.0),)
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
            h = units(y, w1, b1, j, BIAS1, True, DOT, PRODUCT)
            grad_h = gated(back((grad_u,), (w[j],), 0, 1, DOT, PRODUCT), h, DOT, PRODUCT)
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
            to = grad_x + (row - 1).to(tl.int64) * stride
            new_done = ()
            new_begun = ()
            for k in tl.static_range(GROUPS):
                p = add_through_filters(done[3 * k], q, TRANSPOSED, 0, k * FP)
                t = add_through_filters(done[3 * k + 1], q, TRANSPOSED, 1, k * FP)
                z = add_through_filters(done[3 * k + 2], q, TRANSPOSED, 2, k * FP)
                a = tl.fma(p, 2.0, z) + moved_in(p + t, p - t)
                tl.store(
                    group_pointers(to, centre, k, C),
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

    partial += (sample * (tl.cdiv(W, BW - 2) * programs_down) + program % (columns * programs_down)).to(
        tl.int64
    ) * PACKED
    to_biases = partial + (PACKED - UNITS1 - COLUMNS)
    if GRAD_W1:
        add_layer(partial, grad_w1, down, K, INPUTS, HIDDEN1)
        if BIAS1:
            add_bias(to_biases, grad_b1, down, HIDDEN1)
    if GRAD_W:
        add_layer(partial + UNITS1 * K, grad_w, down, UNITS1, HIDDEN1, OUTPUTS)
        for k in tl.static_range(len(grad_b)):
            add_channels(to_biases + (UNITS1 + 8 * k), grad_b[k], down)
