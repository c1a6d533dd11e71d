"""Networks that multiply numbers of 16 bits, between pictures and maps of 32: a quarter of the work on a GPU.

Range is what 16 bits lack, so factors are chosen, powers of two, which change no digit: for the output of each
convolution one that is fixed with the weights, so that activations fit, and for the gradients one at each call, on the
device, so that they fit whatever weights the losses have. ReLU, pooling and padding pass factors on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nca_fast.once import once

# Exponents of the largest activation of a usual picture, and of the largest gradient where it enters. 2**16 is the end:
# both may grow to 256 times as much, and a 4-millionth of them is still exact to 11 bits.
_ACTIVATION = 8
_GRADIENT = 8


def halve(convolutions: Sequence[nn.Conv2d], largest: Sequence[float], dtype: torch.dtype) -> list[float]:
    """Rounds the weights of convolutions to 16 bits, in place, after it has scaled them.

    Args:
        convolutions: Each takes what the one before it gives, after ReLU, pooling or padding. float32.
        largest: The largest number that each gives for a usual picture.
        dtype: torch.float16 or torch.bfloat16.

    Returns:
        The factor by which the output of each is now larger than it was.
    """
    factors, before = [], 1.0
    for convolution, most in zip(convolutions, largest, strict=True):
        factor = 2.0 ** (_ACTIVATION - int(torch.frexp(torch.tensor(most)).exponent))
        with torch.no_grad():
            convolution.weight *= factor / before
            convolution.bias *= factor
        convolution.to(dtype)
        factors.append(factor)
        before = factor
    return factors


def in_half(
    network: Callable[[Tensor], list[Tensor]], pixels: Tensor, dtype: torch.dtype, factors: Sequence[float]
) -> list[Tensor]:
    """Runs a network of halved convolutions on pixels of float32; maps and gradients are float32 again.

    Args:
        network: pixels [B, 3, H, W] -> maps.
        pixels: [B, 3, H, W].
        dtype: Of the weights. When it is that of the pixels, nothing was halved, and the network is run as it is.
        factors: By which each map is larger than it should be; see `halve`.

    Returns:
        Its maps, [B, C_l, H_l, W_l], channels-last in memory where anything was halved.
    """
    if dtype == pixels.dtype:
        return network(pixels)
    scale = _Scale()
    return list(_Leave.apply(scale, factors, *network(_Enter.apply(pixels, dtype, scale))))


_ONCE = "features in 16 bits can be differentiated once only, but a second derivative was asked for."


class _Scale:
    """The factor of the gradients of one call, [] on the device: `_Leave` chooses it, `_Enter` takes it back."""

    value: Tensor


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pixels, dtype, scale):
        ctx.scale = scale
        return pixels.to(dtype, memory_format=torch.channels_last)

    @staticmethod
    @once(_ONCE)
    def backward(ctx, grad):
        return grad.float() / ctx.scale.value, None, None


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scale, factors, *maps):
        ctx.set_materialize_grads(False)  # of maps that no loss looks at
        ctx.scale, ctx.factors, ctx.dtype = scale, factors, maps[0].dtype
        return tuple(map.float() / factor for map, factor in zip(maps, factors, strict=True))

    @staticmethod
    @once(_ONCE)
    def backward(ctx, *grads):
        grads = [None if grad is None else grad / factor for grad, factor in zip(grads, ctx.factors, strict=True)]
        largest = torch.stack([grad.abs().amax() for grad in grads if grad is not None]).amax().clamp(min=1e-30)
        ctx.scale.value = torch.frexp(largest).mantissa / largest * 2.0**_GRADIENT
        return None, None, *(None if grad is None else (grad * ctx.scale.value).to(ctx.dtype) for grad in grads)
