"""The scale of gradients: the power of two that takes the largest element to about 1.

The backward pass multiplies gradients by it before they are rounded to float16, where those as small as 1e-8, which are
common, would be zero. Products with weights have room for a factor of 65504 above, and the multiplication is undone in
float32. It is computed by launches like those of a step, so that they are repeated and captured as these are.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch
from .memory import Scratch

_PARTS = 1024  # of a gradient, at most: more programs than a GPU needs to read as fast as it can
_BLOCK = 4096  # numbers that a program reads at a time


@triton.jit(do_not_specialize=["quads", "blocks"])
def largest_parts(grad, parts, quads, blocks, BLOCK: tl.constexpr):
    """parts[program] = the largest absolute value in its `blocks` blocks, by its bits; int32.

    The bits of numbers without a sign are in the order of the numbers, and those of NaN lie above all others.

    Args:
        grad: [4 * quads], in fours that are loaded as vectors.
        BLOCK: Numbers of a block.
    """
    first = tl.program_id(0).to(tl.int64) * blocks * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
    largest = tl.zeros((BLOCK // 4, 4), tl.int32)
    for n in range(blocks):
        quad = first + n * (BLOCK // 4)
        at = grad + quad[:, None] * 4 + tl.arange(0, 4)[None, :]
        number = tl.load(at, mask=(quad < quads)[:, None], other=0.0).to(tl.float32)
        largest = tl.maximum(largest, number.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    tl.store(parts + tl.program_id(0), tl.max(largest))


@triton.jit(do_not_specialize=["count"])
def opposite_power(parts, scale, count, BLOCK: tl.constexpr):
    """scale = 2**-k for the largest of `count` parts, from 2**k to 2**(k + 1), k cut to -60 to 60; NaN for NaN."""
    i = tl.arange(0, BLOCK)
    largest = tl.max(tl.load(parts + i, mask=i < count, other=0))
    exponent = tl.minimum(tl.maximum(largest >> 23, 127 - 60), 127 + 60)
    power = ((254 - exponent) << 23).to(tl.float32, bitcast=True)
    number = largest.to(tl.float32, bitcast=True)
    tl.store(scale, tl.where(number == number, power, number))


def choose_scale(grad: Tensor, scale: Tensor, scratch: Scratch) -> None:
    """scale = that of grad.

    Args:
        grad: [B, H, W, C4].
        scale: Written. float32 [].
        scratch: Of the rollout.
    """
    count = grad.numel()
    blocks = triton.cdiv(count, _PARTS * _BLOCK)
    programs = triton.cdiv(count, blocks * _BLOCK)
    parts = scratch("parts", grad, _PARTS, dtype=torch.int32)
    launch(largest_parts, (programs,), grad, parts, count // 4, blocks, BLOCK=_BLOCK, num_stages=1)
    launch(opposite_power, (1,), parts, scale, programs, BLOCK=_PARTS, num_stages=1)
