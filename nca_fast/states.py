"""What states begin with, and what they look like."""

import torch
from torch import Tensor

from nca_fast.rule import Rule


def put_cell(x: Tensor, alive_channel: int, row: int, column: int) -> Tensor:
    """Puts a living cell into states [..., C, H, W]: its channels from alpha on become 1. Changes and returns x."""
    x[..., alive_channel:, row, column] = 1
    return x


def put_image(x: Tensor, image: Tensor, rule: Rule, rgb_channel: int) -> Tensor:
    """Puts pictures [..., 3, H, W] in [0, 1], centred on zero, into the frozen and the RGB channels of states.

    Changes and returns x, [..., C, H, W].
    """
    centred = image - 0.5
    x[..., : rule.frozen, :, :] = centred[..., : rule.frozen, :, :]
    x[..., rgb_channel : rgb_channel + 3, :, :] = centred
    return x


def over_white(rgb: Tensor, alpha: Tensor) -> Tensor:
    """What colours that are multiplied by alpha look like on white paper: 1 - alpha + RGB, alpha cut to [0, 1].

    Source: `to_rgb` and `to_alpha` of the notebook of Mordvintsev et al., "Growing Neural Cellular Automata" (2020). A
    cell with alpha 1.2 would else darken its colours by 0.2. VAE-NCA's code cuts what it reads too.
    """
    return 1 - alpha.clamp(0, 1) + rgb


def read_living(x: Tensor, rule: Rule, rgb_channel: int = 0) -> Tensor:
    """What states of an automaton that grows from a cell look like: RGB over white, or alpha as grey where it is no
    later channel than RGB. [B, C, H, W] -> [B, 3, H, W], not clamped"""
    alpha = x[:, rule.alive_channel, None]
    if rule.alive_channel < rgb_channel + 3:
        return alpha.expand(-1, 3, -1, -1)
    return over_white(x[:, rgb_channel : rgb_channel + 3], alpha)


def scaled_to_unit(x: Tensor) -> Tensor:
    """Noise whose channels span [0, 1] in every cell; changes x. [..., C, H, W] -> same. A single channel becomes 0."""
    x -= x.amin(-3, keepdim=True)
    x /= x.amax(-3, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)  # a single channel has no spread to scale by
    return x
