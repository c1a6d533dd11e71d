"""Triton's interpreter with a watch on every address: whoever reads or writes beside a tensor fails.

A kernel masks what it stores, so that a read of a cell that is not there changes no result; on a GPU it may end the
process, or do nothing for years. Tensors lie apart, among NaN, so that even the read of a neighbouring one is seen.
"""

import contextlib
import inspect
from unittest import mock

import numpy as np
import torch
from triton_rollouts import begin_launch

GAP = 1 << 12  # elements of NaN before and after each tensor


class OutsideOfTensors(Exception):
    """A kernel read or wrote where none of its tensors lies."""


class _Watch:
    def __init__(self, programs):
        self.programs, self.ranges, self.kernel, self.written = programs, [], "", {}

    def check(self, what, pointers, mask):
        at = pointers.data[mask.data.astype(bool)].astype(np.int64)
        if not at.size:
            return
        least, most = int(at.min()), int(at.max())
        size = pointers.get_element_ty().primitive_bitwidth // 8
        inside = [name for name, (begin, end) in self.ranges.items() if begin <= least and most + size <= end]
        if not inside:  # one tensor holds all addresses of a load or store
            near = {name: (least - begin, most - end) for name, (begin, end) in self.ranges.items()}
            raise OutsideOfTensors(f"{self.kernel} {what}s beside its tensors; bytes from begin and end: {near}")
        if what == "store":
            begin, end = self.written.get(inside[0], (least, most))
            self.written[inside[0]] = min(begin, least), max(end, most)


def _apart(tensor):
    """A copy among NaN."""
    room = torch.empty(tensor.numel() + 2 * GAP, dtype=tensor.dtype)
    room.fill_(float("nan") if tensor.is_floating_point() else -1)
    middle = room[GAP : GAP + tensor.numel()].view(tensor.shape)
    return middle.copy_(tensor)


@contextlib.contextmanager
def watched(programs=None):
    """Runs a block with the watch.

    Args:
        programs: (number of programs) -> those that are run; None for all. Then tensors stay where they are, because
            they may be larger than memory: what nobody touches takes none.

    Yields:
        The watch. `written`: of each tensor the first and the last byte that the last kernel wrote, from its begin.
    """
    from triton.runtime import interpreter

    watch, builder = _Watch(programs), interpreter.interpreter_builder
    load, store = builder.create_masked_load, builder.create_masked_store

    def checked_load(pointers, mask, other, *rest):
        watch.check("read", pointers, mask)
        return load(pointers, mask, other, *rest)

    def checked_store(pointers, value, mask, *rest):
        watch.check("store", pointers, mask)
        return store(pointers, value, mask, *rest)

    def call(executor, *args, **options):
        known = inspect.getfullargspec(executor.fn)
        options = {k: v for k, v in options.items() if k in known.args or k in known.kwonlyargs}
        named = inspect.getcallargs(executor.fn, *args, **options)
        tensors = {n: t for n, t in named.items() if isinstance(t, torch.Tensor)}
        copies, starts = {}, {}
        for name, t in tensors.items():
            assert t.is_contiguous() or t.numel() < 2, (executor.fn.__name__, name)
            key = t.data_ptr(), t.shape, t.dtype  # the same tensor twice stays the same
            if key not in copies:
                copies[key] = _apart(t) if programs is None else t
            named[name] = copies[key]
        watch.kernel, watch.written = executor.fn.__name__, {}
        watch.ranges = {n: (named[n].data_ptr(), named[n].data_ptr() + t.nbytes) for n, t in tensors.items()}
        begin_launch()
        scope = interpreter._patch_lang(executor.fn)
        try:
            converted = {
                name: value if name in executor.constexprs else interpreter._implicit_cvt(value)
                for name, value in named.items()
            }
            grid = executor.grid(converted) if callable(executor.grid) else executor.grid
            grid = (*grid, 1, 1)[:3]
            builder.set_grid_dim(*grid)
            for x in range(grid[0]) if programs is None else programs(grid[0]):
                for y in range(grid[1]):
                    builder.set_grid_idx(x, y, 0)
                    executor.fn(**converted)
        finally:
            scope.restore()
        starts = {name: begin for name, (begin, _) in watch.ranges.items()}
        watch.written = {n: (a - starts[n], b - starts[n]) for n, (a, b) in watch.written.items()}
        if programs is None:
            for name, t in tensors.items():
                t.copy_(named[name])

    with (
        mock.patch.object(interpreter.GridExecutor, "__call__", call),
        mock.patch.object(builder, "create_masked_load", checked_load),
        mock.patch.object(builder, "create_masked_store", checked_store),
    ):
        yield watch
