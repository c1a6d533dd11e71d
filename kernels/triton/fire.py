"""What a step draws, in Triton: who fires and normal numbers, bit for bit those of nca_fast.

The formulas and their reasons stand at `nca_fast.fire_mask` and `nca_fast.normal`. A Philox draw per row and step is a
table that one small kernel writes; the hash per cell runs inside the step kernels.
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch_alone
from .products import INTERPRETED


@triton.jit
def philox(c0, c1, c2, c3, k0, k1):
    """Computes the words of Philox4x32-10 of the counter (c0, c1, c2, c3) under the key (k0, k1); all uint32."""
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, 0xD2511F53), c0 * 0xD2511F53
        high1, low1 = tl.umulhi(c2, 0xCD9E8D57), c2 * 0xCD9E8D57
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0, c1, c2, c3


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
def row_keys(
    keys,
    place,
    count,
    B,
    H,
    WORDS: tl.constexpr,
    SHARED_BATCH: tl.constexpr,
    SHARED_HEIGHT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """keys[n, b, r] = the words k0, k1 of row r of sample b in step first_step + n; int32 [steps, B, H, WORDS].

    With four WORDS also k2, k3, those of the normal numbers. One program per BLOCK rows of the `count` = steps * B * H.
    `place` is what `write_place` wrote: it is read from the device's memory, so that a captured launch makes the keys
    of another seed and step. Words are taken modulo 2**32; the row after last_row, the last of the canvas, is row 0.

    Args:
        SHARED_BATCH, SHARED_HEIGHT: Whether all samples, or all rows, share their draws of the fire mask.
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, sample, step = i % H, i // H % B, i // (H * B)
    zero = i.to(tl.uint32) * 0
    below = row.to(tl.int64) + (zero + tl.load(place + 4).to(tl.uint32, bitcast=True)).to(tl.int64)
    canvas_height = (zero + tl.load(place + 5).to(tl.uint32, bitcast=True)).to(tl.int64) + 1
    row_counter = (below % canvas_height).to(tl.uint32)
    sample_counter = (sample + tl.load(place + 3)).to(tl.uint32)
    step_counter = (step + tl.load(place + 2)).to(tl.uint32)
    low = zero + tl.load(place).to(tl.uint32, bitcast=True)
    high = zero + tl.load(place + 1).to(tl.uint32, bitcast=True)
    k0, k1, k2, k3 = philox(
        zero if SHARED_HEIGHT else row_counter,
        zero if SHARED_BATCH else sample_counter,
        step_counter,
        zero,
        low,
        high,
    )
    tl.store(keys + WORDS * i, k0.to(tl.int32, bitcast=True), mask=i < count)
    tl.store(keys + WORDS * i + 1, k1.to(tl.int32, bitcast=True), mask=i < count)
    if WORDS == 4:
        if SHARED_HEIGHT or SHARED_BATCH:
            _, _, k2, k3 = philox(row_counter, sample_counter, step_counter, zero, low, high)
        tl.store(keys + WORDS * i + 2, k2.to(tl.int32, bitcast=True), mask=i < count)
        tl.store(keys + WORDS * i + 3, k3.to(tl.int32, bitcast=True), mask=i < count)


@triton.jit
def mixed(z):
    """Mixes the bits of words, so that words that are alike become unlike.

    z ^= z >> 16;  z *= 0x21F0AAAD;  z ^= z >> 15;  z *= 0x735A2D97;  z ^= z >> 15
    """
    z ^= z >> 16
    z *= 0x21F0AAAD
    z ^= z >> 15
    z *= 0x735A2D97
    return z ^ (z >> 15)


@triton.jit
def lane_part(channel):
    """Computes what the lane of a channel adds to the column part: lane * 0x9E3779B9 columns of 0x9E3779B9 each."""
    return channel.to(tl.uint32) * 0xE35E67B1


@triton.jit
def fires(column_part, key, below):
    """Says whether each cell of a row fires: when mixed(column_part + k0) ^ k1 < below.

    Args:
        column_part: column * 0x9E3779B9 of every cell, which does not change from row to row; and `lane_part` of
            channels that fire each for itself. uint32 [cells] or [cells, channels].
        key: Pointer to the row's words in the table of `row_keys`.
        below: 0 to 2**32, int64, one number or as many as hashes.
    """
    k0 = tl.load(key).to(tl.uint32, bitcast=True)
    k1 = tl.load(key + 1).to(tl.uint32, bitcast=True)
    z = mixed(column_part + k0) ^ k1
    return (z <= (below - 1).to(tl.uint32)) & (below > 0)


@triton.jit
def channel_fires(
    column_part,
    key,
    fire,
    cell,
    cells,
    channel,
    FROZEN: tl.constexpr,
    WRITTEN: tl.constexpr,
    LANES: tl.constexpr,
    MAP: tl.constexpr,
):
    """Says which channels of cells fire, [cells, channels], where they differ in their draws or their rates.

    Args:
        column_part: As in `fires`, [cells].
        key: Pointer to the row's words, or to those of each cell, [cells, 1].
        fire: Threshold, see MAP in `step_fwd`; of the sample.
        cell: Numbers of the cells in the canvas of `cells`, int64 [cells].
        channel: Numbers of the channels, int32 [channels].
    """
    if MAP >= 4:
        of = tl.minimum(tl.maximum(channel - FROZEN, 0), WRITTEN - 1)
        below = tl.load(fire + (of.to(tl.int64) * cells)[None, :] + cell[:, None])
    elif MAP > 0:
        below = tl.load(fire + cell)[:, None]
    else:
        below = tl.load(fire + cell * 0)[:, None]  # of one number the interpreter would make a mask of integers
    part = column_part[:, None]
    if LANES:
        part = part + lane_part(channel)[None, :]
    return fires(part, key, below)


@triton.jit
def rates_of(sample, cells, WRITTEN: tl.constexpr, MAP: tl.constexpr):
    """Says where the thresholds of a sample begin, see MAP in `step_fwd`."""
    if (MAP // 2) % 2 == 1:
        return sample.to(tl.int64) * cells * (WRITTEN if MAP >= 4 else 1)
    else:
        return sample.to(tl.int64) * 0


@triton.jit
def ones(v):
    """Counts the ones among the bits of words."""
    v = v - ((v >> 1) & 0x55555555)
    v = (v & 0x33333333) + ((v >> 2) & 0x33333333)
    return (((v + (v >> 4)) & 0x0F0F0F0F) * 0x01010101) >> 24


@triton.jit
def normal_numbers(column_part, key, lane, UNIT: tl.constexpr):
    """Draws a normal number for each cell and channel, float32 [cells, channels].

    Args:
        column_part: column * 0x9E3779B9, uint32 [cells].
        key: As in `channel_fires`, in a table of four words.
        lane: First of the three lanes of each channel, int32 [channels].
        UNIT: What their integers are multiplied by.
    """
    k2 = tl.load(key + 2).to(tl.uint32, bitcast=True)
    k3 = tl.load(key + 3).to(tl.uint32, bitcast=True)
    part = column_part[:, None] + lane_part(lane)[None, :] + k2
    a = mixed(part) ^ k3
    b = mixed(part + 0xE35E67B1) ^ k3
    c = mixed(part + 0xC6BCCF62) ^ k3
    whole = (ones(a) + ones(b)).to(tl.int32) * 65536 - 32 * 65536
    whole += (c & 0xFFFF).to(tl.int32) - (c >> 16).to(tl.int32)
    return whole.to(tl.float32) * UNIT


NORMAL_UNIT = 1 / (65536 * math.sqrt(16 + 1 / 6))


class Step(NamedTuple):
    """What one step is told beside its states.

    Args:
        keys: Its row keys, int32 [B, H, 2 or 4].
        fire: A cell fires when its hash is below: int64, [], a map [H, W] or [B or 1, written or 1, H, W].
        column: Of the first cell in the whole canvas, as a signed 32-bit word.
        living: Who lives, int8 [B, H, W]; None where that does not matter.
    """

    keys: Tensor
    fire: Tensor
    column: int
    living: Tensor | None = None

    @property
    def words(self) -> int:
        """Words of a row's keys."""
        return self.keys.shape[-1]

    @property
    def by(self) -> int:
        """How the threshold differs: 0 not at all, 1 by cell, 2 more by sample, 4 more by channel."""
        if self.fire.ndim < 4:
            return self.fire.ndim // 2
        return 1 + 2 * (self.fire.shape[0] > 1) + 4 * (self.fire.shape[1] > 1)


def word(value: int) -> int:
    """Returns the low 32 bits, as the signed integer of the same bits."""
    value &= 0xFFFFFFFF
    return value - 2**32 if value >= 2**31 else value


class RowKeys:
    """The row keys of some consecutive steps, made on the device from a place that lies there too.

    Args:
        steps: Of which there is room for keys.
        x: A state [B, H, W, C4], beside which the keys are made.
        rule: What a kernel needs to know of the rule (`nca_fast.rule.KernelRule`).

    Attributes:
        table: The keys, int32 [steps, B, H, 2]; where the rule has noise, [steps, B, H, 4].
    """

    def __init__(self, steps: int, x: Tensor, rule):
        self.shared = {"SHARED_BATCH": "batch" in rule.fire_shared, "SHARED_HEIGHT": "height" in rule.fire_shared}
        words = 4 if rule.state_noise or rule.update_noise else 2
        self.place = torch.empty(6, dtype=torch.int32, device=x.device)
        self.table = torch.empty(steps, *x.shape[:2], words, dtype=torch.int32, device=x.device)

    def put(self, place) -> None:
        """Sets the place (`nca_fast.backends.Place`) of the steps that come next."""
        words = (place.seed, place.seed >> 32, place.first_step, place.sample, place.row, place.height - 1)
        launch_alone(write_place, (1,), self.place, *map(word, words))

    def make(self, steps: int) -> None:
        """Writes the keys of the next steps into the table."""
        _, B, H, words = self.table.shape
        count, block = steps * B * H, 1024 if INTERPRETED else 128
        constants = {"WORDS": words, **self.shared, "BLOCK": block}
        launch_alone(row_keys, (triton.cdiv(count, block),), self.table, self.place, count, B, H, **constants)

    def move(self, steps: int) -> None:
        """Moves to the step so many later; earlier where negative."""
        self.place[2].add_(steps)
