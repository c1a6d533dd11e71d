"""Layers of the cells' network in Triton: what multiplies, and how weights lie in registers.

Hidden layers are cut into chunks of 64, 32 or 16 units, so that 96 is not padded to 128. A layer between chunked inputs
and outputs is a tuple of tiles [inputs, outputs]: all inputs of the first outputs first.
"""

import triton
import triton.language as tl


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
def units(
    inputs, w, b, j: tl.constexpr, BIAS: tl.constexpr, RELU: tl.constexpr, DOT: tl.constexpr, PRODUCT: tl.constexpr
):
    """Chunk j of W inputs + b; with RELU, cut at zero and rounded to DOT for the next layer."""
    a = zeros(inputs[0].shape[0], w[j * len(inputs)].shape[1])
    if BIAS:
        a += b[j]
    for i in tl.static_range(len(inputs)):
        a = dot(inputs[i], w[j * len(inputs) + i], a, DOT, PRODUCT)
    if RELU:
        return relu(a, DOT, PRODUCT)
    else:
        return a


@triton.jit
def layer(inputs, w, b, BIAS: tl.constexpr, RELU: tl.constexpr, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """All chunks of a layer, see `units`."""
    outputs = ()
    for j in tl.static_range(len(w) // len(inputs)):
        outputs = outputs + (units(inputs, w, b, j, BIAS, RELU, DOT, PRODUCT),)
    return outputs


@triton.jit
def gated(grad, h, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """The gradient before the ReLU whose values are h, rounded to DOT."""
    if PRODUCT == "ptx":  # h is 0 or positive: adding 0x7fff sets the sign bit of those that are positive
        return tl.inline_asm_elementwise(
            "{ .reg .b32 m; add.u32 m, $1, 0x7fff7fff; prmt.b32 m, m, 0, 0xbb99; and.b32 $0, m, $2; }",
            "=r,r,r",
            [h, grad.to(DOT)],
            dtype=h.dtype,
            is_pure=True,
            pack=2,
        )
    else:
        return tl.where(h.to(tl.float32) > 0, grad, 0.0).to(DOT)


@triton.jit
def back(grads, w, i: tl.constexpr, IN: tl.constexpr, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """The gradient of chunk i of a layer's IN chunks of inputs: W^T grads. w is what `load_layer` gave."""
    a = zeros(grads[0].shape[0], w[i].shape[0])
    for j in tl.static_range(len(grads)):
        a = dot(grads[j], tl.trans(w[j * IN + i]), a, DOT, PRODUCT)
    return a


@triton.jit
def add_back(sums, grad, w, j: tl.constexpr, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """What output chunk j of a layer adds to the gradient of its inputs: sums + W^T grad."""
    outputs = ()
    for i in tl.static_range(len(sums)):
        outputs = outputs + (dot(grad, tl.trans(w[j * len(sums) + i]), sums[i], DOT, PRODUCT),)
    return outputs


@triton.jit
def add_products(sums, inputs, grad, j: tl.constexpr, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """inputs^T grad, added to the tiles of output chunk j of sums, which lie in the order of `load_layer`."""
    outputs = ()
    for i in tl.static_range(len(inputs)):
        outputs = outputs + (dot(tl.trans(inputs[i]), grad, sums[j * len(inputs) + i], DOT, PRODUCT),)
    return outputs


@triton.jit
def zero_tiles(FROM: tl.constexpr, TO: tl.constexpr):
    """Sums of the gradient of a layer, in the order of `load_layer`."""
    tiles = ()
    for j in tl.static_range(1, len(TO), 2):
        for i in tl.static_range(1, len(FROM), 2):
            tiles = tiles + (zeros(FROM[i], TO[j]),)
    return tiles


@triton.jit
def add_layer(to, tiles, scale, IN: tl.constexpr, FROM: tl.constexpr, TO: tl.constexpr):
    """Adds scale * tiles, in the order of `load_layer`, to the matrix [out, IN] at `to`."""
    INPUTS: tl.constexpr = len(FROM) // 2
    for j in tl.static_range(0, len(TO), 2):
        n = TO[j] + tl.arange(0, TO[j + 1])
        for i in tl.static_range(0, len(FROM), 2):
            at = to + n[None, :] * IN + (FROM[i] + tl.arange(0, FROM[i + 1]))[:, None]
            tl.store(at, tl.load(at) + scale * tiles[j // 2 * INPUTS + i // 2])


@triton.jit
def add_bias(to, chunks, scale, TO: tl.constexpr):
    """Adds scale times the first rows of chunks [16, width] to the bias at `to`; the other rows are zero."""
    for j in tl.static_range(0, len(TO), 2):
        at = to + TO[j] + tl.arange(0, TO[j + 1])
        tl.store(at, tl.load(at) + scale * tl.sum(chunks[j // 2], 0))


@triton.jit
def add_channels(to, sums, scale):
    """Adds scale times the sums over the cells of a chunk of channels [cells, 8 or 4] to its slot of a bias at `to`."""
    WIDTH: tl.constexpr = sums.shape[1]
    at = to + tl.arange(0, WIDTH) * (8 // WIDTH)  # a chunk of 4 has every other place of its slot
    tl.store(at, tl.load(at) + scale * tl.sum(sums, 0))
