"""One step of the Triton kernels, forward or backward: the packed weights, the sizes of programs, the launches.

Triton launches on the current device and stream: to be called with the device of the tensors as the current one.
The gradient of the packed weights is one partial sum per program, each added to by its own program alone, step after
step, and summed over the programs at the end: the same bits every time.
"""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from .alive import AliveMask
from .gradient_scale import gradient_scale
from .packing import Weights, packing
from .scratch import Scratch
from .single_pass.backward import step_bwd
from .single_pass.forward import step_fwd
from .through_memory.steps import Perceived, through_memory

WARPS = 4  # of a program
# Columns of one program: as many as the registers hold (see bench/triton_table.py). Of its columns the
# backward kernel writes all but two where it computes grad_x.
COLUMNS = {"fp32": 16, "tf32": 64, "fp16": 64, "bf16": 64}
_PROGRAMS = 1024  # of a forward step, if there are rows enough: several per multiprocessor of any GPU
_GRADIENT_PROGRAMS = 512  # partial sums of weight gradients, 30 KiB each: little beside the states of one step


class Prepared:
    """The packed weights of a rollout, in the form in which steps take them; of use for that rollout.

    Args:
        params: All layers' weights [out, in] and biases in a row, float32 [P]; or, one rule per sample, [B, P].
        about: What a kernel needs to know of a rule (`backends.About`).
        precision: What the matrix products multiply.
    """

    def __init__(self, params: Tensor, about, precision: str):
        self.made_of = params, about, precision
        self.forward_through_memory, backward = through_memory(about, precision)
        self.scratch = Scratch()
        self.alive = None if about.alive_channel is None else AliveMask(about, self.scratch)
        self.perceived = Perceived(params, about, precision, self.scratch) if backward else None
        if self.forward_through_memory:
            self.weights = self.perceived.weights
        else:
            self.weights = Weights(params, packing(about), precision)

    def take(self, other: "Prepared") -> None:
        """Puts the weights of another rollout of the same rule in the place of these."""
        mine, others = ([p.weights] + ([p.perceived.weights] if p.perceived else []) for p in (self, other))
        for to, weights in zip(mine, others, strict=True):
            to.matrices.copy_(weights.matrices)
            to.biases.copy_(weights.biases)

    def gradient_scale(self, grad: Tensor) -> Tensor:
        """What the matrix products of the backward pass multiply grad by, chosen anew every few steps."""
        return gradient_scale(grad) if self.weights.precision == "fp16" else self.weights.biases  # not read


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


def passes(weights: Weights, per_cell: bool) -> tuple[Pass, ...]:
    """The launches of one backward step: as few as do it without spilling; per_cell: the fire rate is a map."""
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
    return Pass(True, False, False, True), Pass(False, True, True, few_sums)


def _forward_tile(precision, B, H, W) -> Tile:
    columns = COLUMNS[precision]
    rows = triton.cdiv(B * H * triton.cdiv(W, columns), _PROGRAMS)
    return Tile(columns, max(4, min(32, -(-rows // 2) * 2)))  # even, because the loop takes two rows at once


def _backward_tile(precision, B, H, W) -> Tile:
    columns = COLUMNS[precision]
    rows = triton.cdiv(B * H * triton.cdiv(W, columns - 2), _GRADIENT_PROGRAMS)
    return Tile(columns, max(4, rows))


def _programs(tile, columns, B, H, W):
    return triton.cdiv(W, columns) * triton.cdiv(H, tile.rows) * B


def forward_step(x: Tensor, out: Tensor, prepared: Prepared, keys: Tensor, fire: Tensor, origin_column: int) -> None:
    """out = x after one step.

    Args:
        x: [B, H, W, C4], see rollout.py's `enter`; contiguous, as all tensors here.
        out: Written. Like x.
        keys: The step's row keys, int32 [B, H, 2].
        fire: A cell fires when its hash is below: int64, [] or a map [H, W].
        origin_column: Column of the first cell in the whole canvas, as a signed 32-bit word.
    """
    if prepared.alive is None:
        _update(x, out, prepared, keys, fire, origin_column)
    else:
        after = prepared.alive.after(x)
        _update(x, after, prepared, keys, fire, origin_column)
        prepared.alive.bury(x, after, after, out)


def _update(x, out, prepared, keys, fire, origin_column, going_back=False):
    """`forward_step` without the alive mask; returns what `Perceived.advance` does."""
    if prepared.forward_through_memory:
        return prepared.perceived.advance(x, out, keys, fire, origin_column, going_back)
    B, H, W, _ = x.shape
    weights = prepared.weights
    tile = _forward_tile(weights.precision, B, H, W)
    step_fwd[(_programs(tile, tile.columns, B, H, W),)](
        x,
        out,
        keys,
        fire,
        weights.matrices,
        weights.biases,
        *weights.strides,
        H,
        W,
        tile.rows,
        origin_column,
        **weights.forward_constants(fire.ndim == 2),
        BW=tile.columns,
        num_warps=WARPS,
        num_stages=1,  # more would take the loads through shared memory
    )
    return False


def backward_step(
    x: Tensor,
    grad: Tensor,
    grad_x: Tensor,
    grad_params: Tensor,
    prepared: Prepared,
    scale: Tensor,
    keys: Tensor,
    fire: Tensor,
    origin_column: int,
) -> None:
    """grad_x = the gradient of x, given grad, that of the state after the step; grad_params += partial sums.

    Args:
        grad: Like x; it must not be grad_x.
        grad_x: Written. Like x.
        grad_params: Added to: partial sums from `gradients`.
        scale: For "fp16" the power of two that takes grad to about 1, float32; else not read.
        The others as in `forward_step`.
    """
    seen = False
    if prepared.alive:  # which cells were buried hangs on the state after the update
        after, buried = prepared.alive.after(x), prepared.alive.buried(grad)
        seen = _update(x, after, prepared, keys, fire, origin_column, going_back=True)
        prepared.alive.bury(x, after, grad, buried)
        grad = buried
    if prepared.perceived:
        prepared.perceived.retreat(x, grad, grad_x, grad_params, scale, keys, fire, origin_column, seen)
        return
    B, H, W, _ = x.shape
    weights, tile = prepared.weights, _backward_tile(prepared.weights.precision, B, H, W)
    constants = weights.backward_constants(fire.ndim == 2)
    for p in passes(weights, fire.ndim == 2):
        step_bwd[(_programs(tile, tile.columns - 2 * p.GRAD_X, B, H, W),)](
            x,
            grad,
            grad_x,
            grad_params,
            scale,
            keys,
            fire,
            weights.matrices,
            weights.biases,
            *weights.strides,
            H,
            W,
            tile.rows,
            origin_column,
            **constants,
            GRAD_X=p.GRAD_X,
            GRAD_W1=p.GRAD_W1,
            GRAD_W=p.GRAD_W,
            CARRIED=p.CARRIED,
            BW=tile.columns,
            num_warps=p.warps,
            num_stages=1,
        )


def gradients(prepared: Prepared, x: Tensor) -> Tensor:
    """Partial sums of the gradient of the packed weights, zero: float32 [programs, packed]."""
    if prepared.perceived:
        return prepared.perceived.gradients(x)
    B, H, W, _ = x.shape
    tile = _backward_tile(prepared.weights.precision, B, H, W)
    return torch.zeros(_programs(tile, tile.columns - 2, B, H, W), prepared.weights.packing.packed, device=x.device)


def total(grad_params: Tensor, prepared: Prepared) -> Tensor:
    """The gradient of params, float32, from the partial sums; those of a sample lie together."""
    weights = (prepared.perceived or prepared).weights
    if not weights.per_sample:
        return grad_params.sum(0, dtype=torch.float64).float()[weights.index]
    samples = grad_params.view(len(weights.matrices), -1, grad_params.shape[1])
    return samples.sum(1, dtype=torch.float64).float()[:, weights.index]
