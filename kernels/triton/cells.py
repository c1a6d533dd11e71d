"""Cells and their neighbours in Triton, for the kernels that work on one range of cells after another.

Such a kernel takes `cells` cells of each of several samples, counted row by row from `first_cell` of `first_sample` on;
or, where it slides down the canvas, as many whole `rows`.
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
def own_columns(first_sample, first_row, rows, W, band, BM: tl.constexpr):
    """Where a program's columns and rows are: one that slides down a band of rows.

    Returns:
        sample, range_sample: Of the program, among all samples and in the range, int64.
        first, end: The band's rows.
        column: Of every column, int32 [BM].
        there: Whether the column is on the canvas, [BM, 1].
    """
    blocks = tl.cdiv(W, BM)
    bands = tl.cdiv(rows, band)
    program = tl.program_id(0)
    range_sample = (program // (blocks * bands)).to(tl.int64)
    first = first_row + program // blocks % bands * band
    end = tl.minimum(first + band, first_row + rows)
    i = program % blocks * BM + tl.arange(0, BM)
    # The last column stands for those beyond, so that no address is outside.
    return first_sample + range_sample, range_sample, first, end, tl.minimum(i, W - 1), (i < W)[:, None]


@triton.jit
def beside(i, by: tl.constexpr, n):
    """Number of the row or column `by` further, -4 to 4, on a torus of n; and whether it is there without one."""
    return (i + (by + 4 * n)) % n, (i + by >= 0) & (i + by < n)


@triton.jit
def row_here(columns, in_rows, W):
    """Which neighbours of a row are on a canvas that is no torus.

    Args:
        columns: Numbers of their columns, -4 to W + 3.
        in_rows: Whether the row is.
    """
    beyond = tl.where(in_rows, W, 0).to(tl.uint32)
    here = ()
    for j in tl.static_range(len(columns)):
        here = here + ((columns[j].to(tl.uint32) < beyond)[:, None],)  # -1 is a large number without a sign
    return here
