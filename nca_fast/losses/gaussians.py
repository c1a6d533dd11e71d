"""The distance of clouds of points to Gaussians, whose gradient is made with it in a few operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from nca_fast.losses.spectra import root_trace
from nca_fast.once import once


class Gaussians(NamedTuple):
    """What clouds [B, C_l, n_l], l from 1 to n, are compared with.

    Args:
        roots: Of the covariances over `scales`, S_l / sqrt(scale_l). [C_l, C_l] each.
        means: In a row, as is all that follows, so that operations are done on all clouds at once. [sum of C_l]
        scales, floors, weights: See `root_trace`. [sum of C_l]
        traces: The weighted sum of the traces of the covariances. []
    """

    roots: Sequence[torch.Tensor]
    means: torch.Tensor
    scales: torch.Tensor
    floors: torch.Tensor
    weights: torch.Tensor
    traces: torch.Tensor


class GaussianDistance(torch.autograd.Function):
    """(Gaussians, *clouds) -> the weighted sum of |m - m_t|^2 + Tr C + Tr C_t - 2 Tr (S C S)^(1/2), over samples too.

    The last trace has the slope M / 2 in C, with M = S (S C S)^(-1/2) S, so that a centred cloud X has the gradient
    2 (1 - M) X / n + 2 (m - m_t) / n: one product, in the order in which the cloud lies in memory. PyTorch's own would
    be three operations for each of these, and would give feature maps that are channels-last in memory gradients that
    are not, which whatever comes before them then has to read and write in two orders at once.
    """

    @staticmethod
    def forward(ctx, targets, *clouds):
        # Roots of a GPU bear no eigenvalue that rounding made less than 0, so there all is float64.
        given = clouds if clouds[0].is_cpu else [cloud.double() for cloud in clouds]
        means, centred, covariances = zip(*map(moments, given), strict=True)
        roots = [root.to(c.dtype).expand_as(c) for root, c in zip(targets.roots, covariances, strict=True)]
        products = [root.bmm(c).bmm(root) for root, c in zip(roots, covariances, strict=True)]
        sloped = any(ctx.needs_input_grad)
        shared, rises = root_trace(products, targets.scales, targets.floors, targets.weights, sloped)
        off = torch.cat(means, dim=1) - targets.means
        variances = torch.cat([covariance.diagonal(dim1=1, dim2=2) for covariance in covariances], dim=1)
        total = ((off.square() + variances) * targets.weights).sum() + len(off) * targets.traces - 2 * shared
        if sloped:
            slopes = [root.bmm(rise).bmm(root) for root, rise in zip(roots, rises, strict=True)]
            ctx.save_for_backward(off * targets.weights, targets.weights, *slopes, *centred)
        ctx.dtype = clouds[0].dtype
        return total.to(ctx.dtype)

    @staticmethod
    @once("a style loss can be differentiated once only, but a second derivative was asked for.")
    def backward(ctx, grad):
        off, weights, *both = ctx.saved_tensors
        slopes, centred = both[: len(both) // 2], both[len(both) // 2 :]
        grads, sizes, twice = [], [cloud.shape[1] for cloud in centred], -2 * grad
        offs, weights = (off * grad).split(sizes, dim=1), (weights * grad).split(sizes)
        for cloud, off, weight, slope in zip(centred, offs, weights, slopes, strict=True):
            matrix, share = slope * twice, 2 / cloud.shape[2]
            matrix.diagonal(dim1=1, dim2=2).add_(weight)
            if cloud.stride(1) == 1:
                found = torch.baddbmm(off[:, None], cloud.mT, matrix, beta=share, alpha=share).mT
            else:
                found = torch.baddbmm(off[:, :, None], matrix, cloud, beta=share, alpha=share)
            grads.append(found.to(ctx.dtype))
        return None, *grads


def moments(cloud: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns mean [B, C], the cloud without it [B, C, n], and covariance, divided by n, [B, C, C]."""
    mean = cloud.mean(dim=2)
    centred = cloud - mean[:, :, None]
    return mean, centred, torch.bmm(centred, centred.mT).div_(cloud.shape[2])
