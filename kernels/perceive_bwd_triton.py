"""The gradient of perception in Triton: every cell gathers what the cells that saw it return.

    grad_x_c(n) = grad_c(n) + sum over f, i, j of stencil_f[i][j] grad_y_f,c(n - (i - R, j - R))
                            + sum over the neighbours whose maximum was n of their grad_y_F,c

The transpose of perceive_fwd_triton.py. Nothing is scattered, so that sums have one order.
"""

import triton
import triton.language as tl
from nca_fast.kernels.neighbours_triton import beside, load_neighbour, own_cells


@triton.jit
def perceive_bwd(
    grad,
    grad_y,
    winners,
    grad_x,
    scale,
    cells,
    H,
    W,
    C: tl.constexpr,
    CHUNK: tl.constexpr,
    K: tl.constexpr,
    STENCILS: tl.constexpr,
    USED: tl.constexpr,
    MAXIMUM: tl.constexpr,
    CIRCULAR: tl.constexpr,
    SCALED: tl.constexpr,
    BM: tl.constexpr,
):
    """grad_x = grad + what perception returns, for all cells.

    Args:
        grad: Gradient of the state after the step, those that the alive mask buried being 0. [B, H, W, C].
        grad_y: Gradient of the perception, times `scale` with SCALED. [B, H, W, K].
        winners: See `perceive_fwd`. Read with MAXIMUM.
        grad_x: Written. [B, H, W, C].
        cells: H * W.
        The others as in `perceive_fwd`.
    """
    R: tl.constexpr = len(USED) // 2
    HALF: tl.constexpr = MAXIMUM // 2
    F: tl.constexpr = len(STENCILS)
    sample, whole, _, row, column, there = own_cells(0, 0, cells, H, W, BM)
    c = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)[None, :]
    grad_y += sample * H * W * K
    winners += sample * H * W * C
    total = tl.zeros((BM, CHUNK), tl.float32)
    for i in tl.static_range(2 * R + 1):
        down, in_rows = beside(row, R - i, H)
        line = grad_y + (down.to(tl.int64) * (W * K))[:, None]
        winners_line = winners + (down.to(tl.int64) * (W * C))[:, None]
        for j in tl.static_range(2 * R + 1):
            if USED[i][j]:
                right, in_columns = beside(column, R - j, W)
                here = (in_rows & in_columns)[:, None]
                at = line + ((right * K)[:, None] + c)
                for f in tl.static_range(F):
                    if STENCILS[f][i * (2 * R + 1) + j] != 0.0:
                        g = load_neighbour(at + f * C, here, CIRCULAR)
                        total = tl.fma(g, STENCILS[f][i * (2 * R + 1) + j], total)
                if MAXIMUM > 0 and i >= R - HALF and i <= R + HALF and j >= R - HALF and j <= R + HALF:
                    won = tl.load(winners_line + ((right * C)[:, None] + c)) == (i - R + HALF) * MAXIMUM + j - R + HALF
                    total += tl.where(won, load_neighbour(at + F * C, here, CIRCULAR), 0.0)
    if SCALED:
        total *= 1.0 / tl.load(scale)
    own = whole * C + tl.arange(0, BM)[:, None] * C + c
    total += tl.load(grad + own, mask=there[:, None], other=0.0).to(tl.float32)
    tl.store(grad_x + own, total.to(grad_x.dtype.element_ty), mask=there[:, None])
