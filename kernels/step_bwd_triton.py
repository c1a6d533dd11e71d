"""The gradient of one step in Triton, in a single pass: perception and hidden units are computed again.

    grad_u = m grad        grad_h = (W^T grad_u) [h > 0]        grad_y = W1^T grad_h        grad_x = grad + filters^T grad_y
    grad_W = sum over cells of grad_u h^T        grad_W1 = sum over cells of grad_h y^T        grad_b = sum of grad_u ...

A program takes BW - 2 columns and slides down R rows, as in step_fwd_triton. grad_x of a cell needs grad_y of its eight
neighbours, so the program computes one column more at either side and one row more at either end. With P, T and Z the
sums over the filters, and over the rows above, of and below a cell, of grad_y times the filters' weights on the profiles
S, D and M,

    grad_x(c) = grad(c) + Z(c) + 2 P(c) + (P + T)(c - 1) + (P - T)(c + 1).

The sums over rows are carried down in registers; the last two terms are the tensor moved by one cell. Weight gradients
are accumulated in registers over the program's own cells and added to the program's own partial sum.
"""

import triton
import triton.language as tl

from nca_fast.kernels.philox_triton import fires
from nca_fast.kernels.step_fwd_triton import combination, dot, layer, load_bias, load_layer, perception, profiles, zeros


@triton.jit
def split_filters(y, CP: tl.constexpr, FP: tl.constexpr):
    """[BW, CP * FP] to FP tensors [BW, CP]: undoes the stacking of `perception`."""
    BW: tl.constexpr = y.shape[0]
    if FP == 1:
        return (y,)
    elif FP == 2:
        return tl.split(tl.reshape(y, (BW, CP, 2)))
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
def through_filters(y, TRANSPOSED: tl.constexpr, n: tl.constexpr):
    """What the filters return to profile n (3 * row + 0, 1, 2 for S, D, M) of a cell whose grad_y is y."""
    if len(TRANSPOSED[n]) == 0:
        return tl.zeros(y[0].shape, tl.float32)
    else:
        return combination(y, TRANSPOSED[n])


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
def gated(grads, h, DOT: tl.constexpr):
    """The gradient before the ReLU whose values are h, rounded to DOT."""
    outputs = ()
    for j in tl.static_range(len(grads)):
        outputs = outputs + (tl.where(h[j].to(tl.float32) > 0, grads[j], 0.0).to(DOT),)
    return outputs


@triton.jit
def kept(tensors, mask):
    """The chunks with the rows zero where the mask [BW, 1] is off."""
    outputs = ()
    for j in tl.static_range(len(tensors)):
        outputs = outputs + (tl.where(mask, tensors[j].to(tl.float32), 0.0).to(tensors[j].dtype),)
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
def add_sums(sums, grads):
    """sums + the column sums of grads, chunk by chunk."""
    outputs = ()
    for j in tl.static_range(len(grads)):
        outputs = outputs + (sums[j] + tl.sum(grads[j].to(tl.float32), 0, keep_dims=True),)
    return outputs


@triton.jit
def zeros_like(tensors):
    outputs = ()
    for j in tl.static_range(len(tensors)):
        outputs = outputs + (tl.zeros(tensors[j].shape, tl.float32),)
    return outputs


@triton.jit
def add_layer(to, sums, scale, IN: tl.constexpr, FROM: tl.constexpr, TO: tl.constexpr):
    """Adds scale * sums, tiles in the order of `load_layer`, to the matrix [out, IN] at `to`."""
    INPUTS: tl.constexpr = len(FROM) // 2
    for j in tl.static_range(0, len(TO), 2):
        n = TO[j] + tl.arange(0, TO[j + 1])
        for i in tl.static_range(0, len(FROM), 2):
            k = FROM[i] + tl.arange(0, FROM[i + 1])
            at = to + n[None, :] * IN + k[:, None]
            tl.store(at, tl.load(at) + scale * sums[j // 2 * INPUTS + i // 2])


@triton.jit
def add_bias(to, sums, scale, TO: tl.constexpr):
    """Adds scale * sums, rows [1, width], to the bias at `to`."""
    for j in tl.static_range(0, len(TO), 2):
        at = to + TO[j] + tl.arange(0, TO[j + 1])[None, :]
        tl.store(at, tl.load(at) + scale * sums[j // 2])


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
    B,
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
    BIAS: tl.constexpr,
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
    LAST: tl.constexpr = HIDDEN2 if UNITS2 > 0 else HIDDEN1
    w1 = load_layer(weights, K, INPUTS, HIDDEN1)
    b1 = load_bias(biases, HIDDEN1)
    if UNITS2 > 0:
        w2 = load_layer(weights + UNITS1 * K, UNITS1, HIDDEN1, HIDDEN2)
        b2 = load_bias(biases + UNITS1, HIDDEN2)
        w = load_layer(weights + UNITS1 * (K + UNITS2), UNITS2, HIDDEN2, OUTPUTS)
        grad_w2 = zeros_like(w2)
        grad_b2 = zeros_like(b2)
    else:
        w = load_layer(weights + UNITS1 * K, UNITS1, HIDDEN1, OUTPUTS)
    grad_w1 = zeros_like(w1)
    grad_b1 = zeros_like(b1)
    grad_w = zeros_like(w)
    grad_b = (zeros(1, CP),)

    # Unfinished rows of grad_x: the sums over the rows read so far, for the row above the next and for the next itself.
    p0 = zeros(BW, CP)
    t0, z0, p1, t1, z1 = p0, p0, p0, p0, p0
    for row in range(first - 1, end + 1):
        s, d, m = profiles(x, row - 1, H, stride, left, centre, right, left_there, there, right_there, CIRCULAR)
        s_, d_, m_ = profiles(x, row, H, stride, left, centre, right, left_there, there, right_there, CIRCULAR)
        s__, d__, m__ = profiles(x, row + 1, H, stride, left, centre, right, left_there, there, right_there, CIRCULAR)
        y = (perception((s, d, m, s_, d_, m_, s__, d__, m__), TERMS, DOT),)
        h1 = layer(y, w1, b1, BIAS, True, DOT, PRODUCT)
