"""The gradient of the cells' network in Triton, from perception in memory to the gradient of perception in memory.

    grad_u = m grad        grad_h = (W^T grad_u) [h > 0]        ...        grad_y = W1^T grad_h

Hidden units are computed again. They and the gradients of all layers' outputs are kept for weight_gradients.py, which
multiplies them into the gradients of the weights. In one kernel, the sums of weights and those of inputs would not fit
into the registers: two hidden layers of 90 units spilled 131 of them (bench/NOTES.md).
"""

import triton
import triton.language as tl

from ..cells import own_cells
from ..products import dot, gated, zeros
from .network_forward import fired, hidden, hidden_chunks, load_inputs


@triton.jit
def store_chunks(to, chunks, there, WIDTH: tl.constexpr, CHUNKS: tl.constexpr):
    """Stores chunks [cells, width] to rows of WIDTH numbers; CHUNKS is (start, width, start, width, ...)."""
    cell = tl.arange(0, there.shape[0])[:, None] * WIDTH
    for i in tl.static_range(len(chunks)):
        k = CHUNKS[2 * i] + tl.arange(0, CHUNKS[2 * i + 1])
        tl.store(to + cell + k[None, :], chunks[i].to(to.dtype.element_ty), mask=there[:, None])


@triton.jit(do_not_specialize=["origin_column"])
def network_bwd(
    grad,
    y,
    h1,
    h,
    grad_y,
    grad_h1,
    grad_h,
    grad_u,
    scale,
    keys,
    fire,
    weights,
    biases,
    weights_stride,
    biases_stride,
    first_sample,
    first_cell,
    cells,
    H,
    W,
    origin_column,
    C: tl.constexpr,
    FROZEN: tl.constexpr,
    K: tl.constexpr,
    INPUTS: tl.constexpr,
    UNITS1: tl.constexpr,
    HIDDEN1: tl.constexpr,
    UNITS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BIAS1: tl.constexpr,
    BIAS: tl.constexpr,
    OUT_BIAS: tl.constexpr,
    MAP: tl.constexpr,
    SCALED: tl.constexpr,
    DOT: tl.constexpr,
    PRODUCT: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """Computes the gradients of all layers' outputs and inputs, of a range of cells; see cells.py.

    Args:
        grad: Gradient of the state after the update. [B, H, W, C].
        h1, h: Written: the hidden units, [cells, UNITS1] (left alone if UNITS1 is 0) and [cells, UNITS].
        grad_y: Written: gradient of the perception. [B, H, W, K].
        grad_h1, grad_h, grad_u: Written: gradients before the ReLUs and of the update, laid out as h1, h and
            [cells, COLUMNS]; the last as float32, for the bias, which no product makes.
        scale: With SCALED, one float32 power of two by which all of these are multiplied.
        The others as in `network_fwd`.
    """
    IN: tl.constexpr = UNITS1 if UNITS1 > 0 else K
    FROM: tl.constexpr = HIDDEN1 if UNITS1 > 0 else INPUTS
    sample, whole, place, row, column, there = own_cells(first_sample, first_cell, cells, H, W, BM)
    weights += sample * weights_stride
    biases += sample * biases_stride
    o = tl.arange(0, COLUMNS)
    i = tl.arange(0, BM)

    m = fired(keys, fire, sample, row, column, H, W, origin_column, MAP) & there
    reached = m[:, None] & ((o >= FROZEN) & (o < C))[None, :]
    g = tl.load(grad + (whole + i)[:, None] * C + o[None, :], mask=reached, other=0.0).to(tl.float32)
    if SCALED:
        g *= tl.load(scale)
    tl.store(grad_u + (place + i)[:, None] * COLUMNS + o[None, :], g, mask=there[:, None])
    g = g.to(DOT)

    inputs = load_inputs(y + place * K, there, K, INPUTS)
    if UNITS1 > 0:
        inputs = hidden_chunks(inputs, weights, biases, K, INPUTS, HIDDEN1, BIAS1, DOT, PRODUCT)
        store_chunks(h1 + place * UNITS1, inputs, there, UNITS1, HIDDEN1)
    w = weights + UNITS1 * K
    w_out = w + UNITS * IN
    sums = ()
    for k in tl.static_range(len(inputs)):
        sums = sums + (zeros(BM, inputs[k].shape[1]),)
    for begin in range(0, UNITS, BN):
        n = begin + tl.arange(0, BN)
        a = hidden(inputs, w, biases + UNITS1, n, IN, FROM, BIAS, DOT, PRODUCT)
        back_a = dot(g, tl.load(w_out + o[:, None] * UNITS + n[None, :]), zeros(BM, BN), DOT, PRODUCT)
        back_a = gated(back_a, a, DOT, PRODUCT)
        at = (place + i)[:, None] * UNITS + n[None, :]
        tl.store(h + at, a, mask=there[:, None])
        tl.store(grad_h + at, back_a, mask=there[:, None])
        new = ()
        for k in tl.static_range(len(sums)):
            f = FROM[2 * k] + tl.arange(0, FROM[2 * k + 1])
            new = new + (dot(back_a, tl.load(w + n[:, None] * IN + f[None, :]), sums[k], DOT, PRODUCT),)
        sums = new

    if UNITS1 > 0:
        gates = ()
        for k in tl.static_range(len(sums)):
            gates = gates + (gated(sums[k], inputs[k], DOT, PRODUCT),)
        store_chunks(grad_h1 + place * UNITS1, gates, there, UNITS1, HIDDEN1)
        for k in tl.static_range(0, len(INPUTS), 2):
            f = INPUTS[k] + tl.arange(0, INPUTS[k + 1])
            a = zeros(BM, INPUTS[k + 1])
            for j in tl.static_range(len(gates)):
                n = HIDDEN1[2 * j] + tl.arange(0, HIDDEN1[2 * j + 1])
                a = dot(gates[j], tl.load(weights + n[:, None] * K + f[None, :]), a, DOT, PRODUCT)
            at = (whole + i)[:, None] * K + f[None, :]
            tl.store(grad_y + at, a.to(grad_y.dtype.element_ty), mask=there[:, None])
    else:
        store_chunks(grad_y + whole * K, sums, there, K, INPUTS)
