"""float16 products of the Triton kernels on states and weights that float16 would not hold; see half_range.py."""

from dataclasses import replace

import pytest
import torch
from rollouts import relative_error, values_and_gradients
from triton_rollouts import DEVICE, mixed, small_programs, weights_of

from nca_fast import Rule, rollout
from nca_fast.presets import PRESETS

pytest.importorskip("triton", reason="the Triton kernels need triton: pip install triton")

# Both ways of the kernels, one layer and two; filters of which the laplacian adds up 24 values, biases among the
# weights of the first layer and apart.
RULES = {
    "single pass": Rule(channels=4, hidden=(8,), output_bias=True),
    "bias apart": Rule(channels=8, hidden=(9,)),
    "two layers": Rule(channels=5, hidden=(8, 6), frozen=1, filters=("identity", "laplacian", "laplacian/3")),
    "through memory": Rule(channels=4, hidden=(8,), filters=("sobel_x5", "laplacian"), maximum_window=3),
}


@pytest.fixture(autouse=True)
def programs(monkeypatch):
    small_programs(monkeypatch)


# The backward products round gradients too, as those of TF32 convolutions do and the reference does not: 2**-11 each.
GRADIENT = 2**-10


def errors(rule, size, scale=1.0, per_sample=False, precision="fp16", of="triton"):
    """Of values and gradients on states of about `size`, weights of the first layer times `scale`, against float64."""
    torch.manual_seed(2)
    weights = weights_of(rule, 2 if per_sample else None)
    weights = [(w * (scale if n == 0 else 1), b) for n, (w, b) in enumerate(weights)]
    x = (torch.rand(2, rule.channels, 4, 7, device=DEVICE) - 0.5) * 2 * size
    grad_y = torch.randn_like(x)
    options = {"seed": 4, "steps": 1}
    exact = values_and_gradients(rule, weights, x.double(), grad_y, backend="reference", dtype=torch.float64, **options)
    found = mixed(rule, weights, x, grad_y, backend=of, precision=precision, **options)
    assert all(t.isfinite().all() for t in found)
    return [relative_error(f, e) for f, e in zip(found, exact, strict=True)]


def check(*arguments, **options):
    """At most twice the error of TF32 products; worst seen 1.0 times for values, 4.2 for gradients.

    Gradients may also be off by 2**-10, the rounding of ten bits: the reference does not round what the backward pass
    multiplies, TF32 convolutions do. Those that are further off than twice are so by 5.5e-4 at most.
    """
    (y, *grads), (y_tf32, *grads_tf32) = (
        errors(*arguments, **options | how) for how in ({}, {"precision": "tf32", "of": "reference"})
    )
    assert y <= max(2 * y_tf32, 5e-7)
    assert all(f <= max(2 * t, GRADIENT) for f, t in zip(grads, grads_tf32, strict=True))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("size", [2.0**15, 0.5])
def test_states_up_to_2_15_are_as_exact_as_with_tf32(name, size):
    """Unscaled, a laplacian overflowed from 2730 on. Small states lose nothing by the scales."""
    check(RULES[name], size)


@pytest.mark.parametrize("scale", [3e4, 1e-4])
def test_weights_of_any_size(scale):
    """30,000 times a filter's scale is beyond float16; so are units of such weights."""
    for name in ("single pass", "through memory"):
        check(RULES[name], 0.5, scale)


@pytest.mark.parametrize("activation", ["gelu", "elu"])
def test_units_that_cannot_be_scaled_are_exact_in_tf32(activation):
    """Which is what such rules take on a GPU (nca_fast/backends.py); in float16 they are infinite."""
    check(Rule(channels=4, hidden=(8,), activation=activation), 2.0**15, 30.0, precision="tf32")


def test_one_rule_per_sample():
    check(RULES["single pass"], 2.0**15, per_sample=True)


def test_a_cell_beyond_what_the_reference_holds_in_float16_spreads_no_nan():
    """One cell of 20,000 among small ones, ten steps: its neighbours' perception is beyond 65504 in the reference."""
    rule = replace(RULES["single pass"], output_bias=False)
    weights = [(w * 0.1, b) for w, b in weights_of(rule)]
    x = torch.zeros(1, 4, 9, 13, device=DEVICE)
    x[0, 1, 4, 6] = 20000.0
    y = rollout(x, weights, rule, 4, backend="triton", precision="fp16", seed=0)
    want = rollout(x.double(), weights_as(weights, torch.float64), rule, 4, backend="reference", seed=0)
    assert y.isfinite().all() and relative_error(y, want) < 2e-3


def weights_as(weights, dtype):
    return [tuple(None if t is None else t.to(dtype) for t in pair) for pair in weights]


# Of rules that the kernels refuse for their width nothing is multiplied; those with learned filters come folded.
SERVED = [
    name for name, preset in PRESETS.items() if preset["rule"].channels <= 64 and not preset["rule"].learned_filters
]


@pytest.mark.parametrize("name", [*RULES, *SERVED])
def test_scales_are_powers_of_two_and_nothing_reaches_65504(name):
    """By the bounds of the module's docstring, worked out here in float64 from the filters and weights themselves."""
    from nca_fast.kernels.triton.half_range import STATE, halved, weight_scales

    rule = RULES.get(name) or PRESETS[name]["rule"]
    kernel_rule, small = rule.kernel_rule, halved(rule.kernel_rule)
    for factor in (1e-3, 1.0, 4.0):
        weights = [(w * factor, b) for w, b in weights_of(rule)]
        params = torch.cat([t.flatten() for pair in weights for t in pair if t is not None])
        scales = weight_scales(params, kernel_rule)
        assert scales.shape == params.shape and torch.equal(scales.log2(), scales.log2().round())
        packed, at = (params * scales).double(), 0
        taps = [sum(abs(t) for row in stencil for t in row) for stencil in small.stencils]
        largest = torch.tensor(taps + [1.0] * bool(rule.maximum_window), dtype=torch.float64)
        largest = largest.repeat_interleave(rule.channels) * STATE
        for n, (out, inputs, bias) in enumerate(rule.layers):
            assert largest.max() < 65504
            weight = packed[at : at + out * inputs].reshape(out, inputs).cpu()
            assert weight.abs().max() < 65504
            at += out * inputs
            largest = weight.abs() @ largest + (packed[at : at + out].abs().cpu() if bias else 0)
            if n == len(rule.layers) - 1:
                assert weight.abs().sum(0).max() < 2**14
            at += out * bias
