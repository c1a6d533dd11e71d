"""Rollouts of the Triton kernels, launched step by step or replayed; see `nca_fast.backends.Kernels`.

Inside a rollout the state is channels-last with the channels padded by zeros to a multiple of four, [B, H, W, C4], so
that a cell's channels are loaded as vectors; `to_layout` and `from_layout` convert once at each end.
"""

from contextlib import nullcontext

import torch
from torch import Tensor

from .fire import RowKeys, Step, word
from .graphs import SAVED_STEPS, replayed_advance, replayed_backward, runs
from .launch import RepeatedStep
from .step_sums import add_sums
from .steps import (
    RolloutWeights,
    backward_step,
    forward_step,
    gradient_buffer,
    reduce_gradients,
    sums_of_a_step,
)
from .weights import Gradients

__all__ = [
    "advance",
    "backward",
    "from_layout",
    "gradient_buffer",
    "pack_weights",
    "reduce_gradients",
    "to_layout",
]

READS_GRADIENT = False
_KEY_ROWS = 1 << 20  # rows of the table of row keys: 8 MiB


def to_layout(x: Tensor) -> Tensor:
    """Converts [B, C, H, W] to [B, H, W, C4], always a new tensor."""
    B, C, H, W = x.shape
    state = x.new_zeros(B, H, W, -(-C // 4) * 4) if C % 4 else x.new_empty(B, H, W, C)
    state[..., :C] = x.permute(0, 2, 3, 1)
    return state


def from_layout(state: Tensor, channels: int) -> Tensor:
    """Converts [B, H, W, C4] to [B, C, H, W], contiguous."""
    return state[..., :channels].permute(0, 3, 1, 2).contiguous()


def pack_weights(
    params: Tensor, rule, precision: str, noise: Tensor | None = None, field: Tensor | None = None
) -> RolloutWeights:
    """Packs the weights for the way that the rule goes."""
    return RolloutWeights(params, rule, precision, noise, field)


def _on_device(x):
    """Makes x's device the current one, on which Triton launches."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


class _Steps:
    """What consecutive steps draw, from a table of the row keys of up to 64; and their own weights and fire rates.

    Args:
        x: A state.
        place: Of the first step.
        steps: How many there are.
        The others as in `advance`.
    """

    def __init__(self, x, weights, fire, rule, place, steps):
        self.weights, self.fire, self.place, self.column = weights, fire, place, word(place.column)
        self.block = min(64, steps, max(1, _KEY_ROWS // (x.shape[0] * x.shape[1])))
        self.keys, self.made = RowKeys(self.block, x, rule), None
        self.of_steps = self.keys.table.unbind()
        self.of_fire = fire.unbind() if fire.ndim > 2 else [fire]
        # Or all steps launch on the same weights and thresholds.
        self.varies = fire.ndim > 2 or any(way.weights.by_step for way in weights.ways)

    def take(self, n):
        """Makes the n-th step the one under way, and returns its row keys, int32 [B, H, words]."""
        if self.varies:
            number = self.place.first_step + n
            self.weights.take(number)
            self.fire = self.of_fire[number % len(self.of_fire)]
        if n // self.block != self.made:
            self.made = n // self.block
            self.keys.put(self.place.after(self.made * self.block))
            self.keys.make(self.block)
        return self.of_steps[n % self.block]

    def step(self, keys):
        """Returns what the step under way is told."""
        return Step(keys, self.fire, self.column)

    def repeated(self, step, *more):
        """Repeats the launches of a step; more: tensors that it launches on beside its own arguments, the weights, and
        the fire rates."""
        what, scratch = (step.__name__, self.weights.kind, self.column), self.weights.scratch
        if not self.varies:
            return RepeatedStep(step, what, self._read() + more, scratch)
        # What differs from step to step is an argument of each.
        count = len(self._read())
        repeated = RepeatedStep(lambda *tensors: step(*tensors[:-count]), what, more, scratch)
        return lambda *tensors: repeated(*tensors, *self._read())

    def _read(self):
        """Lists what the step under way reads beside its own arguments."""
        return *self.weights.tensors, self.fire


def steps_at_once(x, weights, fire, rule, place) -> int:
    """Says that each step is written to memory."""
    return 1


def advance(x: Tensor, weights: RolloutWeights, fire: Tensor, rule, place, states: Tensor, every: int) -> None:
    """Replays the steps or launches them one by one."""
    if not len(states):
        return
    with _on_device(x):
        if replayed_advance(x, weights, fire, rule, place, states, every):
            return
        steps = _Steps(x, weights, fire, rule, place, len(states) * every)

        def step_on(x, out, keys):
            forward_step(x, out, weights, steps.step(keys))

        step = steps.repeated(step_on)
        scratch = torch.empty_like(x) if every > 1 else None
        for j, state in enumerate(states.unbind()):
            for n in range(every):
                out = scratch if (every - 1 - n) % 2 else state
                step(x, out, steps.take(j * every + n))
                x = out


def backward(
    states: Tensor, grad: Tensor, weights: RolloutWeights, fire: Tensor, rule, place, buffer: Gradients
) -> Tensor:
    """Replays the steps back or launches them one by one."""
    if not len(states):
        return grad
    with _on_device(grad):
        if replayed_backward(states, grad, weights, fire, rule, place, buffer):
            return grad
        steps, other = _Steps(grad, weights, fire, rule, place, len(states)), torch.empty_like(grad)
        packed = weights.backward_way.weights
        of_step = buffer._replace(sums=sums_of_a_step(weights, grad)) if packed.by_step else buffer
        entries = buffer.sums.unbind() if packed.by_step else []

        def step_back(x, grad, grad_x, keys, *more):
            entry, following = more[: packed.by_step], (*more[packed.by_step :], None)[0]
            backward_step(x, grad, grad_x, of_step, weights, weights.scale, steps.step(keys), following)
            if entry:
                add_sums(of_step.sums, *entry)

        added = [t for t in of_step if t is not None]
        step, states = steps.repeated(step_back, *added), states.unbind()
        choose_scale = steps.repeated(weights.choose_scale) if weights.scaled else lambda grad: None
        looks_after = weights.alive is not None and weights.alive.looks_after
        for start, count in reversed(runs(len(states), SAVED_STEPS)):
            choose_scale(grad)
            for n in reversed(range(start, start + count)):
                keys, following = steps.take(n), states[n + 1 : n + 2] if looks_after else ()
                step(states[n], grad, other, keys, *entries[packed.entry : packed.entry + 1], *following)
                grad, other = other, grad
        return grad
