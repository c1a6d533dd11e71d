"""What the Triton kernels of a rollout share: packed weights, the scale of their gradients, and scratch memory.

Weights are packed once per rollout, by the packing of the single pass (single_pass/packing.py) or that of the way
through memory (through_memory/packing.py).
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from .products import DTYPES


def _high(bias, precision):
    """Cuts a number to what the matrix unit keeps at least, so that the rest can be multiplied apart."""
    if precision == "fp32":
        return bias
    if precision == "tf32":
        return (bias.view(torch.int32) & ~0x1FFF).view(torch.float32)
    return bias.to(DTYPES[precision]).float()


@lru_cache(maxsize=256)
def _indices(packing, device):
    """Keeps on the device where params and the first bias lie among the packed weights: a copy would wait for it."""
    first_bias = packing.first_bias
    return packing.index.to(device), None if first_bias is None else first_bias.to(device)


class PackedWeights:
    """The weights of a rollout, packed.

    Args:
        params: All layers' weights [out, in] and biases in a row, float32 [P]; or, one rule per sample, [B, P].
        packing: Where they go: a `Packing` or a `LayerPacking`.
        precision: What the matrix products multiply.
    """

    def __init__(self, params: Tensor, packing, precision: str):
        self.packing = packing
        self.precision = precision
        self.per_sample = params.ndim == 2
        self.index, first_bias = _indices(self.packing, params.device)
        packed = params.new_zeros(*params.shape[:-1], self.packing.packed).index_add_(-1, self.index, params)
        if first_bias is not None:
            bias = packed[..., first_bias]
            high = _high(bias, precision)
            packed[..., first_bias] = high
            packed[..., first_bias + 1] = bias - high
        self.matrices = packed[..., : self.packing.weights].to(DTYPES[precision]).contiguous()
        self.biases = packed[..., self.packing.weights :].clone(memory_format=torch.contiguous_format)

    @property
    def strides(self):
        """Numbers from one sample's matrices and biases to the next sample's."""
        return (self.matrices.shape[1], self.biases.shape[1]) if self.per_sample else (0, 0)


@triton.jit
def opposite_power(largest, scale):
    """scale = 2**-k for largest from 2**k to 2**(k + 1), k cut to -60 to 60; NaN for NaN. One number each, float32."""
    number = tl.load(largest)
    exponent = number.to(tl.int32, bitcast=True) >> 23
    exponent = tl.minimum(tl.maximum(exponent, 127 - 60), 127 + 60)
    power = ((254 - exponent) << 23).to(tl.float32, bitcast=True)
    tl.store(scale, tl.where(number == number, power, number))


def gradient_scale(grad: Tensor) -> Tensor:
    """Computes the power of two that takes the largest element of grad to about 1: float32 [].

    The backward pass multiplies gradients by it before they are rounded to float16, where those as small as 1e-8, which
    are common, would be zero. Products with weights have room for a factor of 65504 above, and the multiplication is
    undone in float32.
    """
    largest = torch.linalg.vector_norm(grad, torch.inf, dtype=torch.float32)
    scale = torch.empty_like(largest)
    opposite_power[(1,)](largest, scale)
    return scale


class Scratch:
    """Memory between the kernels of a step: tensors allocated once per rollout, when they are first asked for."""

    def __init__(self):
        self.kept = {}

    def __call__(self, name: str, like: Tensor, *shape: int, dtype: torch.dtype) -> Tensor:
        """Returns the tensor of a name, beside `like`; zeros at first: some columns are read and never written."""
        if name not in self.kept:
            self.kept[name] = torch.zeros(*shape, dtype=dtype, device=like.device)
        return self.kept[name]
