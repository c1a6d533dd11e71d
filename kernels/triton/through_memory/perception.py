"""Launches the kernels that write perception to memory, and take its gradient back."""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..frames import Frames
from ..launch import launch
from ..memory import Scratch
from ..products import COMPILER
from ..single_pass.plan import weights_in_registers
from .packing import LayerPacking
from .perception_backward import add_ring, perception_bwd
from .perception_forward import perception_fwd

NUMBERS = 512  # columns times channels of a program, at most
_WARPS = 8  # at most: with more each thread has fewer registers
_THREAD_SUMS = 96  # that a thread carries: what registers hold beside a row of neighbours
_CELLS = 64  # of a program that adds what the surroundings return
_PROGRAMS = 1024  # if there are rows enough: several per multiprocessor of any GPU
_PROGRAM_ROWS = 4, 64  # fewest and most


class Rows(NamedTuple):
    """A range of rows of some samples; of several samples all rows."""

    first_sample: int
    samples: int
    first: int
    count: int


class Perception:
    """The filters and local maxima of a rule; scratch, frames: of the rollout."""

    def __init__(self, packing: LayerPacking, scratch: Scratch, frames: Frames | None):
        self.constants, self.filters, self.scratch = packing.perception, packing.filters, scratch
        self.constants = self.constants | {"TURNS": frames.turns if frames else ()}
        self.field = frames.field if frames else None
        self.maximum, self._launches = self.constants["MAXIMUM"] > 0, {}

    def _launch(self, width, rows, carried, numbers=4):
        """Chooses grid and sizes of programs, whose threads have at most `numbers`, and carry so many sums of each."""
        key = width, rows.samples, rows.count, carried, numbers
        if key not in self._launches:
            self._launches[key] = self._chosen(width, rows, carried, numbers)
        return self._launches[key]

    def _chosen(self, width, rows, carried, numbers):
        C, group = self.constants["C"], self.constants["GROUP"]
        per_thread = next(n for n in (numbers, 2, 1) if n * carried <= _THREAD_SUMS or n == 1)
        columns = min(triton.next_power_of_2(width), NUMBERS // group, 32 * _WARPS * per_thread // group)
        blocks = rows.samples * triton.cdiv(width, columns)
        fewest, most = _PROGRAM_ROWS
        program_rows = triton.cdiv(rows.count * blocks * (C // group), _PROGRAMS)
        program_rows = max(fewest, 2 * self.filters.reach, min(most, program_rows))
        sizes = {"BM": columns, "num_warps": max(1, columns * group // (32 * per_thread)), "num_stages": 1} | COMPILER
        return (blocks * triton.cdiv(rows.count, program_rows), C // group), program_rows, sizes

    def forward(self, x: Tensor, y: Tensor, winners: Tensor | None, rows: Rows) -> None:
        """y = the perception of a range, and which neighbour is the maximum; see `perception_fwd`."""
        _, H, W, _ = x.shape
        grid, program_rows, sizes = self._launch(
            W, rows, self.filters.carried[-1] + 2 * max(0, self.constants["MAXIMUM"] - 1)
        )
        launch(
            perception_fwd,
            grid,
            x,
            y,
            y if winners is None else winners,
            self.field,
            rows.first_sample,
            rows.first,
            rows.count,
            H,
            W,
            program_rows,
            **self.constants,
            BEGIN=self.filters.carried,
            WINNERS=winners is not None,
            **sizes,
        )

    def backward(self, grad: Tensor, grad_y: Tensor, winners: Tensor | None, grad_x: Tensor, scale: Tensor | None):
        """grad_x = grad + what perception returns; see `perception_bwd`. scale: None where there is none."""
        B, H, W, _ = grad.shape
        # With four numbers of 16 bits the compiler for the A100 and its like keeps to 128 registers, and spills.
        few = grad.element_size() == 2 and weights_in_registers(grad.device)
        # The frames of nine neighbours take the registers that hold four numbers of each.
        numbers = 2 if few or (self.field is not None and self.filters.reach > 3) else 4
        c, to = self.constants, grad_x
        ring = self.filters.reach if c["PADDING"] in ("reflect", "replicate") else 0
        if ring:
            to = self.scratch("ring", grad, B, H + 2 * ring, W + 2 * ring, c["C"], dtype=torch.float32)
        rows = Rows(0, B, 0, H + 2 * ring)
        grid, program_rows, sizes = self._launch(W + 2 * ring, rows, 2 * self.filters.reach, numbers)
        launch(
            perception_bwd,
            grid,
            grad,
            grad_y,
            grad_y if winners is None else winners,
            to,
            self.field,
            grad_y if scale is None else scale,
            H,
            W,
            program_rows,
            **c,
            USED=self.filters.used,
            SCALED=scale is not None,
            **sizes,
        )
        if ring:
            grid = B * triton.cdiv(H * W, _CELLS), c["C"] // c["GROUP"]
            constants = {name: c[name] for name in ("C", "GROUP", "REACH", "PADDING")} | {"BM": _CELLS}
            launch(add_ring, grid, grad, to, grad_x, H * W, H, W, **constants)
