"""Content distances and the color histogram against computations in NumPy's float64, and their gradients."""

import itertools

import numpy as np
import pytest
import torch

from nca_fast.features.random_vgg import RandomVGG
from nca_fast.losses.color import ColorHistogram
from nca_fast.losses.content import CONTENT_LOSSES, feature_distance, gram_distance, structure_distance

SHAPES = [(3, 8, 6), (5, 4, 3), (9, 2, 3)]  # the last has more channels than positions


def maps_like(batch, seed, dtype=torch.float64, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, *shape, generator=generator, dtype=torch.float64).relu().to(dtype) for shape in shapes]


# ---- content


def features_by_hand(map, goal):
    return ((map - goal) ** 2).mean() / (goal.reshape(len(goal), -1).var(axis=1).mean() + 1e-3)


def structure_by_hand(map, goal):
    def normalized(m):
        flat = m.reshape(len(m), -1)
        return (flat - flat.mean(1, keepdims=True)) / np.sqrt(flat.var(1, keepdims=True) + 1e-2)

    return ((normalized(map) - normalized(goal)) ** 2).mean()


def gram_by_hand(map, goal):
    a, b = (np.einsum("chw,dhw->cd", m, m) / m[0].size for m in (map, goal))
    return ((a - b) ** 2).mean() / ((b**2).mean() + 1e-6)


BY_HAND = {"features": features_by_hand, "structure": structure_by_hand, "gram": gram_by_hand}


@pytest.mark.parametrize("name", CONTENT_LOSSES)
@pytest.mark.parametrize("layers", [(0, 1, 2), (2,)])
# Rounding of a few hundred terms; worst seen 2.3e-16 and 2e-7.
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_content_against_formulas(name, layers, dtype, rtol):
    maps, wanted = maps_like(2, 1, dtype), maps_like(2, 2, dtype)
    expected = (
        8
        * 6
        * sum(
            BY_HAND[name](maps[layer][sample].double().numpy(), wanted[layer][sample].double().numpy())
            for layer, sample in itertools.product(layers, range(2))
        )
    )
    assert CONTENT_LOSSES[name](maps, wanted, layers).item() == pytest.approx(expected, rel=rtol)


@pytest.mark.parametrize("name", CONTENT_LOSSES)
def test_content_gradcheck(name):
    wanted = maps_like(2, 2)
    maps = [map.requires_grad_() for map in maps_like(2, 1)]
    assert torch.autograd.gradcheck(lambda *maps: CONTENT_LOSSES[name](maps, wanted, (0, 1, 2)), maps)


@pytest.mark.parametrize("name", CONTENT_LOSSES)
def test_content_is_zero_for_the_same_picture_and_finite_for_flat_ones(name):
    extractor = RandomVGG((8, 12, 16))
    noise = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    flat = torch.full((2, 3, 16, 16), 0.3)
    layers = (0, 1, 2, 3)
    for picture in (noise, flat):
        assert CONTENT_LOSSES[name](extractor(picture), extractor(picture), layers) == 0
    for start, goal in ((noise, flat), (flat, noise)):
        rgb = start.clone().requires_grad_()
        value = CONTENT_LOSSES[name](extractor(rgb), extractor(goal), layers)
        (grad,) = torch.autograd.grad(value, rgb)
        assert value > 0 and torch.isfinite(value) and torch.isfinite(grad).all() and grad.abs().max() > 0


def test_what_each_content_distance_is_blind_to():
    wanted = maps_like(1, 1)
    turned = [map.flip(2, 3) for map in wanted]
    recolored = [3 * map + 2 for map in wanted]
    layers = (0, 1, 2)
    # Gram matrices do not know where; the sums come in another order.
    assert gram_distance(turned, wanted, layers) < 1e-12
    assert feature_distance(turned, wanted, layers) > 48
    assert structure_distance(turned, wanted, layers) > 48
    # Structure does not know scale and offset, up to its floor of 1e-2 beside variances of 0.1 and more.
    assert structure_distance(recolored, wanted, layers) < 0.02 * 48
    assert feature_distance(recolored, wanted, layers) > 48


def test_content_refuses():
    maps = maps_like(2, 1)
    for loss in CONTENT_LOSSES.values():
        for layers in ((), (3,), (-1,)):
            with pytest.raises(ValueError, match="layers must be one or more of the 3 maps, 0 to 2"):
                loss(maps, maps, layers)
        for bad in (maps[:2], [maps[0], maps[1], maps[2][:1]], [maps[0], maps[2], maps[1]]):
            with pytest.raises(ValueError, match=r"maps and wanted must be .* of the same shapes"):
                loss(maps, bad, (0,))


# ---- color


def histogram_by_hand(rgb, bins, sigma):
    """[3, H, W] -> [3, bins, bins], pixel by pixel."""
    grid = np.linspace(-3, 3, bins)
    histogram = np.zeros((3, bins, bins))
    for pixel in rgb.reshape(3, -1).T.clip(0, 1):
        intensity = np.sqrt((pixel**2).sum() + 1e-6)
        logs = np.log(pixel + 1e-6)
        for color, (first, second) in enumerate(((1, 2), (0, 2), (0, 1))):
            u, v = logs[color] - logs[first], logs[color] - logs[second]
            histogram[color] += intensity * np.outer(
                1 / (1 + ((u - grid) / sigma) ** 2), 1 / (1 + ((v - grid) / sigma) ** 2)
            )
    return histogram / histogram.sum()


def pictures(batch, seed, size=(5, 6), dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(batch, 3, *size, generator=generator, dtype=torch.float64) * 1.2 - 0.1).to(dtype)


@pytest.mark.parametrize(("bins", "sigma"), [(2, 1.0), (16, 0.4), (64, 0.1), (32, 0.02)])
# Rounding of logarithms, which sigma divides; worst seen 4.5e-16 and 3.6e-8.
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-11), (torch.float32, 1e-6)])
def test_color_against_the_formula(bins, sigma, dtype, rtol):
    target, rgb = pictures(1, 1, (7, 4), dtype), pictures(2, 2, dtype=dtype)
    wanted = np.sqrt(histogram_by_hand(target[0].double().numpy(), bins, sigma))
    distances = [
        np.sqrt(((np.sqrt(histogram_by_hand(sample.double().numpy(), bins, sigma)) - wanted) ** 2).sum() / 2 + 1e-12)
        for sample in rgb
    ]
    assert ColorHistogram(target, bins, sigma)(rgb).item() == pytest.approx(30 * sum(distances), rel=rtol)


def test_color_gradcheck():
    loss = ColorHistogram(pictures(1, 1), bins=8, sigma=0.5)
    rgb = torch.rand(2, 3, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 0.8 + 0.1
    assert torch.autograd.gradcheck(loss, rgb.requires_grad_())


def test_color_knows_colors_and_not_places():
    target = torch.zeros(1, 3, 6, 6)
    target[:, 0], target[:, 2, :3] = 0.8, 0.6
    loss = ColorHistogram(target)
    # The floor under the root, 1e-6 a pixel, and rounding in float32; worst seen 1e-6.
    assert loss(target) < 36 * 1e-4
    assert loss(target.flip(2)) < 36 * 1e-4
    assert loss(0.5 * target) < 0.2 * 36  # brightness is only a weight
    assert loss(target.flip(1)) > 0.5 * 36  # red and blue changed places
    twice = target.repeat(2, 1, 1, 1).flip(1)
    assert loss(twice).item() == pytest.approx(2 * loss(target.flip(1)).item(), rel=1e-6)


@pytest.mark.parametrize("color", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1.0, 0.0, 0.0), (0.3, 0.4, 0.5)])
def test_color_of_one_color_is_finite_and_pulls_towards_it(color):
    target = torch.tensor(color).reshape(1, 3, 1, 1).expand(1, 3, 4, 4)
    loss = ColorHistogram(target)
    for rgb in (pictures(2, 1, dtype=torch.float32), target.clone(), torch.full((1, 3, 4, 4), 0.5)):
        value = loss(rgb.requires_grad_())
        (grad,) = torch.autograd.grad(value, rgb)
        assert torch.isfinite(value) and torch.isfinite(grad).all()
    purple = torch.tensor((0.45, 0.3, 0.5)).reshape(1, 3, 1, 1).expand(1, 3, 4, 4)
    rgb = purple.clone().requires_grad_()
    before = loss(rgb)
    (grad,) = torch.autograd.grad(before, rgb)
    assert loss(purple - 1e-3 * grad / grad.abs().max()) < before


def test_color_of_a_lattice_is_near_that_of_all_pixels():
    smooth = torch.linspace(0.1, 0.9, 60).reshape(1, 1, 60, 1).expand(1, 3, 60, 40).clone()
    smooth[:, 1] = torch.linspace(0.2, 0.8, 40)
    target = pictures(1, 1, dtype=torch.float32)
    whole, some = ColorHistogram(target), ColorHistogram(target, positions=300)
    found = {some(smooth, torch.Generator().manual_seed(seed)).item() for seed in range(5)}
    assert len(found) > 1  # the lattice moves
    for value in found:
        assert value == pytest.approx(whole(smooth).item(), rel=0.03)  # 1 pixel of 9; worst seen 0.0066
    narrow = torch.rand(1, 3, 1, 500, generator=torch.Generator().manual_seed(0))
    for seed in range(5):  # a lattice wider than the picture still meets it
        assert torch.isfinite(ColorHistogram(target, positions=10)(narrow, torch.Generator().manual_seed(seed)))


def test_color_moves_with_the_module():
    module = ColorHistogram(pictures(1, 1, dtype=torch.float32)).double()
    assert module(pictures(1, 2)).dtype == torch.float64
    assert module.state_dict() == {}


def test_color_refuses():
    good = pictures(1, 1)
    for bad in (good[0], good.repeat(2, 1, 1, 1), good[:, :2], good[..., :0], good.long()):
        with pytest.raises(ValueError, match=r"target must be float \[1, 3, H, W\]"):
            ColorHistogram(bad)
    for options in ({"bins": 1}, {"sigma": 0.0}, {"sigma": float("nan")}, {"positions": 0}):
        with pytest.raises(ValueError, match="bins must be at least 2, sigma positive and positions at least 1"):
            ColorHistogram(good, **options)
    with pytest.raises(ValueError, match=r"rgb must be \[B, 3, H, W\]"):
        ColorHistogram(good)(good[0])
