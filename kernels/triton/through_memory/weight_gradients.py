"""The gradient of one layer's weights in Triton, from what through_memory/network_backward.py left in memory.

    grad_W = sum over cells of grad_out inputs^T        grad_b = sum over cells of grad_out

A program has one tile of one layer and one part of the cells, and adds to the partial sums of that part, which no other
program touches: the same bits every time.
"""

import triton
import triton.language as tl

from ..products import dot, zeros
from ..single_pass.filters import both


@triton.jit
def network_weights(
    grad_out,
    inputs,
    partial,
    scale,
    first_row,
    count,
    parts,
    part_blocks,
    at_weights,
    at_bias,
    packed,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    SCALED: tl.constexpr,
    DOT: tl.constexpr,
    PRODUCT: tl.constexpr,
    BM: tl.constexpr,
    BO: tl.constexpr,
    BI: tl.constexpr,
):
    """partial += the gradient of a layer over a range of cells.

    Args:
        grad_out, inputs: Of `count` cells in a row for each rule, [rules * count, OUT] and [rules * count, IN]; the
            products are of numbers rounded to DOT, the bias is a sum of grad_out as it is.
        partial: Partial sums, float32 [rows, packed]; part p of rule r adds to row first_row + r * parts + p.
        scale: With SCALED, grad_out holds gradients times this float32.
        parts: Parts of the cells of a rule.
        part_blocks: Blocks of BM cells of a part.
        at_weights, at_bias: Where the layer's weights [OUT, IN] and bias [OUT] begin among the packed ones.
        BO, BI: Rows and columns of a tile.
    """
    tiles = tl.cdiv(OUT, BO) * tl.cdiv(IN, BI)
    program = tl.program_id(0)
    line = program // tiles  # of partial sums
    first_out = program % tiles // tl.cdiv(IN, BI) * BO
    first_in = program % tl.cdiv(IN, BI) * BI
    o = first_out + tl.arange(0, BO)
    k = first_in + tl.arange(0, BI)
    rule = (line // parts).to(tl.int64)
    begin = line % parts * (part_blocks * BM)
    grad_out += rule * count * OUT
    inputs += rule * count * IN
    sums = zeros(BO, BI)
    bias = tl.zeros((BO,), tl.float32)
    for cell in range(begin, tl.minimum(begin + part_blocks * BM, count), BM):
        i = cell + tl.arange(0, BM)
        there = i < count
        rows = i.to(tl.int64)
        # Loaded as they lie, with the cells down: the product turns the first over.
        g = tl.load(grad_out + rows[:, None] * OUT + o[None, :], mask=there[:, None] & (o < OUT)[None, :], other=0.0)
        a = tl.load(inputs + rows[:, None] * IN + k[None, :], mask=there[:, None] & (k < IN)[None, :], other=0.0)
        sums = dot(tl.trans(g.to(DOT)), a, sums, DOT, PRODUCT)
        if first_in == 0:
            bias += tl.sum(g.to(tl.float32), 0)
    down = 1.0
    if SCALED:
        down = 1.0 / tl.load(scale)
    partial += (first_row + line).to(tl.int64) * packed
    at = partial + at_weights + o[:, None] * IN + k[None, :]
    kept = (o < OUT)[:, None] & (k < IN)[None, :]
    tl.store(at, tl.load(at, mask=kept, other=0.0) + sums * down, mask=kept)
    at = partial + at_bias + o
    kept = both(o < OUT, first_in == 0)
    tl.store(at, tl.load(at, mask=kept, other=0.0) + bias * down, mask=kept)
