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
    """Locates a program's BM cells.

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
def own_columns(first_sample, first_row, rows, W, program_rows, BM: tl.constexpr):
    """Locates the columns and rows of a program that slides down `program_rows` rows.

    Returns:
        sample, range_sample: Of the program, among all samples and in the range, int64.
        first, end: The program's rows.
        column: Of every column, int32 [BM].
        there: Whether the column is on the canvas, [BM, 1].
    """
    blocks = tl.cdiv(W, BM)
    programs_down = tl.cdiv(rows, program_rows)
    program = tl.program_id(0)
    range_sample = (program // (blocks * programs_down)).to(tl.int64)
    first = first_row + program // blocks % programs_down * program_rows
    end = tl.minimum(first + program_rows, first_row + rows)
    i = program % blocks * BM + tl.arange(0, BM)
    # The last column stands for those beyond, so that no address is outside.
    return first_sample + range_sample, range_sample, first, end, tl.minimum(i, W - 1), (i < W)[:, None]


@triton.jit
def beside(i, by: tl.constexpr, n):
    """Returns the row or column `by` further, -4 to 4, on a torus of n; and whether it is there without one."""
    return (i + (by + 4 * n)) % n, (i + by >= 0) & (i + by < n)


@triton.jit
def mirrored(i, n):
    """Mirrors the number of a row or column, -n to 2 n - 1, at the outermost ones of n."""
    return tl.maximum(n - 1 - tl.abs(n - 1 - tl.abs(i)), 0)


@triton.jit
def source(i, n, PADDING: tl.constexpr):
    """Returns the row or column that stands for number i, of n, with reflection or replication."""
    if PADDING == "reflect":
        return mirrored(i, n)
    else:
        return tl.minimum(tl.maximum(i, 0), n - 1)


@triton.jit
def seen_beside(i, by: tl.constexpr, n, PADDING: tl.constexpr):
    """Returns which row or column is seen `by` further, -4 to 4; and whether that lies among the n."""
    if PADDING == "reflect" or PADDING == "replicate":
        return source(i + by, n, PADDING), (i + by >= 0) & (i + by < n)
    else:
        return beside(i, by, n)


@triton.jit
def row_here(columns, in_rows, W):
    """Says which neighbours of a row are on a canvas that is no torus.

    Args:
        columns: Numbers of their columns, -4 to W + 3.
        in_rows: Whether the row is.
    """
    beyond = tl.where(in_rows, W, 0).to(tl.uint32)
    here = ()
    for j in tl.static_range(len(columns)):
        here = here + ((columns[j].to(tl.uint32) < beyond)[:, None],)  # -1 is a large number without a sign
    return here
