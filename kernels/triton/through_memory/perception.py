"""Launches the kernels that write to memory what cells see, and take its gradient back."""

from typing import NamedTuple

import triton
from torch import Tensor

from .packing import LayerPacking
from .perception_backward import perceive_bwd
from .perception_forward import perceive_fwd

NUMBERS = 512  # columns times channels of a program, at most
_WARPS = 8  # at most: with more each thread has fewer registers
_THREAD_SUMS = 96  # that a thread carries: what registers hold beside a row of neighbours
_PROGRAMS = 1024  # if there are rows enough: several per multiprocessor of any GPU
_BAND = 4, 64  # rows of a program, fewest and most


class Rows(NamedTuple):
    """A range of rows of some samples; of several samples all rows."""

    first_sample: int
    samples: int
    first: int
    count: int


class Perception:
    """The filters and local maxima of a rule."""

    def __init__(self, packing: LayerPacking):
        self.constants, self.filters = packing.perception, packing.filters
        self.maximum = self.constants["MAXIMUM"] > 0

    def _launch(self, x, rows, carried):
        """Grid and sizes of programs, whose threads carry so many sums per number."""
        C, chunk = self.constants["C"], self.constants["CHUNK"]
        per_thread = next(n for n in (4, 2, 1) if n * carried <= _THREAD_SUMS or n == 1)
        columns = min(triton.next_power_of_2(x.shape[2]), NUMBERS // chunk, 32 * _WARPS * per_thread // chunk)
        blocks = rows.samples * triton.cdiv(x.shape[2], columns)
        fewest, most = _BAND
        band = triton.cdiv(rows.count * blocks * (C // chunk), _PROGRAMS)
        band = max(fewest, 2 * self.filters.reach, min(most, band))
        sizes = {"BM": columns, "num_warps": max(1, columns * chunk // (32 * per_thread)), "num_stages": 1}
        return (blocks * triton.cdiv(rows.count, band), C // chunk), band, sizes

    def see(self, x: Tensor, y: Tensor, winners: Tensor | None, rows: Rows) -> None:
        """y = what the cells of a range see, and which neighbour is the maximum; see `perceive_fwd`."""
        _, H, W, _ = x.shape
        grid, band, sizes = self._launch(x, rows, self.filters.carried[-1] + 2 * max(0, self.constants["MAXIMUM"] - 1))
        perceive_fwd[grid](
            x,
            y,
            y if winners is None else winners,
            rows.first_sample,
            rows.first,
            rows.count,
            H,
            W,
            band,
            **self.constants,
            BEGIN=self.filters.carried,
            WINNERS=winners is not None,
            **sizes,
        )

    def give_back(self, grad: Tensor, grad_y: Tensor, winners: Tensor | None, grad_x: Tensor, scale: Tensor | None):
        """grad_x = grad + what perception returns; see `perceive_bwd`. scale: None where there is none."""
        B, H, W, _ = grad.shape
        grid, band, sizes = self._launch(grad, Rows(0, B, 0, H), 2 * self.filters.reach)
        perceive_bwd[grid](
            grad,
            grad_y,
            grad_y if winners is None else winners,
            grad_x,
            grad_y if scale is None else scale,
            H,
            W,
            band,
            **self.constants,
            USED=self.filters.used,
            SCALED=scale is not None,
            **sizes,
        )
