"""What guides a style: the map to its colours, squares seen from afar, and how wide its strokes are."""

import math

import pytest
import torch

from nca_fast.losses.color import color_map
from nca_fast.losses.content import guide_distance
from nca_fast.media.strokes import size_for_strokes, stroke_width


def normal(count, matrix, mean, seed):
    drawn = torch.randn(3, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.tensor(matrix, dtype=torch.float64) @ drawn + torch.tensor(mean, dtype=torch.float64)[:, None]


def test_colors_are_brought_to_mean_and_covariance_of_others():
    pixels = normal(4000, [[0.2, 0, 0], [0.1, 0.1, 0], [0, 0.05, 0.15]], [0.5, 0.4, 0.3], 0)
    wanted = normal(3000, [[0.1, 0, 0.1], [0, 0.2, 0], [0.1, 0, 0.2]], [0.2, 0.6, 0.5], 1)
    matrix, shift = color_map(pixels, wanted)
    assert matrix.dtype == shift.dtype == torch.float32
    mapped = matrix.double() @ pixels + shift.double()[:, None]
    assert torch.allclose(mapped.mean(1), wanted.mean(1), atol=1e-6)  # float32; worst seen 3e-8
    assert torch.allclose(
        torch.cov(mapped), torch.cov(wanted), atol=1e-3
    )  # of 0.05; the grey variance; worst seen 4e-4
    assert torch.allclose(matrix, matrix.T, atol=1e-6) and torch.linalg.eigvalsh(matrix).min() > 0  # no turn, no flip


def test_grey_pictures_and_flat_styles_have_maps():
    grey = torch.rand(1, 500, generator=torch.Generator().manual_seed(0)).expand(3, -1)
    flat = torch.tensor([0.9, 0.2, 0.1])[:, None].expand(3, 40)
    for pixels, wanted in ((grey, normal(400, [[0.1, 0, 0], [0, 0.1, 0], [0, 0, 0.1]], [0.5] * 3, 0)), (grey, flat)):
        matrix, shift = color_map(pixels, wanted)
        mapped = matrix @ pixels + shift[:, None]
        assert torch.allclose(mapped.mean(1), wanted.float().mean(1), atol=1e-5)
        assert matrix.abs().max() < 40  # no noise is blown up: at most a style's deviation over that of grey
    assert torch.allclose(matrix @ grey + shift[:, None], flat[:, :1].expand(3, 500), atol=0.05)
    same, nothing = color_map(grey, grey)
    assert torch.allclose(same, torch.eye(3), atol=1e-5) and nothing.abs().max() < 1e-5


def test_the_guide_sees_squares_from_afar():
    wanted = torch.rand(2, 3, 12, 14, generator=torch.Generator().manual_seed(0))
    drawn = wanted.clone()
    drawn[:, :, :4, :4] = wanted[:, :, :4, :4].flip(3)  # within a square anything may be drawn
    drawn[:, :, :, 12:] = 0  # and what is left over is not looked at
    assert guide_distance(drawn, wanted, 4) < 1e-8
    assert guide_distance(drawn, wanted, 2) > 1
    drawn = wanted.clone()
    drawn[1] += 0.1
    means = wanted[1, :, :, :12].reshape(3, 3, 4, 3, 4).mean((2, 4)).flatten(1)
    value = 12 * 14 * 0.01 / (means.var(1, unbiased=False).mean() + 1e-3)
    assert guide_distance(drawn, wanted, 4) == pytest.approx(value.item(), rel=1e-5)
    for rgb, goal, side in (
        (wanted, wanted, 13),
        (wanted, wanted, 0),
        (wanted[:1], wanted, 4),
        (wanted[0], wanted[0], 4),
    ):
        with pytest.raises(ValueError, match="rgb and wanted must be"):
            guide_distance(rgb, goal, side)


def stripes(width, side=96):
    return (torch.arange(side) // width % 2).float().expand(3, side, side)


def test_strokes_have_a_width():
    for width in (2, 4, 8, 16):  # a stripe too few or too many at the border; worst seen 7 %
        assert stroke_width(stripes(width, 240)) == pytest.approx(width, rel=0.1)
        assert stroke_width(stripes(width).transpose(1, 2)) == stroke_width(stripes(width))
    noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert stroke_width(noise) == pytest.approx(math.sqrt(1 / 12) * 3, rel=0.02)  # the mean change is 1/3
    assert stroke_width(0.3 * stripes(4) + 0.2) == pytest.approx(stroke_width(stripes(4)), rel=1e-4)
    assert stroke_width(torch.full((3, 20, 20), 0.3)) == math.inf


def test_pictures_are_shrunk_until_their_strokes_have_a_width():
    assert size_for_strokes(stripes(12), 4, 16, 200) == pytest.approx(32, abs=2)
    assert size_for_strokes(stripes(12), 4, 50, 200) == 50
    assert size_for_strokes(stripes(2), 4, 16, 200) == 96 and size_for_strokes(stripes(2), 4, 16, 70) == 70
    assert size_for_strokes(torch.zeros(3, 40, 30), 4, 16, 200) == 16
