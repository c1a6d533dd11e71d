"""The cells' network and their update in Triton, from perception in memory (through_memory/perception_forward.py).

    h = f1(W1 y + b1), ...        u = f(W h + b)        x' = x + m u

A second way beside single_pass/forward.py, for what registers do not hold: hidden layers are worked off in chunks, and
the weights of a chunk are loaded where they are used.
"""

import triton
import triton.language as tl

from ..cells import own_cells
from ..fire import channel_fires, fires, normal_numbers, rates_of
from ..products import activated, dot, zeros
from ..update import updated


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
def sums_of_inputs(
    inputs, w, b, n, IN: tl.constexpr, FROM: tl.constexpr, BIAS: tl.constexpr, DOT: tl.constexpr, PRODUCT: tl.constexpr
):
    """Computes units n [width] of W inputs + b; W is [out, IN] at w and is loaded here."""
    a = zeros(inputs[0].shape[0], n.shape[0])
    if BIAS:
        a += tl.load(b + n)[None, :]
    for i in tl.static_range(len(inputs)):
        k = FROM[2 * i] + tl.arange(0, FROM[2 * i + 1])
        a = dot(inputs[i], tl.load(w + n[None, :] * IN + k[:, None]), a, DOT, PRODUCT)
    return a


@triton.jit
def hidden_chunks(
    inputs,
    w,
    b,
    IN: tl.constexpr,
    FROM: tl.constexpr,
    TO: tl.constexpr,
    BIAS: tl.constexpr,
    F: tl.constexpr,
    DOT: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    """Computes all chunks TO of a hidden layer, rounded to DOT."""
    outputs = ()
    for j in tl.static_range(0, len(TO), 2):
        n = TO[j] + tl.arange(0, TO[j + 1])
        a = sums_of_inputs(inputs, w, b, n, IN, FROM, BIAS, DOT, PRODUCT)
        outputs = outputs + (activated(a, F, DOT, PRODUCT),)
    return outputs


@triton.jit
def last_layer(
    inputs,
    w,
    biases,
    o,
    IN: tl.constexpr,
    FROM: tl.constexpr,
    UNITS1: tl.constexpr,
    UNITS: tl.constexpr,
    BIAS: tl.constexpr,
    OUT_BIAS: tl.constexpr,
    F: tl.constexpr,
    DOT: tl.constexpr,
    PRODUCT: tl.constexpr,
    BN: tl.constexpr,
):
    """Computes the outputs o [width] of the last layer; its weights and those of the last hidden layer begin at w.

    The units of that are worked off BN at a time; where UNITS is 0, inputs are those of the last layer.
    """
    w_out = w + UNITS * IN
    u = zeros(inputs[0].shape[0], o.shape[0])
    if OUT_BIAS:
        u += tl.load(biases + (UNITS1 + UNITS) + o)[None, :]
    if UNITS > 0:
        for begin in range(0, UNITS, BN):
            n = begin + tl.arange(0, BN)
            h = activated(sums_of_inputs(inputs, w, biases + UNITS1, n, IN, FROM, BIAS, DOT, PRODUCT), F, DOT, PRODUCT)
            u = dot(h, tl.load(w_out + o[None, :] * UNITS + n[:, None]), u, DOT, PRODUCT)
    else:
        for i in tl.static_range(len(inputs)):
            k = FROM[2 * i] + tl.arange(0, FROM[2 * i + 1])
            u = dot(inputs[i], tl.load(w + o[None, :] * IN + k[:, None]), u, DOT, PRODUCT)
    return u


@triton.jit
def fired(
    keys,
    fire,
    channel,
    sample,
    row,
    column,
    H,
    W,
    origin_column,
    FROZEN: tl.constexpr,
    WRITTEN: tl.constexpr,
    LANES: tl.constexpr,
    ONE_COLUMN: tl.constexpr,
    WORDS: tl.constexpr,
    MAP: tl.constexpr,
):
    """Says which of a program's cells fire, [cells], or which of their channels, [cells, channels]; see `fires`."""
    if LANES or MAP >= 2:
        cells = (tl.zeros((), tl.int64) + H) * W
        key = (keys + (sample * H + row) * WORDS)[:, None]
        at = row.to(tl.int64) * W + column
        fire += rates_of(sample, cells, WRITTEN, MAP)
        column_part = (column + origin_column).to(tl.uint32) * 0x9E3779B9
        if ONE_COLUMN:
            column_part = tl.zeros_like(column_part)
        return channel_fires(column_part, key, fire, at, cells, channel, FROZEN, WRITTEN, LANES, MAP)
    else:
        below = tl.load(fire + (row.to(tl.int64) * W + column if MAP else row * 0))
        column_part = (column + origin_column).to(tl.uint32) * 0x9E3779B9
        if ONE_COLUMN:
            column_part = tl.zeros_like(column_part)
        return fires(column_part, keys + (sample * H + row) * WORDS, below)


@triton.jit
def across(m):
    """Makes of whether cells fire a mask of their channels, [cells, 1]; one of channels is left as it is."""
    if len(m.shape) == 1:
        return m[:, None]
    else:
        return m


@triton.jit
def noise_of(
    keys,
    noise,
    channel,
    sample,
    row,
    column,
    H,
    origin_column,
    FROZEN: tl.constexpr,
    WRITTEN: tl.constexpr,
    NOISE: tl.constexpr,
    WORDS: tl.constexpr,
):
    """Draws the noise of the update of a program's cells: float32 [cells, channels], or 0 where there is none."""
    if len(NOISE) > 0:
        column_part = (column + origin_column).to(tl.uint32) * 0x9E3779B9
        key = (keys + (sample * H + row) * WORDS)[:, None]
        e = normal_numbers(column_part, key, 3 * (channel + FROZEN + WRITTEN), NOISE[2])
        return e * NOISE[0] * tl.load(noise + sample * NOISE[1])
    else:
        return 0.0


@triton.jit(do_not_specialize=["origin_column"])
def network_fwd(
    x,
    y,
    out,
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
    PLAIN: tl.constexpr,
    LANES: tl.constexpr,
    ONE_COLUMN: tl.constexpr,
    NOISE: tl.constexpr,
    WORDS: tl.constexpr,
    MAP: tl.constexpr,
    DOT: tl.constexpr,
    PRODUCT: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """out = x after the update of a range of cells, see cells.py; without what is done to those who die of it.

    Args:
        x, out: [B, H, W, C], C a multiple of 4.
        y: Perception of the range, [cells, K].
        keys, fire, living, noise, weights_stride, biases_stride, origin_column, FROZEN to PRODUCT: As in `step_fwd`.
        weights: W1 [UNITS1, K] if UNITS1 > 0, the last hidden layer's [UNITS, UNITS1 or K] if UNITS > 0,
            W [COLUMNS, UNITS or K], in a row; widths are rounded up with zeros.
        biases: b1, the last hidden layer's, b likewise, float32.
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
        inputs = hidden_chunks(inputs, weights, biases, K, INPUTS, HIDDEN1, BIAS1, FUNCTIONS[0], DOT, PRODUCT)
    w = weights + UNITS1 * K
    o = tl.arange(0, COLUMNS)
    F: tl.constexpr = FUNCTIONS[1] if UNITS1 > 0 else FUNCTIONS[0]
    u = last_layer(inputs, w, biases, o, IN, FROM, UNITS1, UNITS, BIAS, OUT_BIAS, F, DOT, PRODUCT, BN)

    m = fired(keys, fire, o, sample, row, column, H, W, origin_column, FROZEN, WRITTEN, LANES, ONE_COLUMN, WORDS, MAP)
    own = (whole + tl.arange(0, BM))[:, None] * C + o[None, :]
    written = there[:, None] & (o < C)[None, :]
    new = tl.load(x + own, mask=written, other=0.0).to(tl.float32)
    if PLAIN:
        new += tl.where(across(m) & (o >= FROZEN)[None, :], u, 0.0)
    else:
        alive = True
        if LIVING > 0:
            alive = (tl.load(living + (sample * H + row) * W + column) != 0)[:, None]
        e = noise_of(keys, noise, o, sample, row, column, H, origin_column, FROZEN, WRITTEN, NOISE, WORDS)
        new = updated(
            new, u, e, across(m), alive, o, FROZEN, WRITTEN, FUNCTIONS[len(FUNCTIONS) - 1], RESIDUAL, CLAMP, LIVING
        )
    tl.store(out + own, new.to(out.dtype.element_ty), mask=written)
