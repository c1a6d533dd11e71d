"""The cellular automaton in stock operations: what serves where there are no kernels, as on a GPU older than Ampere.

The same function as the reference, with its fire masks bit for bit, in as few passes over memory as PyTorch's own
operations allow: no more than the automaton that everybody writes takes (bench/fallback_ops.py counts them). Autograd
differentiates it, as often as asked.

    y     = all filters in one convolution of each channel by itself     index c * n + f, not the reference's f * C + c
            those that are fixed and then those that are learned
    h     = relu(b1 + W1 y)                                              bias and product in one operation
    x'    = x + m * W2 h

Filters that each pick a neighbour (a dense convolution, folded) are no filters here: then W1 is that convolution again.

and whatever else the rule asks for, in the order of `Rule`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nca_fast.continued import HeldTorus, padded
from nca_fast.eager import is_plain
from nca_fast.frames import as_field, turned
from nca_fast.kernels.cpu import cells
from nca_fast.reference import bytes_per_cell, computed, of_step, rounded, run, split
from nca_fast.rule import Rule

__all__ = ["alive", "bytes_per_cell", "rollout"]


def _local_maximum(x, window, padding):
    """Takes the maximum around each cell, as the reference does; outside of a canvas max_pool2d sees -inf."""
    reach = window // 2
    if padding != "circular":
        return F.max_pool2d(x, window, stride=1, padding=reach)
    return F.max_pool2d(padded(x, reach, padding), window, stride=1)


def alive(x: Tensor, rule: Rule) -> Tensor:
    """Says which cells are alive: those whose alive channel exceeds the threshold somewhere in the 3x3 around them.

    On a CPU by the C++ library, where this process has loaded one, or else the largest of three rows, then of three
    columns: pooling takes 3 to 18 times as long there.

    Args:
        x: A state. [B, C, H, W]
        rule: One with an `alive_channel`.

    Returns:
        bool, [B, 1, H, W].

    Raises:
        ValueError: The rule has no alive channel.
    """
    if rule.alive_channel is None:
        raise ValueError("alive needs a rule with an alive_channel, but got None.")
    alpha = x.detach()[:, rule.alive_channel, None]  # who is alive has no gradient
    if alpha.device.type != "cpu":
        return _local_maximum(alpha, 3, "circular" if rule.alive_circular else "zero") > rule.alive_threshold
    if is_plain(x) and (living := cells.alive(alpha, rule.alive_threshold, rule.alive_circular)) is not None:
        return living
    near = padded(alpha, 1, "circular") if rule.alive_circular else F.pad(alpha, (1,) * 4, value=-torch.inf)
    for axis in (-2, -1):
        size = near.shape[axis] - 2
        first, middle, last = (near.narrow(axis, i, size) for i in range(3))
        near = torch.maximum(torch.maximum(first, middle), last)
    return near > rule.alive_threshold


def _stencils(rule, kernels, x):
    """Makes the filters of all channels, of the size of the largest one.

    Args:
        kernels: Of the learned ones, [L, C, 3, 3] or [B or 1, L, C, 3, 3], or None.

    Returns:
        [C * n, 1, S, S], index c * n + f; or, one rule per sample, [B * C * n, 1, S, S].
    """
    C, reach = rule.channels, rule.filter_reach
    stencils = [F.pad(x.new_tensor(f.kernel), (reach - f.size // 2,) * 4).expand(C, -1, -1) for f in rule.filters]
    if kernels is None:
        return torch.stack(stencils, 1).flatten(0, 1)[:, None]
    lead = kernels.shape[:-4]
    learned = F.pad(kernels, (reach - 1,) * 4).transpose(-4, -3)  # [..., C, L, S, S]
    if stencils:
        fixed = torch.stack(stencils, 1)
        learned = torch.cat([fixed.expand(*lead, *fixed.shape), learned], dim=-3)
    return learned.flatten(0, -3)[:, None]


def _channel_major(weight, rule):
    """Permutes the columns of the first layer from f * C + c to c * n + f; those of local maxima stay the last."""
    C, n = rule.channels, len(rule.filters) + rule.learned_filters
    by_filter = weight[..., : n * C].unflatten(-1, (n, C)).transpose(-1, -2).flatten(-2)
    return torch.cat([by_filter, weight[..., n * C :]], dim=-1)


def _picked(rule):
    """Lists the tap that each filter picks, where all pick one, half of all are picked and nothing else is seen."""
    size = 2 * rule.filter_reach + 1
    kernels = [F.pad(torch.tensor(f.kernel), (rule.filter_reach - f.size // 2,) * 4).flatten() for f in rule.filters]
    if rule.learned_filters or rule.maximum_window or 2 * len(kernels) < size**2 or size == 1:
        return None
    if not all(kernel.count_nonzero() == 1 and kernel.sum() == 1 for kernel in kernels):
        return None
    return [int(kernel.argmax()) for kernel in kernels]


def _dense(weight, picked, rule):
    """Makes of the first layer [..., H, F * C] a dense convolution, [..., H, C, S, S]."""
    size, by_filter = 2 * rule.filter_reach + 1, weight.unflatten(-1, (len(picked), rule.channels))
    taps = by_filter.new_zeros(*by_filter.shape[:-2], size**2, rule.channels)
    taps = taps.index_add(-2, torch.tensor(picked, device=weight.device), by_filter)
    return taps.transpose(-1, -2).unflatten(-1, (size, size))


def _convolution(bias, kernel, near, precision):
    """As `_product`, of what lies around the cells. [B, C, H + 2 reach, W + 2 reach] -> [B, out, cells]"""
    kernel, near = rounded(kernel, precision), rounded(near, precision)
    if kernel.ndim == 4 and (bias is None or bias.ndim == 1):
        return F.conv2d(near, kernel, bias).flatten(2)
    B, (out, C, *size) = len(near), kernel.shape[-4:]
    kernel = kernel.expand(B, out, C, *size).flatten(0, 1)  # a rule per sample: one picture of B groups
    y = F.conv2d(near.reshape(1, B * C, *near.shape[2:]), kernel, groups=B).reshape(B, out, -1)
    return y if bias is None else y + bias.reshape(-1, out, 1)


def _product(bias, weight, y, precision):
    """Computes W y + b of all cells [B, in, cells]; weight [out, in] or [B, out, in], bias [out], [B, out] or None."""
    weight, y = rounded(weight, precision).expand(len(y), *weight.shape[-2:]), rounded(y, precision)
    if bias is None:
        return torch.bmm(weight, y)
    return torch.baddbmm(bias.reshape(-1, bias.shape[-1], 1), weight, y)


class _Step:
    """A step of an automaton, prepared once for a rollout.

    Args:
        weights: Pairs (W, b) of every layer, in the type of x.
        x: A state.
        masked: Whether there are cells that do not fire.
        field: Frames, [B or 1, 2, H or 1, W or 1], or None.
    """

    def __init__(self, weights, rule: Rule, x: Tensor, precision: str, masked: bool, field: Tensor | None):
        self.rule, self.precision, self.field = rule, precision, field
        self.masked = masked or rule.alive_mask == "update"
        self.stencils, self.zero = None, x.new_zeros(())
        self.kernels, ((first, bias), *others) = split(weights, rule)
        self.picked = _picked(rule)
        self.kernel = None  # of the dense convolution in place of filters and first layer, if it is one for all steps
        if self.picked is not None:
            self.kernel = _dense(first, self.picked, rule) if first.ndim < 4 else None
        elif rule.filters or rule.learned_filters:
            first = _channel_major(first, rule)
            if self.kernels is None or self.kernels.ndim < 6:
                self.stencils = _stencils(rule, self.kernels, x)
        self.layers = [(first, bias), *others]
        self.weights = [*([] if self.kernels is None else weights[:1]), *self.layers]

    def perceive(self, x, kernels, near=None):
        """Computes what cells perceive; kernels are those of the step, near is x continued on all sides if known.
        [B, C, H, W] -> [B, C * n + maxima, H, W]"""
        rule, parts = self.rule, []
        if rule.filters or rule.learned_filters:
            stencils = _stencils(rule, kernels, x) if self.stencils is None else self.stencils
            near = padded(x, rule.filter_reach, rule.padding) if near is None else near
            samples = len(kernels) if kernels is not None and kernels.ndim == 5 else 1
            near = near.reshape(-1, samples * rule.channels, *near.shape[2:])  # of a rule per sample, one picture
            y = F.conv2d(near, stencils, groups=samples * rule.channels)
            y = y.reshape(len(x), -1, *x.shape[2:])
            if self.field is not None:
                by_filter = y.unflatten(1, (rule.channels, -1)).unbind(2)
                y = torch.stack(turned(by_filter, self.field, rule.derivatives), 2).flatten(1, 2)
            parts.append(y)
        if rule.maximum_window is not None:
            parts.append(_local_maximum(x, rule.maximum_window, rule.padding))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def update(self, x: Tensor, n: int, near: Tensor | None = None) -> Tensor:
        """Computes what step n adds where cells fire; near as in `perceive`. [B, C, H, W] -> [B, written, H, W]"""
        rule, precision = self.rule, self.precision
        kernels, layers = split(of_step(self.weights, rule, n), rule)
        y = self.perceive(x, kernels, near).flatten(2) if self.picked is None else None
        for (weight, bias), activation in zip(layers, rule.activations, strict=True):
            if y is None:
                kernel = _dense(weight, self.picked, rule) if self.kernel is None else self.kernel
                near = padded(x, rule.filter_reach, rule.padding) if near is None else near
                y = _convolution(bias, kernel, near, precision)
            else:
                y = _product(bias, weight, y, precision)
            y = y.relu_() if activation == ("relu", 0, 1) else activation(y)
        return y.view(len(x), -1, *x.shape[2:])

    def of_firing(self, u: Tensor, mask: Tensor, old: Tensor) -> Tensor:
        """Leaves the cells that do not fire as they are. Multiplied, a number that blew up would become NaN."""
        return torch.where(mask, u, self.zero if self.rule.residual else old) if self.masked else u

    def __call__(self, x: Tensor, n: int, mask: Tensor, state_noise: Tensor | None, update_noise: Tensor | None):
        """Takes step n; all as in `reference.step`. [B, C, H, W] -> [B, C, H, W]."""
        rule = self.rule
        was = None if rule.alive_channel is None or rule.alive_mask == "after" else alive(x, rule)
        old = x[:, rule.frozen :] if rule.frozen else x
        if state_noise is not None:
            old = old + state_noise
            x = torch.cat([x[:, : rule.frozen], old], dim=1) if rule.frozen else old
        u = self.update(x, n)
        u = u if update_noise is None else u + update_noise
        if rule.alive_mask == "update" and was is not None:
            mask = mask & was
        u = self.of_firing(u, mask, old)
        new = old + u if rule.residual else u
        if rule.alive_channel is None or rule.alive_mask == "update":
            living = None
        elif rule.alive_mask == "before":
            living = was
        else:
            living = alive(torch.cat([x[:, : rule.frozen], new], dim=1) if rule.frozen else new, rule)
            living = living if was is None else living & was
        if living is not None:
            new = new * living
        if rule.clamp is not None:
            new = new.clamp(*rule.clamp)
        return torch.cat([x[:, : rule.frozen], new], dim=1) if rule.frozen else new


class _StepsInPlace:
    """Takes the steps of a rollout that keeps no state of them, on one that stays continued on all sides.

    That spares each step a copy of the state: a twentieth of all bytes.

    Args:
        step: That of a rule for which `_in_place` holds.
        last: Number of the last step.
    """

    def __init__(self, step: _Step, last: int):
        self.step, self.last, self.held = step, last, None

    def __call__(self, x: Tensor, n: int, mask: Tensor, *_) -> Tensor:
        """Takes step n; x is the state before the first step, and then what the step before returned."""
        step, frozen = self.step, self.step.rule.frozen
        if self.held is None:
            self.held = HeldTorus(x, step.rule.filter_reach)
        else:
            self.held.continue_again()
        x = self.held.cells
        u = step.of_firing(step.update(x, n, self.held.near), mask, x)
        if n < self.last:
            x[:, frozen:].add_(u)
            return x
        return torch.cat([x[:, :frozen], x[:, frozen:] + u], dim=1) if frozen else x + u


def _in_place(x, weights, rule, frame, options):
    """Says whether a rollout may change states in place: none is kept, and nothing is derived or transformed."""
    tensors = [t for t in (x, frame, *(t for pair in weights for t in pair)) if t is not None]
    if torch._C._are_functorch_transforms_active() or any(options.get(name) is not None for name in ("at", "after")):
        return False
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return False
    plain = rule.residual and rule.alive_channel is None and rule.clamp is None and rule.padding == "circular"
    plain = plain and not (rule.state_noise or rule.update_noise)
    return plain and 1 <= rule.filter_reach <= min(x.shape[2:])


def rollout(
    x: Tensor,
    weights: list[tuple[Tensor, Tensor | None]],
    rule: Rule,
    steps: int,
    *,
    precision: str | None = None,
    frame: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Runs `steps` updates; all as in `reference.rollout`. [B, C, H, W] -> same."""
    weights, dtype = computed(weights, x)
    rate = options.get("fire_rate")
    masked = rule.fire_rate != 1 if rate is None else True
    field = None if frame is None else as_field(frame).to(dtype)
    step = _Step(weights, rule, x.detach().to(dtype), precision or "fp32", masked, field)

    if x.dtype == dtype and _in_place(x, weights, rule, frame, options):
        return run(_StepsInPlace(step, options.get("first_step", 0) + steps - 1), x, rule, steps, **options)

    def take(x, *given):
        return step(x.to(dtype), *given).to(x.dtype)

    return run(take, x, rule, steps, **options)
