"""The fused rollout against the float64 reference with the same fire masks: values and every gradient.

Error policy (DESIGN): at most twice the error of plain float32 PyTorch, measured as the norm of the difference over the
norm of the exact tensor. Both are a few roundings of 6e-8; a floor of 3e-7 keeps tensors of few elements, where plain
PyTorch may be exact by luck, from failing (worst seen: 2.8e-7, at 1 x 1 cells). A hidden unit within a rounding of zero
may fall on the other side of the ReLU in either float32 run; the seeds here are such that none does.
"""

import pytest
import torch
from rollouts import random_weights, relative_error, values_and_gradients

from nca_fast import Rule, rollout
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
    "a filter of zeros and one cell": Rule(channels=4, hidden=(9,), filters=(((0.0,) * 3,) * 3, ((2.0,),))),
}


def check(rule, shape, steps=3, backend="cpu", **options):
    B, H, W = shape
    torch.manual_seed(1)
    weights = random_weights(rule)
    x = torch.randn(B, rule.channels, H, W) * 0.5
    grad_y = torch.randn_like(x)
    exact, plain, fused = (
        values_and_gradients(rule, weights, x, grad_y, steps, backend=b, dtype=dtype, seed=11, **options)
        for b, dtype in (("reference", torch.float64), ("reference", torch.float32), (backend, torch.float32))
    )
    for e, p, f in zip(exact, plain, fused, strict=True):
        assert (e is None) == (f is None)
        if e is not None:
            assert relative_error(f, e) <= max(2 * relative_error(p, e), FLOOR)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape, threads, poisoned):
    torch.set_num_threads(threads)
    check(RULES["texture"], shape)


@pytest.mark.parametrize("padding", ["circular", "zero"])
@pytest.mark.parametrize("name", RULES)
def test_rules(name, padding, poisoned):
    torch.set_num_threads(2)
    rule = RULES[name]
    check(Rule(**{f: getattr(rule, f) for f in rule.__dataclass_fields__} | {"padding": padding}), (2, 17, 33))


@pytest.mark.parametrize("rate", [0.0, 0.02, 1.0])
def test_fire_rates(rate, poisoned):
    """0.02: packed cells wait for others over many rows, and are written back when there is no room for another row."""
    check(Rule(fire_rate=rate), (2, 30, 40))


def test_fire_rate_map(poisoned):
    rate = torch.rand(17, 33)
    rate[:3], rate[-3:], rate[:, 20:24] = 0, 1, 0.5
    check(Rule(), (2, 17, 33), fire_rate=rate)


@pytest.mark.parametrize("checkpoint_every", [None, 1, 2, 3, 7, 100])
@pytest.mark.parametrize("bptt_steps", [None, 1, 4, 100])
def test_checkpoints_and_truncation(checkpoint_every, bptt_steps, poisoned):
    check(Rule(channels=4, hidden=(8,)), (2, 6, 18), 7, checkpoint_every=checkpoint_every, bptt_steps=bptt_steps)


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
    from nca_fast.kernels import rollout_cpu

    rule, x = Rule(), torch.randn(1, 12, 8, 8)
    weights = random_weights(rule)
    want = rollout(x, weights, rule, 11, backend="cpu")
    for cell_steps in (1, 64 * 2, 64 * 5):
        monkeypatch.setattr(rollout_cpu, "_CELL_STEPS_PER_CALL", cell_steps)
        assert torch.equal(rollout(x, weights, rule, 11, backend="cpu"), want)


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


def test_a_state_that_blew_up_stays_where_it_is():
    """Infinity and NaN reach the neighbours of a cell and no others; packed buffers carry nothing over."""
    rule = Rule(fire_rate=0.7)
    x = torch.randn(1, 12, 20, 40)
    x[0, 3, 10, 20], x[0, 5, 4, 36] = float("inf"), float("nan")
    weights = random_weights(rule)
    got, want = (rollout(x, weights, rule, 1, backend=b) for b in ("cpu", "reference"))
    assert torch.equal(got.isfinite(), want.isfinite())
    assert 0 < (~got.isfinite()).sum() < 12 * 18


def test_input_is_not_changed_and_may_be_any_view():
    rule = Rule()
    base = torch.randn(2, 20, 30, 24)
    x = base.permute(0, 3, 1, 2)[:, 4:16, ::2, 5:]
    before, weights = base.clone(), random_weights(rule)
    y = rollout(x, weights, rule, 2, backend="cpu")
    assert torch.equal(y, rollout(x.contiguous(), weights, rule, 2, backend="cpu"))
    assert torch.equal(base, before)
