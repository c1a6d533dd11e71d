"""The automaton as everybody writes it in PyTorch: the baseline of all speed figures.

Circular padding, one grouped convolution for the filters, two 1x1 convolutions, a fresh random mask, a residual.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nca_fast import NCA


class StockNCA(nn.Module):
    """The rule and weights of an automaton with one hidden layer, in stock operations. One call is one step."""

    def __init__(self, nca: NCA):
        super().__init__()
        rule, (first, last) = nca.rule, nca.layers
        C, n = rule.channels, len(rule.filters)
        self.channels, self.fire_rate = C, rule.fire_rate
        stencils = torch.tensor([f.kernel for f in rule.filters])
        self.register_buffer("stencils", stencils[:, None].repeat(C, 1, 1, 1))  # index c * n + f
        by_channel = first.weight.detach().reshape(-1, n, C).transpose(1, 2).reshape(-1, n * C)
        self.w1, self.b1 = nn.Parameter(by_channel[:, :, None, None].clone()), nn.Parameter(first.bias.detach().clone())
        self.w2 = nn.Parameter(last.weight.detach()[:, :, None, None].clone())

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        y = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), self.stencils, groups=self.channels)
        u = F.conv2d(torch.relu(F.conv2d(y, self.w1, self.b1)), self.w2)
        mask = torch.rand(x.shape[0], 1, x.shape[2], x.shape[3], device=x.device) < self.fire_rate
        return x + u * mask
