"""The gradient of one step in Triton, in a single pass: perception and hidden units are computed again.

    grad_u = m grad        grad_h = (W^T grad_u) [h > 0]        grad_y = W1^T grad_h
    grad_x = grad + filters^T grad_y
    grad_W = sum of grad_u h^T        grad_W1 = sum of grad_h y^T        grad_b = sum of grad_u, ... over all cells

A program takes BW - 2 columns and slides down R rows, as in step_fwd_triton. grad_x of a cell needs grad_y of its eight
neighbours, so the program computes one column more at either side and one row more at either end. With P, T and Z the
sums over the filters, and over the rows above, of and below a cell, of grad_y times the filters' weights on the
profiles S, D and M,

    grad_x(c) = grad(c) + Z(c) + 2 P(c) + (P + T)(c - 1) + (P - T)(c + 1).

The sums over rows are carried down in registers; the last two terms are the tensor moved by one cell. Weight gradients
are accumulated in registers over the program's own cells, on top of the program's own partial sum.
"""

import triton
import triton.language as tl
from nca_fast.kernels.philox_triton import fires
from nca_fast.kernels.step_fwd_triton import (
    both,
    dot,
    layer,
    load_bias,
    load_layer,
    perception,
    profiles,
    wrapped,
    zeros,
)


@triton.jit
def split_filters(y, CP: tl.constexpr, FP: tl.constexpr):
    """[BW, FP * CP] to FP tensors [BW, CP]: undoes the stacking of `perception`."""
    BW: tl.constexpr = y.shape[0]
    y = tl.permute(tl.reshape(y, (BW, FP, CP)), (0, 2, 1))
    if FP == 1:
        return (tl.reshape(y, (BW, CP)),)
    elif FP == 2:
        return tl.split(y)
    elif FP == 4:
        even, odd = tl.split(tl.reshape(y, (BW, CP, 2, 2)))
        y0, y2 = tl.split(even)
        y1, y3 = tl.split(odd)
        return (y0, y1, y2, y3)
    else:
        even, odd = tl.split(tl.reshape(y, (BW, CP, 2, 2, 2)))
        y04, y26 = tl.split(even)
        y15, y37 = tl.split(odd)
        y0, y4 = tl.split(y04)
        y2, y6 = tl.split(y26)
        y1, y5 = tl.split(y15)
        y3, y7 = tl.split(y37)
        return (y0, y1, y2, y3, y4, y5, y6, y7)


@triton.jit
def add_through_filters(total, y, TRANSPOSED: tl.constexpr, n: tl.constexpr):
    """total + what the filters return to profile n of a cell whose grad_y is y; see `step_bwd` for TRANSPOSED."""
    for k in tl.static_range(0, len(TRANSPOSED[n]), 2):
        total = tl.fma(y[TRANSPOSED[n][k]], TRANSPOSED[n][k + 1], total)
    return total


@triton.jit
def back(grads, w, IN: tl.constexpr, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """The gradient of a layer's inputs, as IN chunks: W^T grads. w is what `load_layer` gave."""
    BW: tl.constexpr = grads[0].shape[0]
    outputs = ()
    for i in tl.static_range(IN):
        a = zeros(BW, w[i].shape[0])
        for j in tl.static_range(len(grads)):
            a = dot(grads[j], tl.trans(w[j * IN + i]), a, DOT, PRODUCT)
        outputs = outputs + (a,)
    return outputs


@triton.jit
def here(y, PRODUCT: tl.constexpr):
    """y, computed once and in the layout of its inputs: Triton would move each of its nine inputs instead."""
    if PRODUCT == "ptx":
        return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [y], dtype=y.dtype, is_pure=False, pack=2)
    else:
        return y


@triton.jit
def gated(grads, h, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """The gradient before the ReLU whose values are h, rounded to DOT."""
    outputs = ()
    for j in tl.static_range(len(grads)):
        if PRODUCT == "ptx":  # h is 0 or positive: adding 0x7fff sets the sign bit of those that are positive
            g = tl.inline_asm_elementwise(
                "{ .reg .b32 m; add.u32 m, $1, 0x7fff7fff; prmt.b32 m, m, 0, 0xbb99; and.b32 $0, m, $2; }",
                "=r,r,r",
                [h[j], grads[j].to(DOT)],
                dtype=h[j].dtype,
                is_pure=True,
                pack=2,
            )
        else:
            g = tl.where(h[j].to(tl.float32) > 0, grads[j], 0.0).to(DOT)
        outputs = outputs + (g,)
    return outputs


@triton.jit
def kept(tensors, mask, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """The chunks with the rows zero where the mask [BW] is off."""
    outputs = ()
    for j in tl.static_range(len(tensors)):
        if PRODUCT == "ptx":  # two numbers of a register may lie in two rows: both masks are looked at
            full = tl.broadcast_to(tl.where(mask, -1, 0)[:, None], tensors[j].shape)
            t = tl.inline_asm_elementwise(
                "{ .reg .b32 m; prmt.b32 m, $2, $3, 0x5410; and.b32 $0, $1, m; }",
                "=r,r,r,r",
                [tensors[j], full],
                dtype=tensors[j].dtype,
                is_pure=True,
                pack=2,
            )
        else:
            t = tl.where(mask[:, None], tensors[j].to(tl.float32), 0.0).to(DOT)
        outputs = outputs + (t,)
    return outputs


@triton.jit
def add_products(sums, inputs, grads, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """sums + inputs^T grads, tile by tile in the order of `load_layer`."""
    IN: tl.constexpr = len(inputs)
    outputs = ()
    for j in tl.static_range(len(grads)):
        for i in tl.static_range(IN):
            outputs = outputs + (dot(tl.trans(inputs[i]), grads[j], sums[j * IN + i], DOT, PRODUCT),)
    return outputs


@triton.jit
def add_sums(sums, grads, own, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """sums [16, width] + own grads: in row 0 the sums over the own cells. As a product, because tl.sum costs more."""
    outputs = ()
    for j in tl.static_range(len(grads)):
        outputs = outputs + (dot(own, grads[j], sums[j], DOT, PRODUCT),)
    return outputs


@triton.jit
def scaled(tensors, scale):
    outputs = ()
    for j in tl.static_range(len(tensors)):
        outputs = outputs + (tensors[j] * scale,)
    return outputs


@triton.jit
def first_rows(chunks):
    """Rows [1, width] as the first rows of [16, width], for `add_sums`."""
    outputs = ()
    for j in tl.static_range(len(chunks)):
        outputs = outputs + (tl.where(tl.arange(0, 16)[:, None] == 0, chunks[j], 0.0),)
    return outputs


@triton.jit
def store_layer(to, tiles, scale, IN: tl.constexpr, FROM: tl.constexpr, TO: tl.constexpr):
    """Writes scale * tiles, in the order of `load_layer`, to the matrix [out, IN] at `to`."""
    INPUTS: tl.constexpr = len(FROM) // 2
    for j in tl.static_range(0, len(TO), 2):
        n = TO[j] + tl.arange(0, TO[j + 1])
        for i in tl.static_range(0, len(FROM), 2):
            k = FROM[i] + tl.arange(0, FROM[i + 1])
            tl.store(to + n[None, :] * IN + k[:, None], scale * tiles[j // 2 * INPUTS + i // 2])


@triton.jit
def store_bias(to, chunks, scale, TO: tl.constexpr):
    """Writes scale times the first rows of chunks [16, width] to the bias at `to`; the other rows are zero."""
    for j in tl.static_range(0, len(TO), 2):
        tl.store(to + TO[j] + tl.arange(0, TO[j + 1]), scale * tl.sum(chunks[j // 2], 0))


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
    H,
    W,
    R,
    origin_column,
    C: tl.constexpr,
    CP: tl.constexpr,
    TERMS: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    HIDDEN1: tl.constexpr,
    UNITS1: tl.constexpr,
    HIDDEN2: tl.constexpr,
    UNITS2: tl.constexpr,
    BIAS1: tl.constexpr,
    BIAS2: tl.constexpr,
    OUT_BIAS: tl.constexpr,
    CIRCULAR: tl.constexpr,
    MAP: tl.constexpr,
    SCALED: tl.constexpr,
    DOT: tl.constexpr,
    PRODUCT: tl.constexpr,
    BW: tl.constexpr,
):
    """grad_x = the gradient of x, given grad, that of the state after the step; partial += that of the weights.

    Args:
        x, grad, grad_x: [B, H, W, C], C a multiple of 4.
        partial: Partial sums, float32, [programs, packed weights and biases].
        scale: With SCALED, one float32 power of two by which grad is multiplied before it is rounded to DOT.
        TRANSPOSED: For each profile the (filter, weight, ...) of the filters that use it.
        The others as in `step_fwd`.
    """
    FP: tl.constexpr = len(TERMS)
    K: tl.constexpr = CP * FP
    PACKED: tl.constexpr = UNITS1 * K + UNITS2 * UNITS1 + CP * (UNITS2 if UNITS2 > 0 else UNITS1) + UNITS1 + UNITS2 + CP
    columns = tl.cdiv(W, BW - 2)
    bands = tl.cdiv(H, R)
    program = tl.program_id(0)
    sample = program // (columns * bands)
    first = program // columns % bands * R
    end = tl.minimum(first + R, H)
    lane = tl.arange(0, BW)
    i = program % columns * (BW - 2) - 1 + lane

    c = tl.arange(0, CP)[None, :]
    if CIRCULAR:
        cell = (i + W) % W
    else:
        cell = tl.minimum(tl.maximum(i, 0), W - 1)
    on_canvas = (i >= 0) & (i < W)
    own = on_canvas & (lane > 0) & (lane < BW - 1)
    left = ((cell + W - 1) % W * C)[:, None] + c
    centre = (cell * C)[:, None] + c
    right = ((cell + 1) % W * C)[:, None] + c
    there = (c < C) & (lane >= 0)[:, None]
    left_there = there & (cell > 0)[:, None]
    right_there = there & (cell < W - 1)[:, None]
    written = there & own[:, None]
    to_left = (lane[:, None] + 1) % BW + tl.zeros((BW, CP), tl.int32)
    to_right = (lane[:, None] + BW - 1) % BW + tl.zeros((BW, CP), tl.int32)

    stride = (W * C).to(tl.int64)
    x += sample.to(tl.int64) * H * stride
    grad += sample.to(tl.int64) * H * stride
    grad_x += sample.to(tl.int64) * H * stride
    keys += sample.to(tl.int64) * H * 2
    column_part = (cell + origin_column).to(tl.uint32) * 0x9E3779B9
    below = tl.load(fire)
    if SCALED:
        up = tl.load(scale)
        down = 1.0 / up
    else:
        up = 1.0
        down = 1.0

    INPUTS: tl.constexpr = (0, K)
    OUTPUTS: tl.constexpr = (0, CP)
    w1 = load_layer(weights, K, INPUTS, HIDDEN1)
    if UNITS2 > 0:
        w2 = load_layer(weights + UNITS1 * K, UNITS1, HIDDEN1, HIDDEN2)
        b2 = load_bias(biases + UNITS1, HIDDEN2)
        w = load_layer(weights + UNITS1 * (K + UNITS2), UNITS2, HIDDEN2, OUTPUTS)
    else:
        w = load_layer(weights + UNITS1 * K, UNITS1, HIDDEN1, OUTPUTS)
    b1 = load_bias(biases, HIDDEN1)

    # The sums go on from where the program of the step after this one left them.
    partial += program.to(tl.int64) * PACKED
    to_biases = partial + (PACKED - UNITS1 - UNITS2 - CP)
    grad_w1 = scaled(load_layer(partial, K, INPUTS, HIDDEN1), up)
    grad_b1 = scaled(first_rows(load_bias(to_biases, HIDDEN1)), up)
    if UNITS2 > 0:
        grad_w2 = scaled(load_layer(partial + UNITS1 * K, UNITS1, HIDDEN1, HIDDEN2), up)
        grad_b2 = scaled(first_rows(load_bias(to_biases + UNITS1, HIDDEN2)), up)
        grad_w = scaled(load_layer(partial + UNITS1 * (K + UNITS2), UNITS2, HIDDEN2, OUTPUTS), up)
    else:
        grad_w = scaled(load_layer(partial + UNITS1 * K, UNITS1, HIDDEN1, OUTPUTS), up)
    grad_b = scaled(first_rows(load_bias(to_biases + (UNITS1 + UNITS2), OUTPUTS)), up)

    # Unfinished rows of grad_x: the sums over the rows read so far, for the row above the next and for the next itself.
    nothing = zeros(BW, CP)
    p0, t0, z0, p1, t1, z1 = nothing, nothing, nothing, nothing, nothing, nothing
    for n in range(end - first + 2):
        row = first - 1 + n
        s_above, d_above, m_above = profiles(
            x, row - 1, H, stride, left, centre, right, left_there, there, right_there, CIRCULAR
        )
        s, d, m = profiles(x, row, H, stride, left, centre, right, left_there, there, right_there, CIRCULAR)
        s_below, d_below, m_below = profiles(
            x, row + 1, H, stride, left, centre, right, left_there, there, right_there, CIRCULAR
        )
        y = perception((s_above, d_above, m_above, s, d, m, s_below, d_below, m_below), TERMS, DOT)
        y = (here(y, PRODUCT),)
        h1 = layer(y, w1, b1, BIAS1, True, DOT, PRODUCT)
        if UNITS2 > 0:
            h = layer(h1, w2, b2, BIAS2, True, DOT, PRODUCT)
        else:
            h = h1

        at = wrapped(row, H).to(tl.int64)  # without a torus, rows outside are masked below
        m = fires(column_part, keys + at * 2, tl.load(fire + at * W + cell) if MAP else below)
        if not CIRCULAR:
            m = both(m & on_canvas, (row >= 0) & (row < H))
        mine = both(own, (row >= first) & (row < end))
        g = tl.load(grad + at * stride + centre, mask=there, other=0.0).to(tl.float32)
        grad_u = (tl.where(m[:, None], g * up, 0.0).to(DOT),)
        grad_h = gated(back(grad_u, w, len(h), DOT, PRODUCT), h, DOT, PRODUCT)
        if UNITS2 > 0:
            grad_h1 = gated(back(grad_h, w2, len(h1), DOT, PRODUCT), h1, DOT, PRODUCT)
        else:
            grad_h1 = grad_h

        own_row = tl.where((tl.arange(0, 16)[:, None] == 0) & mine[None, :], 1.0, 0.0).to(DOT)
        grad_u = kept(grad_u, mine, DOT, PRODUCT)
        grad_w = add_products(grad_w, h, grad_u, DOT, PRODUCT)
        if OUT_BIAS:
            grad_b = add_sums(grad_b, grad_u, own_row, DOT, PRODUCT)
        if UNITS2 > 0:
            grad_h = kept(grad_h, mine, DOT, PRODUCT)
            grad_w2 = add_products(grad_w2, h1, grad_h, DOT, PRODUCT)
            if BIAS2:
                grad_b2 = add_sums(grad_b2, grad_h, own_row, DOT, PRODUCT)
        grad_w1 = add_products(grad_w1, kept(y, mine, DOT, PRODUCT), grad_h1, DOT, PRODUCT)
        if BIAS1:
            grad_b1 = add_sums(grad_b1, grad_h1, own_row, DOT, PRODUCT)

        # Row r of grad_y reaches grad_x through the filters' upper row at r - 1, middle at r, lower at r + 1.
        q = split_filters(back(grad_h1, w1, 1, DOT, PRODUCT)[0] * down, CP, FP)
        p = add_through_filters(p0, q, TRANSPOSED, 0)
        t = add_through_filters(t0, q, TRANSPOSED, 1)
        z = add_through_filters(z0, q, TRANSPOSED, 2)
        done = tl.fma(p, 2.0, z) + tl.gather(p + t, to_right, 0) + tl.gather(p - t, to_left, 0)
        above = grad_x + (row - 1).to(tl.int64) * stride
        tl.store(above + centre, done.to(grad_x.dtype.element_ty), mask=both(written, row > first))
        p0 = add_through_filters(p1, q, TRANSPOSED, 3)
        t0 = add_through_filters(t1, q, TRANSPOSED, 4)
        z0 = add_through_filters(z1 + g, q, TRANSPOSED, 5)
        p1 = add_through_filters(nothing, q, TRANSPOSED, 6)
        t1 = add_through_filters(nothing, q, TRANSPOSED, 7)
        z1 = add_through_filters(nothing, q, TRANSPOSED, 8)

    store_layer(partial, grad_w1, down, K, INPUTS, HIDDEN1)
    if UNITS2 > 0:
        store_layer(partial + UNITS1 * K, grad_w2, down, UNITS1, HIDDEN1, HIDDEN2)
        store_layer(partial + UNITS1 * (K + UNITS2), grad_w, down, UNITS2, HIDDEN2, OUTPUTS)
    else:
        store_layer(partial + UNITS1 * K, grad_w, down, UNITS1, HIDDEN1, OUTPUTS)
    if BIAS1:
        store_bias(to_biases, grad_b1, down, HIDDEN1)
    if BIAS2:
        store_bias(to_biases + UNITS1, grad_b2, down, HIDDEN2)
    if OUT_BIAS:
        store_bias(to_biases + (UNITS1 + UNITS2), grad_b, down, OUTPUTS)
