"""The Triton kernels that keep perception in memory: larger filters, maxima, the alive mask, wide and several layers.

As in test_triton.py: values and every gradient against the float64 reference, in the interpreter where there is no GPU.
"""

from dataclasses import replace

import pytest
import torch
from rollouts import relative_error, values_and_gradients
from triton_rollouts import DEVICE, FLOOR, bfloat16_factor, check, mixed, small_programs, weights_of

from nca_fast import Rule, rollout
from nca_fast.filters import as_filter
from nca_fast.presets import PRESETS

pytest.importorskip("triton", reason="the Triton kernels need triton: pip install triton")


@pytest.fixture(autouse=True)
def cells(request, monkeypatch):
    """Programs of 64 cells or as many as the test says, see `small_programs`."""
    small_programs(monkeypatch, getattr(request, "param", None))


SEVEN = tuple(tuple((3 * i + 5 * j) % 7 / 10 - 0.3 for j in range(7)) for i in range(7))  # no symmetry
BELL = tuple(tuple((5 - abs(i)) * (1 + 0.1 * j) / 50 for j in range(-4, 5)) for i in range(-4, 5))
LARGE = Rule(channels=4, hidden=(8,), filters=("identity", SEVEN, "sobel_y5"))
GROWS = Rule(channels=5, hidden=(9,), filters=("sobel_x",), maximum_window=3, frozen=1, alive_channel=3)


@pytest.mark.parametrize("padding", ["circular", "zero"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 5), (1, 9, 20)], ids=str)
def test_larger_filters(shape, padding, poisoned):
    check(replace(LARGE, padding=padding), shape)


@pytest.mark.parametrize("padding", ["circular", "zero"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 5), (1, 7, 13)], ids=str)
def test_maximum_with_ties_and_alive_mask(shape, padding, poisoned):
    check(replace(GROWS, padding=padding), shape, spacing=0.5)


@pytest.mark.parametrize("maximum_window", [None, 3], ids=["single pass", "through memory"])
def test_cells_that_an_update_kills(maximum_window):
    """They were alive before, and neither they nor a neighbour are after: their values and gradients are 0."""
    rule = replace(GROWS, maximum_window=maximum_window, output_bias=True, fire_rate=0.8)
    weights = weights_of(rule)
    weights[-1][1][2] = -0.5  # what the alive channel loses in a step
    x, grad_y = torch.rand(2, 5, 6, 9, device=DEVICE) * 0.55, torch.randn(2, 5, 6, 9, device=DEVICE)
    options = {"seed": 3, "steps": 1}
    exact = values_and_gradients(rule, weights, x.double(), grad_y, backend="reference", dtype=torch.float64, **options)
    found = mixed(rule, weights, x, grad_y, backend="triton", precision="fp32", **options)
    dead = (exact[0][:, 1:] == 0).all(1)
    assert 10 < dead.sum() < 98
    for e, f in zip(exact, found, strict=True):
        assert relative_error(f, e) < 1e-6  # worst seen 3e-7


WIDE_RULES = {
    "nothing but the maximum, of 5x5": Rule(channels=3, hidden=(7,), filters=(), maximum_window=5),
    "a maximum larger than the filters": Rule(channels=6, hidden=(7,), filters=("sobel_x",) * 2, maximum_window=5),
    "separable 9x9 and nothing": Rule(channels=3, hidden=(4,), filters=(BELL, ((0,) * 5,) * 5)),
    "9x9, no bias": Rule(channels=2, hidden=(5,), filters=("sobel_x9",), hidden_bias=False, output_bias=True),
    "alive channel is frozen": Rule(channels=4, hidden=(8,), frozen=2, alive_channel=1, alive_threshold=0.7),
    "160 units": Rule(channels=4, hidden=(160,), filters=("identity",), output_bias=True),
    "256 units": Rule(channels=4, hidden=(256,), filters=("sobel_x",)),
    "40 channels": Rule(channels=40, hidden=(20,), filters=("laplacian",)),
    "nine filters": Rule(channels=3, hidden=(7,), filters=("identity", "sobel_x5", "sobel_y") * 3),
    "two layers": Rule(channels=5, hidden=(20, 40), filters=("sobel_x5",), frozen=1, output_bias=True),
    "two layers, no bias": Rule(channels=4, hidden=(33, 6), maximum_window=3, hidden_bias=False),
}


@pytest.mark.parametrize("name", WIDE_RULES)
def test_rules(name, poisoned):
    check(WIDE_RULES[name], (1, 4, 9))


@pytest.mark.parametrize(
    "filter, profiles, rows",
    [(BELL, 1, 9), ("sobel_x7", 4, 7), ("sobel_y9", 4, 9), (SEVEN, 7, 7), ("identity", 1, 1), (((0,) * 5,) * 5, 1, 1)],
    ids=["separable", "sobel_x7", "sobel_y9", "any", "identity", "nothing"],
)
def test_rows_of_filters_share_profiles(filter, profiles, rows):
    from nca_fast.kernels.triton.through_memory.filters import row_profiles

    kernel = as_filter(filter).kernel
    found = row_profiles([tuple(map(tuple, kernel))], window=3)
    assert len(found.even) == len(found.odd) == profiles and len(found.weights[0]) == rows
    assert found.carried == (0, rows - 1) and found.reach == max(1, rows // 2)
    even, odd = (torch.tensor(taps, dtype=torch.float64) for taps in (found.even, found.odd))
    taps = torch.cat([(even - odd)[:, 1:].flip(1), even + odd], 1)
    rebuilt = torch.tensor(found.weights[0], dtype=torch.float64)[:, None] * taps[list(found.profiles[0])]
    here = torch.zeros(max(rows, len(kernel)), max(taps.shape[1], len(kernel)), dtype=torch.float64)
    want = here.clone()
    _middle(here, rebuilt)
    _middle(want, torch.tensor(kernel, dtype=torch.float64))
    assert (here - want).abs().max() <= 2**-22 * want.abs().max()


def _middle(of, values):
    top, left = ((a - b) // 2 for a, b in zip(of.shape, values.shape, strict=True))
    of[top : top + len(values), left : left + values.shape[1]] = values


@pytest.mark.parametrize("preset", ["vae-mnist", "vae-cifar", "vae-face"])
def test_presets_with_a_rule_per_sample(preset, poisoned):
    check(PRESETS[preset]["rule"], (2, 2, 3), 1, per_sample=True)


@pytest.mark.parametrize("cells", [16], indirect=True)
@pytest.mark.parametrize(
    "most, per_sample", [(10, True), (40, True), (40, False)], ids=["parts of a sample", "samples", "samples, one rule"]
)
def test_ranges_of_cells(most, per_sample, cells, poisoned, monkeypatch):
    """Scratch for a few cells: steps in several ranges, of several programs, and several parts with their own sums."""
    from nca_fast.kernels.triton import alive
    from nca_fast.kernels.triton.through_memory import perception, steps

    numbers = 16 + 2 * 16 + 16  # 2 kinds of 8 channels; h and grad_h; grad_u
    monkeypatch.setattr(steps, "_SCRATCH", 4 * numbers * most)
    monkeypatch.setattr(perception, "NUMBERS", 32)
    monkeypatch.setattr(alive, "_CELLS", 4)
    check(GROWS, (3, 2, 9), 1, per_sample=per_sample, spacing=0.5)


@pytest.mark.parametrize(
    "precision, dtype",
    [
        ("fp16", torch.float32),
        ("fp16", torch.float16),
        ("tf32", torch.float32),
        ("bf16", torch.float32),
        ("bf16", torch.bfloat16),
    ],
)
def test_precisions(precision, dtype, poisoned):
    rule = Rule(channels=8, hidden=(24,), filters=("identity", "sobel_x5/8"), maximum_window=3, alive_channel=3)
    # Where rounding flips the gate of a unit of one cell, gradients of 40 cells are off by 5e-2; here none is, but for
    # bf16 with a bias of the output.
    rule = replace(rule, output_bias=precision == "fp16")
    factor = bfloat16_factor(torch.bfloat16 if precision == "bf16" else dtype)
    check(
        rule, (1, 5, 8), precision=precision, dtype=dtype, factor=factor, floor=2e-3 if precision == "tf32" else FLOOR
    )


@pytest.mark.parametrize("precision, dtype", [("fp32", torch.float32), ("fp16", torch.float16)])
def test_smaller_programs_where_weights_are_in_registers(precision, dtype, poisoned, monkeypatch):
    """Half the cells for the gradient of the network; half the numbers of 16 bits per thread for the perception's."""
    from nca_fast.kernels.triton.single_pass import plan
    from nca_fast.kernels.triton.through_memory.steps import ThroughMemory

    monkeypatch.setattr(plan, "weights_in_registers", lambda device: True)
    narrow = Rule(channels=4, hidden=(64,), filters=("sobel_x5",))
    wide = Rule(channels=40, hidden=(64,), filters=("identity", "sobel_x5", "sobel_y5"))
    for rule, cells in ((narrow, 64), (wide, 32)):
        params = torch.zeros(sum(out * (inputs + bias) for out, inputs, bias in rule.layers))
        assert ThroughMemory(params, rule.kernel_rule, precision, None).backward_cells == cells
    check(wide, (2, 3, 15), 1, precision=precision, dtype=dtype)


def test_sizes_that_do_not_spill(monkeypatch):
    from nca_fast.kernels.triton.single_pass import plan
    from nca_fast.kernels.triton.through_memory import steps

    monkeypatch.setattr(steps, "UNITS", {"fp32": 16, "bf16": 64})
    monkeypatch.setattr(steps, "CELLS", {"fp32": 32, "bf16": 64})
    rule, params = Rule(channels=4, hidden=(64,), filters=("sobel_x5",)), torch.zeros(64 * 5 + 4 * 64)
    for capability, units, stages in ((None, 16, 3), ((9, 0), 16, 3), ((10, 0), 32, 1)):
        monkeypatch.setattr(plan, "capability", lambda device, found=capability: found)
        ways = [steps.ThroughMemory(params, rule.kernel_rule, p, None) for p in ("fp32", "bf16")]
        assert [way.backward_units for way in ways] == [units, 64]
        assert [way.sum_stages for way in ways] == [3, stages]
    monkeypatch.setattr(plan, "capability", lambda device: (8, 6))
    for more, warps in (({}, 2), ({"channels": 20, "filters": ("sobel_x", "sobel_y", "sobel_x5")}, 4)):
        other = replace(rule, **more)
        params = torch.zeros(sum(out * (inputs + bias) for out, inputs, bias in other.layers))
        assert steps.ThroughMemory(params, other.kernel_rule, "bf16", None).backward_warps == warps
    wide = Rule(channels=40, hidden=(64,), filters=("identity", "sobel_x5", "sobel_y5"))
    params = torch.zeros(sum(out * (inputs + bias) for out, inputs, bias in wide.layers))
    for capability, sizes in (((8, 9), (32, 64)), ((9, 0), (64, 64)), ((12, 0), (64, 32))):
        monkeypatch.setattr(plan, "capability", lambda device, found=capability: found)
        monkeypatch.setattr(plan, "weights_in_registers", lambda device, found=capability: found[0] != 9)
        way = steps.ThroughMemory(params, wide.kernel_rule, "bf16", None)
        assert (way.backward_cells, way.backward_units) == sizes


def test_fire_rate_map(poisoned):
    rate = torch.rand(3, 25, device=DEVICE)
    rate[:1], rate[-1:], rate[:, 10:14] = 0, 1, 0.5
    check(replace(LARGE, filters=("sobel_x5",)), (2, 3, 25), fire_rate=rate)


# Filters without zeros, by which the reference multiplies infinity and the kernels nothing; beside one that sees its
# own cell alone it is the local maximum that carries NaN to the neighbours.
@pytest.mark.parametrize("filter", [((0.04,) * 5,) * 5, ((0.5,),)], ids=["blur", "own cell"])
def test_a_state_that_blew_up_stays_where_it_is(filter):
    """Frozen channels stay what they are, and so do cells that the alive mask would have made 0."""
    rule = Rule(channels=6, frozen=2, hidden=(5,), filters=(filter,), maximum_window=3, alive_channel=3, fire_rate=0.7)
    x = torch.randn(1, 6, 9, 30, device=DEVICE) - 0.5
    x[0, 3, 5, 20], x[0, 5, 1, 7] = float("inf"), float("nan")
    weights = weights_of(rule)
    got, want = (rollout(x, weights, rule, 1, seed=0, backend=b, precision="fp32") for b in ("triton", "reference"))
    assert torch.equal(got.isfinite(), want.isfinite()) and not got[:, 2:].isfinite().all()
    assert torch.equal(got[:, :2], x[:, :2])


def test_nan_in_the_alive_channel_kills_what_is_around_it():
    """As the maximum of PyTorch, which is NaN where one number is."""
    rule = Rule(channels=5, hidden=(6,), filters=(((0.5,),),), frozen=1, alive_channel=3)
    x = torch.rand(1, 5, 6, 9, device=DEVICE) + 0.2
    x[0, 3, 2, 4] = float("nan")
    weights = weights_of(rule)
    got, want = (rollout(x, weights, rule, 1, seed=0, backend=b, precision="fp32") for b in ("triton", "reference"))
    finite = want.isfinite()
    assert torch.equal(got.isfinite(), finite) and (want[0, 4, 1:4, 3:6] == 0).sum() >= 8 and (want == 0).sum() < 40
    assert torch.allclose(got[finite], want[finite], atol=1e-6)


def test_scratch_is_allocated_once_per_rollout():
    from nca_fast.kernels.triton import steps
    from nca_fast.kernels.triton.fire import Step

    params = torch.cat([t.flatten() for pair in weights_of(GROWS) for t in pair if t is not None])
    weights = steps.RolloutWeights(params, GROWS.kernel_rule, "fp32")
    x, keys = torch.randn(1, 2, 3, 8, device=DEVICE), torch.zeros(1, 2, 2, dtype=torch.int32, device=DEVICE)
    fire, scale, sums = (
        torch.tensor(2**31, device=DEVICE),
        torch.ones((), device=DEVICE),
        steps.gradient_buffer(weights, x),
    )
    places, step = [], Step(keys, fire, 0)
    for _ in range(2):
        steps.forward_step(x, torch.empty_like(x), weights, step)
        steps.backward_step(x, x, torch.empty_like(x), sums, weights, scale, step)
        places.append({name: t.data_ptr() for name, t in weights.scratch.kept.items()})
    assert places[0] == places[1] and len(places[0]) > 5
