"""Rollouts without gradients in two buffers that take turns: for canvases that fill the memory.

`rollout` may not touch its input, so it holds three states at once: the input and two that take turns.
"""

import torch
from torch import Tensor

from nca_fast import arguments, backends
from nca_fast.fire_mask import threshold
from nca_fast.nca import NCA


@torch.no_grad()
def advance(
    nca: NCA,
    x: Tensor,
    spare: Tensor,
    steps: int,
    *,
    seed: int = 0,
    first_step: int = 0,
    origin: tuple[int, int] = (0, 0),
    canvas_height: int | None = None,
    fire_rate: Tensor | None = None,
    backend: str | None = None,
    precision: str = "fp32",
) -> tuple[Tensor, Tensor]:
    """The numbers of `nca(x, steps, ...)`, bit for bit. The C++ kernel needs no memory beside the two buffers.

    Args:
        nca: The automaton.
        x: The state; overwritten, but by a single step. [B, C, H, W], contiguous
        spare: A buffer like x; overwritten.
        steps, seed, first_step, origin, canvas_height, fire_rate, backend, precision: As in `nca_fast.rollout`.

    Returns:
        The buffer that holds the result, and the other one.

    Raises:
        TypeError, ValueError: As `nca_fast.rollout`; or spare is not a buffer like x.
    """
    if spare.shape != x.shape or spare.dtype != x.dtype or not (spare.is_contiguous() and x.is_contiguous()):
        raise ValueError(f"spare must be a buffer like x, {list(x.shape)}, but got {list(spare.shape)}.")
    where = {"seed": seed, "origin": origin, "canvas_height": canvas_height, "fire_rate": fire_rate}
    if backends.choose(backend, nca.rule, x, precision) != "cpu":
        how = {"backend": backend, "precision": precision}
        return spare.copy_(nca(x, steps, first_step=first_step, **where, **how)), x
    arguments.check_state(x, nca.rule)
    arguments.check_weights(x, nca.weights, nca.rule)
    arguments.check_numbers(steps, seed, first_step, origin, 0, canvas_height, None, None)
    if fire_rate is not None:
        arguments.check_fire_rate(x, fire_rate)
    kernel, about = backends.kernels("cpu"), backends.about(nca.rule.to_json())
    params = torch.cat([t.float().reshape(-1) for pair in nca.weights for t in pair if t is not None])
    weights = kernel.prepare(params, about, precision)
    fire = threshold(nca.rule.fire_rate if fire_rate is None else fire_rate, x.device)
    place = (seed - 2**64 if seed >= 2**63 else seed, *origin, 0, canvas_height or 2**32)
    for step in range(first_step, first_step + steps):
        kernel.advance(x, weights, fire, about, place, step, spare[None], 1)
        x, spare = spare, x
    return x, spare
