"""What the C++ kernel computes beside the rules of test_rollout: every instruction set, states of 16 bits."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from nca_fast.kernels.cpu import build, compiler
from rollouts import random_weights, relative_error, values_and_gradients

import nca_fast
from nca_fast import Rule, backends, rollout
from nca_fast.ops import advance

RULES = [
    Rule(),
    Rule(channels=5, hidden=(7, 13), frozen=2, padding="zero", output_bias=True, filters=("identity", "scharr_y")),
    Rule(channels=5, hidden=(9,), filters=("sobel_x9", "sobel_y5"), maximum_window=3, alive_channel=3, padding="zero"),
    Rule(
        channels=5,
        hidden=(9, 8, 7),
        padding="reflect",
        frozen=1,
        alive_channel=3,
        alive_mask="after",
        fire_shared=(),
        activation=("gelu", "elu", "leaky_relu(0.2)"),
        update_activation="tanh/2",
        clamp=(-0.8, 0.9),
        state_noise=0.1,
        update_noise=0.1,
    ),
]


def can_run(isa):
    needs = compiler.variants().get(isa)
    return needs is not None and set(needs) <= set(compiler.cpu().get("flags", "").split())


@pytest.mark.parametrize("isa", ["haswell", "x86-64", "armv8-a"])
@pytest.mark.parametrize("rule", RULES, ids=["texture", "style", "vae", "everything"])
def test_every_instruction_set(isa, rule, monkeypatch, poisoned):
    """AVX2, plain SSE2 (which takes the code that any other CPU takes) and NEON against the float64 reference."""
    if not can_run(isa):
        pytest.skip(f"this CPU is no {isa}; the native build is tested in test_rollout")
    torch.manual_seed(1)
    torch.set_num_threads(2)
    load = build.load
    monkeypatch.setattr(build, "load", lambda: load(isa))
    weights, x = random_weights(rule, 2), torch.randn(2, rule.channels, 19, 45) * 0.5
    exact, plain, fused = (
        values_and_gradients(rule, weights, x, x, 3, backend=backend, dtype=dtype)
        for backend, dtype in (("reference", torch.float64), ("reference", torch.float32), ("cpu", torch.float32))
    )
    for e, p, f in zip(exact, plain, fused, strict=True):
        assert relative_error(f, e) <= max(2 * relative_error(p, e), 3e-7)


@pytest.mark.parametrize(
    "filters",
    [
        ("identity", "sobel_x", "sobel_y", "laplacian"),
        ("identity", "sobel_x", "sobel_y", "laplacian/16"),
        ("identity", "sobel_x/8", "sobel_y/8"),
        ("identity", "sobel_x7", "sobel_y5"),
    ],
)
@pytest.mark.parametrize("padding", ["circular", "zero"])
def test_a_cell_perceives_the_same_whoever_fires_beside_it(filters, padding):
    """Of neighbouring vectors much is kept in registers; here some vectors lie apart. The same bits as when all fire,
    and those are right: worst seen 6.2e-7 of the update, which is what two states of float32 differ by."""
    rule = Rule(6, (8,), filters, padding=padding, maximum_window=3)
    torch.manual_seed(4)
    weights, x = random_weights(rule), torch.randn(1, 6, 5, 181)
    for columns in ([0], [5, 37, 40, 90, 180], [64, 79, 80, 150]):
        rates = torch.zeros(5, 181)
        rates[:, columns] = 1.0
        some, every = (
            rollout(x, weights, rule, 1, seed=0, fire_rate=rate, backend="cpu") for rate in (rates, rates * 0 + 1)
        )
        assert some.equal(torch.where(rates > 0, every, x))
    exact = [tuple(None if t is None else t.double() for t in pair) for pair in weights]
    y = rollout(x.double(), exact, rule, 1, seed=0, fire_rate=torch.ones(5, 181), backend="reference")
    assert relative_error(every - x, y - x) < 2e-6


def test_scratch_memory_need_not_be_clean():
    """glibc fills what malloc gives with 0x7F7F7F7F = 3.4e38: nothing that was not written may be used."""
    code = """
import sys; sys.path.insert(0, "tests")
import torch
from rollouts import *
from nca_fast import Rule
worst = 0
for rule, width in ((Rule(5, (7, 13), output_bias=True), 21),
                    (Rule(5, (7,), ("sobel_x7",), maximum_window=3, padding="zero"), 32)):
    weights, x = random_weights(rule), torch.randn(1, 5, 9, width) * 0.5
    runs = [values_and_gradients(rule, weights, x, x, 3, backend=b, dtype=torch.float32) for b in ("cpu", "reference")]
    worst = max(worst, *(relative_error(a, b.double()) for a, b in zip(*runs)))
print(worst)
"""
    environment = os.environ | {"MALLOC_PERTURB_": "128"}
    root = Path(__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=root
    )
    assert float(result.stdout) < 1e-6


X, WEIGHTS, RULE = torch.zeros(1, 4, 5, 6), random_weights(Rule(channels=4, hidden=(3,))), Rule(channels=4, hidden=(3,))


def test_warnings_are_not_raised_when_the_kernel_serves():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rollout(X, WEIGHTS, RULE, 2)


HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
HALF_RULES = {
    "texture": Rule(),
    "growing": Rule(16, (32,), ("identity", "sobel_x/8", "sobel_y/8"), alive_channel=3, output_bias=True),
    "two layers": Rule(7, (9, 8), padding="zero", frozen=2, maximum_window=3),
}


def halves(rule, dtype, backend, x, weights, grad_y, **options):
    """`values_and_gradients` of a state of 16 bits and weights of float32."""
    x = x.to(dtype).requires_grad_()
    weights = [tuple(None if t is None else t.clone().requires_grad_() for t in pair) for pair in weights]
    y = rollout(x, weights, rule, 5, seed=3, backend=backend, **options)
    y.backward(grad_y.to(dtype))
    assert y.dtype == dtype and (x.grad is None or x.grad.dtype == dtype)
    return [y.detach(), x.grad] + [t.grad for pair in weights for t in pair if t is not None]


@HALVES
@pytest.mark.parametrize("name", HALF_RULES)
def test_states_of_16_bits(name, dtype, poisoned):
    """At most twice the error of the reference, which rounds the state after each step, and its gradient too."""
    rule = HALF_RULES[name]
    x = (torch.randn(2, rule.channels, 9, 20) * 0.5).to(dtype).float()
    weights, grad_y = random_weights(rule), torch.randn_like(x).to(dtype).float()
    exact = values_and_gradients(rule, weights, x, grad_y, 5, seed=3, backend="reference", dtype=torch.float64)
    plain, fused = (halves(rule, dtype, b, x, weights, grad_y) for b in ("reference", "cpu"))
    for e, p, f in zip(exact, plain, fused, strict=True):
        assert relative_error(f, e) <= 2 * relative_error(p, e)
    # Not only as near, but the same rounding: sums in another order round a number in a hundred to its neighbour.
    assert (plain[0] == fused[0]).float().mean() > 0.97


@HALVES
def test_states_of_16_bits_are_rounded_after_each_step(dtype):
    """However steps are cut into calls, segments and buffers, the bits are the same, and so is what lies outside."""
    rule, x = Rule(), torch.randn(2, 12, 9, 20).to(dtype)
    weights, before = random_weights(rule), x.clone()
    whole = rollout(x, weights, rule, 7, seed=5, backend="cpu")
    by_steps = x
    for n in range(7):
        by_steps = rollout(by_steps, weights, rule, 1, seed=5, first_step=n, backend="cpu")
    buffers = x.clone(), torch.full_like(x, torch.nan)
    in_two, _ = advance(*buffers, weights, rule, 7, seed=5, backend="cpu")
    assert torch.equal(by_steps, whole) and torch.equal(in_two, whole) and torch.equal(x, before)
    options = ({}, {"checkpoint_every": 2}, {"checkpoint_every": 3}, {"checkpoint_every": 9})
    runs = [halves(rule, dtype, "cpu", x.float(), weights, x.float(), **o) for o in options]
    assert all(torch.equal(run[0], runs[0][0]) for run in runs)
    for run in runs[1:]:  # between segments the gradient is rounded to 16 bits; eps is that of bfloat16
        for a, b in zip(run, runs[0], strict=True):
            assert relative_error(a, b.double()) < 2**-7
    cut = [halves(rule, dtype, b, x.float(), weights, x.float(), bptt_steps=2)[2:] for b in ("cpu", "reference")]
    for a, b in zip(*cut, strict=True):
        assert relative_error(a, b.double()) < 2**-6


def test_default_backend_serves_16_bits_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype in (torch.bfloat16, torch.float16):
            x = torch.randn(1, 4, 5, 6).to(dtype)
            assert torch.equal(
                rollout(x, WEIGHTS, RULE, 2, seed=0), rollout(x, WEIGHTS, RULE, 2, seed=0, backend="cpu")
            )


def test_float64_is_served_by_convolutions_with_one_warning():
    backends._said.clear()
    x = torch.randn(1, 4, 5, 6, dtype=torch.float64)
    with pytest.warns(
        UserWarning, match=r"stock convolutions, .*: the C.. kernel takes.*but x is torch.float64: use x.float"
    ):
        y = rollout(x, WEIGHTS, RULE, 2, seed=0)
    assert torch.equal(y, rollout(x, WEIGHTS, RULE, 2, seed=0, backend="convolutions"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rollout(x, WEIGHTS, RULE, 2)


UNSEEN = {
    "known filters": Rule(5, (9,), state_noise=0.1),
    "frames": Rule(5, (9,)),
    "any narrow filters": Rule(6, (9, 7), ("scharr_x", "identity"), frozen=2, padding="zero", output_bias=True),
    "wide filters and maxima": Rule(
        5, (9,), ("sobel_x5", "sobel_y7"), maximum_window=5, padding="zero", alive_channel=1
    ),
    "learned filters": Rule(5, (20,), ("identity",), learned_filters=4, padding="reflect", update_noise=0.1),
    "no hidden layer": Rule(4, (), output_bias=True, clamp=(-1, 1), residual=False),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_channels_that_no_unit_looks_at(name, poisoned):
    """What is multiplied by zeros is left out; the zeros have gradients all the same. Worst seen as in test_rollout."""
    rule = UNSEEN[name]
    torch.manual_seed(4)
    x = torch.randn(2, rule.channels, 9, 37) * 0.5
    weights = random_weights(rule, 2)
    first = weights[bool(rule.learned_filters)][0].unflatten(-1, (-1, rule.channels))
    first[..., [0, 3]] = 0
    first[0, ..., 2], first[1, ..., 1] = 0, 0  # each is seen in one sample
    options = {"frame": nca_fast.frame(torch.rand(2, 9, 37) * 6, 1.1)} if name == "frames" else {}
    exact, plain, fused = (
        values_and_gradients(rule, weights, x, x, 3, backend=backend, dtype=dtype, **options)
        for backend, dtype in (("reference", torch.float64), ("reference", torch.float32), ("cpu", torch.float32))
    )
    for e, p, f in zip(exact, plain, fused, strict=True):
        assert relative_error(f, e) <= max(2 * relative_error(p, e), 5e-7)
    of_zeros = fused[2 + bool(rule.learned_filters)].unflatten(-1, (-1, rule.channels))[..., [0, 3]]
    assert (of_zeros != 0).all()


def test_weights_by_step_on_two_threads(poisoned):
    """Each share of a sample's rows sums up the gradients of each step's own weights."""
    torch.set_num_threads(2)
    rule, (x, grad_y) = Rule(4, (6,), ("identity", "sobel_x")), torch.randn(2, 1, 4, 32, 40)
    weights = [torch.randn(2, 1, out, inputs) * 0.2 for out, inputs, _ in rule.layers]
    grads = []
    for backend in ("reference", "cpu"):
        leaves = [weight.clone().requires_grad_() for weight in weights]
        biases = [torch.zeros(2, 1, out) if has_bias else None for out, _, has_bias in rule.layers]
        y = rollout(x, list(zip(leaves, biases, strict=True)), rule, 3, seed=1, backend=backend)
        grads.append(torch.autograd.grad(y, leaves, grad_y))
    for found, wanted in zip(*reversed(grads), strict=True):
        assert relative_error(found, wanted) < 3e-6  # both are float32; worst seen 3e-7


@pytest.mark.parametrize("batch, threads", [(2, 1), (3, 2)], ids=["whole samples", "parts of samples"])
def test_an_alive_mask_knows_who_fires_in_its_own_step(batch, threads, poisoned):
    """Who does not fire lives on, and what decides on nobody is not computed: by the masks of each of six steps.

    Sparse states whose cells live and die. Off by less than 1e-6; by the masks of the first step by 1e-3 and more.
    """
    torch.set_num_threads(threads)
    rule = Rule(4, (8,), alive_channel=3, padding="zero", output_bias=True)
    for seed in (0, 1, 5):
        draw = torch.Generator().manual_seed(seed)
        first = 0.3 * torch.randn(8, 16, generator=draw), 0.3 * torch.randn(8, generator=draw)
        weights = [first, (0.3 * torch.randn(4, 8, generator=draw), torch.zeros(4))]
        x = torch.randn(batch, 4, 40, 56, generator=draw) * (torch.rand(batch, 1, 40, 56, generator=draw) < 0.1)
        x.requires_grad_()
        found, want = (rollout(x, weights, rule, 6, seed=seed, backend=backend) for backend in ("cpu", "reference"))
        assert relative_error(found, want) < 1e-5
        of_found, of_want = (torch.autograd.grad(y.square().sum(), x)[0] for y in (found, want))
        assert relative_error(of_found, of_want) < 1e-5
