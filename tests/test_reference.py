"""The reference against hand-written cases and the published formulas; it defines all else, so it is checked alone."""

import pytest
import torch
import torch.nn.functional as F
from rollouts import random_weights, relative_error
from torch.testing import assert_close

from nca_fast import Rule, fire_mask, reference


def distill_step(x, w1, b1, w2, mask):
    """The step of the Distill PyTorch notebook, written from its description: channel-major perception, 4 c + f."""
    ident = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    sobel_x = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    lap = torch.tensor([[1.0, 2.0, 1.0], [2.0, -12.0, 2.0], [1.0, 2.0, 1.0]])
    filters = torch.stack([ident, sobel_x, sobel_x.T, lap]).to(x)
    B, C, H, W = x.shape
    y = F.conv2d(F.pad(x.reshape(B * C, 1, H, W), (1, 1, 1, 1), "circular"), filters[:, None]).reshape(B, -1, H, W)
    return x + F.conv2d(torch.relu(F.conv2d(y, w1, b1)), w2) * mask


def test_one_step_is_distills():
    C, hidden = 5, 7
    x = torch.randn(2, C, 6, 8, dtype=torch.float64)
    w1, b1, w2 = (torch.randn(s, dtype=torch.float64) for s in ((hidden, 4 * C, 1, 1), (hidden,), (C, hidden, 1, 1)))
    rule = Rule(channels=C, hidden=(hidden,))
    mask = fire_mask(9, 3, 2, 6, 8, 0.5)
    permuted = w1.reshape(hidden, C, 4).transpose(1, 2).reshape(hidden, 4 * C)
    y = reference.rollout(x, [(permuted, b1), (w2[:, :, 0, 0], None)], rule, 1, seed=9, first_step=3)
    assert_close(y, distill_step(x, w1, b1, w2, mask), rtol=1e-12, atol=1e-12)  # order of sums in float64


def test_perception_by_hand():
    """One cell set to 1: every filter shows its own taps, mirrored, around it; on a torus they wrap."""
    x = torch.zeros(1, 2, 4, 5, dtype=torch.float64)
    x[0, 1, 0, 0] = 1
    rule = Rule(channels=2, hidden=(1,), filters=("identity", "sobel_x", ((1, 2, 3), (4, 5, 6), (7, 8, 9))))
    y = reference.perceive(x, rule)
    assert y.shape == (1, 6, 4, 5) and (y[0, [0, 2, 4]] == 0).all()
    custom = y[0, 5]
    assert custom[0, 0] == 5 and custom[1, 1] == 1 and custom[3, 4] == 9 and custom[0, 1] == 4 and custom[3, 1] == 7
    assert y[0, 3, 0, 4] == 2 and y[0, 3, 0, 1] == -2
    zero = reference.perceive(x, Rule(channels=2, hidden=(1,), filters=rule.filters, padding="zero"))
    assert zero[0, 5, 0, 0] == 5 and zero[0, 5, 1, 1] == 1 and zero[0, 5, 3, 4] == 0


def test_large_filters_and_small_canvases():
    """On a torus smaller than the filter, every cell is seen as often as the filter wraps around."""
    x = torch.randn(1, 1, 2, 3, dtype=torch.float64)
    rule = Rule(channels=1, hidden=(1,), filters=(((1.0,) * 9,) * 9,))
    total = sum(torch.roll(x, (i, j), (2, 3)) for i in range(-4, 5) for j in range(-4, 5))
    assert_close(reference.perceive(x, rule), total, rtol=1e-12, atol=1e-12)


def test_maximum_window_by_hand():
    x = torch.arange(12.0, dtype=torch.float64).reshape(1, 1, 3, 4) - 20  # negative: zero padding must not win
    rule = Rule(channels=1, hidden=(1,), filters=("identity",), maximum_window=3, padding="zero")
    largest = reference.perceive(x, rule)[0, 1]
    assert largest.tolist() == [[-15, -14, -13, -13], [-11, -10, -9, -9], [-11, -10, -9, -9]]
    torus = reference.perceive(x, Rule(channels=1, hidden=(1,), filters=("identity",), maximum_window=3))[0, 1]
    assert torus[0, 0] == -9 and torus[1, 1] == -10


def test_gradient_of_the_maximum_goes_to_the_first_of_equals():
    x = torch.zeros(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    rule = Rule(channels=1, hidden=(1,), filters=("identity",), maximum_window=3, padding="zero")
    reference.perceive(x, rule)[0, 1, 1, 1].backward()
    assert x.grad[0, 0, 0, 0] == 1 and x.grad.sum() == 1


def test_alive_mask_is_that_of_growing_automata():
    """Written from the description: 3x3 maximum of alpha above 0.1, before and after the update, else 0."""
    rule = Rule(channels=6, hidden=(8,), padding="zero", alive_channel=3, fire_rate=0.5)
    weights = [(w.double() * 2, None if b is None else b.double()) for w, b in random_weights(rule)]
    x = torch.zeros(1, 6, 9, 9, dtype=torch.float64)
    x[:, 3:, 4, 4] = 1
    free = Rule(channels=6, hidden=(8,), padding="zero", fire_rate=0.5)
    for step in range(4):
        plain = reference.rollout(x, weights, free, 1, seed=2, first_step=step)

        def alive(state):
            return F.max_pool2d(state[:, 3:4], 3, 1, 1) > 0.1

        want = plain * (alive(x) & alive(plain))
        x = reference.rollout(x, weights, rule, 1, seed=2, first_step=step)
        assert torch.equal(x, want)
    assert 0 < (x != 0).double().mean() < 1


def test_per_sample_weights_are_one_rule_per_sample():
    rule = Rule(channels=4, hidden=(6, 5), output_bias=True)
    weights = [(w.double(), b.double()) for w, b in random_weights(rule, batch=3)]
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    together = reference.rollout(x, weights, rule, 3, seed=1)
    for n in range(3):
        own = [(w[n], b[n]) for w, b in weights]
        alone = reference.rollout(x[n : n + 1], own, rule, 3, seed=1, first_sample=n)
        assert_close(together[n : n + 1], alone, rtol=1e-12, atol=1e-12)  # order of sums in float64


@pytest.mark.parametrize(
    "rule",
    [
        Rule(channels=3, hidden=(4,)),
        Rule(channels=4, hidden=(5, 3), padding="zero", frozen=2, output_bias=True, filters=("identity", "sobel_x5")),
        Rule(channels=4, hidden=(3,), maximum_window=3, alive_channel=1, hidden_bias=False),
    ],
    ids=["texture", "style", "alive"],
)
def test_gradients(rule):
    tensors = [t.double().requires_grad_() for pair in random_weights(rule) for t in pair if t is not None]
    x = (torch.randn(1, rule.channels, 4, 3, dtype=torch.float64) * 0.5).requires_grad_()

    def run(x, *tensors):
        left = list(tensors)
        weights = [(left.pop(0), left.pop(0) if bias else None) for _, _, bias in rule.layers]
        return reference.rollout(x, weights, rule, 2, seed=4)

    assert torch.autograd.gradcheck(run, (x, *tensors))


def test_precision_rounds_what_is_multiplied():
    rule = Rule(channels=12, hidden=(32,))
    weights, x = random_weights(rule), torch.randn(1, 12, 8, 8)
    exact = reference.rollout(x.double(), weights, rule, 1, seed=0)
    error = {
        p: relative_error(reference.rollout(x, weights, rule, 1, seed=0, precision=p), exact)
        for p in ("fp32", "fp16", "tf32", "bf16")
    }
    # fp16 and tf32 keep 10 bits of mantissa, bf16 keeps 7.
    assert error["fp32"] < 1e-6 < error["tf32"] < 1e-3
    assert error["fp16"] == pytest.approx(error["tf32"], rel=0.05)
    assert 4 < error["bf16"] / error["tf32"] < 16
