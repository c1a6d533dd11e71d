"""Gradients that are computed once: whoever asks for the derivative of one is refused, and never takes it for zero."""

import functools
from collections.abc import Callable
from typing import Any

import torch


def once(said: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates the `backward` of an autograd function, so that `create_graph=True` raises RuntimeError.

    `torch.autograd.function.once_differentiable` refuses a second derivative only where the gradient that `backward` is
    given has one itself, or is on the way to nothing that is asked for. That of a sum has none: a penalty on gradients
    would be left out of a loss, and nobody would notice.

    Args:
        said: What the error says.
    """

    def decorate(backward):
        @functools.wraps(backward)
        def refusing(ctx, *grads):
            if torch.is_grad_enabled():
                raise RuntimeError(said)
            return backward(ctx, *grads)

        return refusing

    return decorate
