import itertools
from unittest import mock

import numpy as np
import pytest
import scipy.linalg
import torch

from nca_fast import features
from nca_fast.features.patches import Patches
from nca_fast.features.random_vgg import RandomVGG
from nca_fast.features.torchvision_compat import import_torchvision
from nca_fast.losses.regularizers import overflow, total_variation
from nca_fast.losses.sorting import all_sorted_squares, sort_values, sorted_squares
from nca_fast.losses.spectra import root_trace
from nca_fast.losses.style import STYLE_LOSSES, GaussianW2, Gram, SlicedOT

FLOOR = 1e-3  # the documented floor of a target's variance


def maps_like(shapes, batch, seed, dtype=torch.float64):
    """Correlated, skewed maps, as ReLU makes them."""
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for channels, height, width in shapes:
        mix = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
        noise = torch.randn(batch, channels, height, width, generator=generator, dtype=torch.float64)
        maps.append((torch.einsum("dc,bchw->bdhw", mix, noise) / channels**0.5 + 0.2 * seed).relu().to(dtype))
    return maps


SHAPES = [(3, 8, 6), (5, 4, 3), (9, 2, 3)]  # the last has more channels than positions
OTHER_SHAPES = [(3, 7, 5), (5, 9, 4), (9, 1, 4)]  # the target may be of another size, larger or smaller


def variance(target):
    return target[0].flatten(1).numpy().var(axis=1).mean() + FLOOR


# ---- sorting


def rows_with_ties(batch, rows, length, seed=0):
    x = torch.randn(batch, rows, length, generator=torch.Generator().manual_seed(seed))
    x[..., ::3] = x[..., ::3].round()  # ties, and zeros of both signs
    x[0, 0] = 0.25
    return x


# 1 element; one row; rows that fill several blocks of work; a row longer than a block.
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 5), (3, 4, 17), (2, 9, 9000), (1, 2, 70_000)])
@pytest.mark.parametrize("threads", [1, 2])
def test_sorted_squares_equals_torch_sort_in_float64(shape, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x = rows_with_ties(*shape).requires_grad_()
        wanted = sort_values(torch.randn(shape[1:], generator=torch.Generator().manual_seed(1)))
        assert torch.equal(wanted, torch.sort(wanted).values)
        loss = sorted_squares(x, wanted)
        (grad,) = torch.autograd.grad(loss * 0.5, x)
    finally:
        torch.set_num_threads(before)
    exact = x.detach().double().requires_grad_()
    values = torch.sort(exact, dim=-1, stable=True).values
    expected = (values - wanted.double()).square().sum()
    (expected_grad,) = torch.autograd.grad(expected * 0.5, exact)
    # Differences are rounded to float32, 6e-8 of values up to about 5; their sum is made in float64 and rounded once.
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(grad.double(), expected_grad, rtol=1e-6, atol=1e-6)


def test_sorting_sees_values_whatever_the_memory_order():
    x = rows_with_ties(2, 6, 5).transpose(1, 2)
    wanted = torch.zeros(5, 6)
    torch.testing.assert_close(sorted_squares(x, wanted), x.square().sum())
    assert torch.equal(sort_values(x[0]), torch.sort(x[0]).values)
    special = torch.tensor([[3.0, -torch.inf, -0.0, torch.inf, -1e-42, 1e-42, -3.4e38]])
    assert torch.equal(sort_values(special), torch.sort(special).values)  # infinities, denormals, negative zero
    finite = torch.tensor([[[3.0, -0.0, -1e-42, 1e-42, 0.0, -3.0]]])
    assert sorted_squares(finite, torch.sort(finite[0]).values) == 0
    assert sorted_squares(torch.tensor([[[1.0, torch.nan]]]), torch.zeros(1, 2)).isnan()


def test_sorted_squares_gradcheck():
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    wanted = torch.randn(3, 5, dtype=torch.float64).sort().values
    assert torch.autograd.gradcheck(lambda x: sorted_squares(x, wanted), x)


# ---- style losses against independent float64 computations


def ot_by_hand(maps, targets, projections, seed, plain):
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for map, target in zip(maps, targets, strict=True):
        directions = torch.randn(projections, map.shape[1], generator=generator).double().numpy()
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        style = np.sort(directions @ target[0].flatten(1).double().numpy(), axis=1)
        for sample in map.flatten(2).double().numpy():
            mine = np.sort(directions @ sample, axis=1)
            n, m = mine.shape[1], style.shape[1]
            for p, r in itertools.product(range(projections), range(n)):
                square = (mine[p, r] - style[p, int((r + 0.5) * m / n)]) ** 2
                total += square if plain else square / (projections * n * variance(target))
    return total if plain else total * maps[0].shape[2] * maps[0].shape[3]


def gram_by_hand(maps, targets, plain):
    total = 0.0
    for map, target in zip(maps, targets, strict=True):
        style = np.einsum("cn,dn->cd", *[target[0].flatten(1).double().numpy()] * 2) / target[0, 0].numel()
        for sample in map.flatten(2).double().numpy():
            gram = np.einsum("cn,dn->cd", sample, sample) / sample.shape[1]
            square = ((gram - style) ** 2).mean()
            total += square if plain else square / ((style**2).mean() + FLOOR**2)
    return total if plain else total * maps[0].shape[2] * maps[0].shape[3]


def w2_by_hand(maps, targets, plain):
    total = 0.0
    for map, target in zip(maps, targets, strict=True):
        style = target[0].flatten(1).double().numpy()
        style_covariance = np.atleast_2d(np.cov(style, bias=True))
        root = scipy.linalg.sqrtm(style_covariance).real
        for sample in map.flatten(2).double().numpy():
            covariance = np.atleast_2d(np.cov(sample, bias=True))
            mixed = scipy.linalg.sqrtm(root @ covariance @ root).real
            w = ((sample.mean(1) - style.mean(1)) ** 2).sum() + np.trace(covariance + style_covariance - 2 * mixed)
            total += w if plain else w / (len(sample) * variance(target))
    return total if plain else total * maps[0].shape[2] * maps[0].shape[3]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("target_shapes", [SHAPES, OTHER_SHAPES], ids=["same sizes", "other sizes"])
@pytest.mark.filterwarnings("ignore:Matrix is singular")  # scipy on the rank-deficient map; it is what is asked of it
# float32: rounding of features and sums over some hundred terms, worst seen 2e-7 of the loss.
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 5e-5)])
class TestAgainstFormulas:
    def test_sliced_ot(self, plain, target_shapes, dtype, rtol):
        maps, targets = maps_like(SHAPES, 2, 1, dtype), maps_like(target_shapes, 1, 2, dtype)
        loss = SlicedOT(targets, projections=7, plain=plain)
        found = loss(maps, generator=torch.Generator().manual_seed(3))
        # Directions are drawn and normalised in float32 in both dtypes.
        assert found.item() == pytest.approx(ot_by_hand(maps, targets, 7, 3, plain), rel=max(rtol, 1e-6))

    def test_gram(self, plain, target_shapes, dtype, rtol):
        maps, targets = maps_like(SHAPES, 2, 1, dtype), maps_like(target_shapes, 1, 2, dtype)
        assert Gram(targets, plain=plain)(maps).item() == pytest.approx(gram_by_hand(maps, targets, plain), rel=rtol)

    def test_gaussian_w2(self, plain, target_shapes, dtype, rtol):
        maps, targets = maps_like(SHAPES, 2, 1, dtype), maps_like(target_shapes, 1, 2, dtype)
        # Roots are wrong by up to sqrt(floor), sqrt(machine epsilon) of the target's largest eigenvalue, for each null
        # direction; scipy's sqrtm of singular matrices is no better. Worst seen 1.1e-7 and 2.5e-3.
        tolerance = 20 * torch.finfo(dtype).eps ** 0.5
        assert GaussianW2(targets, plain=plain)(maps).item() == pytest.approx(
            w2_by_hand(maps, targets, plain), rel=tolerance
        )


def test_gaussian_w2_of_known_gaussians():
    # One channel: (m - m_t)^2 + (s - s_t)^2.
    x = torch.randn(1, 1, 20, 20, dtype=torch.float64)
    x = (x - x.mean()) / x.std(unbiased=False)
    loss = GaussianW2([2 + 3 * x], plain=True)
    assert loss([5 + 0.5 * x]).item() == pytest.approx(9 + 2.5**2, rel=1e-7)
    # Independent channels: 0.5 apart in mean, the same covariance.
    y = torch.randn(1, 4, 30, 30, dtype=torch.float64)
    assert GaussianW2([y], plain=True)([y + 0.5]).item() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("name", STYLE_LOSSES)
def test_losses_are_zero_at_the_target_and_blind_to_position(name):
    targets = maps_like(SHAPES, 1, 1)
    loss = STYLE_LOSSES[name](targets)
    shuffled = [map.flatten(2)[:, :, torch.randperm(map[0, 0].numel())].reshape(map.shape) for map in targets]
    scale = loss([map * 0 for map in targets]).item()
    for maps in (targets, shuffled):
        # GaussianW2's floor of the square root, 1.5e-8 relative, per null direction; worst seen 4e-8.
        assert abs(loss(maps).item()) < 1e-6 * scale
    if name != "ot":  # whose directions are new each time
        assert loss([map.repeat(3, 1, 1, 1) * 0 for map in targets]).item() == pytest.approx(3 * scale, rel=1e-12)


@pytest.mark.parametrize("name", STYLE_LOSSES)
@pytest.mark.parametrize("plain", [False, True])
def test_gradcheck(name, plain):
    shapes = [(3, 4, 3), (4, 2, 3)]  # full-rank: finite differences cannot resolve the floor of null directions
    loss = STYLE_LOSSES[name](maps_like(shapes, 1, 2), plain=plain)
    maps = [map + 0.1 * torch.randn_like(map) for map in maps_like(shapes, 2, 1)]

    def value(*maps):
        return loss(maps, generator=torch.Generator().manual_seed(0))

    assert torch.autograd.gradcheck(value, [map.requires_grad_() for map in maps])


@pytest.mark.parametrize("name", ["ot", "w2", "overflow"])
def test_a_second_derivative_is_refused(name):
    """Of a sum, too, where the penalty would have no graph, and a loss with it the gradient of one without."""
    maps = [m.requires_grad_() for m in maps_like(SHAPES, 2, 1, torch.float32)]
    loss = overflow(maps[0]) if name == "overflow" else STYLE_LOSSES[name](maps_like(SHAPES, 1, 2, torch.float32))(maps)
    with pytest.raises(RuntimeError, match="loss can be differentiated once only"):
        torch.autograd.grad(loss, maps[0], create_graph=True)


def test_gradients_of_gaussian_w2_have_the_memory_order_of_the_maps():
    """So that what comes before in the network works in one order; the numbers are the same in either."""
    (target,), (map,) = maps_like([(5, 6, 7)], 1, 2), maps_like([(5, 6, 7)], 2, 1)
    grads = []
    for layout in (torch.contiguous_format, torch.channels_last):
        leaf = map.contiguous(memory_format=layout).requires_grad_()
        grads += torch.autograd.grad(GaussianW2([target])([leaf]), leaf)
        assert grads[-1].is_contiguous(memory_format=layout)
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)  # rounding of float64; worst seen 1e-14


@pytest.mark.parametrize("name", STYLE_LOSSES)
@pytest.mark.parametrize("extractor", [RandomVGG((8, 12, 16)), Patches(3, 3)], ids=["random", "patches"])
def test_every_loss_works_on_every_extractor_down_to_one_colour(name, extractor):
    stripes = ((torch.arange(16) // 4) % 2).float().expand(1, 3, 16, 16)
    grey = torch.full((1, 3, 16, 16), 0.5)
    noise = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    flat = torch.full((2, 3, 16, 16), 0.3)
    for target, start in itertools.product((stripes, grey), (noise, flat, noise * 1e-4 + 0.5)):
        loss = STYLE_LOSSES[name](extractor(target))

        def value(rgb, loss=loss):
            return loss(extractor(rgb), generator=torch.Generator().manual_seed(7))

        rgb = start.clone().requires_grad_()
        before = value(rgb)
        (grad,) = torch.autograd.grad(before, rgb)
        assert before.shape == () and before >= 0 and torch.isfinite(before)
        assert torch.isfinite(grad).all() and grad.abs().max() > 0
        if target is stripes:  # a small step down the gradient helps; near a one-colour target no step is small
            assert value(start - 1e-4 * grad / grad.abs().max()) < before


@pytest.mark.parametrize("name", STYLE_LOSSES)
def test_every_loss_works_on_vgg(tmp_path, name):
    with torch.device("meta"):
        wanted = import_torchvision().models.vgg16(weights=None).features.state_dict()
    torch.save(
        {key: torch.randn(value.shape) * (2 / max(1, value[0].numel())) ** 0.5 for key, value in wanted.items()},
        tmp_path / "a.pth",
    )
    extractor = features.load("vgg16", weights=tmp_path / "a.pth")
    rgb = torch.rand(2, 3, 16, 16, requires_grad=True)
    value = STYLE_LOSSES[name](extractor(torch.rand(1, 3, 24, 16)))(extractor(rgb))
    (grad,) = torch.autograd.grad(value, rgb)
    assert value > 0 and torch.isfinite(grad).all() and grad.abs().max() > 0


def test_gaussian_w2_pulls_where_the_picture_does_not_vary_yet():
    # Nearly flat start: a clip at the floor would leave only Tr C, whose gradient shrinks what little there is.
    target = [torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(0))]
    start = (1e-3 * torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(1))).requires_grad_()
    (grad,) = torch.autograd.grad(GaussianW2(target)([start]), start)
    centred = (start - start.mean(dim=(2, 3), keepdim=True)).detach()
    assert (grad * centred).sum() < 0  # going down the gradient makes it vary more


def test_gaussian_w2_in_float32_on_rank_deficient_maps():
    shapes = [(64, 4, 4)]
    exact_maps, exact_targets = maps_like(shapes, 2, 1), maps_like(shapes, 1, 2)
    exact = GaussianW2(exact_targets)
    exact_leaf = exact_maps[0].clone().requires_grad_()
    expected = exact([exact_leaf])
    (expected_grad,) = torch.autograd.grad(expected, exact_leaf)
    leaf = exact_maps[0].float().requires_grad_()
    found = GaussianW2([exact_targets[0].float()])([leaf])
    (grad,) = torch.autograd.grad(found, leaf)
    # The float32 floor is 3.5e-4 of the largest eigenvalue in each of 49 null directions; worst seen 1.3e-3 and 1.1e-3.
    assert found.item() == pytest.approx(expected.item(), rel=5e-3)
    assert (grad - expected_grad).norm() < 0.01 * expected_grad.norm()


def test_gaussian_w2_of_maps_that_dwarf_the_target_is_finite():
    # Rounding then makes null eigenvalues negative by more than the floor.
    (target,), (map,) = maps_like([(64, 4, 4)], 1, 2, torch.float32), maps_like([(64, 4, 4)], 2, 1, torch.float32)
    leaf = (1e4 * map).requires_grad_()
    value = GaussianW2([target])([leaf])
    (grad,) = torch.autograd.grad(value, leaf)
    assert torch.isfinite(value) and torch.isfinite(grad).all()


def test_gaussian_w2_of_nan_is_nan():
    loss = GaussianW2(maps_like([(3, 4, 4)], 1, 1))
    x = torch.full((1, 3, 4, 4), torch.nan, dtype=torch.float64, requires_grad=True)
    value = loss([x])
    value.backward()
    assert value.isnan()


def test_sliced_ot_draws_from_its_generator_only():
    maps, loss = maps_like(SHAPES, 2, 1, torch.float32), SlicedOT(maps_like(SHAPES, 1, 2, torch.float32), positions=20)
    state = torch.random.get_rng_state()
    first = loss(maps, generator=torch.Generator().manual_seed(1))
    assert torch.equal(first, loss(maps, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(first, loss(maps, generator=torch.Generator().manual_seed(2)))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_sliced_ot_of_some_positions_estimates_that_of_all():
    maps, targets = maps_like([(3, 64, 64)], 1, 1), maps_like([(3, 64, 64)], 1, 2)
    whole = SlicedOT(targets, projections=400)(maps, generator=torch.Generator().manual_seed(0)).item()
    some = SlicedOT(targets, projections=400, positions=1000)(maps, generator=torch.Generator().manual_seed(0)).item()
    assert some == pytest.approx(whole, rel=0.05)  # sampling error of 1000 positions; worst seen 0.005
    assert SlicedOT(targets, 8, positions=4096)(maps, torch.Generator().manual_seed(0)).item() == pytest.approx(
        SlicedOT(targets, 8)(maps, torch.Generator().manual_seed(0)).item(), rel=1e-12
    )


def test_distances_are_free_of_units_and_sizes():
    targets, maps = maps_like([(4, 16, 16)], 1, 2), maps_like([(4, 16, 16)], 1, 1)
    tiled = [map.repeat(1, 1, 2, 2) for map in maps]
    for name, loss in STYLE_LOSSES.items():

        def value(targets, maps, loss=loss):
            return loss(targets)(maps, generator=torch.Generator().manual_seed(0)).item()

        one = value(targets, maps)
        # Only the floor, 1e-3 beside a variance of about 0.3 (its square for Gram), has units.
        assert value([10 * t for t in targets], [10 * m for m in maps]) == pytest.approx(one, rel=1e-2), name
        assert value(targets, tiled) == pytest.approx(4 * one, rel=1e-6), name  # four times the cells, each as wrong


def test_losses_move_with_the_module():
    for loss in STYLE_LOSSES.values():
        module = loss(maps_like(SHAPES, 1, 1, torch.float32)).double()
        assert module(maps_like(SHAPES, 2, 2)).dtype == torch.float64
        assert module.state_dict() == {}


def test_wrong_targets_and_maps():
    good = maps_like(SHAPES, 1, 1)
    for loss in STYLE_LOSSES.values():
        with pytest.raises(ValueError, match="at least one map"):
            loss([])
        for bad in (good[0][0], good[0].repeat(2, 1, 1, 1), good[0][..., :0], good[0].long()):
            with pytest.raises(ValueError, match=r"targets must be float maps \[1, C, H, W\], but number 1 is"):
                loss([good[0], bad])
        with pytest.raises(ValueError, match="number 0 holds NaN"):
            loss([good[0] * torch.nan])
        for bad in (good[:2], [*good[:2], good[0]], [*good[:2], good[2][0]]):
            with pytest.raises(ValueError, match=r"maps must be .* channels \[3, 5, 9\] .*same features"):
                loss(good)(bad)
    with pytest.raises(ValueError, match="projections must be at least 1"):
        SlicedOT(good, projections=0)
    with pytest.raises(ValueError, match="positions must be at least 1, or None"):
        SlicedOT(good, positions=0)


# ---- regularizers


def test_overflow():
    x = torch.tensor([-3.0, -1.0, 0.5, 1.0, 1.5], requires_grad=True)
    loss = overflow(x)
    assert loss.item() == 2.5
    (grad,) = torch.autograd.grad(loss, x)
    assert grad.tolist() == [-1, 0, 0, 0, 1]
    assert overflow(x, low=0, high=2).item() == 4
    inside = torch.randn(2, 3, 4, 4, dtype=torch.float64) * 3
    assert torch.autograd.gradcheck(overflow, inside.requires_grad_())
    with pytest.raises(ValueError, match="low must be below high"):
        overflow(x, 1, 1)


def test_total_variation():
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    array = x.detach().numpy()
    expected = sum(np.abs(array - np.roll(array, 1, axis)).sum() for axis in (2, 3))
    assert total_variation(x).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(total_variation, x)
    assert total_variation(torch.full((1, 3, 4, 4), 0.7)) == 0
    with pytest.raises(ValueError, match=r"rgb must be \[B, C, H, W\]"):
        total_variation(torch.zeros(3, 4, 4))


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_the_root_trace_of_a_gpu_is_that_of_the_eigenvalues(rank):
    """By products of matrices alone: values and gradients, of matrices of full rank, of less, and of none."""
    generator = torch.Generator().manual_seed(rank)
    factors = torch.randn(3, 8, rank, dtype=torch.float64, generator=generator)
    factors *= torch.tensor([1.0, 30.0, 0.0])[:, None, None]
    products = factors @ factors.mT
    numbers = [torch.full((8,), number, dtype=torch.float64) for number in (0.25, 1e-7, 3.0)]
    value, (grad,) = root_trace([as_on_a_gpu(products)], *numbers, True)
    wanted = products.clone().requires_grad_()
    values = torch.linalg.eigvalsh(wanted * 0.25 + 1e-7 * torch.eye(8))
    expected = 3 * (values.sqrt() - 1e-7**0.5).sum()
    expected.backward()
    # Rounding of float64, 1e-16, times the condition, 1e11; gradients are 3 times inverse roots of up to 4e2.
    torch.testing.assert_close(value.as_subclass(torch.Tensor), expected, rtol=1e-9, atol=1e-9)  # worst seen 2e-11
    torch.testing.assert_close(grad.as_subclass(torch.Tensor), wanted.grad, rtol=0, atol=3e-3)  # worst seen 1.3e-3
    by_eigenvalues, (other,) = root_trace([products], *numbers, True)
    torch.testing.assert_close(by_eigenvalues, expected, rtol=1e-6, atol=1e-6)
    # Null eigenvalues that rounding made negative are clipped there: no slope. The others, as on a GPU.
    torch.testing.assert_close(products @ other @ products, products @ wanted.grad @ products, rtol=1e-6, atol=1e-6)
    assert root_trace([products], *numbers, False)[1] is None
    assert torch.isnan(root_trace([as_on_a_gpu(products * torch.nan)], *numbers, True)[0])


class _OnAGPU(torch.Tensor):
    """A tensor of the CPU that says it is not on one, so that what a GPU does is done, in numbers."""

    is_cpu = False


def as_on_a_gpu(tensor):
    return tensor.as_subclass(_OnAGPU)


@pytest.mark.parametrize("place", [as_on_a_gpu, torch.clone], ids=["gpu", "cpu"])
def test_the_root_trace_of_many_sizes_is_the_sum_of_each(place):
    """A GPU makes narrow matrices as wide as the widest of them; a CPU works on all eigenvalues in a row."""
    generator = torch.Generator().manual_seed(1)
    sizes, numbers = (3, 9, 130), ((0.5, 2.0, 1.0), (1e-6, 1e-5, 1e-6), (1.0, 0.1, 3.0))
    factors = [torch.randn(2, c, c, dtype=torch.float64, generator=generator) for c in sizes]
    products = [place(factor @ factor.mT) for factor in factors]
    rows = [[torch.full((c,), v, dtype=torch.float64) for c, v in zip(sizes, of, strict=True)] for of in numbers]
    total, grads = root_trace(products, *map(torch.cat, rows), True)
    alone = [root_trace([product], *own, True) for product, *own in zip(products, *rows, strict=True)]
    torch.testing.assert_close(total, sum(value for value, _ in alone), rtol=1e-9, atol=0)
    for grad, (_, (own,)) in zip(grads, alone, strict=True):
        torch.testing.assert_close(grad, own, rtol=1e-6, atol=1e-9)


def test_sorting_together_is_sorting_each():
    """Rows of a length in one call, with wanted ones of the same length and of another, and the ranks of these."""
    generator = torch.Generator().manual_seed(2)
    shapes = [((2, 3, 8), (3, 8)), ((2, 3, 8), (3, 5)), ((1, 3, 5), (3, 8))]
    pairs = [tuple(torch.randn(shape, generator=generator) for shape in pair) for pair in shapes]
    calls, sort = [], torch.sort
    with mock.patch.object(torch, "sort", lambda *a, **k: calls.append(a) or sort(*a, **k)):
        leaves = [x.clone().requires_grad_() for x, _ in pairs]
        together = list(all_sorted_squares((as_on_a_gpu(x), y) for x, (_, y) in zip(leaves, pairs, strict=True)))
    assert len(calls) == 2
    for value, leaf, (x, wanted) in zip(together, leaves, pairs, strict=True):
        mine = x.clone().requires_grad_()
        (alone,) = all_sorted_squares([(mine, wanted)])
        torch.testing.assert_close(value.as_subclass(torch.Tensor), alone)
        (grad,) = torch.autograd.grad(value, leaf, retain_graph=True)
        torch.testing.assert_close(grad.as_subclass(torch.Tensor), torch.autograd.grad(alone, mine)[0])
