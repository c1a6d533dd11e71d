"""One step of the Triton kernels, forward or backward: which way it goes, and the alive mask around it.

Triton launches on the current device and stream: to be called with the device of the tensors as the current one.
The gradient of the packed weights is one partial sum per program, each added to by its own program alone, step after
step, and summed over the programs at the end: the same bits every time.
"""

from functools import cached_property, lru_cache

import torch
from torch import Tensor

from ..frames import gradient_of_frames
from .alive import AliveMask
from .fire import Step
from .frames import Frames, turns_of
from .gradient_scale import choose_scale
from .half_range import halved, reach_of_frames, weight_scales
from .limits import through_memory
from .memory import Scratch
from .noise import StateNoise
from .single_pass.steps import SinglePass
from .through_memory.steps import ThroughMemory
from .weights import Gradients, PackedWeights


class RolloutWeights:
    """The weights of one rollout as its steps take them, and the memory between their kernels.

    Args:
        params: All layers' weights [out, in] and biases in a row, float32 [P]; or, one rule per sample, [B, P]; or, by
            step, [T, B or 1, P].
        rule: What a kernel needs to know of the rule (`nca_fast.rule.KernelRule`).
        precision: What the matrix products multiply.
        noise: The factor of the rule's noise, float32 [1] or [B]; None where it has none.
        field: Frames, float32 [1 or B, 2, H, W], or None.
    """

    def __init__(self, params: Tensor, rule, precision: str, noise: Tensor | None = None, field: Tensor | None = None):
        self.made_of = params, rule, precision, noise, field
        forward, backward = through_memory(rule, precision, field is not None)
        self.scales, reach = None, None
        if precision == "fp16":
            if field is not None:
                reach, field = reach_of_frames(field)
            self.scales = weight_scales(params, rule, reach)
            params, rule = params * self.scales, halved(rule)
        self.frames = None if field is None else Frames(field, turns_of(rule, len(field) > 1))
        self.scratch, self.noise = Scratch(), noise
        self.alive = None if rule.alive_channel is None else AliveMask(rule, self.scratch)
        self.state_noise = StateNoise(rule, noise, self.scratch) if rule.state_noise else None
        self.ways = [] if forward else [SinglePass(params, rule, precision, noise, self.frames)]
        if backward:
            self.ways += [ThroughMemory(params, rule, precision, self.scratch, noise, self.frames)]
        self.forward_way, self.backward_way = self.ways[0], self.ways[-1]

    @property
    def packed(self) -> PackedWeights:
        """The packed weights of the forward pass."""
        return self.forward_way.weights

    @cached_property
    def kind(self) -> object:
        """Stands for what the launches of a step hang on, beside the shapes of `tensors` and of the state."""
        _, rule, precision, noise, field = self.made_of
        return _kind(rule, precision, noise is not None, field is not None, *map(type, self.ways))

    @property
    def tensors(self) -> list[Tensor]:
        """Those that the step under way reads."""
        packed = [t for way in self.ways for t in way.weights.now]
        return [*packed, *(t for t in (self.noise, self.frames and self.frames.field) if t is not None)]

    def twin(self) -> "RolloutWeights":
        """Makes others of the same rule, in memory of their own."""
        *made_of, noise, field = self.made_of
        noise, field = (None if t is None else t.clone() for t in (noise, field))
        return RolloutWeights(*made_of, noise, field)

    def copy_(self, other: "RolloutWeights") -> None:
        """Puts the weights of another rollout of the same rule in the place of these."""
        for mine, others in zip(self.ways, other.ways, strict=True):
            mine.weights.matrices.copy_(others.weights.matrices)
            mine.weights.biases.copy_(others.weights.biases)
        if self.noise is not None:
            self.noise.copy_(other.noise)
        if self.frames is not None:
            self.frames.field.copy_(other.frames.field)

    def take(self, number: int) -> None:
        """Takes those of a step, where they differ from step to step; number: of the step, from the start of life."""
        for way in self.ways:
            way.weights.take(number)

    @property
    def scaled(self) -> bool:
        """Whether the matrix products of the backward pass multiply gradients by `scale`."""
        return self.packed.precision == "fp16"

    @property
    def scale(self) -> Tensor:
        """A power of two, float32 []; not read where gradients are not scaled."""
        _, biases = self.packed.now
        return self.scratch("scale", biases, dtype=torch.float32) if self.scaled else biases

    def choose_scale(self, grad: Tensor) -> None:
        """Writes the scale of a gradient, where gradients are scaled; to be done every few steps."""
        choose_scale(grad, self.scale, self.scratch)


@lru_cache(maxsize=512)
def _kind(*what):
    """Returns an object that stands for all these, of which it takes microseconds to compute a hash."""
    return object()


def forward_step(x: Tensor, out: Tensor, weights: RolloutWeights, step: Step) -> None:
    """out = x after one step.

    Args:
        x: [B, H, W, C4], see `rollout.to_layout`; contiguous, as all tensors here.
        out: Written. Like x.
        step: Its draws; `living` is put in here.
    """
    alive = weights.alive
    s = weights.state_noise.added(x, step) if weights.state_noise else x
    if alive is None:
        weights.forward_way.forward(s, out, step)
    elif alive.looks_after:
        after = alive.after(x)
        weights.forward_way.forward(s, after, step)
        alive.apply(x, after, out)
    else:
        weights.forward_way.forward(s, out, step._replace(living=alive.living(x, x)))


def backward_step(
    x: Tensor,
    grad: Tensor,
    grad_x: Tensor,
    buffer: Gradients,
    weights: RolloutWeights,
    scale: Tensor,
    step: Step,
    following: Tensor | None = None,
) -> None:
    """grad_x = the gradient of x, given grad, that of the state after the step; buffer += those of weights and frames.

    Args:
        grad: Like x; it must not be grad_x.
        grad_x: Written. Like x.
        buffer: Added to: from `gradient_buffer`.
        scale: For "fp16" the power of two that takes grad to about 1, float32; else not read.
        following: The state after the step, which holds the alive mask (alive.py), so that no step is taken to know it.
        The others as in `forward_step`.
    """
    alive, kept = weights.alive, False
    s = weights.state_noise.added(x, step) if weights.state_noise else x
    if alive is not None and not alive.looks_after:
        step = step._replace(living=alive.living(x, x))
    elif alive is not None and following is not None:
        step = step._replace(living=alive.living_in(following))
    elif alive is not None:
        after = alive.after(x)
        kept = weights.forward_way.forward(s, after, step, keep=True)
        step = step._replace(living=alive.living(x, after))
    weights.backward_way.backward(s, grad, grad_x, buffer, scale, step, kept)


def gradient_buffer(weights: RolloutWeights, x: Tensor) -> Gradients:
    """Makes zeros."""
    packed, turns = weights.backward_way.weights, None
    if weights.frames is not None:
        turns = torch.zeros(len(x), 2, *x.shape[1:3], dtype=torch.float32, device=x.device)
    if packed.by_step:
        shape = *packed.matrices.shape[:2], packed.packing.packed
        return Gradients(torch.zeros(*shape, dtype=torch.float32, device=x.device), turns)
    return Gradients(weights.backward_way.sums(x), turns)


def sums_of_a_step(weights: RolloutWeights, x: Tensor) -> Tensor:
    """Gives partial sums for a step whose weights are its own; to be added to its entry by `step_sums.add_sums`."""
    made = weights.backward_way.sums(x)
    return weights.scratch("sums of a step", x, *made.shape, dtype=torch.float32)


def reduce_gradients(buffer: Gradients, weights: RolloutWeights) -> tuple[Tensor, Tensor | None]:
    """Sums the gradient of params, float32, from the partial sums, those of a sample lying together; and makes that of
    frames."""
    packed, sums = weights.backward_way.weights, buffer.sums
    if packed.per_sample and not packed.by_step:
        sums = sums.view(len(packed.matrices), -1, sums.shape[1])
    summed = sums if packed.by_step else sums.sum(-2, dtype=torch.float64).float()
    grad = summed[..., packed.index]
    grad = grad if weights.scales is None else grad * weights.scales
    *_, field = weights.made_of
    return grad, None if buffer.turns is None else gradient_of_frames(buffer.turns, field)
