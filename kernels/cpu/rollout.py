"""Runs the functions of rollout.cpp on PyTorch's tensors; see `nca_fast.backends.Kernels` for what each one does.

States are laid out as PyTorch has them, [B, C, H, W], and go in and come out as they are. The functions of C++ compute
in float32; a state of bfloat16 or float16 is converted for each step, and rounded after it, as the reference does.
"""

import ctypes
import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .. import kept_memory
from ..frames import gradient_of_frames
from . import build
from .cells import shared_axes
from .library import Activation, Canvas, Rule

# Steps of one call into C++ are limited to about this many cell-steps, a second or two, so that Ctrl-C is heard.
_CELL_STEPS_PER_CALL = 50_000_000

READS_GRADIENT = True  # one of two buffers that take turns is read first, and the other written

# As enumerations of C++ have them: activations.h, step.h.
_FUNCTIONS = ("identity", "relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid", "hardtanh")
_PADDINGS = ("circular", "zero", "reflect", "replicate")
_ALIVE_MASKS = ("both", "before", "after", "update")


class Weights(NamedTuple):
    """The weights as rollout.cpp packs them for its network, params itself for its shape, the factor of noise, and
    frames, [1 or B, 2, H, W] or None."""

    networks: Tensor
    params: Tensor
    noise: Tensor
    field: Tensor | None


class Gradients(NamedTuple):
    """What is added up: the gradient of params, in float64, and where there are frames those of the logarithm of their
    scale and of their angle, [B, 2, H, W]."""

    params: Tensor
    turns: Tensor | None


def to_layout(x: Tensor) -> Tensor:
    """Returns x itself."""
    return x


def from_layout(state: Tensor, channels: int) -> Tensor:
    """Returns the state itself."""
    return state


def pack_weights(
    params: Tensor, rule, precision: str, noise: Tensor | None = None, field: Tensor | None = None
) -> Weights:
    """Packs the weights; the only precision is "fp32"."""
    library, rule = build.load(), _rule(rule)
    networks = params.new_empty(params[..., 0].numel(), library.packed_size(rule))
    library.pack(rule, params, networks)
    return Weights(networks, params, params.new_ones(1) if noise is None else noise, field)


def gradient_buffer(weights: Weights, x: Tensor) -> Gradients:
    """Makes zeros."""
    turns = None if weights.field is None else weights.field.new_zeros(len(x), 2, *x.shape[2:])
    return Gradients(torch.zeros_like(weights.params, dtype=torch.float64), turns)


def reduce_gradients(buffer: Gradients, weights: Weights) -> tuple[Tensor, Tensor | None]:
    """Rounds the sums to the type of params; takes the gradients of scale and angle to those of frames (a, b)."""
    params = buffer.params.to(weights.params.dtype)
    return params, None if buffer.turns is None else gradient_of_frames(buffer.turns, weights.field)


@lru_cache(maxsize=256)
def _rule(rule):
    """Tells C++ of a rule."""
    stencils = [value for stencil in rule.stencils for row in stencil for value in row]
    stencils = (ctypes.c_float * len(stencils))(*stencils)
    shapes = [int(value) for layer in rule.layers for value in layer]
    shapes = (ctypes.c_int64 * len(shapes))(*shapes)
    activations = (Activation * len(rule.layers))(
        *((_FUNCTIONS.index(a.name), a.parameter, a.divisor) for a in rule.activations)
    )
    low, high = rule.clamp or (None, None)
    pairs = (ctypes.c_int64 * (2 * len(rule.derivatives.pairs)))(*(f for pair in rule.derivatives.pairs for f in pair))
    laplacians = (ctypes.c_int64 * len(rule.derivatives.laplacians))(*rule.derivatives.laplacians)
    told = Rule(
        stencils=ctypes.addressof(stencils),
        filters=len(rule.stencils),
        size=len(rule.stencils[0]) if rule.stencils else 3,
        learned=rule.learned_filters,
        shapes=ctypes.addressof(shapes),
        layers=len(rule.layers),
        activations=ctypes.addressof(activations),
        frozen=rule.frozen,
        padding=_PADDINGS.index(rule.padding),
        window=rule.maximum_window or 0,
        alive_channel=-1 if rule.alive_channel is None else rule.alive_channel,
        alive_threshold=rule.alive_threshold,
        alive_mask=_ALIVE_MASKS.index(rule.alive_mask),
        alive_circular=rule.alive_circular,
        fire_shared=shared_axes(rule.fire_shared),
        residual=rule.residual,
        low=-math.inf if low is None else low,
        high=math.inf if high is None else high,
        state_noise=rule.state_noise,
        update_noise=rule.update_noise,
        pairs=ctypes.addressof(pairs),
        pair_count=len(rule.derivatives.pairs),
        laplacians=ctypes.addressof(laplacians),
        laplacian_count=len(rule.derivatives.laplacians),
    )
    told.memory = stencils, shapes, activations, pairs, laplacians  # kept, for it points there
    return told


def _canvas(x, weights, fire, place):
    """Tells C++ of a canvas."""
    where = (place.seed, place.row, place.column, place.sample, place.height)
    params, noise = weights.params, weights.noise
    periods, rules = params.shape[:2] if params.ndim == 3 else (1, len(params) if params.ndim == 2 else 1)
    rates = (fire.ndim > 0, *(fire.shape[:3] if fire.ndim == 5 else (1, 1, 1)))
    networks = (weights.networks.data_ptr(), periods, rules)
    frames = (None, 0) if weights.field is None else (weights.field.data_ptr(), len(weights.field))
    return Canvas(*x.shape, *networks, fire.data_ptr(), *rates, noise.data_ptr(), len(noise), *where, *frames)


def steps_at_once(x: Tensor, weights: Weights, fire: Tensor, rule, place) -> int:
    """Counts the steps that run down the rows behind each other; those of 16 bits are taken one by one."""
    if x.dtype != torch.float32:
        return 1
    return build.load().steps_at_once(_rule(rule), _canvas(x, weights, fire, place))


def advance(x: Tensor, weights: Weights, fire: Tensor, rule, place, states: Tensor, every: int) -> None:
    """Takes the steps, in calls of limited length."""
    library, rule, canvas = build.load(), _rule(rule), _canvas(x, weights, fire, place)
    if x.dtype != torch.float32:
        before, after = x.float(), torch.empty_like(x, dtype=torch.float32)
        for n in range(len(states) * every):
            library.advance(rule, canvas, place.first_step + n, before, after[None], 1, None)
            before.copy_(states[n // every].copy_(after))
        return
    cells = x.numel() // x.shape[1]
    # An even number, because a call that starts from states[j] must not write there in its first step.
    most = max(2, _CELL_STEPS_PER_CALL // cells // 2 * 2)
    if every == 1:
        for j in range(0, len(states), most):
            library.advance(rule, canvas, place.first_step + j, x, states[j : j + most], 1, None)
            x = states[j : j + most][-1]
        return
    alone = every <= min(most, library.steps_at_once(rule, canvas))
    scratch = None if alone else kept_memory.empty(x.shape, x)
    for j in range(len(states)):
        done = 0
        while done < every:
            count = (every - done) % most or most
            first = place.first_step + j * every + done
            library.advance(rule, canvas, first, x, states[j : j + 1], count, scratch)
            x, done = states[j], done + count


def backward(states: Tensor, grad: Tensor, weights: Weights, fire: Tensor, rule, place, buffer: Gradients) -> Tensor:
    """Goes back, in calls of limited length; two gradients, of float32, take turns."""
    library, rule, canvas = build.load(), _rule(rule), _canvas(grad, weights, fire, place)
    given, grad = grad, grad.float()  # which is read alone where there is one step
    other = torch.empty_like(grad)
    cells = grad.numel() // grad.shape[1]
    # A step back takes some four times as long as one forward; converted states would take as much memory as all.
    most = max(1, _CELL_STEPS_PER_CALL // 4 // cells) if states.dtype == torch.float32 else 1
    for end in range(len(states), 0, -most):
        begin = max(0, end - most)
        library.backward(rule, canvas, place.first_step + begin, states[begin:end].float(), grad, other, *buffer)
        if (end - begin) % 2:
            grad, other = other, grad
    return grad.to(given.dtype)
