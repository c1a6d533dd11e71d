"""How float16 products keep within float16: filters and weights are multiplied by powers of two, which is exact.

    y'_f = y_f 2**-k_f        h'_u = h_u 2**-e_u        W'_ui = W_ui 2**(e_i - e_u)        b'_u = b_u 2**-e_u

k_f hangs on the taps of a filter, e_u on the weights of a unit: they are the least, 0 at least, with which nothing that
a matrix product is given exceeds 65504 as long as no number of the state exceeds `STATE`. Units that are cut at zero do
not mind: relu(h 2**-e) = relu(h) 2**-e; nor do linear and leaky ones; those of other functions are not multiplied,
and where such a function has no bound (elu, gelu, silu) its rule takes "fp16" only if asked to (nca_fast/backends.py).
What a product is given has the same bits as without, but for what float16 holds in fewer than 11 of them: there numbers
are 2**14 times smaller than the largest that the unit is safe from.

Frames, by which filters are multiplied, are themselves multiplied by 2**-r: the least r, 0 at least, with which
|a| + |b| is at most 1 everywhere. Then no filter answers more than without frames, and weights are multiplied by 2**r
more (first derivatives) or 2**2r (laplacians).

Unscaled, a laplacian (24 times a value) overflowed from states of 2730 on, and a unit sooner. An infinite unit times a
weight of zero is NaN, which spreads to the neighbours step by step.
"""

import math
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from .memory import kept_on

STATE = 2.0**15
_LARGEST_UNIT = 15  # exponent of what units stay below; float16 would hold one more, for sums that are rounded up
# Exponent of what the absolute weights of a unit in the last layer stay below in sum: the backward pass multiplies them
# by gradients of up to 2. Where this and `_LARGEST_UNIT` are at odds, a step multiplies states by 2**13 or more.
_LARGEST_SUM = 14
_FARTHEST = 30  # the largest r: scales beyond 10**9 have no use
_HOMOGENEOUS = ("relu", "identity", "leaky_relu")


@lru_cache(maxsize=256)
def _halvings(stencils):
    """Counts how often each filter is halved."""
    found = []
    for stencil in stencils:
        # Exact, so that filters along x and y, which frames mix, are halved as often.
        taps, k = math.fsum(abs(tap) for row in stencil for tap in row), 0
        while taps > 1.999 * 2**k:
            k += 1
        found.append(k)
    return tuple(found)


@lru_cache(maxsize=256)
def halved(rule):
    """Returns the rule (`nca_fast.rule.KernelRule`) with filters times 2**-k_f."""
    stencils = tuple(
        tuple(tuple(tap * 2.0**-k for tap in row) for row in stencil)
        for stencil, k in zip(rule.stencils, _halvings(rule.stencils), strict=True)
    )
    return replace(rule, stencils=stencils)


def _perceived(rule):
    """Makes the exponents k of all numbers of perception, int32 [F * C], their largest absolute values, float32, and
    the power in which frames multiply them, int32."""
    halvings = [*_halvings(rule.stencils), *([0] if rule.maximum_window else [])]
    taps = [sum(abs(tap) for row in stencil for tap in row) for stencil in rule.stencils]
    taps += [1.0] if rule.maximum_window else []
    powers = [0] * len(taps)
    for n in (n for pair in rule.derivatives.pairs for n in pair):
        powers[n] = 1
    for n in rule.derivatives.laplacians:
        powers[n] = 2
    k, powers = (torch.tensor(t, dtype=torch.int32).repeat_interleave(rule.channels) for t in (halvings, powers))
    return k, torch.tensor(taps).repeat_interleave(rule.channels).mul_(STATE), powers


def reach_of_frames(field: Tensor) -> tuple[Tensor, Tensor]:
    """Computes r, int32 [], and the frames times 2**-r; field: [1 or B, 2, H, W]."""
    r = _exponent(field.abs().sum(1).amax()).clamp_(0, _FARTHEST)
    return r, field * _power(-r)


def _exponent(x):
    """Returns the least e with x < 2**e, int32; for positive float32."""
    return (x.view(torch.int32) >> 23) - 126


def _power(e):
    """Returns 2**e, float32; e from -126 to 127."""
    return ((e + 127) << 23).view(torch.float32)


def _largest_result(name, parameter, largest):
    """Bounds what a function makes of numbers whose absolute values are at most `largest`."""
    if name in ("tanh", "sigmoid", "hardtanh"):
        return torch.full_like(largest, parameter or 1.0)
    return largest * max(1.0, parameter) if name in _HOMOGENEOUS else largest + 1


def weight_scales(params: Tensor, rule, reach: Tensor | None = None) -> Tensor:
    """Computes the powers of two by which weights and biases are multiplied, on their device. Like params.

    Args:
        params: All layers' weights [out, in] and biases in a row, float32 [P]; or, one rule per sample, [B, P].
        rule: As it was before `halved`.
        reach: The r of frames, int32 []; None where there are none.
    """
    lead, at, layers = params.shape[:-1], 0, []
    for out, inputs, bias in rule.layers:
        end = at + out * inputs
        layers.append((params[..., at:end].reshape(*lead, out, inputs), params[..., end : end + out * bias]))
        at = end + out * bias
    incoming, largest, powers = kept_on(params.device, ("perceived", rule), lambda: _perceived(rule))
    if reach is not None:
        more = reach * powers
        incoming, largest = incoming + more, largest * _power(more)
    (last, _), scales = layers[-1], []
    for n, (weight, bias) in enumerate(layers):
        out, inputs = weight.shape[-2:]
        if weight is last:
            scale = _power(incoming).unsqueeze(-2).expand(*lead, out, inputs)
            scales += [scale.reshape(*lead, -1), torch.ones_like(bias)]
            break
        largest = (weight.abs() * largest.unsqueeze(-2)).sum(-1)
        if bias.shape[-1]:
            largest = largest + bias.abs()
        name, parameter, divisor = rule.activations[n]
        largest = _largest_result(name, parameter, largest) / divisor
        e = (_exponent(largest) - _LARGEST_UNIT).clamp_(0, 60)
        if name not in _HOMOGENEOUS:
            e = torch.zeros_like(e)
        if n == len(layers) - 2:
            room = _LARGEST_SUM - _exponent(last.abs().sum(-2))
            e = torch.minimum(e, room.clamp_(0, 60))
        scale = _power(incoming.unsqueeze(-2) - e.unsqueeze(-1))
        scales += [scale.reshape(*lead, -1), _power(-e) if bias.shape[-1] else bias]
        incoming = e
    return torch.cat(scales, -1)
