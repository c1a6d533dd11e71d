"""The fused rollout against the float64 reference with the same fire masks: values and every gradient.

Error policy (DESIGN): at most twice the error of plain float32 PyTorch, measured as the norm of the difference over the
norm of the exact tensor. Both are a few roundings of 6e-8; a floor of 3e-7 keeps tensors of few elements, where plain
PyTorch may be exact by luck, from failing (worst seen: 2.8e-7, at 1 x 1 cells). A hidden unit within a rounding of zero
may fall on the other side of the ReLU in either float32 run, on one kind of CPU and not on another; states are drawn
until none of their units is within 3e-7, some five times the usual error of one.

The norm of a tensor of one or a few elements is no measure of error: terms that cancel out leave their roundings, in
PyTorch as in the kernel, and which sum cancels is a matter of the seed. (In 400 draws of a rule of one channel the
median error of a gradient of one number is 9e-8 in the kernel and 1e-7 in PyTorch, but 17 % of either are off by more
than the floor, up to 2e-4.) So as many draws are taken together as give every tensor 16 numbers: then the worst over
320 draws, instruction sets (x86-64, AVX2, AVX-512, of the kernel and of PyTorch) and 1 and 2 threads is 0.84 of the
bound.
"""

import itertools
import math

import pytest
import torch
from rollouts import edge_rates, masked, random_weights, relative_error, values_and_gradients

from nca_fast import Rule, reference, rollout
from nca_fast.folding import shifts
from nca_fast.presets import PRESETS

FLOOR = 3e-7

SHAPES = [
    (1, 1, 1),  # every neighbour is the cell itself
    (2, 2, 5),  # H = 2: the rows above and below are the same one
    (1, 16, 16),  # whole vectors
    (2, 17, 33),  # ragged vectors
    (3, 40, 64),  # threads cut samples in two
    (2, 64, 80),  # weight gradients of one thread are folded into doubles on the way
    (1, 3, 1100),  # more than one tile of columns
    (1, 3, 1040),  # the second tile ends with a whole vector
    (1, 300, 3),  # rows shorter than any vector, so that packed cells wait over many rows
]

RULES = {
    "texture": Rule(),
    "clip": Rule(hidden=(128,)),
    "style": Rule(channels=18, hidden=(90, 90), frozen=3, fire_rate=1.0, output_bias=True),
    "style-two-filters": PRESETS["style-two-filters"]["rule"],
    "growing, dense": Rule(
        channels=16, hidden=(128,), filters=("identity", "sobel_x/8", "sobel_y/8"), padding="zero", output_bias=True
    ),
    "three layers": Rule(channels=7, hidden=(5, 20, 11), hidden_bias=False, fire_rate=0.9),
    "any stencil": Rule(
        channels=3, hidden=(10,), filters=(((0.1, -0.2, 0.3), (0.4, 0.5, -0.6), (0.7, 0.8, 0.9)), "hex_sobel_x")
    ),
    "one channel": Rule(channels=1, hidden=(1,), fire_rate=0.1),
    "many channels": Rule(channels=64, hidden=(24,), frozen=9),
    "filters of one cell": Rule(channels=3, hidden=(8,), filters=shifts(3)),
    "a filter of zeros and one cell": Rule(channels=4, hidden=(9,), filters=(((0.0,) * 3,) * 3, ((2.0,),))),
}


def check(rule, shape, steps=3, backend="cpu", per_sample=False, seed=1, **options):
    B, H, W = shape
    smallest = min(B * rule.channels * H * W, *(out if bias else out * inputs for out, inputs, bias in rule.layers))
    runs, seeds = [[], [], []], itertools.count(seed, 1000)
    for _ in range(math.ceil(16 / smallest)):
        unit = 0
        while unit < 3e-7:
            torch.manual_seed(next(seeds))
            weights = random_weights(rule, B if per_sample else None)
            x = torch.randn(B, rule.channels, H, W) * 0.5
            if rule.alive_channel is not None:
                x[:, :, H // 2 :] *= torch.rand(B, 1, H - H // 2, W) < 0.1  # here and there a cell that lives
            unit = unit_nearest_zero(rule, weights, x, steps, seed=11, **options)
        grad_y = torch.randn_like(x)
        for run, (b, dtype) in zip(
            runs, [("reference", torch.float64), ("reference", torch.float32), (backend, torch.float32)], strict=True
        ):
            run.append(
                values_and_gradients(rule, weights, x, grad_y, steps, backend=b, dtype=dtype, seed=11, **options)
            )
    exact, plain, fused = ([stacked(same) for same in zip(*run, strict=True)] for run in runs)
    for e, p, f in zip(exact, plain, fused, strict=True):
        assert (e is None) == (f is None)
        if e is not None:
            assert relative_error(f, e) <= max(2 * relative_error(p, e), FLOOR)


def unit_nearest_zero(rule, weights, x, steps, checkpoint_every=None, bptt_steps=None, **options):
    """Of all hidden units of cells that fire, the least distance from the edge of the ReLU; 0 itself is exact."""
    step, relu, masks, least = reference.step, torch.relu, [], [math.inf]

    def with_mask(x, weights, rule, mask, *rest):
        masks.append(mask)
        return step(x, weights, rule, mask, *rest)

    def looked_at(h):
        least.append(h.abs().masked_fill(~masks[-1] | (h == 0), math.inf).min().item())
        return relu(h)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "step", with_mask)
        patch.setattr(torch, "relu", looked_at)
        weights = [tuple(None if t is None else t.double() for t in pair) for pair in weights]
        rollout(x.double(), weights, rule, steps, backend="reference", **options)
    assert len(masks) == steps and len(least) == 1 + steps * (len(weights) - 1)
    return min(least)


def stacked(tensors):
    return None if tensors[0] is None else torch.stack(tensors)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape, threads, poisoned):
    torch.set_num_threads(threads)
    check(RULES["texture"], shape)


@pytest.mark.parametrize("padding", ["circular", "zero"])
@pytest.mark.parametrize("name", RULES)
def test_rules(name, padding, poisoned):
    torch.set_num_threads(2)
    check(padded(RULES[name], padding), (2, 17, 33))


VAE = {"padding": "zero", "maximum_window": 3, "hidden_bias": True}
RANK_ONE = tuple(tuple((i - 3) * (j * j - 2) / 50 for j in range(7)) for i in range(7))
FULL = tuple(tuple(((i * 7 + j * 5 + i * j) % 11 - 5) / 40 for j in range(9)) for i in range(9))
LARGER = {
    "vae-mnist": Rule(
        channels=8,
        hidden=(64,),
        filters=("identity", "sobel_x", "sobel_y", "sobel_x7", "sobel_y7"),
        alive_channel=0,
        **VAE,
    ),
    "vae-cifar": Rule(
        channels=16,
        hidden=(160,),
        filters=("identity", "sobel_x/8", "sobel_y/8", "sobel_x5/8", "sobel_y5/8"),
        alive_channel=3,
        **VAE,
    ),
    "vae-face": Rule(
        channels=24,
        hidden=(256,),
        filters=("identity", "sobel_x/8", "sobel_x5/8", "sobel_y5/8", "sobel_x9/8", "sobel_y9/8"),
        alive_channel=3,
        **VAE,
    ),
    "growing": Rule(
        channels=16, hidden=(128,), filters=("identity", "sobel_x/8", "sobel_y/8"), alive_channel=3, output_bias=True
    ),
    "rank one": Rule(channels=3, hidden=(9,), filters=(RANK_ONE, "identity")),
    "9x9 without structure, and two hidden layers": Rule(channels=3, hidden=(9, 6), filters=(FULL, "identity")),
    "nothing but maxima": Rule(channels=3, hidden=(9,), filters=(), maximum_window=5),
    "the largest window": Rule(channels=3, hidden=(9,), filters=("sobel_x",), maximum_window=9),
    "a window of one": Rule(channels=3, hidden=(9,), filters=("sobel_x",), maximum_window=1),
    "alive by a frozen channel": Rule(channels=5, hidden=(9,), frozen=2, alive_channel=1),
    "alive below zero": Rule(channels=5, hidden=(9,), frozen=2, alive_channel=3, alive_threshold=-0.3),
}


def padded(rule, padding):
    return Rule(**{f: getattr(rule, f) for f in rule.__dataclass_fields__} | {"padding": padding})


@pytest.mark.parametrize("per_sample", [False, True], ids=["one rule", "a rule per sample"])
@pytest.mark.parametrize("padding", ["circular", "zero"])
@pytest.mark.parametrize("name", LARGER)
def test_larger_rules(name, padding, per_sample, poisoned):
    """Filters up to 9x9, local maxima, the alive mask, weights with a batch dimension; threads cut a sample in two."""
    torch.set_num_threads(2 if per_sample else 1)
    check(padded(LARGER[name], padding), (3, 17, 33), per_sample=per_sample)


LARGER_SHAPES = [
    (1, 1, 1),  # every neighbour is the cell itself, several times
    (2, 2, 5),  # smaller than a filter
    (4, 28, 28),  # the canvas of MNIST
    (1, 3, 1040),  # more than one tile of columns
    (1, 70, 3),  # rows shorter than any vector
    (2, 12, 130),  # alive cells in more than one word
]


@pytest.mark.parametrize("padding", ["circular", "zero"])
@pytest.mark.parametrize("shape", LARGER_SHAPES, ids=str)
def test_larger_rules_on_shapes(shape, padding, poisoned):
    rule = Rule(
        channels=5, hidden=(12,), filters=("sobel_y9", "sobel_x5", "identity"), alive_channel=3, maximum_window=3
    )
    check(padded(rule, padding), shape, per_sample=True, seed=2)


def test_weight_gradients_of_many_cells_are_folded_in_time():
    """Units that are positive nearly everywhere: float32 sums over 64 chunks were 3.6 times as far off as PyTorch."""
    check(LARGER["nothing but maxima"], (3, 70, 70), seed=3)


def test_equal_cells_share_a_maximum_as_in_the_reference():
    """Where many cells are equal the gradient goes to the first in the window."""
    rule = Rule(channels=2, hidden=(7,), filters=("identity",), maximum_window=3, padding="zero")
    weights, x = random_weights(rule), torch.randint(0, 2, (1, 2, 12, 20)).float()
    exact, fused = (
        values_and_gradients(rule, weights, x, torch.ones_like(x), 1, backend=b, dtype=dtype)
        for b, dtype in (("reference", torch.float64), ("cpu", torch.float32))
    )
    for e, f in zip(exact, fused, strict=True):
        assert relative_error(f, e) < 5e-7  # float32 sums; worst seen 1.5e-7


def test_one_shared_layer_among_rules_per_sample():
    """W [out, in] beside b [B, out]: the shared tensor receives the sum of the gradients."""
    rule, x = Rule(channels=4, hidden=(6,)), torch.randn(3, 4, 8, 9)
    (w1, _), (w2, _) = random_weights(rule)
    weights = [(w1, torch.randn(3, 6)), (w2, None)]
    exact, fused = (
        values_and_gradients(rule, weights, x, x, 2, backend=b, dtype=dtype)
        for b, dtype in (("reference", torch.float64), ("cpu", torch.float32))
    )
    for e, f in zip(exact, fused, strict=True):
        assert f.shape == e.shape and relative_error(f, e) < 1e-6  # float32; worst seen 1.3e-7


def test_a_population_is_its_members():
    rule, x = LARGER["vae-mnist"], torch.rand(4, 8, 20, 20)
    weights = random_weights(rule, 4)
    together = rollout(x, weights, rule, 5, seed=3, backend="cpu")
    for n in range(4):
        own = [tuple(None if t is None else t[n] for t in pair) for pair in weights]
        assert torch.equal(
            rollout(x[n : n + 1], own, rule, 5, seed=3, first_sample=n, backend="cpu"), together[n : n + 1]
        )


def test_long_alive_rollouts_follow_the_reference():
    """Cells are born, die and are decided upon by neighbours that do not live, over many steps."""
    rule = LARGER["growing"]
    torch.manual_seed(4)
    weights = random_weights(rule)
    weights[1][1][3] = 0.1  # alpha grows
    x = torch.zeros(2, 16, 30, 41)
    x[:, 3:, 15, 20] = 1
    want, alive = x.double(), []
    for step in range(24):
        want = rollout(want, weights, rule, 1, seed=6, first_step=step, backend="reference")
        alive.append((want != 0).any(1).double().mean().item())
    assert 0.2 < alive[-1] < 1
    assert relative_error(rollout(x, weights, rule, 24, seed=6, backend="cpu"), want) < 1e-5  # grows with the steps


@pytest.mark.parametrize("rate", [0.0, 0.02, 1.0])
def test_fire_rates(rate, poisoned):
    """0.02: packed cells wait for others over many rows, and are written back when there is no room for another row."""
    check(Rule(fire_rate=rate), (2, 30, 40))


def test_cells_fire_below_their_rate_and_not_at_it():
    rule = Rule(channels=4, hidden=(1,), output_bias=True)
    y = masked(rule, (1, 4, 3, 40), seed=5, first_step=9, fire_rate=edge_rates(5, 9, 3, 40), backend="cpu")
    assert torch.equal(y, torch.tensor([1.0, 0.0]).repeat(20).expand(1, 4, 3, 40))


def test_fire_rate_map(poisoned):
    rate = torch.rand(17, 33)
    rate[:3], rate[-3:], rate[:, 20:24] = 0, 1, 0.5
    check(Rule(), (2, 17, 33), fire_rate=rate)


@pytest.mark.parametrize("checkpoint_every", [None, 1, 2, 3, 7, 100])
@pytest.mark.parametrize("bptt_steps", [None, 1, 4, 100])
def test_checkpoints_and_truncation(checkpoint_every, bptt_steps, poisoned):
    check(Rule(channels=4, hidden=(8,)), (2, 6, 18), 7, checkpoint_every=checkpoint_every, bptt_steps=bptt_steps)


@pytest.mark.parametrize("backend", ["cpu", "convolutions", "reference"])
def test_what_truncation_cuts_off_has_no_gradient(backend):
    """A result that hangs on x alone, or on steps that are cut off, requires no gradient, in every backend."""
    rule, x = Rule(channels=4, hidden=(8,)), torch.randn(1, 4, 5, 6)
    frozen, how = random_weights(rule), {"seed": 1, "backend": backend}
    learned = [(w.clone().requires_grad_(), b if b is None else b.clone().requires_grad_()) for w, b in frozen]
    for after in (None, lambda x, y, n: y):
        ways = how | {"after": after}
        for weights, at, passed, tracked in (
            (frozen, None, 2, False),
            (frozen, None, 3, True),
            (learned, None, 1, True),
            (learned, range(1, 2), 2, False),
            (learned, range(1, 3), 2, True),
        ):
            y = rollout(x.clone().requires_grad_(), weights, rule, 3, at=at, bptt_steps=passed, **ways)
            assert y.requires_grad == tracked, (at, passed)


def test_checkpoints_do_not_change_a_bit():
    rule, x = Rule(), torch.randn(2, 12, 20, 20)
    weights = random_weights(rule)
    runs = [
        values_and_gradients(rule, weights, x, x, 6, backend="cpu", dtype=torch.float32, checkpoint_every=k)
        for k in (None, 2, 4)
    ]
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


def test_long_rollout_in_calls_of_limited_length(monkeypatch):
    """Odd and even numbers of steps per call end in the right buffer."""
    from nca_fast.kernels.cpu import rollout as kernels

    rule, x = Rule(), torch.randn(1, 12, 8, 8)
    weights = random_weights(rule)
    want = rollout(x, weights, rule, 11, seed=0, backend="cpu")
    for cell_steps in (1, 64 * 2, 64 * 5):
        monkeypatch.setattr(kernels, "_CELL_STEPS_PER_CALL", cell_steps)
        assert torch.equal(rollout(x, weights, rule, 11, seed=0, backend="cpu"), want)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_two_rollouts_equal_one(backend):
    rule, x = Rule(), torch.randn(2, 12, 9, 20)
    weights = random_weights(rule)
    whole = rollout(x, weights, rule, 20, seed=5, backend=backend)
    half = rollout(x, weights, rule, 10, seed=5, backend=backend)
    assert torch.equal(rollout(half, weights, rule, 10, seed=5, first_step=10, backend=backend), whole)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_part_of_a_canvas_equals_the_whole(backend):
    """Cells that are farther from the cut than the steps can carry have the same bits in the part."""
    rule, steps = Rule(), 3
    x = torch.randn(3, 12, 40, 50)
    weights = random_weights(rule)
    whole = rollout(x, weights, rule, steps, seed=8, backend=backend)
    part = rollout(x[1:, :, 7:31, 5:45], weights, rule, steps, seed=8, origin=(7, 5), first_sample=1, backend=backend)
    inner = slice(steps, -steps)
    assert torch.equal(part[:, :, inner, inner], whole[1:, :, 7:31, 5:45][:, :, inner, inner])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_strip_around_the_edge_of_the_torus_equals_the_whole(backend):
    """The strip begins above row 0, so its rows go on with row 0 after the canvas's last."""
    rule, steps = Rule(), 3
    x, weights = torch.randn(1, 12, 21, 40), random_weights(rule)
    whole = rollout(x, weights, rule, steps, seed=8, backend=backend)
    rows = [*range(16, 21), *range(9)]
    strip = rollout(x[:, :, rows], weights, rule, steps, seed=8, origin=(16, 0), canvas_height=21, backend=backend)
    assert torch.equal(strip[:, :, steps:-steps], whole[:, :, rows][:, :, steps:-steps])


def test_same_bits_again_and_with_other_threads_the_same_values():
    """Gradients are partial sums in a fixed order: the same bits for the same threads. Values never depend on them."""
    rule, x = Rule(), torch.randn(2, 12, 33, 47)
    weights = random_weights(rule)
    runs = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        runs.append(values_and_gradients(rule, weights, x, x, 4, backend="cpu", dtype=torch.float32))
    assert all(torch.equal(a, b) for a, b in zip(runs[1], runs[2], strict=True))
    assert torch.equal(runs[0][0], runs[1][0])


def test_large_seeds_steps_and_origins():
    rule, x = Rule(channels=3, hidden=(4,)), torch.randn(1, 3, 5, 7)
    weights = random_weights(rule)
    far = {"seed": 2**64 - 1, "first_step": 2**32 - 3, "origin": (2**32 - 2, 2**32 - 3), "first_sample": 2**31}
    want = rollout(x.double(), weights, rule, 3, backend="reference", **far)
    assert relative_error(rollout(x, weights, rule, 3, backend="cpu", **far), want) < FLOOR
    assert not torch.equal(rollout(x.double(), weights, rule, 3, backend="reference"), want)


@pytest.mark.parametrize("more", [{}, {"filters": ("identity",), "maximum_window": 3}], ids=["filters", "maximum"])
def test_a_state_that_blew_up_stays_where_it_is(more):
    """Infinity and NaN reach the neighbours of a cell and no others; packed buffers carry nothing over."""
    rule = Rule(fire_rate=0.7, **more)
    x = torch.randn(1, 12, 20, 40)
    x[0, 3, 10, 20], x[0, 5, 4, 36] = float("inf"), float("nan")
    weights = random_weights(rule)
    got, want = (rollout(x, weights, rule, 1, seed=0, backend=b) for b in ("cpu", "reference"))
    assert torch.equal(got.isfinite(), want.isfinite())
    assert 0 < (~got.isfinite()).sum() < 12 * 18


def test_input_is_not_changed_and_may_be_any_view():
    rule = Rule()
    base = torch.randn(2, 20, 30, 24)
    x = base.permute(0, 3, 1, 2)[:, 4:16, ::2, 5:]
    before, weights = base.clone(), random_weights(rule)
    y = rollout(x, weights, rule, 2, seed=0, backend="cpu")
    assert torch.equal(y, rollout(x.contiguous(), weights, rule, 2, seed=0, backend="cpu"))
    assert torch.equal(base, before)
