"""Normal numbers for every channel of every cell and step: a pure function, as the fire mask is.

Of the Philox that gives a row its keys for the fire mask, the words k2 and k3 are left. With them channel c of C draws
three words, of lanes 3 c, 3 c + 1, 3 c + 2, or from 3 (C + c) on for the noise of the update (see `fire_mask.hashed`):

    e = (65536 (popcount(w_0) + popcount(w_1) - 32) + (w_2 & 0xFFFF) - (w_2 >> 16)) / (65536 sqrt(16 + 1/6))

An integer below 2**24 times a constant of float32: no logarithm or cosine, which differ from machine to machine, so the
bits are the same in every backend. The ones of 64 bits have a binomial law of variance 16, and the difference of two
halves of a word, triangular, fills the gaps between its steps. Mean 0, variance 1, excess kurtosis -0.03, none beyond
8.2.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from nca_fast.fire_masks import hashed
from nca_fast.integers import checked_draw, checked_integer

UNIT = 1 / (65536 * math.sqrt(16 + 1 / 6))


def normal(
    seed: int | Tensor,
    step: int,
    batch: int,
    channels: int,
    height: int,
    width: int,
    *,
    frozen: int = 0,
    of_update: bool = False,
    origin: tuple[int, int] = (0, 0),
    first_sample: int = 0,
    canvas_height: int | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Computes the normal numbers of a step.

    Args:
        seed, step, batch, height, width, origin, first_sample, canvas_height: As in `nca_fast.fire_mask`.
        channels, frozen: Channels of the state, and how many of them are frozen and have no noise.
        of_update: Whether those of the update are asked for, and not those of the state.
        device: Where they are made; None is the CPU.

    Returns:
        Mean 0 and variance 1. float32, [batch, channels - frozen, height, width]

    Raises:
        TypeError, ValueError: name, rule and value of a number that is out of its range.
    """
    seed, step, batch, height, width, *where = checked_draw(
        seed, step, batch, height, width, origin, first_sample, canvas_height
    )
    channels = checked_integer("channels", channels, 1)
    frozen = checked_integer("frozen", frozen, 0, channels - 1)
    return next(normals(seed, step, 1, (batch, channels, height, width), *where, device, frozen, of_update))


def normals(
    seed: int | Tensor,
    first_step: int,
    steps: int,
    shape: tuple[int, int, int, int],
    origin: tuple[int, int],
    first_sample: int,
    canvas_height: int | None,
    device: torch.device | None,
    frozen: int,
    of_update: bool,
) -> Iterator[Tensor]:
    """Draws the numbers of `normal` for some consecutive steps. shape: [batch, channels, height, width]"""
    batch, channels, height, width = shape
    lanes = tuple(3 * (c + channels * of_update) + i for c in range(frozen, channels) for i in range(3))
    where = (origin, first_sample, canvas_height, device)
    for words in hashed(seed, first_step, steps, batch, height, width, *where, (2, 3), lanes):
        a, b, c = words.unflatten(1, (-1, 3)).unbind(2)
        whole = (_ones(a) + _ones(b) - 32) * 65536 + (c & 0xFFFF) - ((c >> 16) & 0xFFFF)
        yield whole.float() * torch.tensor(UNIT, dtype=torch.float32, device=device)


def _ones(v):
    """Counts the ones among the bits of each int32."""
    v = v - ((v >> 1) & 0x55555555)
    v = (v & 0x33333333) + ((v >> 2) & 0x33333333)
    return ((((v + (v >> 4)) & 0x0F0F0F0F) * 0x01010101) >> 24) & 0xFF
