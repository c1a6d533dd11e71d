"""The automaton as everybody writes it in PyTorch: the baseline of all speed figures.

Circular padding, one grouped convolution for the filters, 1x1 convolutions, a fresh random mask, a residual.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nca_fast.nca import NCA
from nca_fast.rule import Rule


class StockNCA(nn.Module):
    """The rule and weights of an automaton with 3x3 filters, in stock operations. One call is one step."""

    def __init__(self, nca: NCA):
        super().__init__()
        rule = nca.rule
        plain = Rule(rule.channels, rule.hidden, rule.filters, fire_rate=rule.fire_rate, frozen=rule.frozen)
        if replace(plain, hidden_bias=rule.hidden_bias, output_bias=rule.output_bias) != rule or rule.filter_reach > 1:
            raise ValueError(
                "stock code must have a rule without extras (padding, masks, activations) and with 3x3 filters, as the "
                "presets texture, clip and style have it, but got another one: leave it out."
            )
        C, n = rule.channels, len(rule.filters)
        self.channels, self.frozen, self.fire_rate = C, rule.frozen, rule.fire_rate
        stencils = torch.tensor([f.kernel for f in rule.filters])
        self.register_buffer("stencils", stencils[:, None].repeat(C, 1, 1, 1))  # index c * n + f
        first, *others = [layer.weight.detach() for layer in nca.layers]
        by_channel = first.reshape(-1, n, C).transpose(1, 2).reshape(-1, n * C)
        weights = [nn.Parameter(weight[:, :, None, None].clone()) for weight in (by_channel, *others)]
        biases = [None if layer.bias is None else nn.Parameter(layer.bias.detach().clone()) for layer in nca.layers]
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        y = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), self.stencils, groups=self.channels)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            y = torch.relu(F.conv2d(y, weight, bias))
        u = F.conv2d(y, self.weights[-1], self.biases[-1])
        if self.fire_rate < 1:
            u = u * (torch.rand(x.shape[0], 1, x.shape[2], x.shape[3], device=x.device) < self.fire_rate)
        return torch.cat([x[:, : self.frozen], x[:, self.frozen :] + u], 1) if self.frozen else x + u
