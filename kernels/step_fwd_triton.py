"""One step forward in Triton, in a single pass over the state.

    y = filters * x        h = relu(W1 y + b1), ...        u = W h + b        x' = x + m u

A program takes BW columns and slides down R rows. The state is channels-last, [B, H, W, C], so that a row of cells is a
matrix [BW, C] whose left and right neighbours are the same addresses one cell further: three loads per row. From them
come three profiles,

    S = left + 2 centre + right        D = right - left        M = centre

and any 3x3 filter is a sum of at most nine terms over the profiles of three rows: its row (a, b, c) is
(a + c)/2 S + (c - a)/2 D + (b - a - c) M. A Sobel filter has two or three terms, the Laplacian four. The profiles of
two rows are carried down. TERMS holds the terms that are not zero, and is known when the kernel is compiled.

Perception enters the matrix unit as one matrix [BW, FP * CP], index f * CP + c: filters and channels padded to a power
of two. Padding that is 1 carries the bias of the first layer for nothing: a spare filter, or the spare channels under
the identity. Hidden layers are cut into chunks of 64, 32 or 16 units, so that 96 is not padded to 128. Weights are
loaded before the loop. The host's side, and the order in which it packs weights, are in rollout_triton.py.
"""

import triton
import triton.language as tl
from nca_fast.kernels.philox_triton import fires


@triton.jit
def dot(a, b, acc, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """acc + a b, accumulated in float32; a and b are rounded to DOT.

    PRODUCT is "ieee" or "tf32" for float32; for 16 bits "ptx" (NVIDIA), "plain"; and "interpreter" in the interpreter.
    """
    if PRODUCT == "interpreter":  # which multiplies the bit patterns of bfloat16: round, then multiply in float32
        a, b = a.to(DOT).to(tl.float32), b.to(DOT).to(tl.float32)
        return tl.dot(a, b, acc, input_precision="ieee")
    elif DOT.is_fp32():
        return tl.dot(a, b, acc, input_precision=PRODUCT)
    else:
        return tl.dot(a.to(DOT), b.to(DOT), acc)


@triton.jit
def relu(a, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """max(a, 0) rounded to DOT; NaN stays NaN. In PTX one instruction for two numbers, instead of three."""
    if PRODUCT == "ptx" and DOT.is_bf16():
        return tl.inline_asm_elementwise(
            "cvt.rn.relu.bf16x2.f32 $0, $2, $1;", "=r,r,r", [a], dtype=tl.bfloat16, is_pure=True, pack=2
        )
    elif PRODUCT == "ptx" and DOT.is_fp16():
        return tl.inline_asm_elementwise(
            "cvt.rn.relu.f16x2.f32 $0, $2, $1;", "=r,r,r", [a], dtype=tl.float16, is_pure=True, pack=2
        )
    else:
        return tl.maximum(a, 0.0, propagate_nan=tl.PropagateNan.ALL).to(DOT)


@triton.jit
def zeros(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    return tl.zeros((ROWS, COLUMNS), dtype=tl.float32)


@triton.jit
def both(mask, condition):
    """mask & condition, the second one number. (With `&` the interpreter of triton 3.9 makes integers of it.)"""
    return mask & (tl.where(condition, 1, 0) + tl.zeros(mask.shape, tl.int32) > 0)


@triton.jit
def wrapped(row, H):
    """A row number from -2 to H + 1 on the torus. The clamp is for H = 1, where one turn is not enough."""
    row = tl.where(row < 0, row + H, row)
    row = tl.where(row >= H, row - H, row)
    return tl.minimum(tl.maximum(row, 0), H - 1)


@triton.jit
def profiles(x, row, H, stride, left, centre, right, left_there, there, right_there, CIRCULAR: tl.constexpr):
    """(S, D, M) of a row of cells, float32 [BW, CP]. Cells that are not there are zero, M of spare channels is one."""
    if CIRCULAR:
        base = x + wrapped(row, H).to(tl.int64) * stride
        a = tl.load(base + left, mask=there, other=0.0).to(tl.float32)
        b = tl.load(base + centre, mask=there, other=1.0).to(tl.float32)
        c = tl.load(base + right, mask=there, other=0.0).to(tl.float32)
    else:
        base = x + tl.minimum(tl.maximum(row, 0), H - 1).to(tl.int64) * stride
        inside = (row >= 0) & (row < H)
        a = tl.load(base + left, mask=both(left_there, inside), other=0.0).to(tl.float32)
        spare = tl.where(there, 0.0, 1.0).to(x.dtype.element_ty)
        b = tl.load(base + centre, mask=both(there, inside), other=spare).to(tl.float32)
        c = tl.load(base + right, mask=both(right_there, inside), other=0.0).to(tl.float32)
    return tl.fma(b, 2.0, a + c), c - a, b


@triton.jit
def combination(tensors, TERMS: tl.constexpr, f: tl.constexpr):
    """The sum of weight * tensors[index] over the (index, weight, index, weight, ...) of TERMS[f]; not empty."""
    total = tensors[TERMS[f][0]] * TERMS[f][1]
    for k in tl.static_range(2, len(TERMS[f]), 2):
        total = tl.fma(tensors[TERMS[f][k]], TERMS[f][k + 1], total)
    return total


@triton.jit
def perception(rows, TERMS: tl.constexpr, DOT: tl.constexpr):
    """What every cell sees, [BW, FP * CP], index f * CP + c; ones in the place of a filter without terms.

    Args:
        rows: S, D, M of the row above, of the row itself and of the row below: nine tensors [BW, CP].
        TERMS: For each of FP filters (a power of two), see `combination`.
    """
    BW: tl.constexpr = rows[0].shape[0]
    CP: tl.constexpr = rows[0].shape[1]
    FP: tl.constexpr = len(TERMS)
    y = ()
    for f in tl.static_range(FP):
        if len(TERMS[f]) > 0:
            y = y + (combination(rows, TERMS, f).to(DOT),)
        else:
            y = y + (tl.full((BW, CP), 1.0, DOT),)
    if FP == 1:
        stack = tl.reshape(y[0], (BW, CP, 1))
    elif FP == 2:
        stack = tl.join(y[0], y[1])
    elif FP == 4:
        stack = tl.reshape(tl.join(tl.join(y[0], y[2]), tl.join(y[1], y[3])), (BW, CP, 4))
    else:
        even = tl.join(tl.join(y[0], y[4]), tl.join(y[2], y[6]))
        odd = tl.join(tl.join(y[1], y[5]), tl.join(y[3], y[7]))
        stack = tl.reshape(tl.join(even, odd), (BW, CP, 8))
    return tl.reshape(tl.permute(stack, (0, 2, 1)), (BW, FP * CP))


@triton.jit
def load_layer(w, IN: tl.constexpr, FROM: tl.constexpr, TO: tl.constexpr):
    """The matrix [out, IN] at w as tiles [inputs, outputs], all inputs of the first outputs first.

    FROM and TO are (start, width, start, width, ...) of the chunks of inputs and outputs.
    """
    tiles = ()
    for j in tl.static_range(0, len(TO), 2):
        n = TO[j] + tl.arange(0, TO[j + 1])
        for i in tl.static_range(0, len(FROM), 2):
            k = FROM[i] + tl.arange(0, FROM[i + 1])
            tiles = tiles + (tl.load(w + n[None, :] * IN + k[:, None]),)
    return tiles


@triton.jit
def load_bias(b, TO: tl.constexpr):
    """Chunks of a bias, as rows [1, width]."""
    chunks = ()
    for j in tl.static_range(0, len(TO), 2):
        chunks = chunks + (tl.load(b + TO[j] + tl.arange(0, TO[j + 1]))[None, :],)
    return chunks


@triton.jit
def layer(inputs, w, b, BIAS: tl.constexpr, RELU: tl.constexpr, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """The chunks of W inputs + b; with RELU, cut at zero and rounded to DOT for the next layer."""
    IN: tl.constexpr = len(inputs)
    BW: tl.constexpr = inputs[0].shape[0]
    outputs = ()
    for j in tl.static_range(0, len(w), IN):
        a = zeros(BW, w[j].shape[1])
        if BIAS:
            a += b[j // IN]
        for i in tl.static_range(IN):
            a = dot(inputs[i], w[j + i], a, DOT, PRODUCT)
        if RELU:
            outputs = outputs + (relu(a, DOT, PRODUCT),)
        else:
            outputs = outputs + (a,)
    return outputs


@triton.jit(do_not_specialize=["origin_column"])
def step_fwd(
    x,
    out,
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
    HIDDEN1: tl.constexpr,
    UNITS1: tl.constexpr,
    HIDDEN2: tl.constexpr,
    UNITS2: tl.constexpr,
    BIAS1: tl.constexpr,
    BIAS2: tl.constexpr,
    OUT_BIAS: tl.constexpr,
    CIRCULAR: tl.constexpr,
    MAP: tl.constexpr,
    DOT: tl.constexpr,
    PRODUCT: tl.constexpr,
    BW: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """out = x after one step.

    Args:
        x, out: [B, H, W, C], C a multiple of 4.
        keys: The step's row keys, int32 [B, H, 2].
        fire: Threshold of the hash, int64: one number, or with MAP [H, W].
        weights: W1 [UNITS1, FP * CP], W2 [UNITS2, UNITS1] if UNITS2 > 0, W [CP, last units], in a row.
        biases: b1, b2, b likewise, float32.
        R: Rows per program.
        origin_column: Column of the first cell in the whole canvas, a 32-bit word.
        CP: C rounded up to 16 or 32.
        TERMS: See `perception`.
        HIDDEN1, HIDDEN2: Chunks of the hidden layers, (start, width, ...); UNITS1, UNITS2 their sums.
        BIAS1, BIAS2, OUT_BIAS: Whether the layers have a bias (for the first: apart from W1).
        DOT, PRODUCT: See `dot`.
        UNROLL: Rows per turn of the loop: 2 saves the moves of what is carried, at the price of registers.
    """
    K: tl.constexpr = CP * len(TERMS)
    columns = tl.cdiv(W, BW)
    bands = tl.cdiv(H, R)
    program = tl.program_id(0)
    sample = program // (columns * bands)
    first = program // columns % bands * R
    i = program % columns * BW + tl.arange(0, BW)

    c = tl.arange(0, CP)[None, :]
    cell = tl.minimum(i, W - 1)
    left = ((cell + W - 1) % W * C)[:, None] + c
    centre = (cell * C)[:, None] + c
    right = ((cell + 1) % W * C)[:, None] + c
    there = (c < C) & (i >= 0)[:, None]
    left_there = there & (i > 0)[:, None]
    right_there = there & (i < W - 1)[:, None]
    written = there & (i < W)[:, None]

    stride = (W * C).to(tl.int64)
    x += sample.to(tl.int64) * H * stride
    out += sample.to(tl.int64) * H * stride
    keys += (sample.to(tl.int64) * H + first) * 2
    column_part = (cell + origin_column).to(tl.uint32) * 0x9E3779B9
    below = tl.load(fire)

    INPUTS: tl.constexpr = (0, K)
    OUTPUTS: tl.constexpr = (0, CP)
    w1 = load_layer(weights, K, INPUTS, HIDDEN1)
    b1 = load_bias(biases, HIDDEN1)
    if UNITS2 > 0:
        w2 = load_layer(weights + UNITS1 * K, UNITS1, HIDDEN1, HIDDEN2)
        b2 = load_bias(biases + UNITS1, HIDDEN2)
        w = load_layer(weights + UNITS1 * (K + UNITS2), UNITS2, HIDDEN2, OUTPUTS)
    else:
        w = load_layer(weights + UNITS1 * K, UNITS1, HIDDEN1, OUTPUTS)
    b = load_bias(biases + UNITS1 + UNITS2, OUTPUTS)

    s0, d0, m0 = profiles(x, first - 1, H, stride, left, centre, right, left_there, there, right_there, CIRCULAR)
    s1, d1, m1 = profiles(x, first, H, stride, left, centre, right, left_there, there, right_there, CIRCULAR)
    for n in tl.range(tl.minimum(R, H - first), loop_unroll_factor=UNROLL):
        row = first + n
        s2, d2, m2 = profiles(x, row + 1, H, stride, left, centre, right, left_there, there, right_there, CIRCULAR)
        y = perception((s0, d0, m0, s1, d1, m1, s2, d2, m2), TERMS, DOT)
        h = layer((y,), w1, b1, BIAS1, True, DOT, PRODUCT)
        if UNITS2 > 0:
            h = layer(h, w2, b2, BIAS2, True, DOT, PRODUCT)
        u = layer(h, w, b, OUT_BIAS, False, DOT, PRODUCT)[0]
        m = fires(column_part, keys, tl.load(fire + row.to(tl.int64) * W + cell) if MAP else below)[:, None]
        new = m1 + tl.where(m, u, 0.0)
        tl.store(out + row.to(tl.int64) * stride + centre, new.to(out.dtype.element_ty), mask=written)
        keys += 2
        s0, d0, m0, s1, d1, m1 = s1, d1, m1, s2, d2, m2
