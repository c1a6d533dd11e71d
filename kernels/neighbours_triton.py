"""Cells and their neighbours in Triton, for the kernels that work on one range of cells after another.

Such a kernel takes `cells` cells of each of several samples, counted row by row from `first_cell` of `first_sample` on.
What it reads of a cell's neighbourhood, and all states, are those of the whole canvas; what is kept between the kernels
of one step (scratch) holds the range alone.
"""

import triton
import triton.language as tl


@triton.jit
def own_cells(first_sample, first_cell, cells, H, W, BM: tl.constexpr):
    """Where a program's BM cells are.

    Returns:
        sample: Of the program, int64.
        whole, place: Number of the first cell among all cells and in the range, int64.
        row, column: Of every cell, int32 [BM].
        there: Whether the cell is in the range, [BM].
    """
    blocks = tl.cdiv(cells, BM)
    program = tl.program_id(0)
    sample = (program // blocks).to(tl.int64)
    begin = program % blocks * BM
    i = tl.arange(0, BM)
    # The last cell stands for those beyond, so that no address is outside.
    there = begin + i < cells
    cell = first_cell + tl.minimum(begin + i, cells - 1)
    whole = (first_sample + sample) * H * W + (first_cell + begin)
    return first_sample + sample, whole, sample * cells + begin, cell // W, cell % W, there


@triton.jit
def beside(i, by: tl.constexpr, n):
    """Number of the row or column `by` further, -4 to 4, on a torus of n; and whether it is there without one."""
    return (i + (by + 4 * n)) % n, (i + by >= 0) & (i + by < n)


@triton.jit
def load_neighbour(at, there, CIRCULAR: tl.constexpr):
    """The numbers at `at` as float32, 0 where the neighbour is not there."""
    if CIRCULAR:
        return tl.load(at).to(tl.float32)
    else:
        return tl.load(at, mask=there, other=0.0).to(tl.float32)
