"""Runs the Triton kernels: the layout of states, the sizes of programs, one launch per step.

Inside a rollout the state is channels-last with the channels padded by zeros to a multiple of four, [B, H, W, C4], so
that a cell's channels are loaded as vectors; `enter` and `leave` convert once at each end. The gradient of the packed
weights is one partial sum per program, each added to by its own program alone, step after step, and summed over the
programs at the end: the same bits every time.
"""

from contextlib import nullcontext
from typing import NamedTuple

import torch
import triton
from nca_fast.kernels.packing_triton import INTERPRETED, Weights
from nca_fast.kernels.philox_triton import row_keys
from nca_fast.kernels.step_bwd_triton import step_bwd
from nca_fast.kernels.step_fwd_triton import step_fwd
from torch import Tensor

_KEY_ROWS = 1 << 20  # rows of the table of row keys: 8 MiB
_GRADIENT_PROGRAMS = 512  # partial sums of weight gradients, 30 KiB each: little beside the states of one step
_SCALE_STEPS = 8  # steps of the backward pass after which the scale of a float16 gradient is chosen again


# --- states -----------------------------------------------------------------------------------------------------------


def enter(x: Tensor) -> Tensor:
    """[B, C, H, W] to the layout inside a rollout, [B, H, W, C4]: always a new tensor."""
    B, C, H, W = x.shape
    state = x.new_zeros(B, H, W, -(-C // 4) * 4) if C % 4 else x.new_empty(B, H, W, C)
    state[..., :C] = x.permute(0, 2, 3, 1)
    return state


def leave(state: Tensor, channels: int) -> Tensor:
    """[B, H, W, C4] to [B, C, H, W], contiguous."""
    return state[..., :channels].permute(0, 3, 1, 2).contiguous()


# --- a rollout --------------------------------------------------------------------------------------------------------


class Prepared:
    """The packed weights of one rollout, and what is known of it for a while: row keys and the gradient's scale."""

    def __init__(self, params: Tensor, about, precision: str):
        self.weights = Weights(params, about, precision)
        self.keys, self.key_steps = None, range(0)
        self.scale, self.scale_age = None, 0

    def row_keys(self, place, step, B, H):
        """Row keys of a step, int32 [B, H, 2]: from a table of up to 64 steps."""
        if step not in self.key_steps:
            steps = max(1, min(64, _KEY_ROWS // (B * H)))
            start = step // steps * steps
            seed, row, _, sample, height = place
            count, block = steps * B * H, 1024 if INTERPRETED else 128
            self.keys = torch.empty(steps, B, H, 2, dtype=torch.int32, device=self.weights.matrices.device)
            words = map(_word, (seed, seed >> 32, start, sample, row, height - 1))
            with _on_device(self.keys):
                row_keys[(triton.cdiv(count, block),)](self.keys, count, B, H, *words, BLOCK=block)
            self.key_steps = range(start, start + steps)
        return self.keys[step - self.key_steps.start]

    def gradient_scale(self, grad):
        """The power of two that takes the largest element of grad to about 1, chosen anew every few steps, for "fp16".

        Gradients as small as 1e-8 are common and would be zero in float16. Products with weights have room for a factor
        of 65504 above, and the multiplication is undone in float32.
        """
        if self.weights.precision != "fp16":
            return self.weights.biases  # not read
        if self.scale is None or self.scale_age == _SCALE_STEPS:
            largest = grad.abs().amax().float()
            self.scale = torch.exp2(-torch.log2(largest).floor().clamp(-60, 60))  # also when it is zero or infinite
            self.scale_age = 0
        self.scale_age += 1
        return self.scale


def prepare(params: Tensor, about, precision: str) -> Prepared:
    """The weights in the form in which `advance` and `retreat` take them; of use for one rollout."""
    return Prepared(params, about, precision)


def _word(value):
    """The low 32 bits, as the signed integer of the same bits."""
    value &= 0xFFFFFFFF
    return value - 2**32 if value >= 2**31 else value


# --- steps ------------------------------------------------------------------------------------------------------------


WARPS = 4  # of a program


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


# Columns of one program: as many as the registers hold (see bench/triton_table.py). Of its columns the
# backward kernel writes all but two where it computes grad_x.
COLUMNS = {"fp32": 16, "tf32": 64, "fp16": 64, "bf16": 64}
_PROGRAMS = 1024  # of a forward step, if there are rows enough: several per multiprocessor of any GPU


def passes(weights: Weights, per_cell: bool) -> tuple[Pass, ...]:
    """The launches of one backward step: as few as do it without spilling; per_cell: the fire rate is a map."""
    constants = weights.packing.constants
    few_sums = constants["UNITS1"] * (sum(constants["INPUTS"][1::2]) + constants["OUTPUTS"][1]) <= 96 * 80
    few_channels = constants["C"] <= 12 and not constants["BIAS1"] and not per_cell
    if weights.precision == "fp32":
        return Pass(True, False, False, True), Pass(False, True, False, False, 8), Pass(False, False, True, False)
    if constants["HIDDEN2"]:
        return Pass(True, False, False, False), Pass(False, True, False, False), Pass(False, False, True, False)
    if weights.precision == "tf32":
        return Pass(True, False, False, False), Pass(False, True, True, False)
    if few_sums and few_channels:
        return (Pass(True, True, True, False),)
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


def _on_device(x):
    """Triton launches on the current device, which need not be that of x."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def advance(x: Tensor, params: Prepared, fire: Tensor, about, place, first_step: int, states: Tensor, every: int):
    """states[j] = x after (j + 1) * every steps.

    Args:
        x: [B, H, W, C4], see `enter`; contiguous, as all tensors here.
        params: What `prepare` gave.
        fire: A cell fires when its hash is below: int64, [] or a map [H, W].
        about: What a kernel needs to know of a rule (`ops.About`).
        place: (seed as a signed integer, origin row, origin column, first sample, canvas height).
        first_step: Number of the first step.
        states: Written. [n, B, H, W, C4].
        every: Steps between two states.
    """
    if not len(states):
        return
    B, H, W, _ = x.shape
    tile = _forward_tile(params.weights.precision, B, H, W)
    grid = (_programs(tile, tile.columns, B, H, W),)
    weights, constants = params.weights, params.weights.forward_constants(fire.ndim == 2)
    scratch = torch.empty_like(x) if every > 1 else None
    for j in range(len(states)):
        for n in range(every):
            out = scratch if (every - 1 - n) % 2 else states[j]
            keys = params.row_keys(place, first_step + j * every + n, B, H)
            with _on_device(x):
                step_fwd[grid](
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
                    _word(place[2]),
                    **constants,
                    BW=tile.columns,
                    num_warps=WARPS,
                    num_stages=1,  # more would take the loads through shared memory
                )
            x = out


def gradients(params: Prepared, x: Tensor) -> Tensor:
    """Partial sums of the gradient of the packed weights, zero: float32 [programs, packed]."""
    B, H, W, _ = x.shape
    tile = _backward_tile(params.weights.precision, B, H, W)
    return torch.zeros(_programs(tile, tile.columns - 2, B, H, W), params.weights.packing.packed, device=x.device)


def total(grad_params: Tensor, params: Prepared) -> Tensor:
    """The gradient of params, float32, from the partial sums; those of a sample lie together."""
    weights = params.weights
    if not weights.per_sample:
        return grad_params.sum(0, dtype=torch.float64).float()[weights.index]
    samples = grad_params.view(len(weights.matrices), -1, grad_params.shape[1])
    return samples.sum(1, dtype=torch.float64).float()[:, weights.index]


def retreat(x: Tensor, grad: Tensor, params: Prepared, fire, about, place, step: int, grad_x: Tensor, grad_params):
    """The gradient of one step, taken from x.

    Args:
        grad: Gradient of the state after the step. [B, H, W, C4]; it must not be grad_x.
        grad_x: Written: gradient of x. [B, H, W, C4].
        grad_params: Added to: partial sums from `gradients`.
        The others as in `advance`.
    """
    B, H, W, _ = x.shape
    weights, tile = params.weights, _backward_tile(params.weights.precision, B, H, W)
    for p in passes(weights, fire.ndim == 2):
        with _on_device(x):
            step_bwd[(_programs(tile, tile.columns - 2 * p.GRAD_X, B, H, W),)](
                x,
                grad,
                grad_x,
                grad_params,
                params.gradient_scale(grad),
                params.row_keys(place, step, B, H),
                fire,
                weights.matrices,
                weights.biases,
                *weights.strides,
                H,
                W,
                tile.rows,
                _word(place[2]),
                **weights.backward_constants(fire.ndim == 2),
                GRAD_X=p.GRAD_X,
                GRAD_W1=p.GRAD_W1,
                GRAD_W=p.GRAD_W,
                CARRIED=p.CARRIED,
                BW=tile.columns,
                num_warps=p.warps,
                num_stages=1,
            )
