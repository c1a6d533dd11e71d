"""The alive mask in Triton: who lives, as a byte for every cell, and its application after an update.

    alive(x) = maximum of the alive channel over 3x3 > threshold

A cell's life hangs on its neighbours, so the kernels of a step do not find it: small ones write it, from the state
before the step, the state after the update, or both. The kernels of a step multiply by the bytes; where a cell must be
alive after the update (modes "both" and "after") forward another kernel does so. Backward they multiply the gradient of
what was written: the mask itself passes none.

So that the backward pass need not take a step again to learn who lived after it, the mask of these two modes stays in
the state: a dead cell's last channel is -0, and that of a living one is +0 where it is zero.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .cells import beside, own_cells
from .launch import launch
from .memory import Scratch

_CELLS = 128  # of a program: one for each of its threads


@triton.jit
def largest_around(x, row, column, H, W, C: tl.constexpr, CIRCULAR: tl.constexpr):
    """Computes the maximum over 3x3 of the numbers at x, which lie C apart; NaN where one is NaN."""
    most = tl.full((row.shape[0], 1), -float("inf"), tl.float32)
    for i in tl.static_range(3):
        down, in_rows = beside(row, i - 1, H)
        line = x + (down.to(tl.int64) * (W * C))[:, None]
        for j in tl.static_range(3):
            right, in_columns = beside(column, j - 1, W)
            v = tl.load(line + (right * C)[:, None]).to(tl.float32)
            v = v if CIRCULAR else tl.where((in_rows & in_columns)[:, None], v, -float("inf"))
            most = tl.where((v > most) | (v != v), v, most)
    return most


@triton.jit
def lives(
    before,
    after,
    row,
    column,
    H,
    W,
    C: tl.constexpr,
    BEFORE: tl.constexpr,
    AFTER: tl.constexpr,
    THRESHOLD: tl.constexpr,
    CIRCULAR: tl.constexpr,
):
    """Says which cells are alive, [cells, 1]; before and after point to the alive channel of a sample's first cell."""
    if BEFORE and AFTER:
        was = largest_around(before, row, column, H, W, C, CIRCULAR) > THRESHOLD
        is_now = largest_around(after, row, column, H, W, C, CIRCULAR) > THRESHOLD
        return was & is_now
    elif BEFORE:
        return largest_around(before, row, column, H, W, C, CIRCULAR) > THRESHOLD
    else:
        return largest_around(after, row, column, H, W, C, CIRCULAR) > THRESHOLD


@triton.jit
def write_living(
    before,
    after,
    living,
    cells,
    H,
    W,
    C: tl.constexpr,
    ALIVE: tl.constexpr,
    BEFORE: tl.constexpr,
    AFTER: tl.constexpr,
    THRESHOLD: tl.constexpr,
    CIRCULAR: tl.constexpr,
    BM: tl.constexpr,
):
    """living = whether each cell is alive; int8 [B, H, W]. The others as in `apply_alive_mask`."""
    sample, whole, _, row, column, there = own_cells(0, 0, cells, H, W, BM)
    first = sample * H * W * C + ALIVE
    mask = lives(before + first, after + first, row, column, H, W, C, BEFORE, AFTER, THRESHOLD, CIRCULAR)
    own = living + whole + tl.arange(0, BM)[:, None]
    tl.store(own, mask.to(tl.int8), mask=there[:, None])


@triton.jit
def read_living(state, living, cells, H, W, C: tl.constexpr, LAST: tl.constexpr, BM: tl.constexpr):
    """living = who lived after the step that led to a state, which `apply_alive_mask` wrote; int8 [B, H, W]."""
    _, whole, _, _, _, there = own_cells(0, 0, cells, H, W, BM)
    own = whole + tl.arange(0, BM)
    v = tl.load(state + own * C + LAST, mask=there, other=0.0).to(tl.float32)
    dead = (v.to(tl.int32, bitcast=True) < 0) & (v == 0)
    tl.store(living + own, tl.where(dead, 0, 1).to(tl.int8), mask=there)


@triton.jit
def apply_alive_mask(
    before,
    after,
    out,
    cells,
    H,
    W,
    C: tl.constexpr,
    GROUP: tl.constexpr,
    FROZEN: tl.constexpr,
    LAST: tl.constexpr,
    ALIVE: tl.constexpr,
    BEFORE: tl.constexpr,
    AFTER: tl.constexpr,
    THRESHOLD: tl.constexpr,
    CIRCULAR: tl.constexpr,
    BM: tl.constexpr,
):
    """out = after, multiplied on its written channels by whether the cell is alive; and the mask in its last channel.

    Args:
        before, after, out: The state before the step, after the update, and after the mask. [B, H, W, C].
        cells: H * W.
        GROUP: Channels that are copied at a time, a power of two that divides C.
        FROZEN: Channels that are copied.
        LAST: The last channel but those that fill them up.
        ALIVE: The alive channel.
        BEFORE, AFTER: When a cell must be alive.
    """
    sample, whole, _, row, column, there = own_cells(0, 0, cells, H, W, BM)
    first = sample * H * W * C + ALIVE
    living = lives(before + first, after + first, row, column, H, W, C, BEFORE, AFTER, THRESHOLD, CIRCULAR)
    mask = tl.where(living, 1.0, 0.0)
    zero = tl.where(living, 0, -(2**31)).to(tl.float32, bitcast=True)
    own = whole * C + tl.arange(0, BM)[:, None] * C + tl.arange(0, GROUP)[None, :]
    for begin in tl.static_range(0, C, GROUP):
        v = tl.load(after + own + begin, mask=there[:, None], other=0.0).to(tl.float32)
        written = (begin + tl.arange(0, GROUP) >= FROZEN)[None, :]
        v = tl.where(written, v * mask, v)  # a value that blew up stays NaN
        if begin // GROUP == LAST // GROUP:
            v = tl.where((v == 0) & (begin + tl.arange(0, GROUP) == LAST)[None, :], zero, v)
        tl.store(out + own + begin, v.to(out.dtype.element_ty), mask=there[:, None])


class AliveMask:
    """The alive mask of a rollout.

    Args:
        rule: What a kernel needs to know of a rule (`nca_fast.rule.KernelRule`), which has an alive channel.
        scratch: Of the rollout.

    Attributes:
        looks_after: Whether it hangs on the state after the update.
    """

    def __init__(self, rule, scratch: Scratch):
        self.scratch, self.last, self.frozen = scratch, rule.channels - 1, rule.frozen
        self.looks_after = rule.alive_mask in ("both", "after")
        self.constants = {
            "ALIVE": rule.alive_channel,
            "BEFORE": rule.alive_mask != "after",
            "AFTER": self.looks_after,
            "THRESHOLD": rule.alive_threshold,
            "CIRCULAR": rule.alive_circular,
        }

    def after(self, x: Tensor) -> Tensor:
        """Gives room for the state after the update: float32, because a cell lives or dies before it is rounded."""
        return self.scratch("after", x, *x.shape, dtype=torch.float32)

    def _launch(self, kernel, x, *tensors, **constants):
        B, H, W, C = x.shape
        launch(kernel, (B * triton.cdiv(H * W, _CELLS),), *tensors, H * W, H, W, C=C, **constants, BM=_CELLS)

    def _living(self, x):
        return self.scratch("living", x, *x.shape[:3], dtype=torch.int8)

    def living(self, before: Tensor, after: Tensor) -> Tensor:
        """Writes who lives, given the states before the step and after the update; int8 [B, H, W]."""
        living = self._living(before)
        self._launch(write_living, before, before, after, living, **self.constants)
        return living

    def living_in(self, state: Tensor) -> Tensor:
        """Writes who lived after the step that led to a state; for the modes "both" and "after"."""
        living = self._living(state)
        self._launch(read_living, state, state, living, LAST=self.last)
        return living

    def apply(self, before: Tensor, after: Tensor, out: Tensor) -> None:
        """out = after times the mask; see `apply_alive_mask`."""
        group = 8 if before.shape[3] % 8 == 0 else 4
        constants = {"GROUP": group, "FROZEN": self.frozen, "LAST": self.last, **self.constants}
        self._launch(apply_alive_mask, before, before, after, out, **constants)
