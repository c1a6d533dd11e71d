"""What a rule and a rollout may ask for beyond Distill's step: draws, states on the way, functions in between."""

import itertools
import math
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from nca_fast.kernels.cpu import build
from rollouts import masked, random_weights, relative_error, values_and_gradients

import nca_fast
from nca_fast import Rule, fire_mask, normal, reference, rollout

BACKENDS = ("reference", "convolutions", "cpu")
# Where Triton's interpreter takes part, on a few cells; its values and gradients are compared in test_triton_fields.
WITH_TRITON = (*BACKENDS, *(("triton",) if find_spec("triton") and not torch.cuda.is_available() else ()))
PLACE = {"seed": 2**40 + 3, "first_step": 5, "origin": (7, 2**32 - 3), "first_sample": 2, "canvas_height": 12}
SHARED = [(), ("channel",), ("batch", "channel"), ("height", "width"), ("batch", "width"), ("channel", "height")]
EVERYTHING = Rule(
    6,
    (7, 8),
    ("identity", "sobel_x", "sobel_y5/8"),
    frozen=1,
    maximum_window=3,
    alive_channel=3,
    output_bias=True,
    activation=("silu", "leaky_relu(0.2)"),
    update_activation="tanh/2",
    clamp=(-0.6, 0.7),
    state_noise=0.1,
    update_noise=0.1,
    fire_shared=(),
)
KERNEL_RULES = {
    f"{padding}, {mode}, {'sum' if residual else 'new'}": replace(
        EVERYTHING, padding=padding, alive_mask=mode, residual=residual
    )
    for (padding, mode), residual in zip(
        itertools.product(("circular", "zero", "reflect", "replicate"), ("both", "before", "after", "update")),
        itertools.cycle((True, False, False)),
        strict=False,
    )
} | {
    "one draw": replace(EVERYTHING, fire_shared=("channel",), alive_padding="zero", clamp=(None, 0.3)),
    "no hidden layer": Rule(5, (), output_bias=True, update_activation="hardtanh(0.2)/3", residual=False),
    "noise alone": Rule(5, (8,), state_noise=0.2, alive_channel=2),
    "many channels": Rule(100, (6,), filters=("identity", "sobel_x"), padding="reflect"),
    "functions": Rule(4, (5, 6, 7, 5), activation=("elu", "gelu", "sigmoid", "tanh"), update_activation="identity/2"),
    "divided": Rule(4, (5, 6, 5), activation=("elu/2", "relu/2", "tanh/2"), update_activation="sigmoid"),
}


@pytest.mark.parametrize("name", KERNEL_RULES)
def test_the_kernel(name, poisoned):
    """At most twice the error of the float32 reference; the floor as in test_rollout.

    The gradient from above does not sum to nothing: what cancels in a bias's gradient would leave its rounding alone.
    """
    rule = KERNEL_RULES[name]
    torch.manual_seed(1)
    B, H, W = (2, 5, 37) if rule.channels < 9 else (1, 4, 650)  # two tiles
    x = torch.randn(B, rule.channels, H, W) * 0.5 * (torch.rand(B, 1, H, W) < 0.5)
    x += 0.01 * torch.rand(B, rule.channels, H, W)
    exact, plain, fused = (
        values_and_gradients(
            rule, random_weights_of(rule), x, torch.ones_like(x).cumsum(3).cos() + 1, 3, backend=b, dtype=d
        )
        for b, d in (("reference", torch.float64), ("reference", torch.float32), ("cpu", torch.float32))
    )
    for e, p, f in zip(exact, plain, fused, strict=True):
        assert relative_error(f, e) <= max(2 * relative_error(p, e), 5e-7)


def random_weights_of(rule):
    torch.manual_seed(2)
    return random_weights(rule)


@pytest.mark.parametrize("shared", SHARED, ids=lambda shared: "-".join(shared) or "none")
def test_masks_are_the_same_bits_everywhere(shared):
    rule = Rule(channels=4, hidden=(3,), output_bias=True, frozen=1, fire_shared=shared, fire_rate=0.4)
    want = fire_mask(
        *(PLACE[n] for n in ("seed", "first_step")), 3, 9, 37, 0.4, *list(PLACE.values())[2:], None, shared, 4, 1
    )
    want = want.expand(3, 3, 9, 37)
    for backend in WITH_TRITON:
        drawn = masked(rule, (3, 4, 9, 37), backend=backend, **PLACE)
        assert torch.equal(drawn[:, 1:] == 1, want) and not drawn[:, 0].any()
    for axis, name in enumerate(("batch", "channel", "height", "width")):
        assert torch.equal(want, want.narrow(axis, 0, 1).expand_as(want)) == (name in shared)
    assert abs(want.double().mean() - 0.4) < 0.5  # of a shared row few draws are left


def test_rates_by_step_sample_and_channel():
    rule = Rule(channels=3, hidden=(3,), output_bias=True)
    rates = torch.rand(2, 3, 3, 9, 37)
    rates[:, :, :, 0], rates[:, :, :, 1] = 0, 1
    for backend, step in itertools.product(WITH_TRITON, (5, 6)):
        drawn = masked(rule, (3, 3, 9, 37), backend=backend, fire_rate=rates, **PLACE | {"first_step": step}) == 1
        assert torch.equal(drawn, fire_mask(PLACE["seed"], step, 3, 9, 37, rates, *list(PLACE.values())[2:]))
        assert drawn[:, :, 1].all() and not drawn[:, :, 0].any()
        plain = [fire_mask(PLACE["seed"], step, 3, 9, 37, r, *list(PLACE.values())[2:]) for r in rates[step % 2, 1]]
        assert torch.equal(drawn[1], torch.stack([mask[1, 0] for mask in plain]))
    one = rates[:, :1, :1].expand(2, 1, 1, 9, 37)
    same = [masked(rule, (3, 3, 9, 37), backend=b, fire_rate=one, **PLACE) for b in WITH_TRITON]
    assert all(torch.equal(same[0], other) for other in same)


def test_normal_numbers_are_the_same_bits_everywhere():
    state = Rule(channels=4, hidden=(3,), frozen=1, state_noise=1.0, fire_rate=0.0, output_bias=True)
    update = Rule(channels=4, hidden=(3,), frozen=1, update_noise=1.0, fire_rate=1.0, residual=False)
    for rule, of_update in ((state, False), (update, True)):
        where = {name: value for name, value in PLACE.items() if name not in ("seed", "first_step")}
        want = normal(PLACE["seed"], 5, 3, 4, 9, 37, frozen=1, of_update=of_update, **where)
        weights = [tuple(None if t is None else t * 0 for t in pair) for pair in random_weights(rule)]
        for backend in WITH_TRITON:
            found = rollout(torch.zeros(3, 4, 9, 37), weights, rule, 1, backend=backend, **PLACE)
            assert torch.equal(found[:, 1:], want) and not found[:, 0].any()
            half = torch.tensor([1.0, 0.0, 0.5])
            found = rollout(torch.zeros(3, 4, 9, 37), weights, rule, 1, backend=backend, noise=half, **PLACE)
            assert torch.equal(found[:, 1:], want * half[:, None, None, None])


def test_normal_numbers_by_their_formula():
    """Of a single cell, from Philox's words in Python's own integers; worst seen 0."""
    from plain_automaton import normal as plain

    where = {"seed": hex(2**40 + 3), "origin": (7, 2**32 - 3), "first_step": 0, "first_sample": 2, "canvas_height": 12}
    found = normal(2**40 + 3, 5, 2, 4, 9, 3, of_update=True, origin=(7, 2**32 - 3), first_sample=2, canvas_height=12)
    for b, c, row, column in ((0, 0, 0, 0), (1, 3, 8, 2), (0, 2, 5, 1)):
        assert found[b, c, row, column] == plain(where, 5, b, row, column, 3 * (4 + c))


def test_normal_numbers_are_normal():
    """Bounds of four standard errors, for seeds that are fixed; neighbours along all axes are uncorrelated."""
    e = torch.stack([normal(2**40 + 5, n, 3, 6, 64, 64, of_update=u) for n in range(2) for u in (False, True)]).double()
    root = e.numel() ** 0.5
    assert abs(e.mean()) * root < 4 and abs(e.var() - 1) * root < 4 * 2**0.5
    assert abs((e**4).mean() / 3 - 1) < 0.02 and e.abs().max() < 8.3
    below = torch.tensor([(e < z).double().mean() for z in (-2.0, -0.7, 0.7, 2.0)])
    assert (below - torch.special.ndtr(torch.tensor([-2.0, -0.7, 0.7, 2.0])).double()).abs().max() < 4e-3
    for axis in range(e.ndim):
        a, b = e.narrow(axis, 0, e.shape[axis] - 1), e.narrow(axis, 1, e.shape[axis] - 1)
        assert abs((a * b).mean()) * a.numel() ** 0.5 < 4.5


def leaves_of(x, weights, dtype):
    x = x.to(dtype, copy=True).requires_grad_()
    return x, [tuple(None if t is None else t.to(dtype, copy=True).requires_grad_() for t in pair) for pair in weights]


def gradients(y, x, weights, *more):
    params = [x, *(t for pair in weights for t in pair if t is not None), *more]
    weight = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).cos().to(y)
    if not y.requires_grad:
        return [y]
    found = torch.autograd.grad(y, params, weight, allow_unused=True)
    return [y.detach()] + [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]


@pytest.mark.parametrize("by_sample", [False, True], ids=["all samples", "by sample"])
def test_weights_by_step(by_sample):
    """Step n takes entry n modulo T of each tensor, as single steps do; periods 2 and 3 meet after 6."""
    rule = Rule(4, (5,), output_bias=True)
    torch.manual_seed(3)
    (w, b), (w2, b2) = random_weights(rule, 2)
    weights = [(torch.stack([w, -w]), b.expand(3, 2, 5) * torch.arange(3)[:, None, None]), (w2[0], b2)]
    if not by_sample:
        weights = [(weights[0][0][:, :1], weights[0][1][:, :1]), (w2[0], b2[0])]
    x = torch.randn(2, 4, 5, 6) * 0.5

    def one_by_one(x, weights):
        for n in range(3, 10):
            (w, b), last = weights
            x = rollout(
                x,
                [(w[n % 2].expand(2, -1, -1), b[n % 3].expand(2, -1)), last],
                rule,
                1,
                seed=4,
                first_step=n,
                backend="reference",
            )
        return x

    x64, weights64 = leaves_of(x, weights, torch.float64)
    want = gradients(one_by_one(x64, weights64), x64, weights64)
    for backend, dtype in (("reference", torch.float64), ("convolutions", torch.float64), ("cpu", torch.float32)):
        own = leaves_of(x, weights, dtype)
        got = gradients(rollout(*own, rule, 7, seed=4, first_step=3, backend=backend), *own)
        for g, e in zip(got, want, strict=True):
            assert relative_error(g, e) < (1e-12 if dtype == torch.float64 else 2e-6)  # worst seen 4e-16, 4e-7


GRID = [
    (at, between, every, passed)
    for at, between in itertools.product((None, range(1, 7), range(2, 6, 2), range(3, 4)), (False, True))
    for every, passed in ((None, None), (2, 5), (4, 3))
]


@pytest.mark.parametrize("at, between, every, passed", GRID)
def test_states_on_the_way_and_functions_in_between(at, between, every, passed):
    """Against single steps in float64: which states get gradients, and which steps pass them."""
    rule = Rule(5, (7,), alive_channel=3, padding="zero")
    torch.manual_seed(0)
    x, weights, wave = torch.randn(2, 5, 7, 8) * 0.5, random_weights(rule), torch.randn(2, 5, 1, 1) * 0.1

    def after(x, y, n, wave):
        return y + torch.sin(wave + n) * x

    def one_by_one(x, weights, wave):
        states = []
        for n in range(6):
            if passed is not None and n == 6 - passed:
                x = x.detach()
            y = rollout(x, weights, rule, 1, seed=3, first_step=n, backend="reference")
            x = after(x, y, n, wave) if between else y
            kept = x.detach() if passed is not None and n < 6 - passed else x
            states.append(kept)
        return x if at is None else torch.stack([states[n - 1] for n in at])

    def run(backend, x, weights, wave):
        ways = {"after": after, "after_inputs": [wave]} if between else {}
        how = {"checkpoint_every": every, "bptt_steps": passed, "backend": backend, "at": at}
        return rollout(x, weights, rule, 6, seed=3, **how, **ways)

    results = []
    for backend, dtype in ((None, torch.float64), *((b, torch.float64) for b in BACKENDS[:2]), ("cpu", torch.float32)):
        own = (*leaves_of(x, weights, dtype), wave.to(dtype, copy=True).requires_grad_())
        y = one_by_one(*own) if backend is None else run(backend, *own)
        results.append(gradients(y, *own))
    exact, *others = results
    for result, bound in zip(others, (1e-12, 1e-12, 2e-6), strict=True):  # worst seen 4e-16, 5e-16, 4e-7
        for got, want in zip(result, exact, strict=False):
            assert relative_error(got, want) < bound


def test_one_compiled_graph_of_the_new_arguments():
    rule, x = Rule(3, (4,), state_noise=0.1), torch.randn(2, 3, 5, 6)
    weights = random_weights(rule)

    def run(x, seed):
        return rollout(x, weights, rule, 3, seed=seed, noise=torch.tensor([0.5, 1.0]), at=range(1, 4))

    compiled = torch.compile(run, fullgraph=True, backend="eager")
    assert all(torch.equal(compiled(x, seed), run(x, seed)) for seed in (0, 7))


def test_transforms_cannot_reach_a_function_in_between():
    rule, x = Rule(3, (4,)), torch.randn(1, 3, 4, 5)
    weights = random_weights(rule)

    def loss(x, backend=None):
        return rollout(x, weights, rule, 2, seed=1, after=lambda x, y, n: y.clamp(-1, 1), backend=backend).sum()

    with pytest.raises(RuntimeError, match='cannot be transformed by torch.func in a kernel: use backend="convol'):
        torch.func.grad(loss)(x)
    y = x.clone().requires_grad_()
    assert torch.allclose(torch.func.grad(loss)(x, "convolutions"), torch.autograd.grad(loss(y), y)[0], atol=1e-5)


def test_a_function_in_between_that_is_not_pure_is_noticed_where_it_runs_again():
    """Dropout, noise, or what changed since: gradients would be those of another function."""
    rule, factor, x = Rule(3, (4,)), [1.0], torch.ones(1, 3, 4, 5)
    weights = random_weights(rule)

    def gradient(after, every, change=lambda: None, backend=None):
        torch.manual_seed(5)
        own = x.clone().requires_grad_()
        y = rollout(own, weights, rule, 3, seed=1, after=after, checkpoint_every=every, backend=backend)
        change()
        return torch.autograd.grad(y.sum(), own)[0]

    for after in (lambda x, y, n: torch.dropout(y, 0.5, True), lambda x, y, n: y + 0.01 * torch.randn_like(y)):
        with pytest.raises(RuntimeError, match="after must be a pure function where checkpoint_every is given, but g"):
            gradient(after, 2)
        gradient(after, 2, backend="convolutions")
        assert torch.allclose(gradient(after, None), gradient(after, None, backend="convolutions"), atol=1e-5)
    with pytest.raises(RuntimeError, match="after must be a pure function where"):
        gradient(lambda x, y, n: y * factor[0], 1, lambda: factor.__setitem__(0, 1.01))
    gradient(lambda x, y, n: y * torch.tanh(x), 2)


class _Doubled(torch.autograd.Function):
    """Counts the calls whose graph is there."""

    there = 0

    @staticmethod
    def forward(ctx, y):
        ctx.token = _Token()
        return 2 * y

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


class _Token:
    def __init__(self):
        _Doubled.there += 1

    def __del__(self):
        _Doubled.there -= 1


@pytest.mark.parametrize("at", [None, range(2, 5, 2)])
def test_what_a_function_in_between_computed_is_kept_once_and_freed(at):
    """Not without a gradient, not before the first step that passes one, and as long as the graph is retained."""
    rule = Rule(3, (4,))
    x, weights = leaves_of(torch.randn(2, 3, 4, 5), random_weights(rule), torch.float32)
    calls = []

    def run(x, **more):
        def after(x, y, n):
            calls.append(n)
            return 0.5 * _Doubled.apply(y) + 0.1 * x

        return rollout(x, weights, rule, 4, seed=1, after=after, at=at, backend="cpu", **more).square().sum()

    leaves = (x, *(t for pair in weights for t in pair if t is not None))
    with torch.no_grad():
        loss = run(x)
    assert _Doubled.there == 0 and calls == [0, 1, 2, 3]
    loss = run(x, bptt_steps=3)
    assert _Doubled.there == 3
    del loss
    assert _Doubled.there == 0
    loss, calls[:] = run(x), []
    first, second = (torch.autograd.grad(loss, leaves, retain_graph=keep) for keep in (True, False))
    assert calls == [] and _Doubled.there == 0
    assert all(map(torch.equal, first, second))
    assert all(map(torch.equal, first, torch.autograd.grad(run(x, checkpoint_every=1), leaves)))
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, leaves)
    again = torch.utils.checkpoint.checkpoint(run, x, use_reentrant=False)
    assert all(map(torch.equal, first, torch.autograd.grad(again, leaves)))


# What is easily done otherwise: the traps of the study of the rule.


def test_a_linear_unit_has_a_gradient_at_zero():
    """Outside of what has grown y is exactly 0, where two relus in its place have none."""
    rule = Rule(2, (3,), activation="identity", fire_rate=1.0, hidden_bias=False)
    for backend in WITH_TRITON:
        x, weights = leaves_of(torch.zeros(1, 2, 4, 5), random_weights(rule), torch.float32)
        grad = torch.autograd.grad(rollout(x, weights, rule, 1, backend=backend).sum(), x)[0]
        assert (grad - 1).abs().min() > 1e-6
    leaky = replace(rule, activation="leaky_relu(0.2)")
    x, weights = leaves_of(torch.zeros(1, 2, 4, 5), random_weights(leaky), torch.float32)
    want, got = (
        torch.autograd.grad(rollout(x, weights, leaky, 1, backend=b).sum(), x)[0] for b in ("reference", "cpu")
    )
    assert torch.allclose(got, want, atol=1e-6) and (want - 1).abs().min() > 1e-6


@pytest.mark.parametrize("backend", WITH_TRITON)
def test_a_clamp_passes_gradient_at_its_bounds(backend):
    """A cell at the bound that does not fire, or whose update is 0, must go on learning; beyond there is none."""
    for fire_rate in (0.0, 1.0):
        rule = Rule(2, (3,), fire_rate=fire_rate, clamp=(-0.5, 1.0), frozen=0)
        x = torch.tensor([-0.6, -0.5, 0.0, 1.0, 1.5]).expand(1, 2, 3, 5).clone().requires_grad_()
        weights = [(w * (1 - fire_rate), b if b is None else b * 0) for w, b in random_weights(rule)]
        y = rollout(x, weights, rule, 3, backend=backend)
        assert torch.equal(y[0, 0, 0], torch.tensor([-0.5, -0.5, 0.0, 1.0, 1.0]))
        assert torch.autograd.grad(y.sum(), x)[0][0, 0, 0].tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("backend", WITH_TRITON)
def test_who_is_alive_before_is_seen_before_the_noise(backend):
    rule = Rule(2, (3,), alive_channel=1, alive_mask="before", state_noise=10.0, fire_rate=0.0)
    y = rollout(torch.zeros(1, 2, 9, 9), random_weights(rule), rule, 1, seed=1, backend=backend)
    assert not y.any()  # all were dead
    after = rollout(
        torch.zeros(1, 2, 9, 9), random_weights(rule), replace(rule, alive_mask="after"), 1, seed=1, backend=backend
    )
    assert after.any()


@pytest.mark.parametrize("backend", WITH_TRITON)
def test_frozen_channels_are_exempt(backend):
    rule = Rule(3, (4,), frozen=1, alive_channel=2, state_noise=1.0, update_noise=1.0, clamp=(-0.1, 0.2))
    x = torch.full((1, 3, 5, 6), -7.0)
    for mode in ("both", "before", "after", "update"):
        y = rollout(x, random_weights(rule), replace(rule, alive_mask=mode), 2, seed=1, backend=backend)
        assert (y[:, 0] == -7).all() and y[:, 1:].abs().max() <= 0.2


def test_reflection_is_torchs_and_needs_more_cells_than_it_mirrors():
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    for mode in ("reflect", "replicate"):
        assert torch.equal(reference.extended(x, 2, mode), torch.nn.functional.pad(x, (2,) * 4, mode=mode))
    rule = Rule(1, (2,), ("sobel_x5",), padding="reflect")
    with pytest.raises(ValueError, match="more rows and columns than the 2"):
        rollout(torch.zeros(1, 1, 2, 5), random_weights(rule), rule, 1)


def test_numbers_that_a_rule_computes_in_float16_are_rounded_after_the_step_alone():
    """s lives in float32: noise far below a spacing of the state still moves what is perceived."""
    rule = Rule(1, (), ("identity",), state_noise=1e-4, residual=False, fire_rate=1.0, output_bias=True)
    weights = [(torch.full((1, 1), 512.0), torch.full((1,), -512.0))]
    x = torch.full((1, 1, 4, 5), 1.0, dtype=torch.float16)
    for backend in WITH_TRITON:
        y = rollout(x, weights, rule, 1, seed=1, backend=backend)
        want = 512e-4 * normal(1, 0, 1, 1, 4, 5)
        assert torch.allclose(y.float(), want, atol=2e-4)  # 512 roundings of 1; worst seen 4e-5


def test_two_rollouts_are_one_and_count_steps_from_the_start_of_life():
    rule = replace(EVERYTHING, alive_mask="after")
    torch.manual_seed(4)
    x = torch.rand(2, 6, 7, 8) - 0.4
    (w, b), *others = random_weights(rule)
    weights = [(torch.stack([w, -w])[:, None], b), *others]
    rates = torch.rand(3, 1, 1, 7, 8)
    for backend in BACKENDS:
        how = {"seed": 4, "fire_rate": rates, "backend": backend}
        states = rollout(x, weights, rule, 6, at=range(2, 7, 2), **how)
        half = rollout(x, weights, rule, 3, **how)
        assert torch.equal(rollout(half, weights, rule, 3, first_step=3, **how), states[-1])
        assert torch.equal(rollout(x, weights, rule, 2, **how), states[0]) and len(states) == 3


def test_a_function_in_between_is_given_numbers_of_steps_from_the_start_of_life():
    rule, seen = Rule(2, (3,)), []
    for backend in BACKENDS:
        rollout(
            torch.zeros(1, 2, 3, 3),
            random_weights(rule),
            rule,
            2,
            first_step=8,
            backend=backend,
            after=lambda x, y, n: seen.append(n) or y,
        )
    assert seen == [8, 9] * 3


@pytest.mark.parametrize("by", ["the library", "PyTorch"])
def test_alive_says_who_lives(by, monkeypatch):
    build.load()
    if by == "PyTorch":
        monkeypatch.setattr(build, "_loaded_ones", [])
    x = torch.zeros(1, 2, 4, 5)
    x[0, 1, 0, 0] = 1
    torus, cut = Rule(2, (3,), alive_channel=1), Rule(2, (3,), alive_channel=1, alive_padding="zero")
    assert nca_fast.alive(x, torus).sum() == 9 and nca_fast.alive(x, cut).sum() == 4
    with pytest.raises(ValueError, match="alive needs a rule with an alive_channel"):
        nca_fast.alive(x, Rule(2, (3,)))
    generator = torch.Generator().manual_seed(1)
    for size, bad in itertools.product([(1, 1), (1, 2), (2, 5), (6, 7), (5, 130), (120, 128)], (torch.nan, -torch.inf)):
        x = torch.randn(3, 2, *size, generator=generator) - 1.5  # a quarter lives
        x[1, 1, -1, -1] = bad
        for rule, state in itertools.product((torus, cut), (x, x.mT)):  # and in an order that the library does not know
            assert torch.equal(nca_fast.alive(state, rule), nca_fast.reference.alive(state, rule))


@pytest.mark.parametrize("mode", ["both", "before", "after", "update"])
@pytest.mark.parametrize("padding", ["zero", "reflect", "replicate", "circular"])
def test_strips_are_the_whole(padding, mode):
    """Two steps of some rows hang on 2 * reach more on either side."""
    rule = replace(EVERYTHING, padding=padding, alive_mask=mode, fire_rate=0.6)
    torch.manual_seed(5)
    x, weights, halo = torch.rand(1, 6, 24, 9) - 0.4, random_weights(rule), 2 * rule.reach
    whole = rollout(x, weights, rule, 2, seed=3)
    first, last = 9 - halo, 14 + halo
    part = rollout(x[:, :, first:last], weights, rule, 2, seed=3, origin=(first, 0))
    assert torch.equal(part[:, :, halo:-halo], whole[:, :, 9:14])
    if padding != "circular":
        top = rollout(x[:, :, : 5 + halo], weights, rule, 2, seed=3)
        assert torch.equal(top[:, :, :5], whole[:, :, :5])


def test_a_divisor_is_that_of_the_result():
    assert math.isclose(
        Rule(update_activation="tanh/10").activations[-1](torch.tensor(0.5)).item(), math.tanh(0.5) / 10, rel_tol=1e-6
    )
    bounded = Rule(update_activation="hardtanh(10)/10").activations[-1](torch.tensor([-30.0, 4.0]))
    assert torch.allclose(bounded, torch.tensor([-1.0, 0.4]))
