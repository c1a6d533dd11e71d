"""The cellular automaton in plain PyTorch: slow, and the definition of correct.

Every kernel is judged by its distance from this file run in float64 with the same fire masks.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nca_fast.fire_masks import drawn_seed, fire_masks
from nca_fast.rule import KernelRule, Rule


def wrapped(x: Tensor, reach: int) -> Tensor:
    """Continues a torus by so many rows and columns on each side. [B, C, H, W] -> [B, C, H + 2 reach, W + 2 reach]."""
    # By index, because F.pad(mode="circular") refuses a reach larger than the canvas.
    rows = torch.arange(-reach, x.shape[2] + reach, device=x.device) % x.shape[2]
    columns = torch.arange(-reach, x.shape[3] + reach, device=x.device) % x.shape[3]
    return x[:, :, rows][:, :, :, columns]


def _pad(x, reach, padding, value=0.0):
    return F.pad(x, (reach,) * 4, value=value) if padding == "zero" else wrapped(x, reach)


def _local_maximum(x, window, padding):
    """Takes the maximum around each cell; cells outside a zero-padded canvas never win; ties go to the first."""
    return F.max_pool2d(_pad(x, window // 2, padding, value=-torch.inf), window, stride=1)


def perceive(x: Tensor, rule: Rule) -> Tensor:
    """Computes what cells perceive. [B, C, H, W] -> [B, rule.inputs, H, W], index f * C + c, local maxima last."""
    C = x.shape[1]
    parts = []
    for filter in rule.filters:
        stencil = x.new_tensor(filter.kernel).expand(C, 1, filter.size, filter.size)
        parts.append(F.conv2d(_pad(x, filter.size // 2, rule.padding), stencil, groups=C))
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


def step(x: Tensor, weights, rule: Rule, mask: Tensor, precision: str = "fp32") -> Tensor:
    """Updates the cells in `mask` [B, 1, H, W]. [B, C, H, W] -> [B, C, H, W]."""
    y = perceive(x, rule)
    for weight, bias in weights[:-1]:
        y = torch.relu(_layer(y, weight, bias, precision))
    u = _layer(y, *weights[-1], precision)
    frozen, old = x[:, : rule.frozen], x[:, rule.frozen :]
    new = torch.where(mask, old + u, old)
    after = torch.cat([frozen, new], dim=1)
    if rule.alive_channel is None:
        return after

    def alive(state):
        alpha = state[:, rule.alive_channel, None]
        return _local_maximum(alpha, 3, rule.padding) > rule.alive_threshold

    return torch.cat([frozen, new * (alive(x) & alive(after))], dim=1)


def rollout(
    x: Tensor,
    weights: list[tuple[Tensor, Tensor | None]],
    rule: Rule,
    steps: int,
    *,
    seed: int | Tensor | None = None,
    first_step: int = 0,
    origin: tuple[int, int] = (0, 0),
    first_sample: int = 0,
    canvas_height: int | None = None,
    fire_rate: Tensor | None = None,
    precision: str | None = None,
    checkpoint_every: int | None = None,
    bptt_steps: int | None = None,
) -> Tensor:
    """Runs `steps` updates; the arguments are those of `nca_fast.rollout`, unchecked. [B, C, H, W] -> same.

    Computes in float64 when x is float64, else in float32, and rounds the state to x's type after each step. A
    precision of None is "fp32".
    """
    weights, dtype = computed(weights, x)

    def take(x, mask):
        return step(x.to(dtype), weights, rule, mask, precision or "fp32").to(x.dtype)

    where = (seed, first_step, origin, first_sample, canvas_height, rule.fire_rate if fire_rate is None else fire_rate)
    return run(take, x, steps, *where, checkpoint_every, bptt_steps)


def computed(weights, x: Tensor) -> tuple[list[tuple[Tensor, Tensor | None]], torch.dtype]:
    """Gives weights in the type that computes, and that type: float64 when x is float64, else float32."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return [(weight.to(dtype), None if bias is None else bias.to(dtype)) for weight, bias in weights], dtype


def run(
    take: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    steps: int,
    seed: int | Tensor | None,
    first_step: int,
    origin: tuple[int, int],
    first_sample: int,
    canvas_height: int | None,
    fire_rate: float | Tensor,
    checkpoint_every: int | None,
    bptt_steps: int | None,
) -> Tensor:
    """Runs steps, each of which `take` takes, given a state and a fire mask; the others as in `rollout`."""
    B, _, H, W = x.shape
    seed = drawn_seed(fire_rate) if seed is None else seed

    def advance(x, start, count):
        where = (fire_rate, origin, first_sample, canvas_height, x.device)
        for mask in fire_masks(seed, first_step + start, count, B, H, W, *where):
            x = take(x, mask)
        return x

    if bptt_steps is not None and bptt_steps < steps:
        with torch.no_grad():
            x = advance(x, 0, steps - bptt_steps)
        start = steps - bptt_steps
    else:
        start = 0
    if checkpoint_every is None:
        return advance(x, start, steps - start)
    for n in range(start, steps, checkpoint_every):
        x = checkpoint(advance, x, n, min(checkpoint_every, steps - n), use_reentrant=False)
    return x


def bytes_per_cell(rule: KernelRule) -> int:
    """Counts the bytes of a cell that a step takes beside its input and its output: perception, hidden units, masks."""
    return 4 * (2 * rule.layers[0][1] + 3 * max(rule.hidden) + 8 * rule.channels)
