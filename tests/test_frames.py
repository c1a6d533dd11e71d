"""Frames: what turned and scaled cells perceive, the backends' values and gradients, parts of canvases, errors."""

import math

import pytest
import torch
from rollouts import random_weights, relative_error

import nca_fast
from nca_fast import NCA, Rule, ops, reference, rollout
from nca_fast.derivatives import derivatives
from nca_fast.filters import NAMES, named
from nca_fast.frames import combined, dipole, frame, polar

QUARTER = frame(math.pi / 2)
DISTILL = ("identity", "sobel_x", "sobel_y", "laplacian")


DRAWN = torch.Generator().manual_seed(0)
# Of sums of few numbers, which cancel: 1.4e-6 at worst in 120 draws, with 4.5e-7 for the reference; a mistake: 1e-2.
FLOOR = 2e-6


def frames(*shape):
    """Angles all around, scales from a half to two."""
    angle, scale = torch.rand(2, *shape, generator=DRAWN)
    return frame(angle * 6.3, 0.5 + 1.5 * scale)


def test_what_a_turned_cell_perceives():
    """A slope to the right, seen by a cell turned by a quarter, counterclockwise: it goes down. Then at twice the
    scale, where a slope looks twice as steep and a bowl four times as deep."""
    rule = Rule(channels=1, padding="replicate")
    slope = torch.arange(9.0).expand(1, 1, 9, 9)
    middle = reference.perceive(slope, rule, field=QUARTER[None, :, None, None])[0, :, 4, 4]
    assert torch.allclose(middle, torch.tensor([4.0, 0.0, 8.0, 0.0]), atol=1e-5)
    bowl, field = slope.square(), frame(0.0, 2.0)[None, :, None, None]
    plain, scaled = reference.perceive(bowl, rule), reference.perceive(bowl, rule, field=field)
    assert torch.equal(scaled[0, :, 4, 4], plain[0, :, 4, 4] * torch.tensor([1.0, 2.0, 2.0, 4.0]))


@pytest.mark.parametrize(
    "filters", [DISTILL, ("laplacian/8", "sobel_y7", "scharr_x", "identity", "sobel_x7", "scharr_y")]
)
def test_a_turned_picture_grows_as_the_picture(filters):
    """In float64; `rot90` turns counterclockwise, as angles do. Worst seen 2e-16."""
    rule = Rule(channels=5, hidden=(8,), filters=filters, fire_rate=1.0)
    weights = [tuple(None if t is None else t.double() for t in pair) for pair in random_weights(rule)]
    x, quarter = torch.randn(1, 5, 7, 7).double(), torch.tensor([0.0, 1.0]).double()
    straight, turned = (
        rollout(start, weights, rule, 4, backend="reference", frame=field)
        for start, field in ((x, None), (x.rot90(1, (2, 3)), quarter))
    )
    assert relative_error(turned, straight.rot90(1, (2, 3))) < 1e-14


EVERYTHING = Rule(
    channels=5,
    hidden=(7, 8),
    filters=("sobel_y5/8", "identity", "sobel_x5/8", "laplacian", "sobel_x", "sobel_y"),
    frozen=1,
    maximum_window=3,
    alive_channel=3,
    output_bias=True,
    clamp=(-0.6, 0.7),
    state_noise=0.1,
    update_noise=0.1,
    fire_shared=(),
)
CASES = {  # (rule, size, frames, options)
    "all alike": (Rule(4, (8,)), (2, 5, 7), frame(0.5, 1.5), {}),
    "wide": (Rule(5, (16,)), (2, 9, 333), frames(9, 333), {"checkpoint_every": 2}),
    "by sample": (Rule(4, (8,), padding="zero", fire_rate=0.9), (3, 20, 37), frames(3, 20, 37), {"at": range(1, 4)}),
    "a chain of steps": (Rule(3, (8,)), (1, 70, 19), frames(70, 19), {"bptt_steps": 2}),
    "everything": (EVERYTHING, (2, 7, 33), frames(7, 33), {}),
    "gradients alone": (Rule(4, (8,), ("sobel_y", "sobel_x"), padding="reflect"), (2, 6, 5), frames(6, 5), {}),
    "hexagons": (Rule(4, (8,), ("hex_laplacian", "hex_sobel_x", "hex_sobel_y")), (1, 1, 3), frames(1, 3), {}),
    "a function between": (Rule(4, (8,)), (2, 5, 9), frames(2, 5, 9), {"after": lambda x, y, n: 0.9 * y + 0.1 * x}),
}


def results(name, backend, dtype):
    """The values, then the gradients of state (where there is one), frames and weights."""
    rule, (B, H, W), field, options = CASES[name]
    torch.manual_seed(1)
    weights = [tuple(None if t is None else t.to(dtype).requires_grad_() for t in p) for p in random_weights(rule)]
    x = (torch.randn(B, rule.channels, H, W) * 0.5).to(dtype).requires_grad_()
    field = field.to(dtype, copy=True).requires_grad_()  # or runs would share a gradient
    y = rollout(x, weights, rule, 3, seed=2, frame=field, backend=backend, **options)
    y.backward(torch.ones_like(y).cumsum(-1).cos() + 1)
    params = [x, field, *(t for pair in weights for t in pair if t is not None)]
    return [y.detach(), *(t.grad for t in params if t.grad is not None)]


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name, poisoned):
    """The kernel at most twice the error of the float32 reference, or FLOOR; convolutions in float64."""
    ways = [("reference", torch.float64), ("convolutions", torch.float64), ("reference", torch.float32)]
    exact, other, plain, fused = (results(name, b, d) for b, d in [*ways, ("cpu", torch.float32)])
    for e, o, p, f in zip(exact, other, plain, fused, strict=True):
        assert e.norm() > 0 and relative_error(o, e) < 1e-12
        assert relative_error(f, e) <= max(2 * relative_error(p, e), FLOOR)


def test_the_first_axis_changes_no_bit_and_no_mask():
    """A frame of (1, 0) is that of all cells without one: what fires depends on no frame."""
    nca = NCA(Rule(4, (8,), output_bias=True), init_gain=1.0)
    x = torch.randn(2, 4, 20, 30)
    assert torch.equal(nca(x, 5, seed=3), nca(x, 5, seed=3, frame=torch.tensor([1.0, 0.0])))
    turned = nca(x, 1, seed=3, frame=frames(20, 30))
    assert torch.equal((turned != x).any(1), (nca(x, 1, seed=3) != x).any(1))


def test_parts_of_a_canvas_have_the_bits_of_the_whole():
    """A strip with its rows of the field, in place; and all samples, each alone."""
    rule = Rule(4, (8,))
    weights, x, field = random_weights(rule), torch.randn(2, 4, 30, 21), frames(2, 30, 21)
    whole = rollout(x, weights, rule, 4, seed=1, frame=field)
    strip, own = x[1:, :, 5:25].contiguous(), field[1:, :, 5:25]
    y = rollout(strip, weights, rule, 4, seed=1, frame=own, origin=(5, 0), first_sample=1, canvas_height=30)
    assert torch.equal(y[:, :, 4:-4], whole[1:, :, 9:21])
    z, _ = ops.advance(x.clone(), torch.empty_like(x), weights, rule, 4, seed=1, frame=field)
    assert torch.equal(z, whole)
    first = rollout(x, weights, rule, 2, seed=1, frame=field)
    assert torch.equal(rollout(first, weights, rule, 2, seed=1, first_step=2, frame=field), whole)


def test_the_gradient_of_an_angle_and_a_scale():
    """Against a difference of losses in float64, by way of `frame`. Worst seen 2e-7, the square of the difference."""
    rule = Rule(4, (8,), activation="tanh")
    weights = [tuple(None if t is None else t.double() for t in pair) for pair in random_weights(rule)]
    x, values = torch.randn(1, 4, 6, 6).double(), torch.tensor([0.7, 1.2]).double().requires_grad_()

    def loss(values):
        return rollout(x, weights, rule, 3, seed=0, frame=frame(*values), backend="reference").square().sum()

    loss(values).backward()
    for step in torch.eye(2).double() * 1e-4:
        slope = (loss(values.detach() + step) - loss(values.detach() - step)) / 2e-4
        assert abs(slope - values.grad @ step / 1e-4) < 1e-5 * abs(slope)


def test_transforms():
    rule = Rule(3, (6,))
    weights, x, fields = random_weights(rule), torch.randn(1, 3, 5, 6), frames(2, 5, 6)

    def loss(field, backend="cpu"):
        return rollout(x, weights, rule, 2, seed=1, frame=field, backend=backend).square().sum()

    got = torch.vmap(torch.func.grad(loss))(fields)
    want = [torch.func.grad(lambda f: loss(f, "reference"))(field) for field in fields]
    assert relative_error(got, torch.stack(want).double()) < 1e-6


def test_alignments():
    """Rings around the middle; field lines from pole to pole; parts have the bits of the whole."""
    ring, field = polar(9, 13), dipole(8, 17)
    assert torch.equal(ring[:, 4, 12], torch.tensor([1.0, 0.0])) and torch.equal(
        ring[:, 0, 6], torch.tensor([0.0, 1.0])
    )
    assert torch.equal(ring[:, 4, 6], torch.tensor([1.0, 0.0]))  # the centre itself
    for lines in (ring, field):
        assert torch.allclose(lines.square().sum(0), torch.ones(lines.shape[1:]))
    assert (field[0, :, 6:10] > 0.2).all() and (field[0, :, :2] < 0).any()  # across between the poles, and away behind
    assert torch.allclose(field[:, :, 8], torch.tensor([1.0, 0.0])[:, None])  # straight, half-way
    assert torch.equal(polar(9, 13, torch.tensor([7, 3])), ring[:, [7, 3]])
    assert torch.equal(dipole(8, 17, torch.tensor([7, 3])), field[:, [7, 3]])
    both = combined(frame(0.3, 2.0), frame(torch.tensor([[0.4]]), 1.5))
    assert torch.allclose(both, frame(torch.tensor([[0.7]]), 3.0))


def test_which_filters_are_derivatives():
    """All that have a name, in whatever order; scales part pairs."""
    kinds = derivatives([named(name) for name in NAMES])
    found = {NAMES[x]: NAMES[y] for x, y in kinds.pairs}
    assert found == {name: name.replace("_x", "_y") for name in NAMES if "_x" in name}
    assert [NAMES[n] for n in kinds.laplacians] == ["hex_laplacian", "laplacian"] and kinds.others == ()
    third = ((0, 0, 0, 0, 0), (0,) * 5, (-1, 2, 0, -2, 1), (0,) * 5, (0,) * 5)  # of a third derivative
    odd = Rule(
        filters=("sobel_x", "sobel_y/8", ((1, 2, 1), (2, 4, 2), (1, 2, 1)), third, tuple(zip(*third, strict=True)))
    )
    assert odd.derivatives.others == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"frame": (1.0, 0.0)}, TypeError, r"frame must be a floating-point tensor .* but got \(1.0, 0.0\)"),
        ({"frame": torch.ones(2).long()}, TypeError, "frame must be a floating-point tensor"),
        ({"frame": torch.ones(5, 6)}, ValueError, r"frame must have shape \[2\], \[2, 5, 6\] .* but got \[5, 6\]"),
        ({"frame": torch.ones(2, 5, 6).to_sparse()}, TypeError, "frame must be a dense tensor"),
        ({"frame": torch.zeros(2, 5, 6)}, ValueError, r"frame must be finite and nowhere \(0, 0\)"),
        ({"frame": torch.tensor([1.0, math.nan])}, ValueError, "frame must be finite"),
        ({"rule": Rule(4, (8,), ("sobel_x",))}, ValueError, r"of the rule's these are none: 'sobel_x' \(number 0\)"),
        ({"rule": Rule(4, (8,), learned_filters=1)}, ValueError, "frame must go with fixed filters alone"),
        ({"rule": Rule(4, (8,), ("identity",))}, ValueError, "a rule that has derivatives among its filters"),
    ],
)
def test_errors(changes, error, message):
    rule = changes.pop("rule", Rule(4, (8,)))
    given = {"frame": QUARTER} | changes
    with pytest.raises(error, match=message):
        rollout(torch.zeros(2, 4, 5, 6), random_weights(rule), rule, 2, **given)


def test_the_field_of_the_example():
    """`nca_fast.frame`, as its docstring has it."""
    nca = NCA(Rule(4, (8,)), init_gain=1.0)
    x = torch.randn(1, 4, 5, 6)
    assert not torch.equal(nca(x, 3, seed=0, frame=nca_fast.frame(math.radians(30), 2.0)), nca(x, 3, seed=0))
