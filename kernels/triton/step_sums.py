"""Gradients of weights that differ from step to step: the partial sums of a step are added to the entry of the step.

Memory does not grow with the steps by more than the weights themselves: all steps share their partial sums, which are
zero again for the next one. The launch is one of those of the step back, so that it is repeated as these are.
"""

import triton
import triton.language as tl
from torch import Tensor

from .launch import launch

_LINES, _COLUMNS = 64, 32  # of a block of partial sums


@triton.jit(do_not_specialize=["lines"])
def add_lines(sums, entry, lines, packed, LINES: tl.constexpr, COLUMNS: tl.constexpr):
    """entry += all lines of partial sums; sums = 0.

    Args:
        sums: Float32, [rules, lines, packed].
        entry: Float32, [rules, packed]; a program has COLUMNS columns of one rule.
    """
    rule = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((COLUMNS,), tl.float32)
    for first in range(0, lines, LINES):
        line = first + tl.arange(0, LINES)
        at = sums + (rule * lines + line)[:, None] * packed + column[None, :]
        there = (line < lines)[:, None] & (column < packed)[None, :]
        total += tl.sum(tl.load(at, mask=there, other=0.0), 0)
        tl.store(at, tl.zeros((LINES, COLUMNS), tl.float32), mask=there)
    at = entry + rule * packed + column
    tl.store(at, tl.load(at, mask=column < packed, other=0.0) + total, mask=column < packed)


def add_sums(sums: Tensor, entry: Tensor) -> None:
    """Adds the partial sums of the step under way to its entry, and makes them zero.

    Args:
        sums: Float32, [rules * lines, packed].
        entry: Float32, [rules, packed].
    """
    rules, packed = entry.shape
    grid = triton.cdiv(packed, _COLUMNS), rules
    launch(add_lines, grid, sums, entry, len(sums) // rules, packed, LINES=_LINES, COLUMNS=_COLUMNS, num_stages=1)
