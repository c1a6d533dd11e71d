"""A network whose filters are learned from the picture itself: texture features that need no download."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nca_fast.features.half import halve, in_half
from nca_fast.features.pixels import Normalize
from nca_fast.features.torus import convolved

_PIECES = 20_000  # pieces of a map, at most, of which its filters are learned
_ROUNDS = 12  # of k-means
_FLOOR = 1e-2  # of the largest variance in any direction: what varies less is hardly made stronger by whitening
_NOISE = 1e-2  # standard deviation of what is added to pieces, so that a flat picture has filters, too
_FAINT = 1e-2  # of the variance of all colours: principal components that vary less are not made equal to the others
_LARGEST = 15.0  # of numbers of variance 1, over a picture


class Dictionary(nn.Module):
    """Blocks of convolutions and ReLU, whose filters are the typical pieces of one picture.

        block 0 sees the normalised pixels, block i > 0 the output of block i - 1, average-pooled 2x2

    The filters of a block are the centres that spherical k-means finds among pieces of its input, after these were
    whitened. Each channel is then shifted and scaled to mean 0 and variance 1 over the picture, before its ReLU. A
    random network answers to everything a little; this one answers to what the picture consists of, such as its edges
    and corners, so that few statistics of its maps say where they are missing. But it is blind to what the picture has
    nothing of, such as checkerboards of single pixels; those the random filters of one more map see.

    Padding is circular, as in `RandomVGG`; pieces are cut from the inside of the picture, which need not be a torus.

    Args:
        picture: What is learned from, on the CPU. [3, h, w] in [0, 1], each side at least 16
        widths: Channels of each block; fewer where the picture has fewer pieces.
        sizes: Rows and columns of the filters of each block, odd.
        random: Channels of the map of random 3x3 filters.
        seed: Fixes where k-means begins, and the random filters.
        dtype: What it multiplies: torch.float32, or float16 or bfloat16 for a GPU (see `half`).
        even_hues: The random filters see colours whose principal components vary alike: wrong hues count as much as
            wrong light.

    Returns (of the call):
        The normalised pixels [B, 3, H, W]; [B, random, H, W]; then [B, widths[i], H / 2**i, W / 2**i].

    Source: Coates and Ng, Learning feature representations with k-means, 2012. That statistics of such maps make a
    texture is Gatys et al. 2015.
    """

    def __init__(
        self,
        picture: Tensor,
        widths: tuple[int, ...] = (32, 64, 128),
        sizes: tuple[int, ...] = (5, 3, 3),
        random: int = 32,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        even_hues: bool = False,
    ):
        super().__init__()
        self.normalize = Normalize(2 ** (len(widths) - 1) * (sizes[-1] // 2))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            x = self.normalize(picture[None])
            # Random filters answer within a picture as strongly as they do to what it lacks.
            drawn = torch.randn(random, 3, 3, 3, generator=generator) * (2 / 27) ** 0.5
            if even_hues:
                drawn = torch.einsum("oihw,ij->ojhw", drawn, _evened(x))
            self.random = _convolution(drawn, None)
            self.blocks = nn.ModuleList()
            for index, (width, size) in enumerate(zip(widths, sizes, strict=True)):
                if index:
                    x = F.avg_pool2d(x, 2)
                block = _learned(x, width, size, generator)
                self.blocks.append(block)
                x = block(F.pad(x, (size // 2,) * 4, mode="replicate")).relu_()
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)
        self.eval()
        self.factors = []
        if dtype != torch.float32:
            self.factors = halve([self.random], [_LARGEST], dtype)
            self.factors += halve(list(self.blocks), [_LARGEST] * len(self.blocks), dtype)

    def forward(self, rgb: Tensor) -> list[Tensor]:
        x = self.normalize(rgb)
        return [x, *in_half(self._maps, x, self.random.weight.dtype, self.factors)]

    def _maps(self, x: Tensor) -> list[Tensor]:
        maps = [convolved(x, self.random)]
        for index, block in enumerate(self.blocks):
            if index:
                x = F.avg_pool2d(x, 2)
            x = convolved(x, block)
            maps.append(x)
        return maps


def _convolution(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """Makes a convolution of given numbers; PyTorch's own would draw from the global random state."""
    out, channels, size, _ = weight.shape
    convolution = nn.Conv2d(channels, out, size, device="meta").to_empty(device="cpu")
    convolution.load_state_dict({"weight": weight, "bias": torch.zeros(out) if bias is None else bias})
    return convolution


def _evened(x: Tensor) -> Tensor:
    """The matrix [3, 3] that brings the principal components of colours [1, 3, h, w] to the variance of the strongest
    and makes none more than ten times as strong."""
    spread = torch.cov(x[0].flatten(1).double())
    faint = _FAINT * spread.trace().clamp(min=_FAINT)  # of a flat picture, too, so that it can be decomposed
    values, vectors = torch.linalg.eigh(spread + faint * torch.eye(3, dtype=torch.float64))
    return ((vectors * (values[-1] / values).sqrt()) @ vectors.T).float()


def _learned(x: Tensor, width: int, size: int, generator: torch.Generator) -> nn.Conv2d:
    """Makes the convolution whose filters are the typical pieces of a map x [1, C, h, w]."""
    pieces = F.unfold(x, size)[0].T  # [n, C * size * size]
    count = min(len(pieces), _PIECES)
    pieces = pieces[torch.randperm(len(pieces), generator=generator)[:count]]
    pieces = pieces + _NOISE * torch.randn(pieces.shape, generator=generator)
    centred = (pieces - pieces.mean(0)).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred / count)
    whitening = (vectors * (values.clamp(min=0) + _FLOOR * values[-1]).rsqrt()).float()
    found = _centres(F.normalize(centred.float() @ whitening, dim=1), min(width, count), generator)
    filters = found @ whitening.T
    deviation, mean = torch.std_mean(pieces @ filters.T, dim=0, correction=0)
    deviation = deviation.clamp(min=1e-6)
    weight = (filters / deviation[:, None]).reshape(len(filters), x.shape[1], size, size)
    return _convolution(weight, -mean / deviation)


def _centres(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Finds centres among directions by spherical k-means, which begins at some of them. [n, d] -> [count, d]"""

    def some(number: int) -> Tensor:
        return points[torch.randperm(len(points), generator=generator)[:number]]

    centres = some(count)
    for _ in range(_ROUNDS):
        nearness, nearest = (points @ centres.T).max(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points * nearness[:, None])
        lengths = sums.norm(dim=1)
        empty = lengths < 1e-6
        sums[empty] = some(int(empty.sum()))
        centres = F.normalize(sums, dim=1)
    return centres
