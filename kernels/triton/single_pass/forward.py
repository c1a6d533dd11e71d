"""One step forward in Triton, in a single pass over the state.

    y = filters * x        h = f1(W1 y + b1), ...        u = f(W h + b)        x' = x + m u

A program takes BW columns of one sample and slides down R rows; the profiles of two rows are carried down, so that a
row is loaded once (single_pass/filters.py), if there are registers for them. Weights are loaded before the loop
(products.py). The host's side is in single_pass/steps.py, the order in which it packs weights in
single_pass/packing.py.
"""

import triton
import triton.language as tl

from ..fire import channel_fires, fires, normal_numbers, rates_of
from ..frames import field_of, frame_at
from ..products import layer, load_bias, load_layer
from ..update import updated
from .filters import filter_responses, group_channels, group_pointers, next_columns, offsets, profiles
from .operands import output_groups, to_matrices


@triton.jit(do_not_specialize=["origin_column"])
def step_fwd(
    x,
    out,
    keys,
    fire,
    living,
    noise,
    frames,
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
    INPUTS: tl.constexpr,
    HIDDEN1: tl.constexpr,
    HIDDEN2: tl.constexpr,
    OUTPUTS: tl.constexpr,
    UNITS1: tl.constexpr,
    UNITS2: tl.constexpr,
    BIAS1: tl.constexpr,
    BIAS2: tl.constexpr,
    OUT_BIAS: tl.constexpr,
    PADDING: tl.constexpr,
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
    TURNS: tl.constexpr,
    WORDS: tl.constexpr,
    MAP: tl.constexpr,
    DOT: tl.constexpr,
    PRODUCT: tl.constexpr,
    BW: tl.constexpr,
    UNROLL: tl.constexpr,
    CARRIED: tl.constexpr,
):
    """out = x after one step.

    Args:
        x, out: [B, H, W, C], C a multiple of 4.
        keys: The step's row keys, int32 [B, H, WORDS].
        fire: Threshold of the hash, int64: one number, or with MAP [H, W] or more.
        living: With LIVING, who lives, int8 [B, H, W].
        noise: With NOISE, its factor, float32 [1] or [B].
        frames: With TURNS (frames.py), float32 [1 or B, 2, H, W].
        weights: W1 [UNITS1, inputs], W2 [UNITS2, UNITS1] if UNITS2 > 0, W [outputs, last hidden], in a row; padded and
            ordered as single_pass/operands.py says.
        biases: b1, b2, b likewise, float32.
        weights_stride, biases_stride: From one sample's to the next sample's; 0 if all have the same.
        R: Rows per program.
        origin_column: Column of the first cell in the whole canvas, a 32-bit word.
        TERMS: See `filter_responses`.
        INPUTS, HIDDEN1, HIDDEN2, OUTPUTS: Chunks of the layers' units, (start, width, ...); HIDDEN2 may be empty.
        UNITS1, UNITS2: Hidden units, padded.
        BIAS1, BIAS2, OUT_BIAS: Whether the layers have a bias (for the first: apart from W1).
        PADDING: What lies beyond the edges, as in `nca_fast.Rule`.
        FROZEN to ONE_COLUMN, NOISE: See update.py.
        WORDS: See `row_keys`.
        MAP: How thresholds differ: 0 not at all, 1 by cell, 2 more by sample, 4 more by channel: [samples, channels,
            H, W].
        DOT, PRODUCT: See `dot`.
        UNROLL: Rows per turn of the loop: 2 saves the moves of what is carried, at the price of registers.
        CARRIED: Whether the profiles of two rows are carried down, or loaded again to save registers.
    """
    GROUPS: tl.constexpr = (C + 7) // 8
    K: tl.constexpr = GROUPS * 8 * len(TERMS)
    BY_CHANNEL: tl.constexpr = LANES or MAP >= 4
    columns = tl.cdiv(W, BW)
    programs_down = tl.cdiv(H, R)
    program = tl.program_id(0)
    sample = program // (columns * programs_down)
    first = program // columns % programs_down * R
    i = program % columns * BW + tl.arange(0, BW)

    cell = tl.minimum(i, W - 1)
    before, after = next_columns(cell, W, PADDING)
    left = offsets(before, C)
    centre = offsets(cell, C)
    right = offsets(after, C)
    left_there = (i > 0)[:, None]
    there = (i >= 0)[:, None]
    right_there = (i < W - 1)[:, None]
    written = (i < W)[:, None]

    cells = (tl.zeros((), tl.int64) + H) * W
    stride = (W * C).to(tl.int64)
    x += sample.to(tl.int64) * H * stride
    out += sample.to(tl.int64) * H * stride
    keys += (sample.to(tl.int64) * H + first) * WORDS
    column_part = (cell + origin_column).to(tl.uint32) * 0x9E3779B9
    fire_column = tl.zeros_like(column_part) if ONE_COLUMN else column_part
    below_threshold = tl.load(fire)
    if LIVING > 0:
        living += sample.to(tl.int64) * cells
    if MAP >= 2:
        fire += rates_of(sample, cells, WRITTEN, MAP)
    if len(NOISE) > 0:
        factor = tl.load(noise + sample * NOISE[1])
    if len(TURNS) > 0:
        field = field_of(frames, sample.to(tl.int64), cells, TURNS)

    weights += sample.to(tl.int64) * weights_stride
    biases += sample.to(tl.int64) * biases_stride
    w1 = load_layer(weights, K, INPUTS, HIDDEN1)
    b1 = load_bias(biases, HIDDEN1)
    if UNITS2 > 0:
        w2 = load_layer(weights + UNITS1 * K, UNITS1, HIDDEN1, HIDDEN2)
        b2 = load_bias(biases + UNITS1, HIDDEN2)
        w = load_layer(weights + UNITS1 * (K + UNITS2), UNITS2, HIDDEN2, OUTPUTS)
    else:
        w = load_layer(weights + UNITS1 * K, UNITS1, HIDDEN1, OUTPUTS)
    b = load_bias(biases + UNITS1 + UNITS2, OUTPUTS)

    if CARRIED:
        above = profiles(x, first - 1, H, stride, left, centre, right, left_there, there, right_there, C, PADDING)
        here = profiles(x, first, H, stride, left, centre, right, left_there, there, right_there, C, PADDING)
    rows = tl.minimum(R, H - first)
    tl.assume(rows > 0)  # else registers are kept for the case that there are none
    for n in tl.range(rows, loop_unroll_factor=UNROLL):
        row = first + n
        if not CARRIED:
            above = profiles(x, row - 1, H, stride, left, centre, right, left_there, there, right_there, C, PADDING)
            here = profiles(x, row, H, stride, left, centre, right, left_there, there, right_there, C, PADDING)
        below = profiles(x, row + 1, H, stride, left, centre, right, left_there, there, right_there, C, PADDING)
        at = row.to(tl.int64) * W + cell
        frame = ()
        if len(TURNS) > 0:
            frame = frame_at(field, at, cells)
        y = to_matrices(filter_responses(above, here, below, frame, TERMS, TURNS, DOT), there, False, DOT, PRODUCT)
        h = layer(y, w1, b1, BIAS1, FUNCTIONS[0], DOT, PRODUCT)
        if UNITS2 > 0:
            h = layer(h, w2, b2, BIAS2, FUNCTIONS[1], DOT, PRODUCT)
        u = output_groups(layer(h, w, b, OUT_BIAS, (), DOT, PRODUCT)[0], GROUPS, C)
        if not BY_CHANNEL:
            limit = tl.load(fire + row.to(tl.int64) * W + cell) if MAP else below_threshold
            m = fires(fire_column, keys, limit)[:, None]
        alive = True
        if LIVING > 0:
            alive = (tl.load(living + at) != 0)[:, None]
        for k in tl.static_range(GROUPS):
            c = group_channels(k, C)
            if BY_CHANNEL:
                m = channel_fires(fire_column, keys, fire, at, cells, c, FROZEN, WRITTEN, LANES, MAP)
            if PLAIN:
                new = here[3 * k + 2] + tl.where(m, u[k], 0.0)
            else:
                e = 0.0
                if len(NOISE) > 0:
                    lane = 3 * (c + FROZEN + WRITTEN)
                    e = normal_numbers(column_part, keys, lane, NOISE[2]) * NOISE[0] * factor
                new = updated(
                    here[3 * k + 2],
                    u[k],
                    e,
                    m,
                    alive,
                    c,
                    FROZEN,
                    WRITTEN,
                    FUNCTIONS[len(FUNCTIONS) - 1],
                    RESIDUAL,
                    CLAMP,
                    LIVING,
                )
            tl.store(
                group_pointers(out + row.to(tl.int64) * stride, centre, k, C),
                new.to(out.dtype.element_ty),
                mask=written,
            )
        keys += WORDS
        if CARRIED:
            above = here
            here = below
