"""Rollouts of the Triton kernels, launched step by step or replayed; see `nca_fast.backends.Kernels`.

Inside a rollout the state is channels-last with the channels padded by zeros to a multiple of four, [B, H, W, C4], so
that a cell's channels are loaded as vectors; `to_layout` and `from_layout` convert once at each end.
"""

from contextlib import nullcontext

import torch
from torch import Tensor

from .fire import RowKeys, word
from .graphs import SAVED_STEPS, replayed_advance, replayed_backward, runs
from .launch import RepeatedStep
from .steps import RolloutWeights, backward_step, forward_step, gradient_buffer, reduce_gradients

__all__ = [
    "advance",
    "backward",
    "from_layout",
    "gradient_buffer",
    "pack_weights",
    "reduce_gradients",
    "to_layout",
]

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


def pack_weights(params: Tensor, rule, precision: str) -> RolloutWeights:
    """Packs the weights for the way that the rule goes."""
    return RolloutWeights(params, rule, precision)


def _on_device(x):
    """Makes x's device the current one, on which Triton launches."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _row_keys(x, place, steps):
    """Returns a function n -> row keys of the n-th step, int32 [B, H, 2], from a table of up to 64 steps."""
    block = min(64, steps, max(1, _KEY_ROWS // (x.shape[0] * x.shape[1])))
    keys, made = RowKeys(block, x), None
    of_steps = keys.table.unbind()

    def keys_of(n):
        nonlocal made
        if n // block != made:
            made = n // block
            keys.put(place.after(made * block))
            keys.make(block)
        return of_steps[n % block]

    return keys_of


def advance(x: Tensor, weights: RolloutWeights, fire: Tensor, rule, place, states: Tensor, every: int) -> None:
    """Replays the steps or launches them one by one."""
    if not len(states):
        return
    with _on_device(x):
        if replayed_advance(x, weights, fire, rule, place, states, every):
            return
        keys_of, column = _row_keys(x, place, len(states) * every), word(place.column)
        step = RepeatedStep(lambda x, out, keys: forward_step(x, out, weights, keys, fire, column))
        scratch = torch.empty_like(x) if every > 1 else None
        for j, state in enumerate(states.unbind()):
            for n in range(every):
                out = scratch if (every - 1 - n) % 2 else state
                step(x, out, keys_of(j * every + n))
                x = out


def backward(
    states: Tensor, grad: Tensor, weights: RolloutWeights, fire: Tensor, rule, place, buffer: Tensor
) -> Tensor:
    """Replays the steps back or launches them one by one."""
    if not len(states):
        return grad
    with _on_device(grad):
        if replayed_backward(states, grad, weights, fire, rule, place, buffer):
            return grad
        keys_of, column, other = _row_keys(grad, place, len(states)), word(place.column), torch.empty_like(grad)

        def step_back(x, grad, grad_x, scale, keys):
            backward_step(x, grad, grad_x, buffer, weights, scale, keys, fire, column)

        step, states = RepeatedStep(step_back), states.unbind()
        for start, count in reversed(runs(len(states), SAVED_STEPS)):
            scale = weights.gradient_scale(grad)
            for n in reversed(range(start, start + count)):
                step(states[n], grad, other, scale, keys_of(n))
                grad, other = other, grad
        return grad
