"""Runs the Triton kernels: the layout of states, the packing of weights, the sizes of programs, one launch per step.

Inside a rollout the state is channels-last with the channels padded by zeros to a multiple of four, [B, H, W, C4], so
that a cell's channels are loaded as vectors; `enter` and `leave` convert once at each end. Weights are packed once, in
the order in which the kernels multiply; the gradient of the packed weights is one partial sum per program, each added
to by its own program alone, step after step, and summed over the programs at the end: the same bits every time.
"""

import os
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from nca_fast.kernels.philox_triton import row_keys
from nca_fast.kernels.step_bwd_triton import step_bwd
from nca_fast.kernels.step_fwd_triton import step_fwd

# Whether Triton's interpreter runs the kernels, on the CPU; decided when triton is imported.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_TRITON_DTYPES = {"fp32": tl.float32, "tf32": tl.float32, "fp16": tl.float16, "bf16": tl.bfloat16}
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
    filters += [(4, 0.0)] * (_power_of_two(len(filters), 1) - len(filters))
    return tuple(filters)


def _transposed_terms(terms):
    """For each of the nine profiles, the (filter, weight, ...) that use it; () for none."""
    return tuple(
        tuple(v for f, t in enumerate(terms) for i, w in zip(t[::2], t[1::2], strict=True) if i == n and w for v in (f, w))
        for n in range(9)
    )


class Rule:
    """What a kernel is compiled for: the constants of a rule, and where each weight lies among the packed ones.

    Args:
        stencils: Rows of the 3x3 filters, as nested tuples.
        layers: (outputs, inputs, has a bias) of every layer: two or three.
        frozen: Channels that are read and never written.
    """

    def __init__(self, stencils, layers, frozen, circular):
        (units1, inputs, bias), *middle, (written, _, out_bias) = layers
        F, C = len(stencils), written + frozen
        CP, terms = _power_of_two(C, 16), _terms(stencils)
        FP = len(terms)
        hidden1, hidden2 = _chunks(units1), _chunks(middle[0][0]) if middle else ()
        U1, U2 = (sum(hidden[1::2]) for hidden in (hidden1, hidden2))
        self.constants = {
            "C": -(-C // 4) * 4,
            "CP": CP,
            "TERMS": terms,
            "HIDDEN1": hidden1,
            "UNITS1": U1,
            "HIDDEN2": hidden2,
            "UNITS2": U2,
            "BIAS": bias,
            "OUT_BIAS": out_bias,
            "CIRCULAR": circular,
        }
        self.transposed = _transposed_terms(terms)

        f, c = torch.meshgrid(torch.arange(F), torch.arange(C), indexing="ij")
        perceived = (c * FP + f).flatten()  # f * C + c lies at c * FP + f
        channels = frozen + torch.arange(written)
        rows, columns = [torch.arange(out) for out, _, _ in layers[:-1]] + [channels], [perceived]
        columns += [torch.arange(out) for out, _, _ in layers[:-1]]
        widths, heights = [CP * FP, U1, U2][: len(layers)], [U1, U2][: len(layers) - 1] + [CP]
        matrices, biases, at = [], [], 0
        for row, column, width, height in zip(rows, columns, widths, heights, strict=True):
            matrices.append(at + (row[:, None] * width + column).flatten())
            at += height * width
        self.weights = at
        for row, height in zip(rows, heights, strict=True):
            biases.append(at + row)
            at += height
        self.packed = at
        kept = [t for m, b, (_, _, has) in zip(matrices, biases, layers, strict=True) for t in ((m, b) if has else (m,))]
        self.index = torch.cat(kept)


@lru_cache(maxsize=256)
def _rule(stencils, layers, frozen, circular):
    return Rule(stencils, layers, frozen, circular)


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
        self.rule, self.precision = _rule(nested, layers, frozen, circular), precision
        self.index = self.rule.index.to(params.device)
        packed = params.new_zeros(self.rule.packed).index_copy_(0, self.index, params)
        self.weights = packed[: self.rule.weights].to(_DTYPES[precision])
        self.biases = packed[self.rule.weights :].clone()
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
            row_keys[(triton.cdiv(count, block),)](self.keys, count, B, H, *words, BLOCK=block)
            self.key_steps = range(start, start + steps)
        return self.keys[step - self.key_steps.start]


def prepare(params: Tensor, about, precision: str) -> Prepared:
    """The weights in the form in which `advance` and `retreat` take them; of use for one rollout."""
    return Prepared(params, about, precision)


def _word(value):
    """The low 32 bits, as the signed integer of the same bits."""
    value &= 0xFFFFFFFF
    return value - 2**32 if value >= 2**31 else value
