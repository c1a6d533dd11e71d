"""The power of two by which the backward pass multiplies gradients before they are rounded to float16.

Gradients as small as 1e-8 are common and would be zero in float16. Products with weights have room for a factor of
65504 above, and the multiplication is undone in float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def opposite_power(largest, scale):
    """scale = 2**-k for largest from 2**k to 2**(k + 1), k cut to -60 to 60; NaN for NaN. One number each, float32."""
    number = tl.load(largest)
    exponent = number.to(tl.int32, bitcast=True) >> 23
    exponent = tl.minimum(tl.maximum(exponent, 127 - 60), 127 + 60)
    power = ((254 - exponent) << 23).to(tl.float32, bitcast=True)
    tl.store(scale, tl.where(number == number, power, number))


def gradient_scale(grad: Tensor) -> Tensor:
    """The scale that takes the largest element of grad to about 1: float32 []."""
    largest = torch.linalg.vector_norm(grad, torch.inf, dtype=torch.float32)
    scale = torch.empty_like(largest)
    opposite_power[(1,)](largest, scale)
    return scale
