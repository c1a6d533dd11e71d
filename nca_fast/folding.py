"""Learned perceptions as our fixed filters: one-hot filters and a first layer that holds the learned kernels.

    W1 (K * x) + b1 = W y + b,    y: the one-hot filters' answers,    W[h, ij, c] = sum over p of W1[h, p] K[p, c, i, j]

exact for values and gradients. Kernels are [P, C, k, k]: P perceptions, each of all channels.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from nca_fast.rule import Rule


def shifts(size: int) -> tuple[list[list[float]], ...]:
    """Gives the one-hot filters of an odd size, row by row: filter i * size + j sees row i, column j."""
    places = [(i, j) for i in range(size) for j in range(size)]
    return tuple([[float((i, j) == place) for j in range(size)] for i in range(size)] for place in places)


def identity_kernels(channels: int, like: Tensor) -> Tensor:
    """Gives kernels that see each channel of the cell itself. [C, C, k, k], with size, dtype and device of kernels."""
    eye = torch.eye(channels, dtype=like.dtype, device=like.device)
    return F.pad(eye[:, :, None, None], [like.shape[-1] // 2] * 4)


def dense_kernels(weight: Tensor, channels: int) -> Tensor:
    """Gives the weight of a dense [P, C, k, k] or depthwise [n * C, 1, k, k] convolution as that of a dense one.

    Raises:
        ValueError: It is neither.
    """
    if weight.ndim != 4 or weight.shape[2] != weight.shape[3] or weight.shape[2] % 2 == 0:
        raise ValueError(
            f"state_dict must have perceptions that are square convolutions of odd size, but got {list(weight.shape)}."
        )
    outputs, inputs = weight.shape[:2]
    if inputs == channels:
        return weight
    if inputs != 1 or outputs % channels:
        raise ValueError(
            f"state_dict must have perceptions of all {channels} channels, or of each for itself, but got "
            f"{list(weight.shape)}."
        )
    owner = torch.arange(outputs, device=weight.device) // (outputs // channels)
    return weight * F.one_hot(owner, channels)[:, :, None, None].to(weight)


def folded(weight: Tensor, bias: Tensor, kernels: Tensor, kernel_bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Writes a first layer over kernels as one over `shifts`; summed in float64.

    Args:
        weight: W1, [hidden, P].
        bias: b1, [hidden].
        kernels: [P, C, k, k].
        kernel_bias: That of the perceptions, [P], or None.

    Returns:
        (W [hidden, k * k * C], b [hidden]).
    """
    exact = weight.double()
    over = torch.einsum("hp,pcij->hijc", exact, kernels.double()).flatten(1)
    if kernel_bias is not None:
        bias = (bias.double() + exact @ kernel_bias.double()).to(bias)
    return over.to(weight), bias


def plain_rule(rule: Rule) -> Rule:
    """Gives the rule of `without_learned_filters`."""
    if not rule.learned_filters:
        return rule
    large = [f for f in rule.filters if f.size > 3]
    return replace(rule, filters=(*large, *shifts(3)), learned_filters=0)


def without_learned_filters(
    rule: Rule, weights: list[tuple[Tensor, Tensor | None]]
) -> tuple[Rule, list[tuple[Tensor, Tensor | None]]]:
    """Writes an automaton with learned filters as one without, for kernels that do not serve them; summed in float64.

    Fixed filters of up to 3x3 are written as shifts too. Gradients pass through to the weights that are given.

    Args:
        rule, weights: As `rollout` takes them.

    Returns:
        The rule and the weights that compute the same.
    """
    if not rule.learned_filters:
        return rule, weights
    (kernels, _), (first, bias), *rest = weights
    C, fixed = rule.channels, len(rule.filters)
    learned = range(fixed, fixed + rule.learned_filters)
    small = [f for f in range(fixed) if rule.filters[f].size <= 3]
    large = [f for f in range(fixed) if f not in small]
    columns, seen = first.double().unflatten(-1, (-1, C)), kernels.double()
    for f in reversed(small):
        stencil = F.pad(seen.new_tensor(rule.filters[f].kernel), [1 - rule.filters[f].size // 2] * 4)
        seen = torch.cat([stencil.expand(*seen.shape[:-4], 1, C, 3, 3), seen], -4)
    over = torch.einsum("...hpc,...pcij->...hijc", columns[..., [*small, *learned], :], seen).flatten(-3, -2)
    columns = columns.expand(*over.shape[:-2], *columns.shape[-2:])
    over = torch.cat([columns[..., large, :], over, columns[..., learned.stop :, :]], -2).flatten(-2).to(first)
    return plain_rule(rule), [(over, bias), *rest]
