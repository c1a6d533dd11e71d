"""Canvases continued on all sides, in as few passes over memory as stock operations allow."""

import torch
import torch.nn.functional as F
from torch import Tensor

from nca_fast.reference import extended


class _Continued(torch.autograd.Function):
    """Continues a torus on each side, whose backward pass adds the copies up in one pass and eight thin ones.

    That of F.pad makes gradients of the whole state for each of its copies: a quarter of all bytes of a training step.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x, reach):
        return F.pad(x, (reach,) * 4, mode="circular")

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.reach = inputs

    @staticmethod
    def backward(ctx, grad):
        (rows, columns), reach = grad.shape[-2:], ctx.reach
        height, width = rows - 2 * reach, columns - 2 * reach
        total = _part(grad, reach, height, reach, width).clone(memory_format=torch.contiguous_format)
        for below, row, h in _copies(height, reach):
            for right, column, w in _copies(width, reach):
                if (h, w) != (height, width) or (below, right) != (reach, reach):
                    _part(total, row, h, column, w).add_(_part(grad, below, h, right, w))
        return total, None

    @staticmethod
    def jvp(ctx, tangent, _):
        return F.pad(tangent, (ctx.reach,) * 4, mode="circular")


def _part(x, row, rows, column, columns):
    """Views some rows and columns; not by [...], of which gradients in batches (`is_grads_batched`) know nothing."""
    return x.narrow(-2, row, rows).narrow(-1, column, columns)


def _copies(size, reach):
    """Lists the parts of a line that is continued on both sides: (where they lie, what they copy, cells)."""
    return (0, size - reach, reach), (reach, 0, size), (reach + size, 0, reach)


def padded(x: Tensor, reach: int, padding: str) -> Tensor:
    """Continues a canvas on all sides by stock operations. [B, C, H, W] -> [B, C, H + 2 reach, W + 2 reach]"""
    if reach == 0:
        return x
    if padding == "zero":
        return F.pad(x, (reach,) * 4)
    if padding != "circular":
        return F.pad(x, (reach,) * 4, mode=padding)
    return extended(x, reach, padding) if reach > min(x.shape[2:]) else _Continued.apply(x, reach)


class HeldTorus:
    """A torus that lies continued in memory of its own, and whose cells may be changed there.

    Args:
        x: What it is made of. [B, C, H, W]
        reach: By how many cells it is continued, at most H and W.

    Attributes:
        near: It and what lies around it. [B, C, H + 2 reach, W + 2 reach]
        cells: A view of it. [B, C, H, W]
    """

    def __init__(self, x: Tensor, reach: int):
        def inner(t):
            return t[..., reach:-reach, reach:-reach]

        def around(t):
            rows, middle = t[0], t[0, reach:-reach]
            parts = rows[:reach], rows[-reach:], middle[:, :reach], middle[:, -reach:]
            return torch.cat([part.flatten() for part in parts])

        self.near = F.pad(x, (reach,) * 4, mode="circular").contiguous()
        self.cells = inner(self.near)
        height, width = self.near.shape[2:]
        places = torch.arange(height * width, device=x.device).view(1, height, width)
        copied = F.pad(inner(places), (reach,) * 4, mode="circular")
        self.to, self.of = around(places), around(copied)

    def continue_again(self) -> None:
        """Copies the cells at the edges to where they continue it, after they changed."""
        every = self.near.view(*self.near.shape[:2], -1)
        every.index_copy_(2, self.to, every.index_select(2, self.of))
