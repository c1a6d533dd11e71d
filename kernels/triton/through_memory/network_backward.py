"""The gradient of the cells' network in Triton, from perception in memory to the gradient of perception in memory.

    grad_u = m grad f'        grad_h = (W^T grad_u) f1'        ...        grad_y = W1^T grad_h

Hidden units are computed again. They and the gradients of all layers' outputs are kept for weight_gradients.py, which
multiplies them into the gradients of the weights. In one kernel, the sums of weights and those of inputs would not fit
into the registers: two hidden layers of 90 units spilled 131 of them (bench/NOTES.md).
"""

import triton
import triton.language as tl

from ..activations import applied, sloped
from ..cells import own_cells
from ..products import activated, dot, gated, zeros
from ..update import is_written, kept, moved, passed_on
from .network_forward import across, fired, hidden_chunks, last_layer, load_inputs, noise_of, sums_of_inputs


@triton.jit
def update_sums(
    y,
    weights,
    biases,
    there,
    o,
    K: tl.constexpr,
    INPUTS: tl.constexpr,
    UNITS1: tl.constexpr,
    HIDDEN1: tl.constexpr,
    UNITS: tl.constexpr,
    BIAS1: tl.constexpr,
    BIAS: tl.constexpr,
    OUT_BIAS: tl.constexpr,
    FUNCTIONS: tl.constexpr,
    DOT: tl.constexpr,
    PRODUCT: tl.constexpr,
    BN: tl.constexpr,
):
    """Computes what the last layer gives once more, for the slope of its function and for who is clamped."""
    IN: tl.constexpr = UNITS1 if UNITS1 > 0 else K
    FROM: tl.constexpr = HIDDEN1 if UNITS1 > 0 else INPUTS
    F: tl.constexpr = FUNCTIONS[1] if UNITS1 > 0 else FUNCTIONS[0]
    inputs = load_inputs(y, there, K, INPUTS)
    if UNITS1 > 0:
        inputs = hidden_chunks(inputs, weights, biases, K, INPUTS, HIDDEN1, BIAS1, FUNCTIONS[0], DOT, PRODUCT)
    w = weights + UNITS1 * K
    return last_layer(inputs, w, biases, o, IN, FROM, UNITS1, UNITS, BIAS, OUT_BIAS, F, DOT, PRODUCT, BN)


@triton.jit
def slope_at(z, F: tl.constexpr):
    """Returns that at which the slope of a function is known, see activations.py."""
    if F[3]:
        return z
    else:
        return applied(z, F)


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
    x,
    straight,
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
    living,
    noise,
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
    K: tl.constexpr,
    INPUTS: tl.constexpr,
    UNITS1: tl.constexpr,
    HIDDEN1: tl.constexpr,
    UNITS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BIAS1: tl.constexpr,
    BIAS: tl.constexpr,
    OUT_BIAS: tl.constexpr,
    FROZEN: tl.constexpr,
    WRITTEN: tl.constexpr,
    FUNCTIONS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    CLAMP: tl.constexpr,
    LIVING: tl.constexpr,
    LANES: tl.constexpr,
    ONE_COLUMN: tl.constexpr,
    NOISE: tl.constexpr,
    WORDS: tl.constexpr,
    MAP: tl.constexpr,
    SCALED: tl.constexpr,
    DOT: tl.constexpr,
    PRODUCT: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """Computes the gradients of all layers' outputs and inputs, of a range of cells; see cells.py.

    Args:
        grad: Gradient of the state after the step. [B, H, W, C].
        x: The state that was updated, [B, H, W, C]; with CLAMP.
        straight: Written: the gradient that reaches it straight, float32 [B, H, W, C]; None where that is `grad`.
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

    LAST: tl.constexpr = FUNCTIONS[len(FUNCTIONS) - 1]
    F: tl.constexpr = FUNCTIONS[1] if UNITS1 > 0 else FUNCTIONS[0]
    m = fired(keys, fire, o, sample, row, column, H, W, origin_column, FROZEN, WRITTEN, LANES, ONE_COLUMN, WORDS, MAP)
    if straight is None:
        if len(m.shape) == 1:
            m = m & there
        reached = across(m) & ((o >= FROZEN) & (o < C))[None, :]
        if len(m.shape) == 2:
            reached = reached & there[:, None]
        g = tl.load(grad + (whole + i)[:, None] * C + o[None, :], mask=reached, other=0.0).to(tl.float32)
    else:
        own = (whole + i)[:, None] * C + o[None, :]
        here = there[:, None] & (o < C)[None, :]
        written = is_written(o, FROZEN, WRITTEN)
        takes = across(m) & written & here
        g = tl.load(grad + own, mask=here, other=0.0).to(tl.float32)
        alive = True
        if LIVING > 0:
            alive = (tl.load(living + (sample * H + row) * W + column) != 0)[:, None]
            if LIVING == 1:
                takes = takes & alive
        z = g
        v = g
        if len(CLAMP) > 0 or LAST[0] != "identity":
            z = update_sums(
                y + place * K,
                weights,
                biases,
                there,
                o,
                K,
                INPUTS,
                UNITS1,
                HIDDEN1,
                UNITS,
                BIAS1,
                BIAS,
                OUT_BIAS,
                FUNCTIONS,
                DOT,
                PRODUCT,
                BN,
            )
        if len(CLAMP) > 0:
            e = noise_of(keys, noise, o, sample, row, column, H, origin_column, FROZEN, WRITTEN, NOISE, WORDS)
            s = tl.load(x + own, mask=here, other=0.0).to(tl.float32)
            v = moved(s, applied(z, LAST) + e, takes, RESIDUAL)
        g = passed_on(g, v, alive, written, CLAMP, LIVING)
        tl.store(straight + own, kept(g, takes, written, RESIDUAL), mask=here)
        g = sloped(tl.where(takes, g, 0.0), slope_at(z, LAST), LAST)
    if SCALED:
        g *= tl.load(scale)
    tl.store(grad_u + (place + i)[:, None] * COLUMNS + o[None, :], g, mask=there[:, None])
    g = g.to(DOT)

    inputs = load_inputs(y + place * K, there, K, INPUTS)
    if UNITS1 > 0:
        inputs = hidden_chunks(inputs, weights, biases, K, INPUTS, HIDDEN1, BIAS1, FUNCTIONS[0], DOT, PRODUCT)
        store_chunks(h1 + place * UNITS1, inputs, there, UNITS1, HIDDEN1)
    w = weights + UNITS1 * K
    w_out = w + UNITS * IN
    sums = ()
    for k in tl.static_range(len(inputs)):
        if UNITS > 0:
            sums = sums + (zeros(BM, inputs[k].shape[1]),)
        else:
            f = FROM[2 * k] + tl.arange(0, FROM[2 * k + 1])
            to_f = tl.load(w + o[:, None] * IN + f[None, :])
            sums = sums + (dot(g, to_f, zeros(BM, inputs[k].shape[1]), DOT, PRODUCT),)
    if UNITS > 0:
        for begin in range(0, UNITS, BN):
            n = begin + tl.arange(0, BN)
            z_h = sums_of_inputs(inputs, w, biases + UNITS1, n, IN, FROM, BIAS, DOT, PRODUCT)
            a = activated(z_h, F, DOT, PRODUCT)
            back_a = dot(g, tl.load(w_out + o[:, None] * UNITS + n[None, :]), zeros(BM, BN), DOT, PRODUCT)
            back_a = gated(back_a, z_h if F[3] else a, F, DOT, PRODUCT)
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
        if FUNCTIONS[0][3]:
            seen = load_inputs(y + place * K, there, K, INPUTS)
        for k in tl.static_range(len(sums)):
            at_slope = inputs[k]
            if FUNCTIONS[0][3]:
                n = HIDDEN1[2 * k] + tl.arange(0, HIDDEN1[2 * k + 1])
                at_slope = sums_of_inputs(seen, weights, biases, n, K, INPUTS, BIAS1, DOT, PRODUCT)
            gates = gates + (gated(sums[k], at_slope, FUNCTIONS[0], DOT, PRODUCT),)
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
