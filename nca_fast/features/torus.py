"""Padding and convolution of feature maps that live on a torus."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import nn
from torch.nn import functional as F

from nca_fast.once import once

# Inputs of convolutions on a CPU whose gradient is a product of matrices and a sum: oneDNN takes six times as long.
_FEW = 4
_ONCE = "features of a torus can be differentiated once only, but a second derivative was asked for."


def wrap_pad(x: torch.Tensor, pad: int) -> torch.Tensor:
    """Pad a torus by its own opposite edges: `F.pad(x, (pad,) * 4, mode="circular")`, values and gradients alike.

    F.pad's backward builds a full-size gradient per edge; with this the random features take 0.7 times the time.

    Args:
        x: [B, C, H, W], H and W at least `pad`.
        pad: cells added on each side, at least 1.

    Returns:
        [B, C, H + 2 pad, W + 2 pad].
    """
    return _WrapPad.apply(x, pad)


def convolved(x: torch.Tensor, convolution: nn.Conv2d) -> torch.Tensor:
    """Convolves a torus and keeps what is positive: `relu(convolution(wrap_pad(x)))`, of the size of x.

    Gradients reach x alone; the module is frozen. They are made in few operations, in place where that can be.

    Args:
        x: [B, C, H, W], H and W at least half of the kernel.
        convolution: Square, of an odd size.
    """
    return _Convolved.apply(x, convolution.weight, convolution.bias)


class _WrapPad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, pad):
        ctx.pad = pad
        return _padded(x, pad)

    @staticmethod
    @once(_ONCE)
    def backward(ctx, grad_padded):
        return _unpadded(grad_padded.clone(memory_format=torch.preserve_format), ctx.pad), None


class _Convolved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        padded = _padded(x, weight.shape[2] // 2)
        out = F.conv2d(padded, weight, bias).relu_()
        ctx.save_for_backward(out, weight, padded)
        return out

    @staticmethod
    @once(_ONCE)
    def backward(ctx, grad):
        out, weight, padded = ctx.saved_tensors
        grad = torch.ops.aten.threshold_backward(grad, out, 0)
        if weight.is_cpu and weight.shape[1] <= _FEW:
            return _product_back(grad, weight), None, None
        how = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, False, False])
        grad, _, _ = torch.ops.aten.convolution_backward(grad, padded, weight, None, *how)
        return _unpadded(grad, weight.shape[2] // 2), None, None


def _product_back(grad, weight):
    """The gradient of few channels: a product gives what each tap owes to each, and then shifted planes are added."""
    batch, _, height, width = grad.shape
    outputs, channels, size, _ = weight.shape
    cells = _padded(grad, size // 2).permute(0, 2, 3, 1).reshape(-1, outputs)
    planes = weight.permute(2, 3, 1, 0).reshape(-1, outputs) @ cells.T  # [size * size * channels, B * cells]
    row, plane, every = width + size - 1, len(cells) // batch, len(cells)
    # Tap (i, j) looks up from i rows and j columns before where the others end.
    shape = (size, size, batch, channels, height, width)
    strides = (size * channels * every - row, channels * every - 1, plane, every, row, 1)
    return planes.as_strided(shape, strides, (size - 1) * (row + 1)).sum(1).sum(0)  # far faster than both at once


def _padded(x, pad):
    """A torus with its opposite edges around it, in the memory order of x."""
    batch, channels, height, width = x.shape
    places, shape = _places(height, width, pad, x.device), (height + 2 * pad, width + 2 * pad)
    if not x.is_contiguous(memory_format=torch.channels_last):
        return x.flatten(2).index_select(2, places).view(batch, channels, *shape)
    cells = x.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
    return cells.index_select(1, places).view(batch, *shape, channels).permute(0, 3, 1, 2)


@lru_cache(maxsize=64)
def _places(height, width, pad, device):
    """Which cell of a torus, counted row by row, each one of the padded torus is."""
    rows, columns = (torch.arange(-pad, size + pad) % size for size in (height, width))
    return (rows[:, None] * width + columns).flatten().to(device)


def _unpadded(grad, pad):
    """Adds what the edges owe to the middle, in place, and returns that."""
    for axis in (2, 3):
        size = grad.shape[axis] - 2 * pad
        grad.narrow(axis, pad, pad).add_(grad.narrow(axis, size + pad, pad))
        grad.narrow(axis, size, pad).add_(grad.narrow(axis, 0, pad))
        grad = grad.narrow(axis, pad, size)
    return grad
