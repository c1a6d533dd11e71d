"""What published automata are written with, each as its authors define a step and as one call of `rollout`."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

import nca_fast

SEED = 11
IDENTITY = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=torch.float64)
SOBEL = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=torch.float64)
LAPLACIAN = torch.tensor([[1.0, 2, 1], [2, -12, 2], [1, 2, 1]], dtype=torch.float64)
GROWING = torch.stack([IDENTITY, SOBEL / 8, SOBEL.T / 8])
TEXTURE = torch.stack([IDENTITY, SOBEL, SOBEL.T, LAPLACIAN])


class Draws:
    """The fire masks and normal numbers of a rule for states of a shape, so that both sides have the same ones."""

    def __init__(self, rule, shape, seed=SEED):
        self.rule, (self.batch, self.channels, *self.size), self.seed = rule, shape, seed

    def mask(self, step):
        """Who fires. bool [B, 1 or written, H, W]"""
        rule, where = self.rule, (self.seed, step, self.batch, *self.size)
        shared = {"shared": rule.fire_shared, "channels": self.channels, "frozen": rule.frozen}
        return nca_fast.fire_mask(*where, rule.fire_rate, **shared)

    def normal(self, step, of_update=False):
        """Normal numbers of the written channels. [B, written, H, W]"""
        where = (self.seed, step, self.batch, self.channels, *self.size)
        return nca_fast.normal(*where, frozen=self.rule.frozen, of_update=of_update)


def depthwise(x, kernels, mode):
    """Fixed filters [F, k, k] of every channel, channel by channel: index c * F + f, as torch's groups have it."""
    C, r = x.shape[1], kernels.shape[-1] // 2
    x = F.pad(x, [r] * 4) if mode == "zero" else F.pad(x, [r] * 4, mode)
    return F.conv2d(x, kernels.to(x).repeat(C, 1, 1)[:, None], groups=C)


def filterwise(weight, filters):
    """The columns of W1 from c * F + f to f * C + c."""
    return weight.unflatten(1, (-1, filters)).transpose(1, 2).flatten(1)


def shifts(size):
    """One-hot filters, by which any linear perception of that size is a matrix product."""
    return tuple(
        [[float((i, j) == (r, c)) for c in range(size)] for r in range(size)] for i in range(size) for j in range(size)
    )


def folded(weight, kernels):
    """W1 over perceptions whose kernels are [P, C, k, k], as W1 over the shifts. [H, P] -> [H, k * k * C]"""
    return torch.einsum("hp,pcij->hijc", weight, kernels).flatten(1)


def depthwise_kernels(weight, C):
    """The weight [F * C, 1, 3, 3] of a convolution with C groups as kernels of learned filters, [F, C, 3, 3]."""
    return weight.unflatten(0, (C, -1))[:, :, 0].transpose(0, 1)


def identity_kernels(C, size=3):
    return F.pad(torch.eye(C)[:, :, None, None], [size // 2] * 4)


def spread(kernels, C):
    """The weight [P, 1, k, k] of a convolution with C groups as that of a dense one, [P, C, k, k]."""
    owner = torch.arange(len(kernels)) // (len(kernels) // C)
    return kernels * F.one_hot(owner, C)[:, :, None, None]


def pool(x, wraps=False):
    """Their alive masks: the alpha channel's maximum, [B, 1, H, W] -> bool."""
    return F.max_pool2d(F.pad(x, [1] * 4, "circular"), 3, 1) > 0.1 if wraps else F.max_pool2d(x, 3, 1, 1) > 0.1


def one(conv):
    """(W, b) of a 1x1 convolution."""
    return conv.weight[:, :, 0, 0], conv.bias


class System(nn.Module):
    """A published automaton: `theirs(x, draws)` by their formulas, `ours(x)` by a rollout; `start(x)` from a state."""

    steps, backend, checkpoint_every, differentiable = 5, "reference", None, True
    size, width = (9, 11), 24  # of the canvas; hidden units where the constructor does not ask

    def start(self, x):
        return x

    def draws(self, x):
        return Draws(self.rule, x.shape)

    def roll(self, x, weights, **more):
        how = {"seed": SEED, "backend": self.backend, "checkpoint_every": self.checkpoint_every}
        return nca_fast.rollout(x, weights, self.rule, self.steps, **how, **more)


def network(*widths, last_bias=True):
    layers = [nn.Conv2d(a, b, 1) for a, b in itertools.pairwise(widths)]
    if not last_bias:
        layers[-1] = nn.Conv2d(widths[-2], widths[-1], 1, bias=False)
    return nn.ModuleList(layers)
