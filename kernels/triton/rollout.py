"""Runs of steps of the Triton kernels: the layout of states, and whether steps are launched one by one or replayed.

Inside a rollout the state is channels-last with the channels padded by zeros to a multiple of four, [B, H, W, C4], so
that a cell's channels are loaded as vectors; `enter` and `leave` convert once at each end.
"""

from contextlib import nullcontext

import torch
from torch import Tensor

from .fire import RowKeys, word
from .graphs import SAVED_STEPS, replayed_advance, replayed_retreat, runs
from .steps import Prepared, backward_step, forward_step, gradients, total

__all__ = ["advance", "enter", "gradients", "leave", "prepare", "retreat", "total"]

_KEY_ROWS = 1 << 20  # rows of the table of row keys: 8 MiB


# --- states -----------------------------------------------------------------------------------------------------------


def enter(x: Tensor) -> Tensor:
    """[B, C, H, W] to the layout inside a rollout, [B, H, W, C4]: always a new tensor."""
    B, C, H, W = x.shape
    state = x.new_zeros(B, H, W, -(-C // 4) * 4) if C % 4 else x.new_empty(B, H, W, C)
    state[..., :C] = x.permute(0, 2, 3, 1)
    return state


def leave(state: Tensor, channels: int) -> Tensor:
    """[B, H, W, C4] to [B, C, H, W], contiguous."""
    return state[..., :channels].permute(0, 3, 1, 2).contiguous()


# --- steps ------------------------------------------------------------------------------------------------------------


def prepare(params: Tensor, about, precision: str) -> Prepared:
    """The weights in the form in which `advance` and `retreat` take them; of use for one rollout."""
    return Prepared(params, about, precision)


def _on_device(x):
    """Triton launches on the current device, which need not be that of x."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _keys(x, place, first_step, steps):
    """A function that gives the row keys of the n-th of some steps, int32 [B, H, 2], from a table of up to 64 steps."""
    block = min(64, steps, max(1, _KEY_ROWS // (x.shape[0] * x.shape[1])))
    keys, made = RowKeys(block, x), None

    def keys_of(n):
        nonlocal made
        if n // block != made:
            made = n // block
            keys.put(place, first_step + made * block)
            keys.make(block)
        return keys.table[n % block]

    return keys_of


def advance(x: Tensor, prepared: Prepared, fire: Tensor, about, place, first_step: int, states: Tensor, every: int):
    """states[j] = x after (j + 1) * every steps.

    Args:
        x: [B, H, W, C4], see `enter`; contiguous, as all tensors here.
        prepared: What `prepare` gave.
        fire: A cell fires when its hash is below: int64, [] or a map [H, W].
        about: What a kernel needs to know of a rule (`backends.About`).
        place: (seed as a signed integer, origin row, origin column, first sample, canvas height).
        first_step: Number of the first step.
        states: Written. [n, B, H, W, C4].
        every: Steps between two states.
    """
    if not len(states):
        return
    with _on_device(x):
        if replayed_advance(x, prepared, fire, about, place, first_step, states, every):
            return
        keys_of = _keys(x, place, first_step, len(states) * every)
        scratch = torch.empty_like(x) if every > 1 else None
        for j in range(len(states)):
            for n in range(every):
                out = scratch if (every - 1 - n) % 2 else states[j]
                forward_step(x, out, prepared, keys_of(j * every + n), fire, word(place[2]))
                x = out


def retreat(
    states: Tensor, grad: Tensor, prepared: Prepared, fire: Tensor, about, place, first_step: int, grad_params: Tensor
) -> Tensor:
    """The gradient of states[0], in the memory of grad or in new memory.

    Args:
        states: Before each of some consecutive steps. [n, B, H, W, C4].
        grad: Gradient of the state after the last of them; overwritten. [B, H, W, C4].
        first_step: Number of the step taken from states[0].
        grad_params: Added to: partial sums from `gradients`.
        The others as in `advance`.
    """
    if not len(states):
        return grad
    with _on_device(grad):
        if replayed_retreat(states, grad, prepared, fire, about, place, first_step, grad_params):
            return grad
        keys_of, scratch = _keys(grad, place, first_step, len(states)), torch.empty_like(grad)
        for start, count in reversed(runs(len(states), SAVED_STEPS)):
            scale = prepared.gradient_scale(grad)
            for n in reversed(range(start, start + count)):
                keys = keys_of(n)
                backward_step(states[n], grad, scratch, grad_params, prepared, scale, keys, fire, word(place[2]))
                grad, scratch = scratch, grad
        return grad
