"""One step of the Triton kernels, forward or backward: which way it goes, and the alive mask around it.

Triton launches on the current device and stream: to be called with the device of the tensors as the current one.
The gradient of the packed weights is one partial sum per program, each added to by its own program alone, step after
step, and summed over the programs at the end: the same bits every time.
"""

import torch
from torch import Tensor

from .alive import AliveMask
from .half_range import halved, weight_scales
from .limits import through_memory
from .memory import Scratch
from .single_pass.steps import SinglePass
from .through_memory.steps import ThroughMemory
from .weights import PackedWeights, gradient_scale


class RolloutWeights:
    """The weights of one rollout as its steps take them, and the memory between their kernels.

    Args:
        params: All layers' weights [out, in] and biases in a row, float32 [P]; or, one rule per sample, [B, P].
        rule: What a kernel needs to know of the rule (`nca_fast.rule.KernelRule`).
        precision: What the matrix products multiply.
    """

    def __init__(self, params: Tensor, rule, precision: str):
        self.made_of = params, rule, precision
        forward, backward = through_memory(rule, precision)
        self.scales = None
        if precision == "fp16":
            self.scales = weight_scales(params, rule)
            params, rule = params * self.scales, halved(rule)
        self.scratch = Scratch()
        self.alive = None if rule.alive_channel is None else AliveMask(rule, self.scratch)
        self.ways = [] if forward else [SinglePass(params, rule, precision)]
        self.ways += [ThroughMemory(params, rule, precision, self.scratch)] if backward else []
        self.forward_way, self.backward_way = self.ways[0], self.ways[-1]

    @property
    def packed(self) -> PackedWeights:
        """The packed weights of the forward pass."""
        return self.forward_way.weights

    def copy_(self, other: "RolloutWeights") -> None:
        """Puts the weights of another rollout of the same rule in the place of these."""
        for mine, others in zip(self.ways, other.ways, strict=True):
            mine.weights.matrices.copy_(others.weights.matrices)
            mine.weights.biases.copy_(others.weights.biases)

    def gradient_scale(self, grad: Tensor) -> Tensor:
        """Computes what the matrix products of the backward pass multiply grad by, chosen anew every few steps."""
        return gradient_scale(grad) if self.packed.precision == "fp16" else self.packed.biases  # not read


def forward_step(
    x: Tensor, out: Tensor, weights: RolloutWeights, keys: Tensor, fire: Tensor, origin_column: int
) -> None:
    """out = x after one step.

    Args:
        x: [B, H, W, C4], see `rollout.to_layout`; contiguous, as all tensors here.
        out: Written. Like x.
        keys: The step's row keys, int32 [B, H, 2].
        fire: A cell fires when its hash is below: int64, [] or a map [H, W].
        origin_column: Column of the first cell in the whole canvas, as a signed 32-bit word.
    """
    if weights.alive is None:
        weights.forward_way.forward(x, out, keys, fire, origin_column)
    else:
        after = weights.alive.after(x)
        weights.forward_way.forward(x, after, keys, fire, origin_column)
        weights.alive.apply(x, after, after, out)


def backward_step(
    x: Tensor,
    grad: Tensor,
    grad_x: Tensor,
    buffer: Tensor,
    weights: RolloutWeights,
    scale: Tensor,
    keys: Tensor,
    fire: Tensor,
    origin_column: int,
) -> None:
    """grad_x = the gradient of x, given grad, that of the state after the step; buffer += partial sums.

    Args:
        grad: Like x; it must not be grad_x.
        grad_x: Written. Like x.
        buffer: Added to: partial sums from `gradient_buffer`.
        scale: For "fp16" the power of two that takes grad to about 1, float32; else not read.
        The others as in `forward_step`.
    """
    kept = False
    if weights.alive:  # which cells are alive after the step hangs on the state after the update
        after, masked = weights.alive.after(x), weights.alive.masked(grad)
        kept = weights.forward_way.forward(x, after, keys, fire, origin_column, keep=True)
        weights.alive.apply(x, after, grad, masked)
        grad = masked
    weights.backward_way.backward(x, grad, grad_x, buffer, scale, keys, fire, origin_column, kept)


def gradient_buffer(weights: RolloutWeights, x: Tensor) -> Tensor:
    """Makes partial sums of the gradient of the packed weights, zero: float32 [sums, packed]."""
    return weights.backward_way.gradient_buffer(x)


def reduce_gradients(buffer: Tensor, weights: RolloutWeights) -> Tensor:
    """Sums the gradient of params, float32, from the partial sums; those of a sample lie together."""
    packed = weights.backward_way.weights
    if packed.per_sample:
        buffer = buffer.view(len(packed.matrices), -1, buffer.shape[1])
    grad = buffer.sum(-2, dtype=torch.float64).float()[..., packed.index]
    return grad if weights.scales is None else grad * weights.scales
