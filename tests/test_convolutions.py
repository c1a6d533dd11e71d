"""Stock operations give the numbers of the reference, and cost no more than the automaton that everybody writes."""

import pytest
import torch
from rollouts import masked, random_weights, relative_error, values_and_gradients
from torch.testing import assert_close

from nca_fast import NCA, Rule, backends, fire_mask, rollout

RULES = {
    "texture": (Rule(channels=5, hidden=(7,)), (2, 6, 7)),
    "growing": (Rule(channels=6, hidden=(8,), padding="zero", alive_channel=3, output_bias=True), (2, 5, 6)),
    "frozen and alive": (Rule(channels=6, hidden=(8,), frozen=2, alive_channel=1, hidden_bias=False), (1, 5, 6)),
    "maxima, two layers": (Rule(channels=3, hidden=(5, 4), maximum_window=3, alive_channel=2), (2, 4, 5)),
    "maxima alone": (Rule(channels=3, hidden=(5,), filters=(), maximum_window=3, padding="zero"), (1, 4, 5)),
    "sizes mixed": (
        Rule(channels=3, hidden=(5,), filters=("identity", "sobel_x5", ((0.5,),), ((0.1,) * 7,) * 7)),
        (1, 7, 8),
    ),
    "wider than the canvas": (Rule(channels=2, hidden=(5,), filters=("sobel_x", ((0.1,) * 9,) * 9)), (1, 2, 3)),
    "one cell": (Rule(channels=4, hidden=(5,)), (2, 1, 1)),
    "all cells fire": (Rule(channels=4, hidden=(5,), fire_rate=1.0), (1, 4, 5)),
}
SHIFTS = [tuple(tuple(float(3 * i + j == at) for j in range(3)) for i in range(3)) for at in range(9)]
RULES |= {
    "a dense convolution": (Rule(channels=3, hidden=(5,), filters=SHIFTS), (2, 4, 5)),
    "most of one, larger than the canvas, some twice": (
        Rule(
            channels=3, hidden=(5,), filters=(*SHIFTS[1:], SHIFTS[4], "identity"), padding="reflect", hidden_bias=False
        ),
        (2, 3, 2),
    ),
    "dense, without hidden units": (Rule(channels=3, hidden=(), filters=SHIFTS, padding="zero"), (2, 4, 5)),
    "doubled neighbours": (Rule(channels=3, hidden=(5,), filters=(((2.0,),), *SHIFTS[1:])), (2, 4, 5)),
    "four of nine neighbours": (Rule(channels=3, hidden=(5,), filters=SHIFTS[:4]), (2, 4, 5)),
}
OPTIONS = {
    "plain": {},
    "places": {"first_step": 2**32 - 9, "origin": (2**32 - 2, 7), "first_sample": 3, "canvas_height": 2**32 - 1},
    "checkpoints": {"checkpoint_every": 2},
    "truncated": {"bptt_steps": 2, "checkpoint_every": 1},
}


def both(name, dtype=torch.float64, batch=False, steps=4, **options):
    """Values and gradients of the reference and of convolutions."""
    rule, (B, H, W) = RULES[name]
    torch.manual_seed(3)
    weights = random_weights(rule, B if batch else None)
    x, grad_y = (torch.randn(B, rule.channels, H, W) * 0.5 for _ in "ab")
    x -= 0.4  # maxima beside an edge are negative, and some cells are dead
    kinds = ("reference", "convolutions")
    return [values_and_gradients(rule, weights, x, grad_y, steps, backend=k, dtype=dtype, **options) for k in kinds]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("batch", [False, True], ids=["shared", "per sample"])
def test_values_and_gradients_are_the_references(name, batch):
    for want, got in zip(*both(name, batch=batch), strict=True):
        assert_close(got, want, rtol=1e-10, atol=1e-12)  # order of sums in float64; worst seen: 4e-14 absolute


@pytest.mark.parametrize("name", OPTIONS)
def test_all_ways_through_a_rollout(name):
    for want, got in zip(*both("texture", **OPTIONS[name]), strict=True):
        assert (want is None) == (got is None)
        assert want is None or torch.equal(want == 0, got == 0)
        assert_close(got, want, rtol=1e-10, atol=1e-12)  # as above


@pytest.mark.parametrize("name", [*RULES, "frozen"])
def test_without_gradients_states_change_in_place(name):
    """But for the caller's, and for those that are asked for."""
    rules = RULES | {"frozen": (Rule(channels=5, hidden=(7,), frozen=2, maximum_window=3), (2, 3, 4))}
    rule, (B, H, W) = rules[name]
    weights, x = random_weights(rule), torch.randn(B, rule.channels, H, W)
    tracked = [(w.clone().requires_grad_(), b) for w, b in weights]
    before = x.clone()
    for options in ({}, {"at": range(1, 5)}, {"bptt_steps": 2, "checkpoint_every": 1}):
        want = rollout(x, tracked, rule, 4, seed=5, backend="convolutions", **options)
        got = rollout(x, weights, rule, 4, seed=5, backend="convolutions", **options)
        assert torch.equal(got, want) and torch.equal(x, before) and got.is_contiguous()


def test_one_rule_each_by_a_transform_of_a_rollout_without_gradients():
    rule = Rule(channels=5, hidden=(7,), output_bias=True)
    many, x = [random_weights(rule) for _ in "ab"], torch.randn(2, 5, 6, 7)
    stacked = [tuple(torch.stack(t) for t in zip(*pairs, strict=True)) for pairs in zip(*many, strict=True)]

    def run(weights):
        return rollout(x, weights, rule, 3, seed=5, backend="convolutions")

    with torch.no_grad():
        got = torch.vmap(run)(stacked)
    assert_close(got, torch.stack([run(weights) for weights in many]), rtol=1e-4, atol=1e-6)  # order of sums


def test_maps_of_fire_rates():
    rule, (_, H, W) = RULES["texture"]
    rates = torch.rand(H, W, dtype=torch.float64)
    rates[0], rates[-1] = 0, 1
    for want, got in zip(*both("texture", fire_rate=rates), strict=True):
        assert_close(got, want, rtol=1e-10, atol=1e-12)  # as above
    rule = Rule(channels=2, hidden=(3,), output_bias=True)
    drawn = masked(rule, (2, 2, H, W), seed=5, fire_rate=rates, backend="convolutions")
    assert torch.equal(drawn == 1, fire_mask(5, 0, 2, H, W, rates).expand(2, 2, H, W))


# Of a single cell filters that cancel leave rounding alone.
@pytest.mark.parametrize("name", sorted(RULES.keys() - {"one cell"}))
def test_errors_in_float32_are_those_of_the_reference(name):
    """At most twice its error, for values and every gradient; the floor as in test_rollout."""
    exact, _ = both(name)
    for e, r, c in zip(exact, *both(name, torch.float32), strict=True):
        assert relative_error(c, e) <= max(2 * relative_error(r, e), 5e-7)  # worst seen 2.6e-7


@pytest.mark.parametrize("precision", ["tf32", "fp16", "bf16"])
def test_products_are_rounded_as_the_references(precision):
    for want, got in zip(*both("texture", torch.float32, steps=1, precision=precision), strict=True):
        assert relative_error(got, want) < 5e-7  # what is rounded is the same; worst seen 2e-7


def test_states_of_16_bits_are_rounded_after_each_step():
    rule, (B, H, W) = RULES["texture"]
    weights, x = random_weights(rule), torch.randn(B, rule.channels, H, W, dtype=torch.bfloat16)
    want, got = (rollout(x, weights, rule, 3, seed=1, backend=b) for b in ("reference", "convolutions"))
    assert got.dtype == torch.bfloat16 and (got != want).double().mean() < 0.02  # a sum just beside a middle


def test_cells_that_do_not_fire_stay_as_they_are_beside_one_that_blew_up():
    rule = Rule(channels=2, hidden=(3,))
    x = torch.randn(1, 2, 8, 8)
    x[0, 0, 4, 4] = torch.inf
    want, got = (rollout(x, random_weights(rule), rule, 1, seed=1, backend=b) for b in ("reference", "convolutions"))
    assert torch.equal(want.isfinite(), got.isfinite()) and not want.isfinite().all()


def test_second_derivatives_and_transforms():
    rule, (B, H, W) = RULES["texture"]
    weights = [tuple(None if t is None else t.double() for t in pair) for pair in random_weights(rule)]
    x = torch.randn(B, rule.channels, H, W, dtype=torch.float64)

    def of(backend, x):
        return rollout(x, weights, rule, 2, seed=1, backend=backend).square().sum()

    def penalty(backend):
        y = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(of(backend, y), y, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), y)[0]

    def along(backend):
        return torch.func.jvp(lambda x: of(backend, x), (x,), (torch.ones_like(x),))[1]

    def of_many(backend):
        return torch.func.vmap(torch.func.grad(lambda x: of(backend, x)))(torch.stack([x, 2 * x]))

    def in_a_batch(backend):
        y = x[:, :, :1].clone().requires_grad_()  # a canvas that lies on each side of itself as a whole
        out = rollout(y, weights, rule, 2, seed=1, backend=backend)
        return torch.autograd.grad(out, y, torch.stack([out, 2 * out]).detach(), is_grads_batched=True)[0]

    for what in (penalty, along, of_many, in_a_batch):
        assert_close(what("convolutions"), what("reference"), rtol=1e-10, atol=1e-10)  # order of sums in float64


def test_compiled_without_a_break():
    rule, (B, H, W) = RULES["texture"]
    weights, x = random_weights(rule), torch.randn(B, rule.channels, H, W)

    def run(x):
        return rollout(x, weights, rule, 2, seed=1, backend="convolutions")

    assert torch.equal(torch.compile(run, fullgraph=True, backend="eager")(x), run(x))


def test_a_step_costs_no_more_than_that_of_the_automaton_that_everybody_writes():
    """Counted: launches and bytes, forward and with gradients."""
    from bench.fallback_ops import count

    rule = NCA.preset("texture").rule
    for gradients, steps, share in ((False, 32, 1.0), (True, 16, 0.9)):
        stock, ours = (count(rule, (1, 32, 64), kind, gradients, steps) for kind in ("stock", "convolutions"))
        for what in ("launches", "bytes_per_cell"):
            assert ours[what] <= share * stock[what], what


def test_it_serves_where_there_are_no_kernels():
    backends._said.clear()
    rule = Rule(channels=5, hidden=(6,))
    weights, x = random_weights(rule), torch.randn(1, 5, 3, 4, dtype=torch.float64)
    weights = [tuple(None if t is None else t.double() for t in pair) for pair in weights]
    with pytest.warns(
        UserWarning, match="runs stock convolutions, no faster than PyTorch alone: .*but x is torch.float64"
    ):
        y = rollout(x, weights, rule, 1, seed=0)
    assert torch.equal(y, rollout(x, weights, rule, 1, seed=0, backend="convolutions"))


def test_a_dense_convolution_keeps_no_neighbours():
    """Nine copies of the state, that is, which a stock convolution does not keep either."""
    rule, kept = Rule(4, (5,), SHIFTS), []
    x, weights = torch.randn(1, 4, 8, 8, requires_grad=True), random_weights(rule)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        rollout(x, weights, rule, 1, seed=1, backend="convolutions")
    assert max(kept) < 2 * x.numel()
