"""Losses on the state and the picture themselves, whatever they show."""

from __future__ import annotations

import torch

from nca_fast.once import once


def overflow(x: torch.Tensor, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
    """How far the state leaves [low, high]: sum |x - clip(x, low, high)|.

    Without it hidden channels drift away over long rollouts and the automaton blows up after training.

    Args:
        x: state [B, C, H, W].
        low, high: the range that is free of charge.

    Returns:
        Scalar, at least 0; a sum over everything, as in the Distill texture notebook. The gradient is -1, 0 or 1 per
        element.

    Raises:
        ValueError: low is not below high.
    """
    if not low < high:
        raise ValueError(f"low must be below high, but got [{low}, {high}].")
    return _Overflow.apply(x, low, high)


class _Overflow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, low, high):
        beyond = x - x.clamp(low, high)
        ctx.save_for_backward(beyond)
        return beyond.abs().sum()

    @staticmethod
    @once("the overflow loss can be differentiated once only, but a second derivative was asked for.")
    def backward(ctx, grad):
        (beyond,) = ctx.saved_tensors
        return beyond.sign().mul_(grad), None, None


def chroma(rgb: torch.Tensor) -> torch.Tensor:
    """How far a picture is from grey: the sum of (rgb - mean of the three colours of the cell)^2.

    Args:
        rgb: [B, 3, H, W].

    Returns:
        Scalar, at least 0.
    """
    return (rgb - rgb.mean(1, keepdim=True)).square().sum()


def total_variation(rgb: torch.Tensor) -> torch.Tensor:
    """Roughness on the torus: sum |rgb - rgb one row down| + |rgb - rgb one column right|.

    Args:
        rgb: [B, 3, H, W] (any number of channels); both axes wrap around.

    Returns:
        Scalar, at least 0.

    Raises:
        ValueError: not four-dimensional.
    """
    if rgb.ndim != 4:
        raise ValueError(f"rgb must be [B, C, H, W], but got {tuple(rgb.shape)}.")
    return sum((rgb - rgb.roll(1, dims=axis)).abs().sum() for axis in (2, 3))
