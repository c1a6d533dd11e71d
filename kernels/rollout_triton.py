"""Runs the Triton kernels: the layout of states, the packing of weights, the sizes of programs, one launch per step.

Inside a rollout the state is channels-last with the channels padded by zeros to a multiple of four, [B, H, W, C4], so
that a cell's channels are loaded as vectors; `enter` and `leave` convert once at each end. Weights are packed once, in
the order in which the kernels multiply; the gradient of the packed weights is one partial sum per program, each added
to by its own program alone, step after step, and summed over the programs at the end: the same bits every time.
"""

import os
from contextlib import nullcontext
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from nca_fast.kernels.philox_triton import row_keys
from nca_fast.kernels.step_bwd_triton import step_bwd
from nca_fast.kernels.step_fwd_triton import step_fwd
from torch import Tensor

# Whether Triton's interpreter runs the kernels, on the CPU; decided when triton is imported.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_TRITON_DTYPES = {"fp32": tl.float32, "tf32": tl.float32, "fp16": tl.float16, "bf16": tl.bfloat16}
_IDENTITY = ((0.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0))
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


# --- weights ----------------------------------------------------------------------------------------------------------


def _power_of_two(n, least):
    return max(least, 1 << (n - 1).bit_length())


def _chunks(width):
    """(start, width, start, width, ...) of chunks of 64, 32 or 16 units, `width` rounded up to a multiple of 16."""
    chunks, start = [], 0
    while start < width:
        size = next(size for size in (64, 32, 16) if size <= -(-(width - start) // 16) * 16)
        chunks += [start, size]
        start += size
    return tuple(chunks)


def _terms(stencils):
    """The filters as (index, weight, ...) over the nine profiles S, D, M of three rows; see step_fwd_triton."""
    filters = []
    for stencil in stencils:
        terms = []
        for row, (a, b, c) in enumerate(stencil):
            for profile, weight in enumerate(((a + c) / 2, (c - a) / 2, b - a - c)):
                if weight:
                    terms += [3 * row + profile, weight]
        filters.append(tuple(terms) or (4, 0.0))
    filters += [()] * (_power_of_two(len(filters), 1) - len(filters))
    return tuple(filters)


def _transposed_terms(terms):
    """For each of the nine profiles, the (filter, weight, ...) that use it; () for none."""
    return tuple(
        tuple(
            v for f, t in enumerate(terms) for i, w in zip(t[::2], t[1::2], strict=True) if i == n and w for v in (f, w)
        )
        for n in range(9)
    )


def _high(bias, precision):
    """What the matrix unit keeps of a number at least, so that the rest can be multiplied apart."""
    if precision == "fp32":
        return bias
    if precision == "tf32":
        return (bias.view(torch.int32) & ~0x1FFF).view(torch.float32)
    return bias.to(_DTYPES[precision]).float()


class Packing:
    """What a kernel is compiled for: the constants of a rule, and where each weight lies among the packed ones.

    Args:
        stencils: Rows of the 3x3 filters, as nested tuples.
        layers: (outputs, inputs, has a bias) of every layer: two or three.
        frozen: Channels that are read and never written.
    """

    def __init__(self, stencils, layers, frozen, circular):
        (units1, _, bias1), *middle, (written, _, out_bias) = layers
        F, C = len(stencils), written + frozen
        CP, terms = _power_of_two(C, 16), _terms(stencils)
        FP, padded = len(terms), -(-C // 4) * 4
        # Two neighbouring columns of the perception that are 1, for the high and the low part of the first bias.
        ones = None
        if FP > F:
            ones = F * CP
        elif padded < CP and _IDENTITY in stencils:
            ones = stencils.index(_IDENTITY) * CP + padded
        hidden1, hidden2 = _chunks(units1), _chunks(middle[0][0]) if middle else ()
        U1, U2 = (sum(hidden[1::2]) for hidden in (hidden1, hidden2))
        self.constants = {
            "C": padded,
            "CP": CP,
            "TERMS": terms,
            "HIDDEN1": hidden1,
            "UNITS1": U1,
            "HIDDEN2": hidden2,
            "UNITS2": U2,
            "BIAS1": bias1 and ones is None,
            "BIAS2": bool(middle) and middle[0][2],
            "OUT_BIAS": out_bias,
            "CIRCULAR": circular,
        }
        self.transposed = _transposed_terms(terms)

        f, c = torch.meshgrid(torch.arange(F), torch.arange(C), indexing="ij")
        perceived = (f * CP + c).flatten()
        channels = frozen + torch.arange(written)
        rows, columns = [torch.arange(out) for out, _, _ in layers[:-1]] + [channels], [perceived]
        columns += [torch.arange(out) for out, _, _ in layers[:-1]]
        widths, heights = [FP * CP, U1, U2][: len(layers)], [U1, U2][: len(layers) - 1] + [CP]
        matrices, biases, at = [], [], 0
        for row, column, width, height in zip(rows, columns, widths, heights, strict=True):
            matrices.append(at + (row[:, None] * width + column).flatten())
            at += height * width
        self.weights = at
        for row, height in zip(rows, heights, strict=True):
            biases.append(at + row)
            at += height
        self.packed = at
        self.first_bias = None
        if bias1 and ones is not None:
            self.first_bias = biases[0] = rows[0] * FP * CP + ones
        kept = [
            t for m, b, (_, _, has) in zip(matrices, biases, layers, strict=True) for t in ((m, b) if has else (m,))
        ]
        self.index = torch.cat(kept)


@lru_cache(maxsize=256)
def _packing(stencils, layers, frozen, circular):
    return Packing(stencils, layers, frozen, circular)


@lru_cache(maxsize=256)
def _indices(packing, device):
    """Where params and the first bias lie among the packed weights, kept on the device: a copy would wait for it."""
    first_bias = packing.first_bias
    return packing.index.to(device), None if first_bias is None else first_bias.to(device)


class Prepared:
    """The weights of one rollout, packed; and what is known of it for a while: row keys and the gradient's scale.

    Args:
        params: All layers' weights [out, in] and biases in a row, float32.
        about: (stencils [F, 3, 3], layers, frozen, circular).
        precision: What the matrix products multiply.
    """

    def __init__(self, params, about, precision):
        stencils, layers, frozen, circular = about
        nested = tuple(tuple(tuple(row) for row in stencil) for stencil in stencils.tolist())
        self.packing, self.precision = _packing(nested, layers, frozen, circular), precision
        self.index, first_bias = _indices(self.packing, params.device)
        packed = params.new_zeros(self.packing.packed).index_copy_(0, self.index, params)
        if first_bias is not None:
            bias = packed[first_bias]
            high = _high(bias, precision)
            packed[first_bias] = high
            packed[first_bias + 1] = bias - high
        self.weights = packed[: self.packing.weights].to(_DTYPES[precision])
        self.biases = packed[self.packing.weights :].clone()
        self.keys, self.key_steps = None, range(0)
        self.scale, self.scale_age = None, 0

    def row_keys(self, place, step, B, H):
        """Row keys of a step, int32 [B, H, 2]: from a table of up to 64 steps."""
        if step not in self.key_steps:
            steps = max(1, min(64, _KEY_ROWS // (B * H)))
            start = step // steps * steps
            seed, row, _, sample = place
            count, block = steps * B * H, 1024 if INTERPRETED else 128
            self.keys = torch.empty(steps, B, H, 2, dtype=torch.int32, device=self.weights.device)
            words = map(_word, (seed, seed >> 32, start, sample, row))
            with _on_device(self.keys):
                row_keys[(triton.cdiv(count, block),)](self.keys, count, B, H, *words, BLOCK=block)
            self.key_steps = range(start, start + steps)
        return self.keys[step - self.key_steps.start]

    def gradient_scale(self, grad):
        """The power of two that takes the largest element of grad to about 1, chosen anew every few steps, for "fp16".

        Gradients as small as 1e-8 are common and would be zero in float16. Products with weights have room for a factor
        of 65504 above, and the multiplication is undone in float32.
        """
        if self.precision != "fp16":
            return self.biases  # not read
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


class Tile(NamedTuple):
    """Columns and rows of one program, and its warps."""

    columns: int
    rows: int
    warps: int


# Columns and warps of one program: as many as the registers hold (see bench/triton_table.py). Of its columns the
# backward kernel writes all but two.
FORWARD_COLUMNS = {"fp32": 16, "tf32": 64, "fp16": 64, "bf16": 64}
BACKWARD_COLUMNS = {"fp32": 16, "tf32": 64, "fp16": 64, "bf16": 64}
WARPS = 4
_PROGRAMS = 1024  # of a forward step, if there are rows enough: several per multiprocessor of any GPU


def _forward_tile(precision, B, H, W) -> Tile:
    columns = FORWARD_COLUMNS[precision]
    rows = triton.cdiv(B * H * triton.cdiv(W, columns), _PROGRAMS)
    return Tile(columns, max(4, min(32, -(-rows // 2) * 2)), WARPS)  # even, because the loop takes two rows at once


def _backward_tile(precision, B, H, W) -> Tile:
    columns = BACKWARD_COLUMNS[precision]
    rows = triton.cdiv(B * H * triton.cdiv(W, columns - 2), _GRADIENT_PROGRAMS)
    return Tile(columns, max(4, rows), WARPS)


def _programs(tile, columns, B, H, W):
    return triton.cdiv(W, columns) * triton.cdiv(H, tile.rows) * B


def product(precision: str, hip: bool) -> str:
    """How the kernels multiply, see `step_fwd_triton.dot`; hip: on an AMD GPU."""
    if INTERPRETED:
        return "interpreter"
    return {"fp32": "ieee", "tf32": "ieee" if hip else "tf32"}.get(precision, "plain" if hip else "ptx")


def forward_constants(prepared: Prepared, per_cell: bool) -> dict:
    """What `step_fwd` is compiled for, but for the sizes; per_cell: the fire rate is a map."""
    constants = prepared.packing.constants
    small = constants["CP"] * len(constants["TERMS"]) <= 64 and not constants["HIDDEN2"]  # registers for two rows
    return constants | {
        "MAP": per_cell,
        "DOT": _TRITON_DTYPES[prepared.precision],
        "PRODUCT": product(prepared.precision, torch.version.hip is not None),
        "UNROLL": 2 if small and prepared.weights.element_size() == 2 else 1,
    }


def backward_constants(prepared: Prepared, per_cell: bool) -> dict:
    """What `step_bwd` is compiled for, but for the sizes."""
    constants = forward_constants(prepared, per_cell)
    del constants["UNROLL"]
    return constants | {"TRANSPOSED": prepared.packing.transposed, "SCALED": prepared.precision == "fp16"}


def _on_device(x):
    """Triton launches on the current device, which need not be that of x."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def advance(x: Tensor, params: Prepared, fire: Tensor, about, place, first_step: int, states: Tensor, every: int):
    """states[j] = x after (j + 1) * every steps.

    Args:
        x: [B, H, W, C4], see `enter`; contiguous, as all tensors here.
        params: What `prepare` gave.
        fire: A cell fires when its hash is below: int64, [] or a map [H, W].
        about: (stencils [F, 3, 3], layers ((out, in, has bias), ...), frozen, circular).
        place: (seed as a signed integer, origin row, origin column, first sample).
        first_step: Number of the first step.
        states: Written. [n, B, H, W, C4].
        every: Steps between two states.
    """
    if not len(states):
        return
    B, H, W, _ = x.shape
    tile = _forward_tile(params.precision, B, H, W)
    grid = (_programs(tile, tile.columns, B, H, W),)
    constants = forward_constants(params, fire.ndim == 2)
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
                    params.weights,
                    params.biases,
                    H,
                    W,
                    tile.rows,
                    _word(place[2]),
                    **constants,
                    BW=tile.columns,
                    num_warps=tile.warps,
                    num_stages=1,  # more would take the loads through shared memory
                )
            x = out


def gradients(params: Prepared, x: Tensor) -> Tensor:
    """Partial sums of the gradient of the packed weights, zero: float32 [programs, packed]."""
    B, H, W, _ = x.shape
    tile = _backward_tile(params.precision, B, H, W)
    return torch.zeros(_programs(tile, tile.columns - 2, B, H, W), params.packing.packed, device=x.device)


def total(grad_params: Tensor, params: Prepared) -> Tensor:
    """The gradient of params, float32, from the partial sums."""
    return grad_params.sum(0, dtype=torch.float64).float()[params.index]


def retreat(x: Tensor, grad: Tensor, params: Prepared, fire, about, place, step: int, grad_x: Tensor, grad_params):
    """The gradient of one step, taken from x.

    Args:
        grad: Gradient of the state after the step. [B, H, W, C4]; it must not be grad_x.
        grad_x: Written: gradient of x. [B, H, W, C4].
        grad_params: Added to: partial sums from `gradients`.
        The others as in `advance`.
    """
    B, H, W, _ = x.shape
    tile = _backward_tile(params.precision, B, H, W)
    with _on_device(x):
        step_bwd[(len(grad_params),)](
            x,
            grad,
            grad_x,
            grad_params,
            params.gradient_scale(grad),
            params.row_keys(place, step, B, H),
            fire,
            params.weights,
            params.biases,
            H,
            W,
            tile.rows,
            _word(place[2]),
            **backward_constants(params, fire.ndim == 2),
            BW=tile.columns,
            num_warps=tile.warps,
            num_stages=1,
        )
