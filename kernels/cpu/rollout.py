"""Runs the functions of rollout.cpp on PyTorch's tensors; see `nca_fast.backends.Kernels` for what each one does.

States are laid out as PyTorch has them, [B, C, H, W], and go in and come out as they are. The functions of C++ compute
in float32; a state of bfloat16 or float16 is converted for each step, and rounded after it, as the reference does.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from . import build

# Steps of one call into C++ are limited to about this many cell-steps, a second or two, so that Ctrl-C is heard.
_CELL_STEPS_PER_CALL = 50_000_000


class Weights(NamedTuple):
    """The weights as rollout.cpp packs them for its network, and params itself for its shape."""

    networks: Tensor
    params: Tensor


def to_layout(x: Tensor) -> Tensor:
    """Returns x itself."""
    return x


def from_layout(state: Tensor, channels: int) -> Tensor:
    """Returns the state itself."""
    return state


def pack_weights(params: Tensor, rule, precision: str) -> Weights:
    """Packs the weights; the only precision is "fp32"."""
    return Weights(build.load().pack(params, _shapes(rule)), params)


def gradient_buffer(weights: Weights, x: Tensor) -> Tensor:
    """Makes zeros like params, in float64."""
    return torch.zeros_like(weights.params, dtype=torch.float64)


def reduce_gradients(buffer: Tensor, weights: Weights) -> Tensor:
    """Rounds the sums to the type of params."""
    return buffer.to(weights.params.dtype)


def _shapes(rule):
    return [int(v) for layer in rule.layers for v in layer]


@lru_cache(maxsize=256)
def _rule_arguments(rule):
    """Lists what the operators are told of a rule."""
    alive = -1 if rule.alive_channel is None else rule.alive_channel
    # Kept, so whatever type and device are PyTorch's defaults at the first call.
    stencils = torch.tensor(rule.stencils or [], dtype=torch.float32, device="cpu")
    stencils = stencils if rule.stencils else stencils.reshape(0, 3, 3)
    window = rule.maximum_window or 0
    return stencils, _shapes(rule), rule.frozen, rule.circular, window, alive, rule.alive_threshold


def _arguments(weights, fire, rule, place):
    """Lists what both operators take after the states, but for the step."""
    where = (place.seed, place.row, place.column, place.sample, place.height)
    return (weights.networks, fire, *_rule_arguments(rule), *where)


def advance(x: Tensor, weights: Weights, fire: Tensor, rule, place, states: Tensor, every: int) -> None:
    """Takes the steps, in calls of limited length."""
    operators, arguments = build.load(), _arguments(weights, fire, rule, place)
    if x.dtype != torch.float32:
        before, after = x.float(), torch.empty_like(x, dtype=torch.float32)
        for n in range(len(states) * every):
            operators.advance(before, *arguments, place.first_step + n, after[None], 1)
            before.copy_(states[n // every].copy_(after))
        return
    cells = x.numel() // x.shape[1]
    # An even number, because a call that starts from states[j] must not write there in its first step.
    most = max(2, _CELL_STEPS_PER_CALL // cells // 2 * 2)
    for j in range(len(states)):
        done = 0
        while done < every:
            count = (every - done) % most or most
            operators.advance(x, *arguments, place.first_step + j * every + done, states[j : j + 1], count)
            x, done = states[j], done + count


def backward(states: Tensor, grad: Tensor, weights: Weights, fire: Tensor, rule, place, buffer: Tensor) -> Tensor:
    """Goes back step by step; two gradients, of float32, take turns."""
    operators, arguments, given, grad = build.load(), _arguments(weights, fire, rule, place), grad, grad.float()
    other = torch.empty_like(grad)
    for n in reversed(range(len(states))):
        operators.backward(states[n].float(), grad, *arguments, place.first_step + n, other, buffer)
        grad, other = other, grad
    return grad if given.dtype == torch.float32 else given.copy_(grad)
