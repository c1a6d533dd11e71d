"""A VGG-like network with random weights: the texture features that need no download."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from nca_fast.features.half import halve, in_half
from nca_fast.features.pixels import Normalize, pink_noise
from nca_fast.features.torus import convolved, wrap_pad

# Of numbers of variance 1, over a picture; worst seen 14.
_LARGEST = 15.0


class RandomVGG(nn.Module):
    """Blocks of 3x3 convolutions and ReLU with random weights; the first ReLU of each block is a feature map.

        block 0 sees the normalised pixels, block i > 0 the last output of block i - 1, average-pooled 2x2

    Weights are He-normal. Padding is circular: a texture lives on a torus, and zeros at the border would be a feature
    of it. Each channel is then shifted and scaled once, before its ReLU, to mean 0 and variance 1 over a fixed batch of
    noise with the 1/f spectrum of natural pictures. Without this the maps of low-contrast textures vary less the deeper
    they are (a third of the first map in the third block) and more channels are dead.

    Args:
        widths: channels of each block. (64, 128, 256) is a little sharper at three times the time; a fourth block added
            noise to textures of 96 pixels.
        depth: convolutions per block; VGG has 2 to 4, which looked no better here and takes twice the time.
        seed: the integer that fixes the weights; the global random state is neither read nor changed.
        dtype: what it multiplies: torch.float32, or float16 or bfloat16 for a GPU (see `half`).

    Returns (of the call):
        The normalised pixels [B, 3, H, W], then [B, widths[i], H / 2**i, W / 2**i]; an odd height or width loses its
        last row or column when halved.

    Source: Ustyuzhaninov et al., What does it take to generate natural textures?, 2017; He, Wang and Hopcroft, A
    powerful generative model using random weights for the deep image representation, 2016. The shift and scale are
    ours.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (32, 64, 128),
        depth: int = 1,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        if not widths or min(widths) < 1 or depth < 1:
            raise ValueError(f"widths and depth must be at least 1, but got {widths} and {depth}.")
        generator = torch.Generator().manual_seed(seed)
        self.normalize = Normalize(2 ** (len(widths) - 1))
        channels = 3
        self.blocks = nn.ModuleList()
        for width in widths:
            block = nn.ModuleList()
            for _ in range(depth):
                # meta first: the default initialisation would draw from the global random state.
                convolution = nn.Conv2d(channels, width, 3, device="meta").to_empty(device="cpu")
                weight = torch.randn(width, channels, 3, 3, generator=generator) * (2 / (9 * channels)) ** 0.5
                convolution.load_state_dict({"weight": weight, "bias": torch.zeros(width)})
                block.append(convolution)
                channels = width
            self.blocks.append(block)
        self.requires_grad_(False)
        self._calibrate(generator)
        self.to(memory_format=torch.channels_last)
        self.eval()
        self.factors = []
        if dtype != torch.float32:
            convolutions = [convolution for block in self.blocks for convolution in block]
            self.factors = halve(convolutions, [_LARGEST] * len(convolutions), dtype)[::depth]

    def forward(self, rgb: torch.Tensor) -> list[torch.Tensor]:
        x = self.normalize(rgb)
        return [x, *in_half(self._maps, x, self.blocks[0][0].weight.dtype, self.factors)]

    def _maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for index, block in enumerate(self.blocks):
            if index:
                x = F.avg_pool2d(x, 2)
            for layer, convolution in enumerate(block):
                x = convolved(x, convolution)
                if layer == 0:
                    maps.append(x)
        return maps

    def _calibrate(self, generator: torch.Generator) -> None:
        x = pink_noise(generator, 4, 128)
        for index, block in enumerate(self.blocks):
            if index:
                x = F.avg_pool2d(x, 2)
            for convolution in block:
                response = F.conv2d(wrap_pad(x, 1), convolution.weight)
                std, mean = torch.std_mean(response, dim=(0, 2, 3))
                convolution.weight /= std.reshape(-1, 1, 1, 1)
                convolution.bias.copy_(-mean / std)
                x = F.relu((response - mean.reshape(1, -1, 1, 1)) / std.reshape(1, -1, 1, 1))
