"""Weights as the Triton kernels take them, packed once per rollout: by the packing of the single pass
(single_pass/packing.py) or that of the way through memory (through_memory/packing.py).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .memory import kept_on
from .products import DTYPES


def _high(bias, precision):
    """Cuts a number to what the matrix unit keeps at least, so that the rest can be multiplied apart."""
    if precision == "fp32":
        return bias
    if precision == "tf32":
        return (bias.view(torch.int32) & ~0x1FFF).view(torch.float32)
    return bias.to(DTYPES[precision]).float()


def _to_tf32(weights):
    """Rounds to the 10 bits that matrix units read of a float32; by themselves they would cut off the rest."""
    bits = weights.view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


class PackedWeights:
    """The weights of a rollout, packed.

    Args:
        params: All layers' weights [out, in] and biases in a row, float32 [P]; or, one rule per sample, [B, P]; or, by
            step, [T, B or 1, P].
        packing: Where they go: a `Packing` or a `LayerPacking`.
        precision: What the matrix products multiply.

    Attributes:
        entry: Which of those by step are those of the step under way.
        now: The matrices and biases of the step under way.
    """

    def __init__(self, params: Tensor, packing, precision: str):
        self.packing, self.precision, self.entry = packing, precision, 0
        self.by_step = params.ndim == 3
        self.per_sample = params.ndim == 2 or (self.by_step and params.shape[1] > 1)
        first_bias = packing.first_bias
        places = (packing.index,) if first_bias is None else (packing.index, first_bias)
        self.index, *first_bias = kept_on(params.device, packing, lambda: places)
        packed = params.new_zeros(*params.shape[:-1], self.packing.packed).index_add_(-1, self.index, params)
        if first_bias:
            (first_bias,) = first_bias
            bias = packed[..., first_bias]
            high = _high(bias, precision)
            packed[..., first_bias] = high
            packed[..., first_bias + 1] = bias - high
        matrices = packed[..., : self.packing.weights].to(DTYPES[precision]).contiguous()
        self.matrices = _to_tf32(matrices) if precision == "tf32" else matrices
        self.biases = packed[..., self.packing.weights :].clone(memory_format=torch.contiguous_format)
        pair = self.matrices, self.biases
        self.of_steps = [*zip(*(t.unbind() for t in pair), strict=True)] if self.by_step else [pair]
        self.now = self.of_steps[0]

    def take(self, number: int) -> None:
        """Takes those of a step; number: of the step, from the start of life."""
        self.entry = number % len(self.of_steps)
        self.now = self.of_steps[self.entry]

    @property
    def strides(self) -> tuple[int, int]:
        """Numbers from one sample's matrices and biases to the next sample's."""
        return (self.matrices.shape[-1], self.biases.shape[-1]) if self.per_sample else (0, 0)


class Gradients(NamedTuple):
    """What the steps of a rollout add up.

    Args:
        sums: Partial sums of the gradient of the packed weights, float32 [sums, packed]; where weights differ from step
            to step, [T, B or 1, packed].
        turns: Gradients of the logarithm of each frame's scale and of its angle, float32 [B, 2, H, W]; None where there
            are no frames.
    """

    sums: Tensor
    turns: Tensor | None
