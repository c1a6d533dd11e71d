"""torch.func, forward mode and fake tensors: what holds of any PyTorch function holds of a rollout."""

from dataclasses import replace

import pytest
import torch
from rollouts import random_weights
from torch import func
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from nca_fast import NCA, Rule, rollout

RULE = Rule(channels=4, hidden=(6,))
BACKENDS = pytest.mark.parametrize("backend", ["cpu", "reference"])


def close(a, b):
    """In float32 the gradients of one sample are summed in another order than those of all; worst seen 2e-6."""
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.fixture
def x():
    return torch.randn(2, 4, 5, 6)


@pytest.fixture
def weights():
    return random_weights(RULE)


def loss_of(weights, backend, **options):
    return lambda x: (rollout(x, weights, RULE, 3, seed=1, backend=backend, **options).sin()).sum()


def by_autograd(f, x):
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(x), x)
    return gradient


@BACKENDS
@pytest.mark.parametrize("options", [{}, {"checkpoint_every": 2}], ids=str)
def test_grad_and_vjp(x, weights, backend, options):
    if backend == "reference" and options:
        pytest.skip("torch.utils.checkpoint knows no transforms")
    f = loss_of(weights, backend, **options)
    want = by_autograd(f, x)
    assert torch.equal(func.grad(f)(x), want)
    y, back = func.vjp(f, x)
    assert torch.equal(back(torch.ones_like(y))[0], want)


@BACKENDS
def test_grad_of_a_module_by_functional_call(x, backend):
    nca = NCA(RULE, init_gain=1.0)
    f = lambda p: func.functional_call(nca, p, (x, 3), {"seed": 1, "backend": backend}).square().sum()  # noqa: E731
    got = func.grad(f)(dict(nca.named_parameters()))
    nca(x, 3, seed=1, backend=backend).square().sum().backward()
    for name, p in nca.named_parameters():
        assert torch.equal(got[name], p.grad)


@BACKENDS
def test_jacrev(weights, backend):
    x = torch.randn(1, 4, 2, 3)
    run = lambda x: rollout(x, weights, RULE, 2, seed=1, backend=backend)[0, :, 0, 0]  # noqa: E731
    want = torch.stack([by_autograd(lambda x, c=c: run(x)[c], x) for c in range(4)])
    close(func.jacrev(run)(x), want)
    close(torch.autograd.functional.jacobian(run, x, vectorize=True), want)


@BACKENDS
def test_vmap_over_states_is_the_loop(weights, backend):
    xs = torch.randn(3, 2, 4, 5, 6)
    run = lambda x: rollout(x, weights, RULE, 3, seed=1, backend=backend)  # noqa: E731
    want = torch.stack([run(x) for x in xs])
    close(torch.vmap(run)(xs), want)
    close(torch.vmap(run, in_dims=1, out_dims=1)(xs.transpose(0, 1)), want.transpose(0, 1))
    close(torch.vmap(torch.vmap(run))(xs[:, None]), want[:, None])
    maps = torch.rand(3, 5, 6)
    got = torch.vmap(lambda x, rate: rollout(x, weights, RULE, 3, seed=1, fire_rate=rate, backend=backend))(xs, maps)
    one_by_one = [
        rollout(x, weights, RULE, 3, seed=1, fire_rate=m, backend=backend) for x, m in zip(xs, maps, strict=True)
    ]
    close(got, torch.stack(one_by_one))


@BACKENDS
def test_vmap_over_stacked_parameters(x, backend):
    """An ensemble as torch.func's tutorial makes it: one rule per sample."""
    ncas = [NCA(RULE, init_gain=1.0) for _ in range(3)]
    stacked, _ = func.stack_module_state(ncas)
    run = lambda p, x: func.functional_call(ncas[0], p, (x, 3), {"seed": 1, "backend": backend})  # noqa: E731
    close(torch.vmap(run, in_dims=(0, None))(stacked, x), torch.stack([n(x, 3, seed=1, backend=backend) for n in ncas]))
    # a gradient for each rule, taken inside and outside
    loss = lambda p, x: run(p, x).square().sum()  # noqa: E731
    inside = torch.vmap(func.grad(loss), in_dims=(0, None))(stacked, x)
    outside = func.grad(lambda p: torch.vmap(loss, in_dims=(0, None))(p, x).sum())(stacked)
    torch.vmap(loss, in_dims=(0, None))(stacked, x).sum().backward()
    for n, nca in enumerate(ncas):
        nca(x, 3, seed=1, backend=backend).square().sum().backward()
        for name, p in nca.named_parameters():
            close(inside[name][n], p.grad)
            close(outside[name][n], p.grad)
            close(stacked[name].grad[n], p.grad)


def test_the_triton_kernels_under_transforms():
    """Their states have a layout of their own: what is saved, and the gradient of both, through vmap and grad."""
    pytest.importorskip("triton", reason="the Triton kernels need triton: pip install triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = [(w.to(device), None if b is None else b.to(device)) for w, b in random_weights(RULE)]
    xs = torch.randn(2, 1, 4, 2, 3, device=device)

    def gradients(backend):
        def loss(x, w):
            options = {"seed": 1, "backend": backend, "precision": "fp32"}
            return rollout(x, [(w, weights[0][1]), weights[1]], RULE, 2, **options).sin().sum()

        return torch.vmap(func.grad(loss, argnums=(0, 1)), in_dims=(0, None))(xs, weights[0][0])

    for got, want in zip(gradients("triton"), gradients("reference"), strict=True):
        close(got, want)


@BACKENDS
def test_gradients_per_sample(x, backend):
    nca = NCA(RULE, init_gain=1.0)
    parameters = {name: p.detach() for name, p in nca.named_parameters()}

    def loss(p, x):
        return func.functional_call(nca, p, (x[None], 3), {"seed": 1, "backend": backend}).square().sum()

    got = torch.vmap(func.grad(loss), in_dims=(None, 0))(parameters, x)
    for n in range(len(x)):
        want = func.grad(loss)(parameters, x[n])
        assert all(torch.allclose(got[name][n], want[name], rtol=1e-5, atol=1e-6) for name in want)


@BACKENDS
def test_what_is_drawn_under_vmap_is_asked_for(weights, backend):
    """As dropout: vmap wants to know whether all have the same masks, or masks of their own."""
    xs = torch.randn(1, 1, 4, 8, 8).expand(3, 1, 4, 8, 8)
    run = lambda x: rollout(x, weights, RULE, 2, backend=backend)  # noqa: E731
    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(run)(xs)
    same = torch.vmap(run, randomness="same")(xs)
    assert torch.equal(same[0], same[1]) and torch.equal(same[0], same[2])
    different = torch.vmap(run, randomness="different")(xs)
    assert not torch.equal(different[0], different[1]) and not torch.equal(different[1], different[2])


def test_vmap_keeps_no_states_that_nobody_asks_for(weights, monkeypatch):
    from nca_fast.kernels.cpu import rollout as kernels

    counts, advance = [], kernels.advance
    monkeypatch.setattr(kernels, "advance", lambda *a: counts.append(len(a[-2])) or advance(*a))
    torch.vmap(lambda x: rollout(x, weights, RULE, 5, seed=1))(torch.randn(2, 1, 4, 5, 6))
    assert counts == [1, 1]


def test_forward_mode_is_refused_by_the_kernel_and_done_by_the_reference(x, weights):
    t = torch.randn_like(x)

    def run(backend, **options):
        return lambda x: rollout(x, weights, RULE, 2, seed=1, backend=backend, **options)

    def dual(backend):
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(run(backend)(forward_ad.make_dual(x, t))).tangent

    def through_weights(backend):
        f = lambda w: rollout(x, [(w, weights[0][1]), weights[1]], RULE, 2, seed=1, backend=backend)  # noqa: E731
        return func.jvp(f, (weights[0][0],), (torch.ones_like(weights[0][0]),))[1]

    def between(backend):
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(run(backend, after=lambda x, y, n: y)(forward_ad.make_dual(x, t))).tangent

    def through_noise(backend):
        noisy = replace(RULE, state_noise=0.1)
        f = lambda noise: rollout(x, weights, noisy, 2, seed=1, backend=backend, noise=noise)  # noqa: E731
        return func.jvp(f, (torch.ones(()),), (torch.ones(()),))[1]

    small = x[:1, :, :2, :2]
    ways = [
        dual,
        through_weights,
        between,
        through_noise,
        lambda backend: func.jvp(run(backend), (x,), (t,))[1],
        lambda backend: func.jvp(run(backend, bptt_steps=1), (x,), (t,))[1],
        lambda backend: func.jvp(torch.vmap(run(backend)), (x[None],), (t[None],))[1],
        lambda backend: func.jacfwd(run(backend))(small),
        lambda backend: func.hessian(lambda x: run(backend)(x).square().sum())(small),
    ]
    for way in ways:
        with pytest.raises(RuntimeError, match='forward mode.*use backend="reference"'):
            way("cpu")
    exact = func.jvp(run("reference"), (x,), (t,))[1]
    assert torch.equal(dual("reference"), exact) and exact.norm() > 0
    h = 1e-6  # central difference in float64; no unit switches so near
    ends = [run("reference")(x.double() + sign * h * t.double()) for sign in (1, -1)]
    torch.testing.assert_close(exact.double(), (ends[0] - ends[1]) / (2 * h), rtol=1e-4, atol=1e-4)
    for way in ways[1:]:
        assert way("reference").isfinite().all() and way("reference").norm() > 0


def test_a_second_derivative_is_refused_by_the_kernel_and_done_by_the_reference(x, weights):
    def second(backend):
        f = loss_of(weights, backend)
        return func.grad(lambda x: func.grad(f)(x).square().sum())(x)

    with pytest.raises(RuntimeError, match='differentiated once only.*use backend="reference"'):
        second("cpu")
    assert second("reference").norm() > 0


@pytest.mark.parametrize("seed", [None, 3])
@BACKENDS
def test_fake_tensors(backend, seed):
    """What a memory planner runs: shapes and types, no values."""
    with FakeTensorMode():
        nca, x = NCA(RULE), torch.randn(2, 4, 5, 6, requires_grad=True)
        y = nca(x, 3, seed=seed, backend=backend)
        assert y.shape == x.shape and y.dtype == x.dtype
        y.sum().backward()
        assert x.grad.shape == x.shape and nca.layers[0].weight.grad.shape == nca.layers[0].weight.shape
        nca(x, 3, seed=seed, fire_rate=torch.rand(5, 6), backend=backend)
    nca, x = NCA(RULE, init_gain=1.0), torch.randn(1, 4, 5, 6)  # nothing fake is left
    close(nca(x, 2, seed=0, backend="cpu"), nca(x, 2, seed=0, backend="reference"))


@pytest.mark.parametrize("transform", [func.grad, lambda f: torch.vmap(func.grad(f))], ids=["grad", "vmap of grad"])
def test_transforms_can_be_compiled(x, weights, transform):
    """As one graph where PyTorch can, else with a break; the numbers are right."""
    torch._dynamo.reset()
    f = transform(loss_of(weights, "cpu"))
    xs = x if transform is func.grad else x[:, None]
    close(torch.compile(f, backend="aot_eager")(xs), f(xs))
