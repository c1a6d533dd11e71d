"""Calls without a seed draw one from PyTorch's default generator, as dropout does."""

import multiprocessing

import pytest
import torch
from rollouts import random_weights
from torch.utils.checkpoint import checkpoint

from nca_fast import NCA, Rule, reference, rollout
from nca_fast.ops import advance
from nca_fast.systems.vae.architecture import ARCHITECTURES
from nca_fast.systems.vae.model import VAENCA

RULE = Rule(channels=4, hidden=(6,))
BACKENDS = pytest.mark.parametrize("backend", ["cpu", "reference"])


@pytest.fixture
def nca():
    return NCA(RULE, init_gain=1.0)


def calls(x, weights):
    """Everything in Python that has a seed, as functions of nothing."""
    vae = VAENCA(ARCHITECTURES["vae-mnist"])
    torch.nn.init.normal_(vae.common_w2, std=0.1)
    latent = torch.randn(1, vae.architecture.latent)

    def in_two_buffers(backend):
        return advance(x.clone(), torch.empty_like(x), weights, RULE, 2, backend=backend)[0]

    return {
        "rollout": lambda: rollout(x, weights, RULE, 2, backend="cpu"),
        "rollout, reference": lambda: rollout(x, weights, RULE, 2, backend="reference"),
        "reference.rollout": lambda: reference.rollout(x, weights, RULE, 2),
        "advance": lambda: in_two_buffers("cpu"),
        "advance, reference": lambda: in_two_buffers("reference"),
        "grow": lambda: vae.grow(vae.weights(latent)),
    }


def test_two_calls_differ_and_manual_seed_repeats_them():
    x, weights = torch.randn(1, 4, 12, 12), random_weights(RULE)
    for name, call in calls(x, weights).items():
        torch.manual_seed(5)
        first, second = call(), call()
        assert not torch.equal(first, second), name
        torch.manual_seed(5)
        assert torch.equal(call(), first) and torch.equal(call(), second), name


@BACKENDS
def test_a_drawn_seed_gives_the_masks_of_that_seed(nca, backend):
    x = torch.randn(2, 4, 9, 10)
    torch.manual_seed(5)
    seed = int(torch.randint(0, 2**63 - 1, (), dtype=torch.int64))
    torch.manual_seed(5)
    assert torch.equal(nca(x, 3, backend=backend), nca(x, 3, seed=seed, backend=backend))


@BACKENDS
def test_a_seed_that_is_given_draws_nothing(nca, backend):
    x, before = torch.randn(1, 4, 6, 6), torch.get_rng_state()
    nca(x, 2, seed=3, backend=backend)
    assert torch.equal(torch.get_rng_state(), before)
    nca(x, 2, backend=backend)
    assert not torch.equal(torch.get_rng_state(), before)


@BACKENDS
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_where_there_is_nothing_to_choose_nothing_is_drawn(backend, rate):
    """As dropout with p=0; a map of rates is not looked at, for a GPU would have to be waited for."""
    nca, x = NCA(Rule(channels=4, hidden=(6,), fire_rate=rate)), torch.randn(1, 4, 6, 6)
    before = torch.get_rng_state()
    nca(x, 2, backend=backend)
    assert torch.equal(torch.get_rng_state(), before)
    nca(x, 2, fire_rate=torch.ones(6, 6), backend=backend)
    assert not torch.equal(torch.get_rng_state(), before)


@BACKENDS
def test_every_cell_changes_when_steps_are_calls(nca, backend):
    """`for ...: x = nca(x, 1)` as most published code steps: one mask for ever left half of the cells as they were."""
    start = x = torch.randn(1, 4, 32, 32)
    with torch.no_grad():
        for _ in range(20):
            x = nca(x, 1, backend=backend)
    assert (x != start).any(1).all()  # one cell in a million stays


def trained(run, nca, x):
    nca.zero_grad()
    torch.manual_seed(9)
    y = run(x)
    y.square().mean().backward()
    return [y.detach(), *(p.grad for p in nca.parameters())]


@BACKENDS
@pytest.mark.parametrize("options", [{}, {"checkpoint_every": 2}], ids=str)
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_finds_the_same_masks_again(nca, backend, options, use_reentrant):
    x = torch.randn(1, 4, 9, 10, requires_grad=True)

    def run(x):
        return nca(x, 5, backend=backend, **options)

    want = trained(run, nca, x)
    got = trained(lambda x: checkpoint(run, x, use_reentrant=use_reentrant), nca, x)
    assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))


@BACKENDS
def test_a_compiled_function_draws_at_every_call_and_is_compiled_once(nca, backend):
    torch._dynamo.reset()
    graphs = []
    compiler = "inductor" if backend == "cpu" else "aot_eager"  # code for the reference's integers takes it a minute
    compiled = torch.compile(lambda x: nca(x, 1, backend=backend) * 1.0, fullgraph=True, backend=compiler)
    counted = torch.compile(lambda x: nca(x, 1, backend=backend), fullgraph=True, backend=counting(graphs))
    x = torch.randn(1, 4, 12, 12)
    for run in (compiled, counted):
        torch.manual_seed(5)
        first, second = run(x), run(x)
        assert not torch.equal(first, second)
        torch.manual_seed(5)
        assert torch.equal(run(x), first) and torch.equal(run(x), second)
    assert len(graphs) == 1


def counting(graphs):
    """A compiler that notes the graphs it was given and runs them as they are."""

    def compiler(graph, inputs):
        graphs.append(graph)
        return graph

    return compiler


def test_two_rollouts_of_one_graph_have_seeds_of_their_own(nca):
    """What is written twice in a graph is often computed once; what is drawn must not be."""
    torch._dynamo.reset()
    x = torch.randn(1, 4, 12, 12)
    a, b = torch.compile(lambda x: (nca(x, 2), nca(x, 2)), fullgraph=True)(x)
    assert not torch.equal(a, b)


def test_gradients_of_a_compiled_function_belong_to_its_masks():
    """Forward and backward are two graphs: the seed goes from one to the other. A cell gains 1 whenever it fires."""
    torch._dynamo.reset()
    nca, x = NCA(Rule(channels=4, hidden=(6,), output_bias=True)), torch.zeros(1, 4, 12, 12)
    torch.nn.init.ones_(nca.layers[1].bias)
    run, bias, fired = torch.compile(lambda x: nca(x, 3).sum()), nca.layers[1].bias, []
    for _ in range(2):
        bias.grad = None
        y = run(x)
        y.backward()
        fired.append(y.item())
        assert bias.grad.sum().item() == fired[-1] > 0
    assert fired[0] != fired[1]


def test_checkpointing_inside_a_compiled_function(nca):
    torch._dynamo.reset()
    x = torch.randn(1, 4, 9, 10, requires_grad=True)

    def plain(x):
        return nca(x.sin(), 3)

    plainly = trained(torch.compile(plain, backend="aot_eager"), nca, x)
    again = trained(torch.compile(lambda x: checkpoint(plain, x, use_reentrant=False), backend="aot_eager"), nca, x)
    assert all(torch.equal(a, b) for a, b in zip(plainly, again, strict=True))


def _child(queue, x, nca):
    torch.manual_seed(torch.initial_seed() + 1)  # what a DataLoader does in each of its workers
    queue.put(nca(x, 2).detach().numpy())


def test_forked_workers_draw_what_their_generators_give(nca):
    torch.set_num_threads(1)
    x, context = torch.randn(1, 4, 6, 6), multiprocessing.get_context("fork")
    torch.manual_seed(5)
    here = nca(x, 2)
    torch.manual_seed(5)
    queue = context.Queue()
    worker = context.Process(target=_child, args=(queue, x, nca))
    worker.start()
    there = torch.from_numpy(queue.get(timeout=60))
    worker.join()
    torch.manual_seed(6)
    assert torch.equal(there, nca(x, 2)) and not torch.equal(there, here)


def test_inference_mode_draws_too(nca):
    with torch.inference_mode():
        x = torch.randn(1, 4, 12, 12)
        assert not torch.equal(nca(x, 2), nca(x, 2))
