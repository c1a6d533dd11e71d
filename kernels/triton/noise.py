"""The state with its noise, in Triton: what a step perceives and carries on. Its gradient is that of the state."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .cells import own_cells
from .fire import Step, normal_numbers
from .launch import launch
from .memory import Scratch
from .update import is_written, noise_constant

_CELLS = 64  # of a program


@triton.jit(do_not_specialize=["origin_column"])
def add_state_noise(
    x,
    out,
    keys,
    noise,
    cells,
    H,
    W,
    origin_column,
    C: tl.constexpr,
    GROUP: tl.constexpr,
    FROZEN: tl.constexpr,
    WRITTEN: tl.constexpr,
    NOISE: tl.constexpr,
    WORDS: tl.constexpr,
    BM: tl.constexpr,
):
    """out = x + deviation * factor * normal numbers on the written channels.

    Args:
        x: [B, H, W, C].
        out: Like x, float32.
        cells: H * W.
        GROUP: Channels of a program, a power of two that divides C.
        The others as in `step_fwd`.
    """
    sample, whole, _, row, column, there = own_cells(0, 0, cells, H, W, BM)
    c = tl.program_id(1) * GROUP + tl.arange(0, GROUP)
    column_part = (column + origin_column).to(tl.uint32) * 0x9E3779B9
    key = (keys + (sample * H + row) * WORDS)[:, None]
    e = normal_numbers(column_part, key, 3 * c, NOISE[2]) * NOISE[0] * tl.load(noise + sample * NOISE[1])
    own = (whole + tl.arange(0, BM))[:, None] * C + c[None, :]
    v = tl.load(x + own, mask=there[:, None], other=0.0).to(tl.float32)
    tl.store(out + own, v + tl.where(is_written(c, FROZEN, WRITTEN), e, 0.0), mask=there[:, None])


class StateNoise:
    """The noise of the states of a rollout.

    Args:
        rule: What a kernel needs to know of a rule (`nca_fast.rule.KernelRule`).
        factor: Of the noise, float32 [1] or [B].
        scratch: Of the rollout.
    """

    def __init__(self, rule, factor: Tensor, scratch: Scratch):
        self.factor, self.scratch = factor, scratch
        self.constants = {
            "FROZEN": rule.frozen,
            "WRITTEN": rule.layers[-1][0],
            "NOISE": noise_constant(rule.state_noise, factor),
        }

    def added(self, x: Tensor, step: Step) -> Tensor:
        """Returns the state with its noise, float32; the same memory each time."""
        B, H, W, C = x.shape
        out, group = self.scratch("noisy", x, *x.shape, dtype=torch.float32), 8 if C % 8 == 0 else 4
        launch(
            add_state_noise,
            (B * triton.cdiv(H * W, _CELLS), C // group),
            x,
            out,
            step.keys,
            self.factor,
            H * W,
            H,
            W,
            step.column,
            C=C,
            GROUP=group,
            **self.constants,
            WORDS=step.words,
            BM=_CELLS,
        )
        return out
