"""Layers of the cells' network in Triton: what multiplies, and how weights lie in registers.

Hidden layers are cut into chunks of 64, 32 or 16 units, so that 96 is not padded to 128. A layer between chunked inputs
and outputs is a tuple of tiles [inputs, outputs]: all inputs of the first outputs first.
"""

import os

import torch
import triton
import triton.language as tl

from .activations import applied, sloped

# Whether Triton's interpreter runs the kernels, on the CPU; decided when triton is imported.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TRITON_DTYPES = {"fp32": tl.float32, "tf32": tl.float32, "fp16": tl.float16, "bf16": tl.bfloat16}

# Option of Triton for kernels that add products: a b + c in one instruction. The default of 3.9, but not of later ones.
COMPILER = {"enable_fp_fusion": True}


def product(precision: str, hip: bool) -> str:
    """Names how the kernels multiply, see `dot`; hip: on an AMD GPU."""
    if INTERPRETED:
        return "interpreter"
    return {"fp32": "ieee", "tf32": "ieee" if hip else "tf32"}.get(precision, "plain" if hip else "ptx")


def product_constants(precision: str) -> dict:
    """Lists what kernels with products are compiled for, see `dot`, and the compiler's options."""
    return {"DOT": TRITON_DTYPES[precision], "PRODUCT": product(precision, torch.version.hip is not None)} | COMPILER


def chunks(width, largest=64):
    """Cuts `width` units, rounded up to a multiple of 16, into chunks of 64, 32 or 16: (start, width, ...)."""
    chunks, start = [], 0
    while start < width:
        size = next(size for size in (64, 32, 16) if size <= min(largest, -(-(width - start) // 16) * 16))
        chunks += [start, size]
        start += size
    return tuple(chunks)


@triton.jit
def dot(a, b, acc, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """Returns acc + a b, accumulated in float32; a and b are rounded to DOT.

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
    """Returns max(a, 0) rounded to DOT; NaN stays NaN. In PTX one instruction for two numbers, instead of three."""
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
def activated(a, F: tl.constexpr, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """Applies a function (activations.py), and rounds to DOT."""
    if F[0] == "relu" and F[2] == 1.0:
        return relu(a, DOT, PRODUCT)
    else:
        return applied(a, F).to(DOT)


@triton.jit
def zeros(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    return tl.zeros((ROWS, COLUMNS), dtype=tl.float32)


@triton.jit
def load_layer(w, IN: tl.constexpr, FROM: tl.constexpr, TO: tl.constexpr):
    """Loads the matrix [out, IN] at w as tiles [inputs, outputs], all inputs of the first outputs first.

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
    """Loads the chunks of a bias, as rows [1, width]."""
    chunks = ()
    for j in tl.static_range(0, len(TO), 2):
        chunks = chunks + (tl.load(b + TO[j] + tl.arange(0, TO[j + 1]))[None, :],)
    return chunks


@triton.jit
def units(inputs, w, b, j: tl.constexpr, BIAS: tl.constexpr, F: tl.constexpr, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """Computes chunk j of W inputs + b; with a function F of it, rounded to DOT for the next layer, else F is ()."""
    a = zeros(inputs[0].shape[0], w[j * len(inputs)].shape[1])
    if BIAS:
        a += b[j]
    for i in tl.static_range(len(inputs)):
        a = dot(inputs[i], w[j * len(inputs) + i], a, DOT, PRODUCT)
    if len(F) > 0:
        return activated(a, F, DOT, PRODUCT)
    else:
        return a


@triton.jit
def layer(inputs, w, b, BIAS: tl.constexpr, F: tl.constexpr, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """Computes all chunks of a layer, see `units`."""
    outputs = ()
    for j in tl.static_range(len(w) // len(inputs)):
        outputs = outputs + (units(inputs, w, b, j, BIAS, F, DOT, PRODUCT),)
    return outputs


@triton.jit
def gated(grad, h, F: tl.constexpr, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """Computes the gradient before a function F whose values are h (with F[3] what went into it), rounded to DOT."""
    if F[0] != "relu" or F[2] != 1.0:
        return sloped(grad, h.to(tl.float32), F).to(DOT)
    elif PRODUCT == "ptx":  # h is 0 or positive: adding 0x7fff sets the sign bit of those that are positive
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
    """Computes the gradient of chunk i of a layer's IN chunks of inputs: W^T grads. w is what `load_layer` gave."""
    a = zeros(grads[0].shape[0], w[i].shape[0])
    for j in tl.static_range(len(grads)):
        a = dot(grads[j], tl.trans(w[j * IN + i]), a, DOT, PRODUCT)
    return a


@triton.jit
def add_back(sums, grad, w, j: tl.constexpr, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """Adds what output chunk j of a layer gives to the gradient of its inputs: sums + W^T grad."""
    outputs = ()
    for i in tl.static_range(len(sums)):
        outputs = outputs + (dot(grad, tl.trans(w[j * len(sums) + i]), sums[i], DOT, PRODUCT),)
    return outputs


@triton.jit
def add_products(sums, inputs, grad, j: tl.constexpr, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """Adds inputs^T grad to the tiles of output chunk j of sums, which lie in the order of `load_layer`."""
    outputs = ()
    for i in tl.static_range(len(inputs)):
        outputs = outputs + (dot(tl.trans(inputs[i]), grad, sums[j * len(inputs) + i], DOT, PRODUCT),)
    return outputs


@triton.jit
def zero_tiles(FROM: tl.constexpr, TO: tl.constexpr):
    """Makes sums for the gradient of a layer, in the order of `load_layer`."""
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
    """Adds scale times the sums over the cells of a group of channels [cells, 8 or 4] to its slot of a bias at `to`."""
    WIDTH: tl.constexpr = sums.shape[1]
    at = to + tl.arange(0, WIDTH) * (8 // WIDTH)  # a group of 4 has every other place of its slot
    tl.store(at, tl.load(at) + scale * tl.sum(sums, 0))
