import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from nca_fast.media.structure import is_flat, period
from nca_fast.systems.texture import Texture, TextureConfig, TextureSources


def waves(length, height=96, width=128):
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    wave = 0.5 + 0.25 * torch.sin(2 * math.pi * y / length) + 0.25 * torch.sin(2 * math.pi * x / length)
    return wave.expand(3, -1, -1).contiguous()


def dots(count=160, side=128, radius=5):
    """Discs of one size anywhere on the torus."""
    generator = torch.Generator().manual_seed(0)
    place = torch.arange(side)
    found = torch.zeros(side, side)
    for y, x in (torch.rand(count, 2, generator=generator) * side).tolist():
        down, across = ((place - centre + side / 2) % side - side / 2 for centre in (y, x))
        found[torch.hypot(down[:, None], across[None]) < radius] = 1
    return found.expand(3, -1, -1).contiguous()


@pytest.mark.parametrize("length", [12, 20, 32])
def test_the_period_of_waves(length):
    # Averaged over all directions the first minimum is that of a Bessel function, at 0.61 of the length.
    assert period(waves(length)) == pytest.approx(1.22 * length, rel=0.15)


def test_dots_are_about_as_far_apart_as_they_are_wide():
    assert 15 < period(dots()) < 30


def test_a_larger_picture_of_the_same_has_a_larger_period():
    small = waves(12, 96, 96)
    large = F.interpolate(small[None], scale_factor=8, mode="bicubic")[0]  # 768 pixels: it is shrunk on the way
    assert period(large) == pytest.approx(8 * period(small), rel=0.15)


@pytest.mark.parametrize(
    "picture",
    [torch.full((3, 32, 32), 0.5), torch.linspace(0, 1, 40).expand(3, 32, 40), torch.rand(3, 1, 1)],
    ids=["flat", "ramp", "a pixel"],
)
def test_what_repeats_nothing_has_no_period(picture):
    assert period(picture) is None


def test_a_single_colour_is_flat_even_as_a_jpeg():
    flat = torch.tensor([0.8, 0.1, 0.2])[:, None, None].expand(3, 32, 32)
    assert is_flat(flat) and is_flat(flat + 0.003 * torch.randn(1, 32, 32)) and not is_flat(torch.rand(3, 32, 32))
    lines = Texture(TextureConfig(image_size=16).resolved(), TextureSources(flat), None, Path("x")).beginning()
    assert "it has a single colour, and there is nothing to learn but that" in lines[0]
