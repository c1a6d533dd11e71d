"""Launches the kernels of the single pass: the sizes of programs, and what they are compiled for."""

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..launch import launch
from ..products import product_constants
from ..weights import PackedWeights
from .backward import step_bwd
from .forward import step_fwd
from .packing import packing

WARPS = 4  # of a program
# Columns of one program: as many as the registers hold (see bench/triton_table.py). Of its columns the
# backward kernel writes all but two where it computes grad_x.
COLUMNS = {"fp32": 16, "tf32": 64, "fp16": 64, "bf16": 64}
_PROGRAMS = 1024  # of a forward step, if there are rows enough: several per multiprocessor of any GPU
# Partial sums of weight gradients, 30 KiB each: little beside the states of one step. Where the GPU is known there are
# as many as it runs at once, or a few times that: two programs of 255 registers on a multiprocessor.
_GRADIENT_PROGRAMS = 512
_RESIDENT = 2
_MOST_WAVES = 4
# Where the compiler keeps less in registers than on (8, 0): loading rows again is 2 % more instructions than the 30
# registers that it would spill. (The one launch of `few_channels` spills some 40 there, and two launches without
# spills would have a third more instructions.)
_FEWER_CARRIED = ((8, 6), (8, 9))


class Tile(NamedTuple):
    """Columns and rows of one program."""

    columns: int
    rows: int


class Pass(NamedTuple):
    """What one launch of the backward kernel computes, see `step_bwd`; and its warps."""

    GRAD_X: bool
    GRAD_W1: bool
    GRAD_W: bool
    CARRIED: bool
    warps: int = WARPS


def passes(weights: PackedWeights, per_cell: bool) -> tuple[Pass, ...]:
    """Lists the launches of one backward step: as few as do it without spilling; per_cell: the fire rate is a map."""
    constants = weights.packing.constants
    few_sums = constants["UNITS1"] * (sum(constants["INPUTS"][1::2]) + constants["OUTPUTS"][1]) <= 96 * 80
    few_channels = constants["C"] <= 12 and not constants["BIAS1"] and not per_cell
    if weights.precision == "fp32":
        return Pass(True, False, False, True), Pass(False, True, False, False, 8), Pass(False, False, True, False)
    if weights.precision == "tf32":
        return Pass(True, False, False, False), Pass(False, True, True, False)
    if few_sums and few_channels:
        return (Pass(True, True, True, False),)
    if few_sums and constants["C"] > 12:
        return Pass(True, False, False, True), Pass(False, True, False, True), Pass(False, False, True, True)
    carried = capability(weights.matrices.device) not in _FEWER_CARRIED
    return Pass(True, False, False, carried), Pass(False, True, True, carried and few_sums)


def capability(device: torch.device) -> tuple[int, int] | None:
    """Returns the compute capability of an NVIDIA GPU; None of anything else."""
    if device.type != "cuda" or torch.version.hip is not None:
        return None
    return torch.cuda.get_device_capability(device)


def weights_in_registers(device: torch.device) -> bool:
    """Says whether it is an NVIDIA GPU whose matrix units take weights from registers, of which fewer are left.

    Those of Hopper (9) and of the data centre's Blackwell (10, 11) take them from shared memory; consumer cards of
    Blackwell (12) are as Ampere was.
    """
    found = capability(device)
    return found is not None and found[0] not in (9, 10, 11)


def _forward_tile(precision, B, H, W) -> Tile:
    columns = COLUMNS[precision]
    rows = triton.cdiv(B * H * triton.cdiv(W, columns), _PROGRAMS)
    return Tile(columns, max(4, min(32, -(-rows // 2) * 2)))  # even, because the loop takes two rows at once


def _places(device: torch.device) -> int | None:
    """Counts the backward programs that a GPU runs at once; None without one."""
    if device.type != "cuda":
        return None
    return _RESIDENT * torch.cuda.get_device_properties(device).multi_processor_count


@lru_cache(maxsize=256)
def _backward_rows(strips, H, places) -> int:
    """Chooses rows of a program so that the last wave of programs is no handful.

    The time is that of all waves, of which each takes the rows of a program and one more at either end.

    Args:
        strips: Columns of programs, of all samples.
        places: Programs that run at once.
    """
    best = None
    for down in range(1, min(H, max(1, places * _MOST_WAVES // strips)) + 1):
        rows = triton.cdiv(H, down)
        time = triton.cdiv(strips * triton.cdiv(H, rows), places) * (rows + 2)
        if best is None or time < best[0]:
            best = time, rows
    return best[1]


def _backward_tile(precision, B, H, W, places=None) -> Tile:
    columns = COLUMNS[precision]
    strips = B * triton.cdiv(W, columns - 2)
    if places is None:
        return Tile(columns, max(4, triton.cdiv(strips * H, _GRADIENT_PROGRAMS)))
    return Tile(columns, _backward_rows(strips, H, places))


def _programs(tile, columns, B, H, W):
    return triton.cdiv(W, columns) * triton.cdiv(H, tile.rows) * B


class SinglePass:
    """The packed weights of one rollout, and the launches of its steps.

    Args:
        params, rule, precision: As in `RolloutWeights` (steps.py).
    """

    def __init__(self, params: Tensor, rule, precision: str):
        self.weights = PackedWeights(params, packing(rule), precision)

    def _forward_constants(self, per_cell):
        weights = self.weights
        constants = weights.packing.constants
        small = constants["C"] * len(constants["TERMS"]) <= 64 and not constants["HIDDEN2"]
        two_rows = small and weights.matrices.element_size() == 2 and not weights_in_registers(weights.matrices.device)
        unroll = 2 if two_rows else 1  # as many as there are registers for
        return constants | product_constants(weights.precision) | {"MAP": per_cell, "UNROLL": unroll}

    def _backward_constants(self, per_cell):
        constants = self._forward_constants(per_cell)
        for name in ("UNROLL", "HIDDEN2", "UNITS2", "BIAS2"):  # rules of two layers have another backward pass
            del constants[name]
        packing = self.weights.packing
        return constants | {"TRANSPOSED": packing.transposed, "SCALED": self.weights.precision == "fp16"}

    def _launch(self, kernel, tensors, tile, columns, keys, fire, origin_column, **constants):
        """Launches a kernel, whose programs write so many of a tile's columns, on the tensors that are its own."""
        B, H, W, _ = tensors[0].shape
        weights = self.weights
        launch(
            kernel,
            (_programs(tile, columns, B, H, W),),
            *tensors,
            keys,
            fire,
            weights.matrices,
            weights.biases,
            *weights.strides,
            H,
            W,
            tile.rows,
            origin_column,
            BW=tile.columns,
            num_stages=1,  # more would take the loads through shared memory
            **constants,
        )

    def forward(self, x: Tensor, out: Tensor, keys: Tensor, fire: Tensor, origin_column: int, keep=False) -> bool:
        """out = x after a step without its alive mask; the arguments as in `forward_step` (steps.py).

        Returns:
            False: a single pass keeps nothing for `backward`.
        """
        tile = _forward_tile(self.weights.precision, *x.shape[:3])
        constants = self._forward_constants(fire.ndim == 2)
        self._launch(step_fwd, (x, out), tile, tile.columns, keys, fire, origin_column, **constants, num_warps=WARPS)
        return False

    def gradient_buffer(self, x: Tensor) -> Tensor:
        """Makes partial sums of the gradient of the packed weights, zero: float32 [programs, packed]."""
        tile = _backward_tile(self.weights.precision, *x.shape[:3], _places(x.device))
        programs = _programs(tile, tile.columns - 2, *x.shape[:3])
        return torch.zeros(programs, self.weights.packing.packed, dtype=torch.float32, device=x.device)

    def backward(self, x, grad, grad_x, buffer, scale, keys, fire, origin_column, kept: bool) -> None:
        """grad_x = the gradient of x, buffer += partial sums; the arguments as in `backward_step`.

        Args:
            grad: Gradient of the state after the step, multiplied by the alive mask.
            buffer: From `gradient_buffer`.
            kept: What `forward` returned.
        """
        tensors = x, grad, grad_x, buffer, scale
        tile = _backward_tile(self.weights.precision, *x.shape[:3], _places(x.device))
        constants = self._backward_constants(fire.ndim == 2)
        for p in passes(self.weights, fire.ndim == 2):
            computed = {"GRAD_X": p.GRAD_X, "GRAD_W1": p.GRAD_W1, "GRAD_W": p.GRAD_W, "CARRIED": p.CARRIED}
            columns = tile.columns - 2 * p.GRAD_X
            all_constants = constants | computed | {"num_warps": p.warps}
            self._launch(step_bwd, tensors, tile, columns, keys, fire, origin_column, **all_constants)
