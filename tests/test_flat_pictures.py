"""Losses of pictures of one colour, or nearly so: of order 1 at the start, finite, and going down.

LAPACK answers NaN here to every matrix of nearly nothing, as Intel's does to some.
"""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nca_fast.features.patches import Patches
from nca_fast.features.random_vgg import RandomVGG
from nca_fast.losses.color import ColorHistogram
from nca_fast.losses.content import CONTENT_LOSSES
from nca_fast.losses.spectra import to_order_one
from nca_fast.losses.style import STYLE_LOSSES, GaussianW2
from nca_fast.losses.units import gram_unit, variance_unit

SIZE = 16
EXTRACTORS = {"random": RandomVGG((8, 12, 16)), "patches": Patches(3, 3)}


def colour(*rgb):
    return torch.tensor(rgb)[:, None, None].expand(3, SIZE, SIZE).clone()


def levels(most, seed=0):
    """Grey with random levels of 255 about it."""
    generator = torch.Generator().manual_seed(seed)
    return (128 + torch.randint(0, most + 1, (3, SIZE, SIZE), generator=generator)) / 255


def speck():
    picture = colour(0.2, 0.5, 0.9)
    picture[0, 3, 4] += 1 / 255
    return picture


FLAT = {
    "black": colour(0.0, 0.0, 0.0),
    "white": colour(1.0, 1.0, 1.0),
    "blue": colour(0.2, 0.5, 0.9),
    "the mean of all pictures": colour(0.485, 0.456, 0.406),  # its first map is 0
    "one level of 255": levels(1),
    "a speck of one level": speck(),
}
GENERATOR = torch.Generator().manual_seed(0)
NOISE = torch.rand(3, SIZE, SIZE, generator=GENERATOR)
STRIPES = ((torch.arange(SIZE) // 4) % 2).float().expand(3, SIZE, SIZE)
OUTPUTS = {
    "noise": NOISE,
    "a flat one": colour(0.3, 0.3, 0.3),
    "a nearly flat one": 0.5 + 1e-4 * NOISE,
    "rounding errors": 0.5 + 1e-7 * NOISE,
}


@pytest.fixture(autouse=True)
def fragile_lapack(monkeypatch):
    def fragile(function):
        def call(matrices):
            largest = matrices.detach().abs().amax(dim=(-2, -1))
            assert torch.isfinite(largest).all()
            result = function(matrices)
            values = result if isinstance(result, torch.Tensor) else result[0]
            values = torch.where(largest[..., None] < 1e-5, torch.nan, values)
            return values if isinstance(result, torch.Tensor) else (values, result[1])

        return call

    for name in ("eigh", "eigvalsh"):
        monkeypatch.setattr(torch.linalg, name, fragile(getattr(torch.linalg, name)))


def style(name, extractor, target):
    loss = STYLE_LOSSES[name](extractor(target[None]))
    return lambda rgb: loss(extractor(rgb), generator=torch.Generator().manual_seed(7))


def content(name, extractor, target):
    goal = [map.repeat(2, 1, 1, 1) for map in extractor(target[None])]
    return lambda rgb: CONTENT_LOSSES[name](extractor(rgb), goal, range(len(goal)))


LOSSES = [(style, name) for name in STYLE_LOSSES] + [(content, name) for name in CONTENT_LOSSES]


@pytest.mark.parametrize("extractor", EXTRACTORS)
@pytest.mark.parametrize("make, name", LOSSES, ids=lambda value: value if isinstance(value, str) else value.__name__)
def test_losses_start_at_order_one_and_go_down(make, name, extractor):
    extractor = EXTRACTORS[extractor]
    for target in [*FLAT.values(), STRIPES]:
        value_of = make(name, extractor, target)
        for start in OUTPUTS.values():
            rgb = start.repeat(2, 1, 1, 1).requires_grad_()
            before = value_of(rgb)
            (grad,) = torch.autograd.grad(before, rgb)
            assert torch.isfinite(before) and torch.isfinite(grad).all()
            maps = len(extractor(rgb))
            # Per cell, sample and map; worst seen 1.5, and 2600 with the floor for a unit. Rounding may be below 0.
            assert -1e-6 < before / (2 * SIZE * SIZE * maps) < 5
            if before > 1e-2 * SIZE * SIZE:  # less is gone within a step
                after = value_of((rgb - 1e-4 * grad / grad.abs().max()).detach())
                assert after < before
    assert value_of(NOISE.repeat(2, 1, 1, 1)) > 0.1 * SIZE * SIZE


@pytest.mark.parametrize("name", STYLE_LOSSES)
@pytest.mark.parametrize("target", ["blue", "one level of 255"])
def test_a_flat_style_is_learned(name, target):
    """Down to a fiftieth in 50 steps, from noise: what the picture pays for is what it still varies."""
    value_of = style(name, EXTRACTORS["random"], FLAT[target])
    rgb = NOISE.repeat(1, 1, 1, 1).requires_grad_()
    optimizer, first = torch.optim.Adam([rgb], lr=0.04), value_of(rgb).item()
    for _ in range(50):
        optimizer.zero_grad()
        value_of(rgb).backward()
        optimizer.step()
    assert value_of(rgb).item() < 0.02 * first


def unit_by_hand(target):
    """Of [C, n] in NumPy's float64: variance, floor and flatness, or those of a Gram matrix."""
    variance = target.var(axis=1).mean()
    flat = (1 + (target**2).mean()) * max(0, 1 - variance / 1e-3) ** 2
    gram = target @ target.T / target.shape[1]
    return variance + 1e-3 + flat, (gram**2).mean() + 1e-6 + flat**2


# 0: of one colour. 0.005: half of it flatness. 0.1: an ordinary map, whose unit has nothing of it.
@pytest.mark.parametrize("contrast", [0, 0.02, 0.1])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_units_are_their_formulas(contrast, dtype, rtol):
    maps = (0.7 + contrast * torch.randn(2, 4, 90)).to(dtype)
    gram = maps @ maps.mT / 90
    want = [unit_by_hand(map.double().numpy()) for map in maps]
    assert variance_unit(maps).tolist() == pytest.approx([variance for variance, _ in want], rel=rtol)
    assert gram_unit(maps, gram).tolist() == pytest.approx([power for _, power in want], rel=rtol)
    if contrast == 0.1:  # not one bit, so that the weights of old runs stay what they were
        variance = maps.var(dim=-1, unbiased=False).mean(dim=-1)
        assert torch.equal(variance_unit(maps), variance + 1e-3)


@pytest.mark.parametrize("output", [0, 1e-6, 1e-3, 1.0])
# float32: the mean of values of 1 is off by 3e-8, and W2 of the nearly flat ones is a difference of squares.
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_distances_to_one_colour_against_formulas(output, dtype, atol):
    """The covariance of the target is 0, so that W = |m - m_t|^2 + Tr C, and OT needs no sorting of the target."""
    target = torch.tensor([0.3, -0.7, 1.1])[None, :, None, None].expand(1, 3, 4, 4).to(dtype)
    map = (torch.tensor([0.5, 0.1, 0.9])[:, None, None] + output * torch.randn(2, 3, 4, 4)).to(dtype)
    clouds, goal = map.double().flatten(2).numpy(), target.double().flatten(2).numpy()[0]
    variance, power = unit_by_hand(goal)
    w2 = sum(((c.mean(1) - goal[:, 0]) ** 2).sum() + np.trace(np.cov(c, bias=True)) for c in clouds) / (3 * variance)
    directions = torch.randn(32, 3, generator=torch.Generator().manual_seed(7))
    directions = F.normalize(directions.double(), dim=1).numpy()
    ot = sum(((directions @ (c - goal)) ** 2).mean() for c in clouds) / variance
    gram = sum(((c @ c.T / 16 - goal @ goal.T / 16) ** 2).mean() for c in clouds) / power
    for name, want in (("w2", w2), ("ot", ot), ("gram", gram)):
        value = STYLE_LOSSES[name]([target])([map], generator=torch.Generator().manual_seed(7))
        assert value.item() / 16 == pytest.approx(want, rel=1e-6, abs=atol), name


@pytest.mark.parametrize("exponent", [-30, -9, -3, 0, 3, 9])
def test_w2_of_scaled_clouds_is_scaled(exponent):
    """W is of degree 2 in target and map together, down to where both are taken for points."""
    target, map = torch.randn(1, 5, 4, 6, dtype=torch.float64), torch.randn(2, 5, 4, 6, dtype=torch.float64)
    scale = 2.0**exponent
    one, other = (GaussianW2([s * target], plain=True)([s * map]) for s in (1, scale))
    # The floor under the root is of the target's size, but not below 1e-12: what is smaller has no shape.
    assert other.item() == pytest.approx(one.item() * scale**2, rel=1e-6 if exponent > -9 else 1)


@pytest.mark.parametrize("answer", ["error", "nan"])
def test_w2_where_lapack_fails_in_float32(answer, monkeypatch):
    """As it does, on one CPU or the other, on matrices of rank one."""
    target, map = torch.randn(1, 5, 4, 6), torch.randn(2, 5, 4, 6).requires_grad_()
    loss, eigh = GaussianW2([target]), torch.linalg.eigh
    want = loss([map])
    (want_grad,) = torch.autograd.grad(want, map)

    def failing(matrices):
        if matrices.dtype == torch.float64:
            return eigh(matrices)
        if answer == "error":
            raise torch.linalg.LinAlgError("failed to converge")
        return [found * torch.nan for found in eigh(matrices)]

    monkeypatch.setattr(torch.linalg, "eigh", failing)
    value = loss([map])
    (grad,) = torch.autograd.grad(value, map)
    # Rounding of eigenvalues in float32; worst seen 2e-7 and 6e-7.
    assert value.item() == pytest.approx(want.item(), rel=1e-5) and (grad - want_grad).norm() < 1e-5 * want_grad.norm()


def test_matrices_are_scaled_by_powers_of_four():
    """What changes no digit of a matrix, and none of its root."""
    for exponent in range(-24, 25):
        matrix = torch.tensor([[2.0, 0.3], [0.3, 1.0]]) * 2.0**exponent
        (unit,), (scale,) = to_order_one([matrix])
        assert torch.equal(unit * scale, matrix) and 0.25 <= unit.abs().max() < 2
        assert torch.frexp(scale.sqrt()).mantissa == 0.5
    for nothing in (0.0, 1e-30, torch.nan, torch.inf):
        (unit,), (scale,) = to_order_one([torch.full((3, 2, 2), nothing)])
        assert torch.equal(unit, torch.eye(2).expand(3, 2, 2)) and not scale.any()


@pytest.mark.parametrize("target", FLAT)
def test_colours_of_flat_pictures(target):
    loss = ColorHistogram(FLAT[target][None])
    for start in OUTPUTS.values():
        rgb = start[None].clone().requires_grad_()
        value = loss(rgb)
        (grad,) = torch.autograd.grad(value, rgb)
        assert torch.isfinite(grad).all() and 0 <= value <= SIZE * SIZE * (1 + 1e-6)


def test_w2_of_what_is_not_finite_reaches_no_lapack():
    target, map = torch.randn(1, 3, 4, 4), torch.randn(2, 3, 4, 4)
    map[1, 0, 2, 1] = torch.inf
    assert not torch.isfinite(GaussianW2([target])([map]))
