"""The alive mask in Triton.

    alive(x) = maximum of the alive channel over 3x3 > threshold        out = values (alive(before) and alive(after))

A kernel of its own, because whether a cell lives depends on what its neighbours became. Forward it multiplies the state
after the update, backward the gradient of what it wrote: the mask itself passes none.
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
def apply_alive_mask(
    before,
    after,
    values,
    out,
    cells,
    H,
    W,
    C: tl.constexpr,
    GROUP: tl.constexpr,
    FROZEN: tl.constexpr,
    ALIVE: tl.constexpr,
    THRESHOLD: tl.constexpr,
    CIRCULAR: tl.constexpr,
    BM: tl.constexpr,
):
    """out = values, multiplied on its written channels by whether the cell is alive before and after the update.

    Args:
        before, after, values, out: [B, H, W, C]; `values` may be `after`.
        cells: H * W.
        GROUP: Channels that are copied at a time, a power of two that divides C.
        FROZEN: Channels that are copied.
        ALIVE: The alive channel.
    """
    sample, whole, _, row, column, there = own_cells(0, 0, cells, H, W, BM)
    first = sample * H * W * C + ALIVE
    was = largest_around(before + first, row, column, H, W, C, CIRCULAR) > THRESHOLD
    is_now = largest_around(after + first, row, column, H, W, C, CIRCULAR) > THRESHOLD
    mask = tl.where(was & is_now, 1.0, 0.0)
    own = whole * C + tl.arange(0, BM)[:, None] * C + tl.arange(0, GROUP)[None, :]
    for begin in tl.static_range(0, C, GROUP):
        v = tl.load(values + own + begin, mask=there[:, None], other=0.0).to(tl.float32)
        written = (begin + tl.arange(0, GROUP) >= FROZEN)[None, :]
        v = tl.where(written, v * mask, v)  # a value that blew up stays NaN
        tl.store(out + own + begin, v.to(out.dtype.element_ty), mask=there[:, None])


class AliveMask:
    """The alive mask of a rollout: what the kernels of a step write before it, and its launch.

    Args:
        rule: What a kernel needs to know of a rule (`nca_fast.rule.KernelRule`), which has an alive channel.
        scratch: Of the rollout.
    """

    def __init__(self, rule, scratch: Scratch):
        self.scratch = scratch
        self.constants = {
            "FROZEN": rule.frozen,
            "ALIVE": rule.alive_channel,
            "THRESHOLD": rule.alive_threshold,
            "CIRCULAR": rule.circular,
        }

    def after(self, x: Tensor) -> Tensor:
        """Gives room for the state after the update: float32, because a cell lives or dies before it is rounded."""
        return self.scratch("after", x, *x.shape, dtype=torch.float32)

    def masked(self, grad: Tensor) -> Tensor:
        """Gives room for the gradient of what the kernels wrote."""
        return self.scratch("masked", grad, *grad.shape, dtype=grad.dtype)

    def apply(self, before: Tensor, after: Tensor, values: Tensor, out: Tensor) -> None:
        """out = values times the mask of the states before and after the update; see `apply_alive_mask`."""
        B, H, W, C = before.shape
        blocks, group = B * triton.cdiv(H * W, _CELLS), 8 if C % 8 == 0 else 4
        constants = {"C": C, "GROUP": group, **self.constants, "BM": _CELLS}
        launch(apply_alive_mask, (blocks,), before, after, values, out, H * W, H, W, **constants)
