"""Filters that are learned: perception, gradients of their kernels, the layer that has them."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from rollouts import random_weights, relative_error, values_and_gradients
from torch import nn

from nca_fast import NCA, Rule, backends, folding, reference, rollout
from nca_fast.rendering.blend import blended

MODES = {"circular": "circular", "zero": "constant", "reflect": "reflect", "replicate": "replicate"}
EVERYTHING = Rule(
    6,
    (7, 8),
    ("identity", "sobel_y5/8"),
    frozen=1,
    maximum_window=5,
    alive_channel=3,
    output_bias=True,
    clamp=(-0.6, 0.7),
    state_noise=0.1,
    update_noise=0.1,
    fire_shared=(),
    learned_filters=2,
)
RULES = {  # (rule, size, axes before those of the weights)
    "alone": (Rule(5, (8,), (), learned_filters=1), (2, 5, 37), ()),
    "after the cell itself": (Rule(5, (8,), ("identity",), padding="zero", learned_filters=2), (2, 40, 64), ()),
    "after the usual filters": (Rule(3, (8,), padding="replicate", learned_filters=3), (2, 24, 32), ()),
    "more than registers hold": (Rule(3, (8,), (), padding="reflect", learned_filters=7), (2, 23, 19), ()),
    "everything": (EVERYTHING, (2, 7, 33), ()),
    "everything, mirrored": (replace(EVERYTHING, padding="reflect", residual=False), (2, 7, 33), (2,)),
    "by step and sample": (Rule(4, (6,), ("sobel_x7",), learned_filters=2), (2, 20, 45), (3, 2)),
    "two tiles": (Rule(100, (6,), (), learned_filters=2), (1, 4, 650), ()),
    "a cell that is its own neighbour": (Rule(4, (8,), ("identity",), learned_filters=2), (2, 1, 2), (2, 1)),
}


@pytest.mark.parametrize("padding", MODES)
def test_perception_is_a_depthwise_convolution(padding):
    """In float64; worst seen 4e-16, the order of sums."""
    rule = Rule(4, (3,), ("identity",), maximum_window=3, padding=padding, learned_filters=2)
    x, kernels = torch.randn(3, 4, 6, 7).double(), torch.randn(3, 2, 4, 3, 3).double()
    seen = reference.perceive(x, rule, kernels[0])
    assert torch.equal(seen[:, :4], x) and seen.shape[1] == rule.inputs == 16
    padded = F.pad(x, [1] * 4, mode=MODES[padding])
    for f in range(2):
        want = F.conv2d(padded, kernels[0, f, :, None], groups=4)
        assert relative_error(seen[:, 4 + 4 * f : 8 + 4 * f], want) < 1e-14
    each = [reference.perceive(x[n : n + 1], rule, kernels[n]) for n in range(3)]
    assert relative_error(reference.perceive(x, rule, kernels), torch.cat(each)) < 1e-14


@pytest.mark.parametrize("name", RULES)
def test_values_and_gradients(name, poisoned):
    """The kernel at most twice the error of the float32 reference, floor as in test_rollout; convolutions in float64.

    Worst seen of convolutions 1e-15; three steps, so that entries of a time axis meet.
    """
    rule, (B, H, W), lead = RULES[name]
    torch.manual_seed(1)
    weights = [tuple(t if t is None else t.expand(*lead, *t.shape) for t in pair) for pair in random_weights(rule)]
    if lead:
        weights = [tuple(t if t is None else t + 0.2 * torch.randn_like(t) for t in pair) for pair in weights]
    x = torch.randn(B, rule.channels, H, W) * 0.5
    grad = torch.ones_like(x).cumsum(3).cos() + 1
    ways = [("reference", torch.float64), ("convolutions", torch.float64), ("reference", torch.float32)]
    exact, other, plain, fused = (
        values_and_gradients(rule, weights, x, grad, 3, backend=b, dtype=d) for b, d in [*ways, ("cpu", torch.float32)]
    )
    for e, o, p, f in zip(exact, other, plain, fused, strict=True):
        assert e.norm() > 0 and relative_error(o, e) < 1e-12
        assert relative_error(f, e) <= max(2 * relative_error(p, e), 5e-7)


def test_a_canvas_in_strips_is_the_whole():
    rule = Rule(4, (8,), (), learned_filters=2, maximum_window=None)
    weights, x = random_weights(rule), torch.randn(1, 4, 20, 40)
    whole = rollout(x, weights, rule, 2, seed=1)
    assert rule.reach == 1
    part = rollout(x[:, :, 4:15], weights, rule, 2, seed=1, origin=(4, 0))
    assert torch.equal(part[:, :, 2:-2], whole[:, :, 6:13])


def test_the_same_bits_each_time():
    rule = Rule(6, (8,), ("identity",), learned_filters=2, alive_channel=3)
    weights, x = random_weights(rule), torch.rand(3, 6, 33, 21)
    first, again = (
        values_and_gradients(rule, weights, x, x.cos(), 4, backend="cpu", dtype=torch.float32) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("lead", [(), (2,), (3, 1)], ids=["one", "by sample", "by step"])
def test_without_learned_filters_it_is_the_same(lead):
    """In float64 to 1e-12, worst seen 5e-16: what the kernels that do not serve them may run."""
    rule = Rule(4, (6,), ("sobel_x5/8", "identity", "sobel_y"), learned_filters=2, maximum_window=3)
    torch.manual_seed(2)
    weights = [tuple(t if t is None else t.double() for t in pair) for pair in random_weights(rule)]
    kernels = (torch.randn(*lead, 2, 4, 3, 3).double() * 0.5).requires_grad_()
    given, x = [(kernels, None), *weights[1:]], torch.randn(2, 4, 7, 6).double() * 0.5
    plain, folded = folding.without_learned_filters(rule, given)
    assert (len(plain.filters), plain.learned_filters, plain.inputs) == (10, 0, 44)
    assert folding.without_learned_filters(plain, folded) == (plain, folded)
    results = []
    for r, w in ((rule, given), (plain, folded)):
        y = rollout(x, w, r, 4, seed=1, backend="reference")
        results.append((y.detach(), *torch.autograd.grad(y.square().sum(), kernels)))
    for a, b in zip(*results, strict=True):
        assert relative_error(a, b.double()) < 1e-12


def test_the_layer_learns_them(tmp_path):
    """They start as a depthwise convolution of PyTorch does, train, and are saved with the weights."""
    rule = Rule(channels=6, hidden=(16,), filters=("identity",), learned_filters=3)
    nca = NCA(rule, init_gain=1.0)
    like = nn.Conv2d(300, 300, 3, groups=300).weight.abs().max()
    assert nca.kernels.shape == (3, 6, 3, 3) and 0.3 < nca.kernels.abs().max() < 1 / 3 and 0.3 < like < 1 / 3
    assert NCA(rule, init_gain=0.1).kernels.abs().max() < 0.1 / 3
    assert "1 filters and 3 learned" in repr(nca) and set(dict(nca.named_parameters())) >= {"kernels"}
    x, before = torch.randn(1, 6, 9, 8), nca.kernels.detach().clone()
    nca(x, 3, seed=0).square().mean().backward()
    torch.optim.SGD(nca.parameters(), 1.0).step()
    assert (nca.kernels - before).abs().min() > 0
    again = NCA.from_pretrained(nca.save_pretrained(tmp_path))
    assert torch.equal(again(x, 3, seed=0), nca(x, 3, seed=0)) and again.rule == rule
    nn.utils.parametrize.register_parametrization(nca, "kernels", nn.Tanh())
    again = NCA.from_pretrained(nca.save_pretrained(tmp_path))
    assert torch.equal(again.kernels, nca.kernels) and torch.equal(again(x, 3, seed=0), nca(x, 3, seed=0))


def test_what_does_not_fit():
    rule, x = Rule(3, (4,), (), learned_filters=2), torch.zeros(2, 3, 5, 6)
    kernels, *layers = random_weights(rule)
    for weights, message in (
        (layers, r"weights must hold 3 \(W, b\) pairs, one for each layer after the kernels of the learned filters"),
        ([(kernels[0][:1], None), *layers], r"weights\[0\]\[0\] must have shape \[2, 3, 3, 3\], \[2, 2, 3, 3, 3\] or"),
        ([(kernels[0], torch.zeros(2)), *layers], r"weights\[0\]\[1\] must be None by the rule"),
    ):
        with pytest.raises(ValueError, match=message):
            rollout(x, weights, rule, 1)
    with pytest.raises(ValueError, match="learned_filters must be an integer of at least 0, but got -1"):
        Rule(learned_filters=-1)
    with pytest.raises(ValueError, match=r"at least one filter, but got \(\) and learned_filters 0"):
        Rule(filters=())
    with pytest.raises(ValueError, match="more rows and columns than the 1"):
        rollout(x[:, :, :1], [kernels, *layers], replace(rule, padding="reflect"), 1)
    painters = [NCA(Rule(filters=("identity",), learned_filters=1, frozen=3), rgb_channel=3, start="image")] * 2
    with pytest.raises(ValueError, match="one rule without alive_channel and learned filters"):
        blended(painters, [1, 1])


def test_triton_takes_them_folded(monkeypatch):
    """By nine shifts, with gradients of kernels and layers: within twice the error of plain float32."""
    pytest.importorskip("triton", reason="the Triton kernels need triton: pip install triton")
    from triton_rollouts import DEVICE, small_programs

    def moved(weights, device):
        return [tuple(t if t is None else t.to(device) for t in pair) for pair in weights]

    small_programs(monkeypatch)
    rule = Rule(3, (4,), ("identity",), padding="reflect", learned_filters=2)
    torch.manual_seed(1)
    weights, x = random_weights(rule), torch.randn(1, 3, 5, 6) * 0.5
    ways = (("reference", torch.float64, "cpu"), ("reference", torch.float32, "cpu"), ("triton", torch.float32, DEVICE))
    exact, plain, fused = (
        values_and_gradients(
            rule, moved(weights, on), x.to(on), x.to(on).cos(), 2, backend=b, dtype=d, precision="fp32"
        )
        for b, d, on in ways
    )
    for e, p, f in zip(exact, plain, fused, strict=True):
        assert e.norm() > 0 and relative_error(f.cpu(), e) <= max(2 * relative_error(p, e), 5e-7)
    wide = Rule(40, (4,), ("sobel_x5",), learned_filters=2)
    reason = backends.refusal("triton", wide, torch.zeros(1, 40, 5, 6, device=DEVICE), "fp32")
    assert "learned filters and those up to 3x3 beside them are nine), but the rule has 400." in reason
