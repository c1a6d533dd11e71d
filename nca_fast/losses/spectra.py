"""Eigenvalues and roots of symmetric matrices that are singular, tiny or nothing, on every CPU and on a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

# Matrices whose largest entry is below this are taken for 0: the square of 1e-6, what roundings leave of a flat map of
# order 1 (worst seen 3e-7).
_NOTHING = 1e-12
# Largest entries of matrices that LAPACK is given as they are.
_USUAL = 2.0**-20, 2.0**20
# On a GPU narrower matrices are made as wide as the widest of them: each product takes as long as a launch anyway.
_NARROW = 128


def to_order_one(matrices: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Scales matrices [..., C, C] so that LAPACK finds their eigenvalues, and says what to multiply these by, [n, ...].

    Some LAPACKs answer NaN to matrices of 1e-13, and end the program's run when they are given infinity or NaN. The
    factors are powers of four: they change no digit, nor do their roots. Matrices of nothing, and those that are not
    finite, become the identity with a factor of 0.

    Args:
        matrices: n of them, alike but for their sizes.
    """
    largest = torch.stack([each.abs().amax(dim=(-2, -1)) for each in matrices])
    usable = (largest > _NOTHING) & torch.isfinite(largest)
    largest = torch.where(usable, largest, 1)
    mantissa, exponent = torch.frexp(largest)
    scales = largest / mantissa * (1 + exponent % 2)
    units = []
    for each, scale, known in zip(matrices, scales, usable, strict=True):
        identity = torch.eye(each.shape[-1], dtype=each.dtype, device=each.device)
        units.append(torch.where(known[..., None, None], each / scale[..., None, None], identity))
    return units, scales * usable


def root_trace(
    products: Sequence[torch.Tensor], scales: torch.Tensor, floors: torch.Tensor, weights: torch.Tensor, slopes: bool
) -> tuple[torch.Tensor, list[torch.Tensor] | None]:
    """Computes the weighted sum of traces of roots of symmetric matrices, smoothed.

        sum over matrices of weight (sum over eigenvalues e of sqrt(scale e + floor) - sqrt(floor))

    Autograd does not follow: the gradients fall out of eigenvectors, or of roots, for next to nothing.

    Args:
        products: Positive semidefinite but for rounding; on a GPU float64. [B, C_l, C_l] each.
        scales, floors, weights: Those of a matrix once for each of its rows, floors above 0. [sum of C_l]
        slopes: Whether gradients are wanted.

    Returns:
        The sum, [], and its gradients, [B, C_l, C_l] each, or None.
    """
    with torch.no_grad():
        find = _by_eigenvalues if products[0].is_cpu else _by_products
        return find(products, scales, floors, weights, slopes)


def _by_eigenvalues(products, scales, floors, weights, slopes):
    """All eigenvalues in a row, for operations on a few numbers take as long as on many."""
    values, vectors = zip(*eigen(products, slopes), strict=True)
    values = torch.cat(values, dim=1)
    roots = (values.clamp(min=0) * scales + floors).sqrt()
    total = ((roots - floors.sqrt()) * weights).sum()
    if not slopes:
        return total, None
    # Those that rounding made negative are clipped.
    rises = torch.where(values >= 0, 0.5 * scales * weights / roots, 0)[:, None]
    rises = rises.split([product.shape[-1] for product in products], dim=2)
    return total, [torch.bmm(found * rise, found.mT) for found, rise in zip(vectors, rises, strict=True)]


def eigen(matrices: Sequence[torch.Tensor], vectors: bool) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Computes eigenvalues [B, C] of symmetric matrices [B, C, C] on a CPU, and eigenvectors [B, C, C] or None."""
    largest = torch.stack([torch.linalg.vector_norm(each, torch.inf, dim=(1, 2)) for each in matrices]).flatten()
    if all(_USUAL[0] < one < _USUAL[1] for one in largest.tolist()):
        return [_eigen(each, vectors) for each in matrices]
    units, scales = to_order_one(matrices)
    found = [_eigen(unit, vectors) for unit in units]
    return [(values * scale[:, None], kept) for (values, kept), scale in zip(found, scales, strict=True)]


def _eigen(matrices, vectors):
    """The same for matrices that LAPACK bears.

    To a float32 matrix of rank one, as flat and two-coloured pictures have, LAPACKs answer with an error or NaN, each
    kind of CPU to another one. In float64 with the identity added there is nothing for them to stumble over.
    """
    try:
        values, found = _lapack(matrices, vectors)
        if math.isfinite(values.sum()):
            return values, found
    except torch.linalg.LinAlgError:
        pass
    matrices, dtype = matrices.double(), matrices.dtype
    values, found = _lapack(matrices + torch.eye(matrices.shape[-1]).to(matrices), vectors)
    return (values - 1).to(dtype), found if found is None else found.to(dtype)


def _lapack(matrices, vectors):
    return tuple(torch.linalg.eigh(matrices)) if vectors else (torch.linalg.eigvalsh(matrices), None)


def _by_products(products, scales, floors, weights, slopes):
    """As a GPU does, where eigenvalues have the host wait to see whether they were found."""
    sizes = [product.shape[-1] for product in products]
    numbers = [[row[0] for row in rows.split(sizes)] for rows in (scales, floors, weights)]
    total, gradients = 0, [None] * len(products)
    widths = [max(_NARROW, size) for size in sizes]
    for width in dict.fromkeys(widths):
        places = [n for n, other in enumerate(widths) if other == width]
        width = max(sizes[n] for n in places)
        # Rows and columns of zeros add a root of the floor each, and take it away again.
        padded = [F.pad(products[n], (0, width - sizes[n]) * 2) for n in places]
        counts = [len(product) for product in padded]
        scale, floor, weight = (
            torch.cat([values[n].expand(count) for n, count in zip(places, counts, strict=True)])[:, None, None]
            for values in numbers
        )
        traces, rises = _newton_schulz(torch.cat(padded), scale, floor)
        total = total + (traces * weight[:, 0, 0]).sum()
        for n, rise in zip(places, (rises * weight).split(counts), strict=True):
            gradients[n] = rise[:, : sizes[n], : sizes[n]]
    return total, gradients if slopes else None


def _newton_schulz(products, scale, floor):
    """Traces of smoothed roots, [B], and their gradients, of float64 matrices [B, C, C] with scale and floor [B, 1, 1].

    The coupled Newton-Schulz iteration Y <- Y T, Z <- T Z with T = (3 - Z Y) / 2 takes Y from A to its root and Z from
    1 to the inverse of that, which is twice the gradient of the root's trace. It multiplies small eigenvalues by 9/4
    until they are of order 1, where the error squares: 40 times do for 1e-12 of the largest.

    Source: Higham, Functions of Matrices, 2008, section 6.7.
    """
    identity = torch.eye(products.shape[-1], dtype=products.dtype, device=products.device)
    matrices = (products + products.mT) / 2 * scale + floor * identity
    size = matrices.square().sum(dim=(1, 2), keepdim=True).sqrt()
    y, z = matrices / size, identity.expand_as(matrices)
    most = 1.5 * z
    for _ in range(40):
        t = torch.baddbmm(most, z, y, alpha=-0.5)
        y, z = y @ t, t @ z
    traces = ((y * size.sqrt()).diagonal(dim1=1, dim2=2) - floor[:, 0].sqrt()).sum(1)
    return traces, 0.5 * scale * z / size.sqrt()
