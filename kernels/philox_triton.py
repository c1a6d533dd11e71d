"""Which cells fire, in Triton: bit for bit `nca_fast.fire_mask`, whose docstring holds the formula and its reasons.

A Philox draw per row and step is a table that one small kernel writes; the hash per cell runs inside the step kernels.
"""

import triton
import triton.language as tl


@triton.jit
def philox(c0, c1, c2, c3, k0, k1):
    """The first two words of Philox4x32-10 of the counter (c0, c1, c2, c3) under the key (k0, k1); all uint32."""
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, 0xD2511F53), c0 * 0xD2511F53
        high1, low1 = tl.umulhi(c2, 0xCD9E8D57), c2 * 0xCD9E8D57
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0, c1


@triton.jit(do_not_specialize=["seed_low", "seed_high", "first_step", "first_sample", "origin_row", "last_row"])
def row_keys(
    keys, count, B, H, seed_low, seed_high, first_step, first_sample, origin_row, last_row, BLOCK: tl.constexpr
):  # fmt: skip
    """keys[n, b, r] = the words k0, k1 of row r of sample b in step first_step + n; int32 [steps, B, H, 2].

    One program per BLOCK rows of the `count` = steps * B * H. Numbers are 32-bit words, taken modulo 2**32; the row
    after last_row, the last of the canvas, is row 0.
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, sample, step = i % H, i // H % B, i // (H * B)
    zero = i.to(tl.uint32) * 0
    below = row.to(tl.int64) + (zero + origin_row.to(tl.uint32)).to(tl.int64)
    canvas_height = (zero + last_row.to(tl.uint32)).to(tl.int64) + 1
    k0, k1 = philox(
        (below % canvas_height).to(tl.uint32),
        (sample + first_sample).to(tl.uint32),
        (step + first_step).to(tl.uint32),
        zero,
        zero + seed_low.to(tl.uint32),
        zero + seed_high.to(tl.uint32),
    )
    tl.store(keys + 2 * i, k0.to(tl.int32, bitcast=True), mask=i < count)
    tl.store(keys + 2 * i + 1, k1.to(tl.int32, bitcast=True), mask=i < count)


@triton.jit
def fires(column_part, key, below):
    """Whether each cell of a row fires.

        z = column_part + k0;  z ^= z >> 16;  z *= 0x21F0AAAD;  z ^= z >> 15;  z *= 0x735A2D97;  z ^= z >> 15;  z ^= k1
        the cell fires when z < below

    Args:
        column_part: column * 0x9E3779B9 of every cell, which does not change from row to row. uint32 [cells].
        key: Pointer to the row's words in the table of `row_keys`.
        below: 0 to 2**32, int64, one number or [cells].
    """
    k0 = tl.load(key).to(tl.uint32, bitcast=True)
    k1 = tl.load(key + 1).to(tl.uint32, bitcast=True)
    z = column_part + k0
    z ^= z >> 16
    z *= 0x21F0AAAD
    z ^= z >> 15
    z *= 0x735A2D97
    z ^= z >> 15
    z ^= k1
    return (z <= (below - 1).to(tl.uint32)) & (below > 0)
