"""Distances between sorted rows, with gradients: on a CPU sliced optimal transport spends its time on sorting.

For float32 on the CPU NumPy sorts instead, with AVX-512 or AVX2 instructions where there are such: 64-bit integers that
hold the value above (its bits, made to sort like integers) and the position below. One pass over a few rows, which stay
in the second-level cache, sorts them, compares them and puts the gradient where it belongs, so neither sorted values
nor orders are ever stored. Rows are shared among threads (NumPy lets go of the interpreter lock while it works), as
many as torch may use; the result does not depend on how many. Everything else goes through torch.sort.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from nca_fast.once import once

_BLOCK = 1 << 16  # elements: keys of that many take 512 KiB
_MAGNITUDE = np.int32(0x7FFFFFFF)


def sort_values(x: torch.Tensor) -> torch.Tensor:
    """Sort along the last axis, ascending, without gradients.

    Args:
        x: [R, N] float.

    Returns:
        [R, N].
    """
    if not _is_for_numpy(x):
        return torch.sort(x, dim=-1).values
    values = x.detach().clone(memory_format=torch.contiguous_format)
    array = values.numpy()
    _run_by_rows(array.shape, lambda rows: array[rows].sort(axis=-1))
    return values


def sorted_squares(x: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """How far rows are from wanted ones, blind to their order: sum over all of (sort(x) - wanted)^2.

    The gradient of an element is 2 (x - wanted at its rank). Equal elements are ranked by position, so the gradient is
    reproducible.

    Args:
        x: [B, R, N] float.
        wanted: [R, N], ascending along N; the same for all of B; without gradient.

    Returns:
        Scalar, differentiable once with respect to x (any number of times where torch.sort does the work).
    """
    if not _is_for_numpy(x):
        return (torch.sort(x, dim=-1, stable=True).values - wanted).square().sum()
    return _SortedSquares.apply(x, wanted)


def all_sorted_squares(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[torch.Tensor]:
    """The `sorted_squares` of several sets of rows to wanted ones that are not sorted yet.

    Where sizes differ, rank r of N is compared with rank (r + 1/2) M / N of the wanted. On a GPU, whose sort takes as
    long for one row as for a hundred, all rows of a length are sorted in one call, the wanted ones among them.

    Args:
        pairs: (x [B, R, N], wanted [R, M] without gradient) each; taken one by one where that saves memory.

    Returns:
        A scalar each.
    """
    together = []
    for x, wanted in pairs:
        if x.is_cpu:
            yield sorted_squares(x, _at_ranks(sort_values(wanted), x.shape[-1]))
        else:
            together.append((x, wanted))
    rows = [rows for x, wanted in together for rows in (x.flatten(0, 1), wanted)]
    values = _sorted_by_length(rows)
    for (x, _), mine, wanted in zip(together, values[::2], values[1::2], strict=True):
        yield (mine.view(x.shape) - _at_ranks(wanted.detach(), x.shape[-1])).square().sum()


def _sorted_by_length(rows: list[torch.Tensor]) -> list[torch.Tensor]:
    """Sorts each [R, N] along its last axis, those of a length in one call; equal elements by position."""
    found = [None] * len(rows)
    for length in dict.fromkeys(part.shape[1] for part in rows):
        places = [n for n, part in enumerate(rows) if part.shape[1] == length]
        values = torch.sort(torch.cat([rows[n] for n in places]), dim=-1, stable=True).values
        for n, part in zip(places, values.split([len(rows[n]) for n in places]), strict=True):
            found[n] = part
    return found


def _at_ranks(values: torch.Tensor, count: int) -> torch.Tensor:
    """Sorted rows [R, M] where `count` ranks fall, [R, count]."""
    length = values.shape[1]
    if length == count:
        return values
    return values[:, (torch.arange(count, device=values.device) * 2 + 1) * length // (2 * count)]


class _SortedSquares(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, wanted):
        length = x.shape[-1]
        points = x.detach().contiguous().numpy().reshape(-1, length)
        goal = wanted.detach().contiguous().numpy()
        sums = np.empty(len(points))
        half_grad = torch.empty(x.shape) if ctx.needs_input_grad[0] else None
        half_grad_rows = None if half_grad is None else half_grad.numpy().reshape(-1, length)

        def run(rows: slice) -> None:
            order, difference = _sort_rows(points[rows])
            difference -= goal[np.arange(rows.start, rows.stop) % len(goal)]
            sums[rows] = np.einsum("rn,rn->r", difference, difference, dtype=np.float64)
            if half_grad_rows is not None:
                np.put_along_axis(half_grad_rows[rows], order, difference, axis=-1)

        _run_by_rows(points.shape, run)
        if half_grad is not None:
            ctx.save_for_backward(half_grad)
        return x.new_tensor(sums.sum())

    @staticmethod
    @once("a style loss can be differentiated once only, but a second derivative was asked for.")
    def backward(ctx, grad_sum):
        (half_grad,) = ctx.saved_tensors
        return half_grad * (2 * grad_sum), None


def _sort_rows(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order (int64) and sorted values of rows of float32."""
    bits = (points + np.float32(0)).view(np.int32)  # the sum makes -0 a 0, which it ties with
    # Flipping the lower 31 bits of negative floats makes their order that of integers; the same flip undoes it.
    keys = (bits ^ ((bits >> 31) & _MAGNITUDE)).astype(np.int64)
    keys <<= 32
    keys |= np.arange(points.shape[-1])
    keys.sort(axis=-1)
    flipped = (keys >> 32).astype(np.int32)
    flipped ^= (flipped >> 31) & _MAGNITUDE
    keys &= 0xFFFFFFFF
    return keys, flipped.view(np.float32)


def _is_for_numpy(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32


def _run_by_rows(shape: tuple[int, int], run: Callable[[slice], None]) -> None:
    """Call `run` with slices that cover the rows, from as many threads as torch may use."""
    rows, length = shape
    workers = min(torch.get_num_threads(), rows)
    step = max(1, min(_BLOCK // length, -(-rows // workers)))
    slices = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
    if workers == 1:
        for part in slices:
            run(part)
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, slices))
