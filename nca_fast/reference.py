"""The cellular automaton in plain PyTorch: slow, and the definition of correct.

Every kernel is judged by its distance from this file run in float64 with the same fire masks.
"""

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nca_fast.arguments import checked_state
from nca_fast.fire_masks import drawn_seed, fire_masks
from nca_fast.frames import as_field, turned
from nca_fast.kernel_rule import KernelRule
from nca_fast.normals import normals
from nca_fast.rule import Rule


def beside(size: int, reach: int, padding: str, device: torch.device | None = None) -> Tensor:
    """Says which of `size` rows (or columns) stands in each of the places -reach to size + reach - 1. int64"""
    place = torch.arange(-reach, size + reach, device=device)
    if padding == "circular":
        return place % size
    if padding == "replicate":
        return place.clamp(0, size - 1)
    return size - 1 - (size - 1 - place.abs()).abs()  # mirrored at the outermost cell; size > reach


def extended(x: Tensor, reach: int, padding: str) -> Tensor:
    """Continues a canvas by its own cells. [B, C, H, W] -> [B, C, H + 2 reach, W + 2 reach]."""
    # By index, because F.pad(mode="circular") refuses a reach larger than the canvas.
    rows, columns = (beside(size, reach, padding, x.device) for size in x.shape[2:])
    return x[:, :, rows][:, :, :, columns]


def _pad(x, reach, padding, value=0.0):
    return F.pad(x, (reach,) * 4, value=value) if padding == "zero" else extended(x, reach, padding)


def _local_maximum(x, window, padding):
    """Takes the maximum around each cell; ties go to the first.

    Cells beyond the edges never win, but on a torus: those that reflection and replication put there are inside, too.
    """
    padding = "circular" if padding == "circular" else "zero"
    return F.max_pool2d(_pad(x, window // 2, padding, value=-torch.inf), window, stride=1)


def _learned(x, kernels, padding):
    """Applies learned filters, [L, C, 3, 3] or [B, L, C, 3, 3]. [B, C, H, W] -> [B, L * C, H, W]."""
    around = _pad(x, 1, padding).unfold(2, 3, 1).unfold(3, 3, 1)  # [B, C, H, W, 3, 3]
    own = "b" if kernels.ndim == 5 else ""
    return torch.einsum(f"{own}lcij,bchwij->blchw", kernels, around).flatten(1, 2)


def perceive(x: Tensor, rule: Rule, kernels: Tensor | None = None, field: Tensor | None = None) -> Tensor:
    """Computes what cells perceive, filter by filter: index f * C + c, learned filters and then local maxima last.

    Args:
        x: A state. [B, C, H, W]
        kernels: Of the learned filters, where the rule has some. [L, C, 3, 3] or [B, L, C, 3, 3]
        field: Frames by which derivatives are turned and scaled, [B or 1, 2, H or 1, W or 1], or None.

    Returns:
        [B, rule.inputs, H, W].
    """
    C = x.shape[1]
    parts = []
    for filter in rule.filters:
        stencil = x.new_tensor(filter.kernel).expand(C, 1, filter.size, filter.size)
        parts.append(F.conv2d(_pad(x, filter.size // 2, rule.padding), stencil, groups=C))
    if field is not None:
        parts = turned(parts, field, rule.derivatives)
    if rule.learned_filters:
        parts.append(_learned(x, kernels, rule.padding))
    if rule.maximum_window is not None:
        parts.append(_local_maximum(x, rule.maximum_window, rule.padding))
    return torch.cat(parts, dim=1)


def rounded(t: Tensor, precision: str) -> Tensor:
    """Rounds to what a matrix unit of that precision multiplies; the gradient passes through unchanged."""
    if precision == "fp32":
        return t
    if precision == "tf32":
        bits = t.detach().float().view(torch.int32)
        low = ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)  # to 10 bits, ties to even
    else:
        low = t.detach().to({"fp16": torch.float16, "bf16": torch.bfloat16}[precision])
    return t + (low.to(t.dtype) - t.detach())


def _layer(y, weight, bias, precision):
    """Applies a 1x1 convolution whose weight [out, in] or [B, out, in] may differ from sample to sample."""
    equation = "oi,bihw->bohw" if weight.ndim == 2 else "boi,bihw->bohw"
    u = torch.einsum(equation, rounded(weight, precision), rounded(y, precision))
    return u if bias is None else u + bias.reshape(-1, bias.shape[-1], 1, 1)


def alive(x: Tensor, rule: Rule) -> Tensor:
    """Says which cells are alive by a rule with an `alive_channel`; what `nca_fast.alive` computes faster."""
    alpha = x[:, rule.alive_channel, None]
    return _local_maximum(alpha, 3, "circular" if rule.alive_circular else "zero") > rule.alive_threshold


def step(
    x: Tensor,
    weights,
    rule: Rule,
    mask: Tensor,
    precision: str = "fp32",
    state_noise: Tensor | None = None,
    update_noise: Tensor | None = None,
    field: Tensor | None = None,
) -> Tensor:
    """Takes a step, in the order that `Rule` has. [B, C, H, W] -> [B, C, H, W].

    Args:
        mask: Who fires. bool, [B or 1, 1 or written, H, W]
        state_noise, update_noise: What is added to the written channels and to their updates, or None.
        field: As in `perceive`.
    """
    was = None if rule.alive_channel is None else alive(x, rule)
    if state_noise is not None:
        x = torch.cat([x[:, : rule.frozen], x[:, rule.frozen :] + state_noise], dim=1)
    kernels, layers = split(weights, rule)
    y = perceive(x, rule, kernels, field)
    for (weight, bias), activation in zip(layers, rule.activations, strict=True):
        y = activation(_layer(y, weight, bias, precision))
    u = y if update_noise is None else y + update_noise
    frozen, old = x[:, : rule.frozen], x[:, rule.frozen :]
    if rule.alive_channel is not None and rule.alive_mask == "update":
        mask = mask & was
    new = torch.where(mask, old + u if rule.residual else u, old)
    if rule.alive_channel is not None and rule.alive_mask != "update":
        if rule.alive_mask == "before":
            living = was
        else:
            living = alive(torch.cat([frozen, new], dim=1), rule)
            living = living & was if rule.alive_mask == "both" else living
        new = new * living
    if rule.clamp is not None:
        new = new.clamp(*rule.clamp)
    return torch.cat([frozen, new], dim=1)


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
    """Runs `steps` updates; the arguments are those of `nca_fast.rollout`, unchecked. [B, C, H, W] -> same.

    Computes in float64 when x is float64, else in float32, and rounds the state to x's type after each step. A
    precision of None is "fp32".
    """
    weights, dtype = computed(weights, x)
    field = None if frame is None else as_field(frame).to(dtype)

    def take(x, n, mask, state_noise, update_noise):
        now = of_step(weights, rule, n)
        return step(x.to(dtype), now, rule, mask, precision or "fp32", state_noise, update_noise, field).to(x.dtype)

    return run(take, x, rule, steps, **options)


def computed(weights, x: Tensor) -> tuple[list[tuple[Tensor, Tensor | None]], torch.dtype]:
    """Gives weights in the type that computes, and that type: float64 when x is float64, else float32."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return [(weight.to(dtype), None if bias is None else bias.to(dtype)) for weight, bias in weights], dtype


def of_step(weights, rule: Rule, n: int) -> list[tuple[Tensor, Tensor | None]]:
    """Takes the weights of step n: of tensors with an axis of steps, [T, B or 1, ...], entry n modulo T."""

    def entry(t, own):
        return t if t is None or t.ndim < len(own) + 2 else t[n % len(t)]

    pairs = zip(weights, rule.weight_shapes, strict=True)
    return [(entry(weight, own), entry(bias, of_bias)) for (weight, bias), (own, of_bias) in pairs]


def split(weights, rule: Rule) -> tuple[Tensor | None, list[tuple[Tensor, Tensor | None]]]:
    """Parts the kernels of the learned filters, None where there are none, from the pairs (W, b) of the layers."""
    return (weights[0][0], weights[1:]) if rule.learned_filters else (None, weights)


def run(
    take: Callable[..., Tensor],
    x: Tensor,
    rule: Rule,
    steps: int,
    *,
    seed: int | Tensor | None = None,
    first_step: int = 0,
    origin: tuple[int, int] = (0, 0),
    first_sample: int = 0,
    canvas_height: int | None = None,
    fire_rate: Tensor | None = None,
    noise: float | Tensor = 1.0,
    at: range | None = None,
    after: Callable[..., Tensor] | None = None,
    after_inputs: Sequence[Tensor] = (),
    checkpoint_every: int | None = None,
    bptt_steps: int | None = None,
) -> Tensor:
    """Runs steps, each of which `take` takes; the others as in `rollout`.

    Args:
        take: (state, number of the step, fire mask, noise of the state or None, noise of the update or None) -> state.
    """
    B, _, H, W = x.shape
    rate = rule.fire_rate if fire_rate is None else fire_rate
    seed = drawn_seed(rate, rule.state_noise > 0 or rule.update_noise > 0) if seed is None else seed
    where = (origin, first_sample, canvas_height, x.device)
    lanes = (0,) if "channel" in rule.fire_shared else tuple(range(rule.frozen, rule.channels))
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    factor = noise.to(dtype)[:, None, None, None] if isinstance(noise, Tensor) and noise.ndim else noise

    def drawn(deviation, first, count, of_update):
        if deviation == 0:
            return repeat(None, count)
        numbers = normals(seed, first, count, x.shape, *where, rule.frozen, of_update)
        return (e.to(dtype) * deviation * factor for e in numbers)

    def advance(x, start, count, kept):
        """Takes `count` steps from `start` on; returns the state and, of those that are asked for, the ones between."""
        first = first_step + start
        masks = fire_masks(seed, first, count, B, H, W, rate, *where, rule.fire_shared, lanes)
        noises = (drawn(rule.state_noise, first, count, False), drawn(rule.update_noise, first, count, True))
        for n, mask, *both in zip(range(first, first + count), masks, *noises, strict=True):
            y = take(x, n, mask, *both)
            x = y if after is None else checked_state(after(x, y, n, *after_inputs), y)
            if at is not None and n + 1 - first_step in at:
                kept = (*kept, x)
        return x, *kept

    passed = steps if bptt_steps is None else min(bptt_steps, steps)
    start, kept = steps - passed, ()
    if start:
        with torch.no_grad():
            x, *kept = advance(x, 0, start, ())
    every = checkpoint_every or passed
    for n in range(start, steps, every):
        part = (x, n, min(every, steps - n), ())
        x, *more = advance(*part) if checkpoint_every is None else checkpoint(advance, *part, use_reentrant=False)
        kept = (*kept, *more)
    return x if at is None else torch.stack(kept)


def bytes_per_cell(rule: KernelRule) -> int:
    """Counts the bytes of a cell that a step takes beside its input and its output: perception, hidden units, masks."""
    return 4 * (2 * rule.layers[0][1] + 3 * max(rule.hidden, default=0) + 8 * rule.channels)
