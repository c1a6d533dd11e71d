"""The cells' network and their update in Triton, from perception in memory (through_memory/perception_forward.py).

    h = relu(W1 y + b1), ...        u = W h + b        x' = x + m u

A second way beside single_pass/forward.py, for what registers do not hold: hidden layers are worked off in chunks, and
the weights of a chunk are loaded where they are used.
"""

import triton
import triton.language as tl

from ..cells import own_cells
from ..fire import fires
from ..products import dot, relu, zeros


@triton.jit
def load_inputs(y, there, K: tl.constexpr, INPUTS: tl.constexpr):
    """Loads rows of K numbers at y as chunks [cells, width]; INPUTS is (start, width, start, width, ...)."""
    cell = tl.arange(0, there.shape[0])[:, None] * K
    chunks = ()
    for i in tl.static_range(0, len(INPUTS), 2):
        k = INPUTS[i] + tl.arange(0, INPUTS[i + 1])
        chunks = chunks + (tl.load(y + cell + k[None, :], mask=there[:, None], other=0.0),)
    return chunks


@triton.jit
def hidden(
    inputs, w, b, n, IN: tl.constexpr, FROM: tl.constexpr, BIAS: tl.constexpr, DOT: tl.constexpr, PRODUCT: tl.constexpr
):
    """Computes units n [width] of relu(W inputs + b), rounded to DOT; W is [out, IN] at w and is loaded here."""
    a = zeros(inputs[0].shape[0], n.shape[0])
    if BIAS:
        a += tl.load(b + n)[None, :]
    for i in tl.static_range(len(inputs)):
        k = FROM[2 * i] + tl.arange(0, FROM[2 * i + 1])
        a = dot(inputs[i], tl.load(w + n[None, :] * IN + k[:, None]), a, DOT, PRODUCT)
    return relu(a, DOT, PRODUCT)


@triton.jit
def hidden_chunks(
    inputs,
    w,
    b,
    IN: tl.constexpr,
    FROM: tl.constexpr,
    TO: tl.constexpr,
    BIAS: tl.constexpr,
    DOT: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    """Computes all chunks TO of a hidden layer, see `hidden`."""
    outputs = ()
    for j in tl.static_range(0, len(TO), 2):
        n = TO[j] + tl.arange(0, TO[j + 1])
        outputs = outputs + (hidden(inputs, w, b, n, IN, FROM, BIAS, DOT, PRODUCT),)
    return outputs


@triton.jit
def fired(keys, fire, sample, row, column, H, W, origin_column, MAP: tl.constexpr):
    """Says whether each of a program's cells fires, see `fires`."""
    below = tl.load(fire + (row.to(tl.int64) * W + column if MAP else row * 0))
    column_part = (column + origin_column).to(tl.uint32) * 0x9E3779B9
    return fires(column_part, keys + (sample * H + row) * 2, below)


@triton.jit(do_not_specialize=["origin_column"])
def network_fwd(
    x,
    y,
    out,
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
    DOT: tl.constexpr,
    PRODUCT: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """out = x after the update of a range of cells, see cells.py; no alive mask.

    Args:
        x, out: [B, H, W, C], C a multiple of 4.
        y: Perception of the range, [cells, K].
        keys, fire, weights_stride, biases_stride, origin_column, MAP, DOT, PRODUCT: As in `step_fwd`.
        weights: W1 [UNITS1, K] if UNITS1 > 0, the last hidden layer's [UNITS, UNITS1 or K], W [COLUMNS, UNITS], in a
            row; widths are rounded up with zeros.
        biases: b1, the last hidden layer's, b likewise, float32.
        FROZEN: The first channels, which are copied.
        INPUTS, HIDDEN1: Chunks of the perception and of the first of two hidden layers, (start, width, ...).
        BIAS1, BIAS, OUT_BIAS: Whether the layers have a bias.
        BN: Units of the last hidden layer that are worked off at a time; UNITS is a multiple.
    """
    IN: tl.constexpr = UNITS1 if UNITS1 > 0 else K
    FROM: tl.constexpr = HIDDEN1 if UNITS1 > 0 else INPUTS
    sample, whole, place, row, column, there = own_cells(first_sample, first_cell, cells, H, W, BM)
    weights += sample * weights_stride
    biases += sample * biases_stride
    inputs = load_inputs(y + place * K, there, K, INPUTS)
    if UNITS1 > 0:
        inputs = hidden_chunks(inputs, weights, biases, K, INPUTS, HIDDEN1, BIAS1, DOT, PRODUCT)
    w = weights + UNITS1 * K
    w_out = w + UNITS * IN
    o = tl.arange(0, COLUMNS)
    u = zeros(BM, COLUMNS)
    if OUT_BIAS:
        u += tl.load(biases + (UNITS1 + UNITS) + o)[None, :]
    for begin in range(0, UNITS, BN):
        n = begin + tl.arange(0, BN)
        h = hidden(inputs, w, biases + UNITS1, n, IN, FROM, BIAS, DOT, PRODUCT)
        u = dot(h, tl.load(w_out + o[None, :] * UNITS + n[:, None]), u, DOT, PRODUCT)

    m = fired(keys, fire, sample, row, column, H, W, origin_column, MAP)
    own = (whole + tl.arange(0, BM))[:, None] * C + o[None, :]
    written = there[:, None] & (o < C)[None, :]
    new = tl.load(x + own, mask=written, other=0.0).to(tl.float32)
    new += tl.where(m[:, None] & (o >= FROZEN)[None, :], u, 0.0)
    tl.store(out + own, new.to(out.dtype.element_ty), mask=written)
