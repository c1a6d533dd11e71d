"""Eigenvalues and roots of symmetric matrices that are singular, tiny or nothing, on every CPU and on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

# Matrices whose largest entry is below this are taken for 0: the square of 1e-6, what roundings leave of a flat map of
# order 1 (worst seen 3e-7).
_NOTHING = 1e-12
# On a GPU narrower matrices are made as wide as the widest of them: each product takes as long as a launch anyway.
_NARROW = 128


def to_order_one(matrices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales matrices [..., C, C] so that LAPACK finds their eigenvalues, and says what to multiply these by, [...].

    Some LAPACKs answer NaN to matrices of 1e-13, and end the program's run when they are given infinity or NaN. The
    factors are powers of four: they change no digit, nor do their roots. Matrices of nothing, and those that are not
    finite, become the identity with a factor of 0.
    """
    largest = matrices.detach().abs().amax(dim=(-2, -1))
    usable = (largest > _NOTHING) & torch.isfinite(largest)
    largest = torch.where(usable, largest, 1)
    mantissa, exponent = torch.frexp(largest)
    scale = largest / mantissa * (1 + exponent % 2)
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    return torch.where(usable[..., None, None], matrices / scale[..., None, None], identity), scale * usable


def root_traces(
    products: Sequence[torch.Tensor], scales: Sequence[torch.Tensor], floors: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Computes traces of roots of symmetric matrices, smoothed: sums of sqrt(scale e + floor) - sqrt(floor).

    Args:
        products: Positive semidefinite but for rounding, with eigenvalues e; on a GPU float64. [B, C, C] each.
        scales, floors: [] each, the latter above 0.

    Returns:
        A scalar each, differentiable once with respect to products.
    """
    if products[0].is_cpu:
        return [_root_trace(*one) for one in zip(products, scales, floors, strict=True)]
    found = [None] * len(products)  # eigvalsh on a GPU has the host wait to see whether it went well
    widths = [max(_NARROW, product.shape[-1]) for product in products]
    for width in dict.fromkeys(widths):
        places = [n for n, other in enumerate(widths) if other == width]
        width = max(products[n].shape[-1] for n in places)
        # Rows and columns of zeros add a root of the floor each, and take it away again.
        padded = [F.pad(products[n], (0, width - products[n].shape[-1]) * 2) for n in places]
        counts = [len(product) for product in padded]
        scale, floor = (
            torch.cat([values[n].expand(count) for n, count in zip(places, counts, strict=True)])[:, None, None]
            for values in (scales, floors)
        )
        traces = _RootTrace.apply(torch.cat(padded), scale.to(padded[0].dtype), floor.to(padded[0].dtype))
        for n, part in zip(places, traces.split(counts), strict=True):
            found[n] = part.sum()
    return found


def _root_trace(products, scale, floor):
    unit, own = to_order_one(products)
    values = eigenvalues(unit).clamp(min=0) * (own[:, None] * scale)
    return ((values + floor).sqrt() - floor.sqrt()).sum()


def eigenvalues(matrices: torch.Tensor) -> torch.Tensor:
    """Computes the eigenvalues of symmetric matrices of order 1. [..., C, C] -> [..., C]

    To a float32 matrix of rank one, as flat and two-coloured pictures have, LAPACKs answer with an error or NaN, each
    kind of CPU to another one. In float64 with the identity added there is nothing for them to stumble over.
    """
    try:
        values = torch.linalg.eigvalsh(matrices)
        if matrices.device.type != "cpu" or torch.isfinite(values).all():
            return values
    except torch.linalg.LinAlgError:
        pass
    matrices, dtype = matrices.double(), matrices.dtype
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    return (torch.linalg.eigvalsh(matrices + identity) - 1).to(dtype)


class _RootTrace(torch.autograd.Function):
    """Traces of smoothed roots, [B], of float64 matrices [B, C, C] with scale and floor [B, 1, 1], by products alone.

    The coupled Newton-Schulz iteration Y <- Y T, Z <- T Z with T = (3 - Z Y) / 2 takes Y from A to its root and Z from
    1 to the inverse of that, which is twice the gradient of the root's trace. It multiplies small eigenvalues by 9/4
    until they are of order 1, where the error squares: 40 times do for 1e-12 of the largest.

    Source: Higham, Functions of Matrices, 2008, section 6.7.
    """

    @staticmethod
    def forward(ctx, products, scale, floor):
        identity = torch.eye(products.shape[-1], dtype=products.dtype, device=products.device)
        matrices = (products + products.mT) / 2 * scale + floor * identity
        size = matrices.square().sum(dim=(1, 2), keepdim=True).sqrt()
        y, z = matrices / size, identity.expand_as(matrices)
        most = 1.5 * z
        for _ in range(40):
            t = torch.baddbmm(most, z, y, alpha=-0.5)
            y, z = y @ t, t @ z
        ctx.save_for_backward(0.5 * scale * z / size.sqrt())
        return ((y * size.sqrt()).diagonal(dim1=1, dim2=2) - floor[:, 0].sqrt()).sum(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (half_inverse,) = ctx.saved_tensors
        return grad[:, None, None] * half_inverse, None, None
