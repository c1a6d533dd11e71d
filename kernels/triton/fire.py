"""Which cells fire, in Triton: bit for bit `nca_fast.fire_mask`, whose docstring holds the formula and its reasons.

A Philox draw per row and step is a table that one small kernel writes; the hash per cell runs inside the step kernels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .products import INTERPRETED


@triton.jit
def philox(c0, c1, c2, c3, k0, k1):
    """Computes two words of Philox4x32-10 of the counter (c0, c1, c2, c3) under the key (k0, k1); all uint32."""
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, 0xD2511F53), c0 * 0xD2511F53
        high1, low1 = tl.umulhi(c2, 0xCD9E8D57), c2 * 0xCD9E8D57
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0, c1


@triton.jit(do_not_specialize=["seed_low", "seed_high", "first_step", "first_sample", "origin_row", "last_row"])
def write_place(place, seed_low, seed_high, first_step, first_sample, origin_row, last_row):
    """place = the other arguments, 32-bit words; int32 [6]. A launch carries them: the host has nothing to keep."""
    tl.store(place, seed_low)
    tl.store(place + 1, seed_high)
    tl.store(place + 2, first_step)
    tl.store(place + 3, first_sample)
    tl.store(place + 4, origin_row)
    tl.store(place + 5, last_row)


@triton.jit
def row_keys(keys, place, count, B, H, BLOCK: tl.constexpr):
    """keys[n, b, r] = the words k0, k1 of row r of sample b in step first_step + n; int32 [steps, B, H, 2].

    One program per BLOCK rows of the `count` = steps * B * H. `place` is what `write_place` wrote: it is read from the
    device's memory, so that a captured launch makes the keys of another seed and step. Words are taken modulo 2**32;
    the row after last_row, the last of the canvas, is row 0.
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, sample, step = i % H, i // H % B, i // (H * B)
    zero = i.to(tl.uint32) * 0
    below = row.to(tl.int64) + (zero + tl.load(place + 4).to(tl.uint32, bitcast=True)).to(tl.int64)
    canvas_height = (zero + tl.load(place + 5).to(tl.uint32, bitcast=True)).to(tl.int64) + 1
    k0, k1 = philox(
        (below % canvas_height).to(tl.uint32),
        (sample + tl.load(place + 3)).to(tl.uint32),
        (step + tl.load(place + 2)).to(tl.uint32),
        zero,
        zero + tl.load(place).to(tl.uint32, bitcast=True),
        zero + tl.load(place + 1).to(tl.uint32, bitcast=True),
    )
    tl.store(keys + 2 * i, k0.to(tl.int32, bitcast=True), mask=i < count)
    tl.store(keys + 2 * i + 1, k1.to(tl.int32, bitcast=True), mask=i < count)


@triton.jit
def fires(column_part, key, below):
    """Says whether each cell of a row fires.

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


def word(value: int) -> int:
    """Returns the low 32 bits, as the signed integer of the same bits."""
    value &= 0xFFFFFFFF
    return value - 2**32 if value >= 2**31 else value


class RowKeys:
    """The row keys of some consecutive steps, made on the device from a place that lies there too.

    Args:
        steps: Of which there is room for keys.
        x: A state [B, H, W, C4], beside which the keys are made.

    Attributes:
        table: The keys, int32 [steps, B, H, 2].
    """

    def __init__(self, steps: int, x: Tensor):
        self.place = torch.empty(6, dtype=torch.int32, device=x.device)
        self.table = torch.empty(steps, *x.shape[:2], 2, dtype=torch.int32, device=x.device)

    def put(self, place) -> None:
        """Sets the place (`nca_fast.backends.Place`) of the steps that come next."""
        words = (place.seed, place.seed >> 32, place.first_step, place.sample, place.row, place.height - 1)
        write_place[(1,)](self.place, *map(word, words))

    def make(self, steps: int) -> None:
        """Writes the keys of the next steps into the table."""
        _, B, H, _ = self.table.shape
        count, block = steps * B * H, 1024 if INTERPRETED else 128
        row_keys[(triton.cdiv(count, block),)](self.table, self.place, count, B, H, BLOCK=block)

    def move(self, steps: int) -> None:
        """Moves to the step so many later; earlier where negative."""
        self.place[2].add_(steps)
