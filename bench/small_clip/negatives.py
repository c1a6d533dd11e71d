"""Pictures that a CLIP model likes too much: what it must learn to tell from real ones, or it misguides.

An optimiser that follows a model trained on drawings alone finds pictures that fit the words no person would use for
them: stripes with coloured fringes that cancel out where the model's first layers average. So such pictures are made
while it trains, with the model as it is, and it learns that the drawing fits the words better (as energy-based models
learn from their own samples: Du and Mordatch, Implicit generation and modeling with energy-based models, 2019).
"""

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.small_clip import captions as patterns
from bench.small_clip import drawings, zero_shot
from bench.small_clip.kinds import KINDS

KEPT = 192  # pictures that are being dreamt
OLDEST = 60  # steps of a dream after which another one begins
FORGOTTEN = 0.04  # share of the dreams that end earlier, each time
SHAPELESS = (  # kinds that are little more than their spectrum, or could pass for what has it
    *("plain", "stripes", "spots", "maze", "zebra", "clouds", "noise", "wood", "denim", "sand", "granite", "rust"),
    *("camouflage", "gradient", "rainbow", "cow", "grass", "moss", "bark", "fire"),
)
SHAPED = frozenset(KINDS) - frozenset(SHAPELESS)
CHANCE = 0.7  # of a dream to begin with noise; else it begins with a faint drawing of something else


class Dreams:
    """Pictures that are moved, a little each time, to where the model finds that they fit their captions better.

    Args:
        draw, generator: Decide all.
    """

    def __init__(self, draw: random.Random, generator: torch.Generator):
        self.draw, self.generator = draw, generator
        self.pictures = torch.empty(KEPT, 3, drawings.SIZE, drawings.SIZE)
        self.compositions: list[patterns.Composition] = [None] * KEPT
        self.captions = [""] * KEPT
        self.ages = [0] * KEPT
        for index in range(KEPT):
            self._begin(index)

    def sample(self, count: int) -> list[int]:
        """Numbers of some dreams."""
        return torch.randperm(KEPT, generator=self.generator)[:count].tolist()

    def go_on(self, indices: Sequence[int], vectors: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Moves dreams by two steps.

        Args:
            indices: Which.
            vectors: Of their captions, of length 1. [N, D]
            encode: Pictures -> vectors of length 1.

        Returns:
            What they are now. [N, 3, SIZE, SIZE] in [0, 1]
        """
        pictures = self.pictures[indices]
        for _ in range(2):
            shift = self.draw.randrange(drawings.SIZE), self.draw.randrange(drawings.SIZE)
            pictures = pictures.roll(shift, (2, 3)).requires_grad_()
            noise = 0.05 * torch.randn(pictures.shape, generator=self.generator)
            (slope,) = torch.autograd.grad((encode(pictures + noise) * vectors).sum(), pictures)
            # Automata are smoother than pixels; with several scales of steps all kinds of tricks are found.
            slope = _blurred(slope, self.draw.choice((0, 1, 1, 2, 3)))
            slope = slope / slope.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)
            size = 0.01 + 0.03 * torch.rand(len(pictures), 1, 1, 1, generator=self.generator)
            pictures = (pictures + size * slope).detach().clamp(-0.05, 1.05)
        self.pictures[indices] = pictures
        for index in indices:
            self.ages[index] += 2
            if self.ages[index] > OLDEST or self.draw.random() < FORGOTTEN:
                self._begin(index)
        return pictures.clamp(0, 1)

    def _begin(self, index: int) -> None:
        what = zero_shot.compositions(1, self.draw)[0]
        while what.kind == "noise":  # any picture may be noise
            what = zero_shot.compositions(1, self.draw)[0]
        self.compositions[index] = what
        self.captions[index] = patterns.caption(what, self.draw, complete=self.draw.random() < 0.4)
        self.ages[index] = 0
        if self.draw.random() < CHANCE:
            noise = torch.randn(1, 3, drawings.SIZE, drawings.SIZE, generator=self.generator)
            noise = _blurred(noise, self.draw.choice((0, 1, 1, 2, 3)))[0]
            colour = 0.2 + 0.6 * torch.rand(3, 1, 1, generator=self.generator)
            self.pictures[index] = colour + noise / noise.std() * self.draw.uniform(0.02, 0.25)
        else:
            other = zero_shot.compositions(1, self.draw)
            self.pictures[index] = 0.25 + 0.5 * drawings.render(other, self.generator)[0].clamp(0, 1)


def unshaped(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures of the same spectrum and other phases: bricks become lines that fork, of their colours and period.

    [N, 3, H, W] in [0, 1] -> same.
    """
    spectrum = torch.fft.rfft2(pictures)
    noise = torch.fft.rfft2(torch.randn(len(pictures), 1, *pictures.shape[2:], generator=generator))
    turned = spectrum * noise / noise.abs().clamp(min=1e-9)
    turned[..., 0, 0] = spectrum[..., 0, 0]
    return torch.fft.irfft2(turned, s=pictures.shape[2:]).clamp(0, 1)


def miscoloured(pictures: Tensor, draw: random.Random, generator: torch.Generator) -> Tensor:
    """Pictures with colours that their captions do not name: channels apart, coloured edges, or coloured clouds.

    [N, 3, H, W] in [0, 1] -> same.
    """
    return torch.stack([_miscoloured(picture, draw, generator) for picture in pictures]).clamp(0, 1)


def _miscoloured(picture: Tensor, draw: random.Random, generator: torch.Generator) -> Tensor:
    way = draw.random()
    if way < 0.35:
        shifts = [(draw.randint(-2, 2), draw.randint(-2, 2)) for _ in range(3)]
        shifts[draw.randint(0, 2)] = draw.choice([(1, 1), (2, 0), (0, 2), (-1, 2), (2, -1), (-2, 1), (3, 0), (0, 3)])
        return torch.stack([channel.roll(shift, (0, 1)) for channel, shift in zip(picture, shifts, strict=True)])
    if way < 0.75:
        grey = picture.mean(0)
        if draw.random() < 0.3:
            edges = _blurred(grey[None, None], 2)[0, 0] - grey
        else:
            rows, columns = draw.choice([(1, 0), (0, 1), (1, 1), (1, -1), (2, 1), (1, 2), (2, -1)])
            edges = grey.roll((rows, columns), (0, 1)) - grey.roll((-rows, -columns), (0, 1))
        colour = torch.randn(3, 1, 1, generator=generator)
        colour = F.normalize(colour - colour.mean(), dim=0)
        return picture + draw.uniform(0.1, 0.3) * colour * edges / edges.std().clamp(min=0.02)
    noise = torch.randn(1, *picture.shape, generator=generator)
    clouds = _blurred(noise - noise.mean(1, keepdim=True), draw.choice((1, 2, 4, 8, 14)))[0]
    return picture + draw.uniform(0.1, 0.25) * clouds / clouds.std()


def _blurred(x: Tensor, times: int) -> Tensor:
    """Averages of 3 x 3 pixels of a torus, of averages."""
    for _ in range(times):
        x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="circular"), 3, 1)
    return x
