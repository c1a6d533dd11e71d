"""The Triton kernels against the float64 reference: values, every gradient, and the fire mask bit for bit.

Without a GPU the kernels run in Triton's interpreter (conftest.py), which is slow: sizes are small. It executes the
same program text but for the inline PTX, which only a GPU can check.
"""

import itertools
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from nca_fast.kernels.triton import limits
from rollouts import edge_rates, masked, random_weights, relative_error
from triton_rollouts import DEVICE, FLOOR, INTERPRETED, bfloat16_factor, check, mixed, small_programs, weights_of

from nca_fast import Rule, fire_mask, rollout
from nca_fast.presets import PRESETS

pytest.importorskip("triton", reason="the Triton kernels need triton: pip install triton")


@pytest.fixture(autouse=True)
def columns(request, monkeypatch):
    """Programs of 64 columns or as many as the test says, see `small_programs`."""
    small_programs(monkeypatch, getattr(request, "param", None))


SMALL = Rule(channels=4, hidden=(8,))

SHAPES = [
    (1, 1, 1),  # every neighbour is the cell itself
    (2, 2, 5),  # H = 2: the rows above and below are the same one
    (1, 4, 62),  # one program exactly, backward; ragged forward
    (1, 4, 64),  # one program exactly, forward; two backward
    (1, 9, 20),  # several bands of rows, the last one ragged
]


@pytest.mark.parametrize("padding", ["circular", "zero"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape, padding, poisoned):
    check(Rule(padding=padding), shape)


@pytest.mark.parametrize("columns", [16], indirect=True)
@pytest.mark.parametrize("padding", ["circular", "zero"])
@pytest.mark.parametrize("shape", [(1, 5, 29), (2, 3, 16), (1, 3, 15)], ids=str)
def test_several_programs_side_by_side(shape, padding, columns, poisoned):
    check(Rule(channels=8, hidden=(16,), padding=padding), shape)


RULES = {
    "clip": Rule(hidden=(128,)),
    "no spare channel for the bias": Rule(channels=16),
    "style": Rule(channels=18, hidden=(90, 90), frozen=3, fire_rate=1.0, output_bias=True),
    "style-two-filters": Rule(
        channels=18,
        hidden=(90, 90),
        frozen=3,
        fire_rate=0.6,
        output_bias=True,
        filters=("identity", "sobel_x", "sobel_y", "laplacian", "scharr_x/4", "scharr_y/4", "laplacian"),
    ),
    "growing, dense": Rule(
        channels=16, hidden=(128,), filters=("identity", "sobel_x/8", "sobel_y/8"), padding="zero", output_bias=True
    ),
    "two layers, no spare channel": Rule(channels=32, hidden=(20, 40), padding="zero"),
    "no bias": Rule(channels=15, hidden=(33, 5), hidden_bias=False, fire_rate=0.9),
    "any stencil": Rule(
        channels=5, hidden=(10,), filters=(((0.1, -0.2, 0.3), (0.4, 0.5, -0.6), (0.7, 0.8, 0.9)), "hex_sobel_x")
    ),
    "one channel, one filter": Rule(channels=1, hidden=(1,), filters=("laplacian",), output_bias=True),
    "a filter of zeros and one cell": Rule(channels=4, hidden=(9,), filters=(((0.0,) * 3,) * 3, ((2.0,),))),
    "eight filters": Rule(
        channels=3, hidden=(7,), frozen=2, filters=("identity", "sobel_x", "sobel_y") * 2 + ("hex_laplacian",) * 2
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_rules(name, poisoned):
    check(RULES[name], (1, 5, 21))


@pytest.mark.parametrize(
    "rule",
    [
        Rule(channels=4, hidden=(8,), output_bias=True),  # the bias of the first layer is among the weights
        Rule(channels=8, hidden=(5,)),  # apart
        Rule(channels=8, hidden=(5, 6)),  # each bias apart; several launches with other programs
    ],
    ids=["bias among the weights", "bias apart", "two layers"],
)
def test_one_rule_per_sample(rule, poisoned):
    check(rule, (3, 3, 63), per_sample=True)


@pytest.mark.parametrize("precision, small", [("fp16", 2**-12), ("bf16", 2**-9)])
def test_first_bias_is_not_rounded(precision, small):
    """It is multiplied in two parts, because 1 + small is 1 in 16 bits."""
    rule = Rule(channels=4, hidden=(1,), fire_rate=1.0)
    w1, w = torch.zeros(1, 16, device=DEVICE), torch.zeros(4, 1, device=DEVICE)
    w1[0, 0], w[1, 0] = -1, 1 / small
    x = torch.ones(1, 4, 3, 5, device=DEVICE)
    weights = [(w1, torch.full((1,), 1 + small, device=DEVICE)), (w, None)]
    assert (rollout(x, weights, rule, 1, backend="triton", precision=precision) - x)[0, 1].unique().tolist() == [1.0]


def test_more_channels_units_and_perception_than_the_kernels_take_are_refused():
    for rule, reason in (
        (Rule(channels=65), "at most 64 channels, but the rule has 65"),
        (Rule(channels=4, hidden=(4, 4, 4)), "two of at most 128"),
        (Rule(channels=4, hidden=(257,)), "at most 256 units"),
        (Rule(channels=4, hidden=(4, 129)), "two of at most 128"),
        (Rule(channels=64, filters=("sobel_x",) * 6, maximum_window=3), "at most 384 numbers .* but the rule has 448"),
    ):
        x = torch.zeros(1, rule.channels, 2, 2, device=DEVICE)
        weights = weights_of(rule)
        with pytest.raises(ValueError, match=f'backend="triton" cannot serve: .*{reason}'):
            rollout(x, weights, rule, 1, backend="triton")


def test_refusals_of_the_machine_name_the_remedy(monkeypatch):
    x, weights = torch.zeros(1, 4, 2, 2), random_weights(SMALL)
    with pytest.raises(ValueError, match=r"but x is torch.float64: use x.float\(\)"):
        rollout(x.double(), weights, SMALL, 1, backend="triton") if INTERPRETED else pytest.skip("needs no GPU")
    monkeypatch.setattr(limits, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="triton, which is not installed: run `pip install triton`"):
        rollout(x, weights, SMALL, 1, backend="triton")
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ValueError, match=r"states on a GPU, but x is on cpu: use x.cuda\(\)"):
        rollout(x, weights, SMALL, 1, backend="triton")


class GPUTensor:
    """What `refusal` asks of a tensor."""

    device, dtype, is_cuda = torch.device("cuda", 0), torch.float32, True


def on_a_gpu(monkeypatch, name, capability=None, kib=99, gcn=""):
    """Makes torch say that this is the GPU."""
    facts = SimpleNamespace(shared_memory_per_block_optin=kib * 1024, gcnArchName=gcn)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
    monkeypatch.setattr(torch.version, "hip", "6.4" if gcn else None)


def test_gpus_that_are_too_old_or_too_small_are_refused(monkeypatch):
    def refusal(rule, precision):
        return limits.refusal(rule.kernel_rule, GPUTensor, precision)

    on_a_gpu(monkeypatch, "Tesla T4", (7, 5), 64)
    message = refusal(SMALL, "fp32")
    assert "8.0 (Ampere" in message and "but Tesla T4 has 7.5: choose a later one" in message
    on_a_gpu(monkeypatch, "RTX 3090", (8, 6))
    assert refusal(SMALL, "fp32") is None
    for name in ("style", "style-two-filters", "texture", "clip", "growing", "vae-face"):  # 60 KiB at most
        assert refusal(PRESETS[name]["rule"], "fp16") is None
    assert refusal(Rule(), "tf32") is None
    wide = Rule(channels=32, hidden=(128,), filters=("identity", "sobel_x", "sobel_y", "laplacian", "scharr_x"))
    assert "need 187 KiB of shared memory" in refusal(wide, "fp16")
    assert 'use precision="fp16"' in refusal(RULES["style"], "tf32")
    on_a_gpu(monkeypatch, "H100", (9, 0), 227)
    assert refusal(wide, "fp16") is None
    on_a_gpu(monkeypatch, "Radeon RX 7900 XTX", gcn="gfx1100")
    assert "but Radeon RX 7900 XTX is gfx1100: stay with convolutions" in refusal(SMALL, "fp16")
    on_a_gpu(monkeypatch, "MI300X", gcn="gfx942:sramecc+:xnack-")
    assert refusal(SMALL, "fp16") is None


@pytest.mark.parametrize("version, served", [("3.4.0", False), ("3.5.0", True), ("3.10.0+git", True), ("4.0", True)])
def test_a_triton_that_is_too_old_is_refused(monkeypatch, version, served):
    on_a_gpu(monkeypatch, "H100", (9, 0), 227)
    monkeypatch.setattr(limits, "triton_version", lambda: version)
    message = limits.refusal(SMALL.kernel_rule, GPUTensor, "fp16")
    assert (message is None) is served
    assert served or "triton 3.5 or later, which comes with torch 2.9, but here is 3.4.0" in message


def test_keys_of_more_steps_than_their_table_holds(monkeypatch, poisoned):
    from nca_fast.kernels.triton import rollout as rollout_triton

    monkeypatch.setattr(rollout_triton, "_KEY_ROWS", 2 * 3 * 2)
    check(SMALL, (2, 3, 5), steps=4)  # the last one is a launch of its own


def test_two_rows_per_turn_where_there_are_registers_for_them(monkeypatch):
    from nca_fast.kernels.triton.single_pass import plan
    from nca_fast.kernels.triton.single_pass import steps as single_pass

    cards = {(8, 0): True, (8, 6): True, (8, 9): True, (9, 0): False, (10, 0): False, (12, 0): True}
    for found, older in cards.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=found: found)
        assert plan.weights_in_registers(torch.device("cuda:0")) is older
        assert not plan.weights_in_registers(torch.device("cpu"))
    params = torch.cat([t.flatten() for pair in random_weights(Rule()) for t in pair if t is not None])
    way = single_pass.SinglePass(params, Rule().kernel_rule, "fp16")
    assert way._unroll() == 2
    monkeypatch.setattr(plan, "weights_in_registers", lambda device: True)
    assert way._unroll() == 1


def way_of(rule, precision="fp16"):
    """The single pass of a rule."""
    from nca_fast.kernels.triton.single_pass.steps import SinglePass

    params = torch.cat([t.flatten() for pair in random_weights(rule) for t in pair if t is not None])
    return SinglePass(params, rule.kernel_rule, precision)


@pytest.mark.parametrize("padding", ["circular", "zero"])
def test_rows_that_are_loaded_again_for_want_of_registers(padding, poisoned, monkeypatch):
    """The same bits as of rows that are carried down, whose values are tested above."""
    from nca_fast.kernels.triton import laid_out
    from nca_fast.kernels.triton.single_pass import plan

    rule, tile = Rule(channels=6, hidden=(9, 6), padding=padding), plan.forward_tile
    x, weights, found = torch.randn(1, 6, 5, 20, device=DEVICE), weights_of(rule), []
    for carried in (True, False):
        monkeypatch.setattr(plan, "forward_tile", lambda *a, c=carried: tile(*a)._replace(CARRIED=c))
        laid_out.forget()
        found.append(rollout(x, weights, rule, 2, seed=0, backend="triton", precision="fp32"))
    assert torch.equal(*found)


def test_forward_programs_that_do_not_spill(monkeypatch):
    """Two hidden layers: rows are loaded again but on Hopper; more weights than style's: fewer warps on Blackwell."""
    from nca_fast.kernels.triton.single_pass import plan

    from nca_fast.presets import PRESETS

    one, two, four = (way_of(r).weights for r in (Rule(), RULES["style"], PRESETS["style-two-filters"]["rule"]))
    four_warps = {(8, 0): (True, False, False), (9, 0): (True, True, True), (12, 0): (True, False, False)}
    for found, carried in four_warps.items():
        monkeypatch.setattr(plan, "capability", lambda device, found=found: found)
        tiles = [plan.forward_tile(weights, 1, 64, 64) for weights in (one, two, four)]
        assert [tile.CARRIED for tile in tiles] == list(carried) and {tile.warps for tile in tiles} == {4}
    monkeypatch.setattr(plan, "capability", lambda device: (10, 0))
    tiles = [plan.forward_tile(weights, 1, 64, 64) for weights in (one, two, four)]
    columns = plan.COLUMNS["fp16"]
    assert [tile[::2] for tile in tiles] == [(columns, 4), (columns, 4), (columns // 2, 2)]
    assert [tile.CARRIED for tile in tiles] == [True, True, False]
    assert plan.forward_tile(way_of(RULES["style"], "fp32").weights, 1, 64, 64).CARRIED


def as_on(monkeypatch, capability, at_once):
    """Plans backward steps as for a GPU that runs so many programs of four warps and 64 columns at once."""
    from nca_fast.kernels.triton.single_pass import plan

    monkeypatch.setattr(plan, "capability", lambda device: capability)
    monkeypatch.setattr(plan, "places", lambda device, precision, p: max(1, at_once * plan.resident(p, None) // 2))
    return plan


GPUS = {"H200": ((9, 0), 132), "A100": ((8, 0), 108), "RTX 4090": ((8, 9), 128)}
# Busy programs are 90 % at least, but where a row more is much: 7.1 and 6.0 rows of a sample of 128 are 8 and 7.
MOST = {("A100", 4): 1.13, ("RTX 4090", 4): 1.17}


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("shape", [(4, 128, 128), (1, 1024, 1024), (1, 2048, 2048), (1, 4096, 4096)], ids=str)
def test_no_wave_of_programs_runs_for_a_handful(gpu, shape, monkeypatch):
    """Rows of all waves of programs, one after another, over all rows dealt out evenly to what runs at once."""
    (B, H, W), (capability, multiprocessors) = shape, GPUS[gpu]
    plan = as_on(monkeypatch, capability, 2 * multiprocessors)
    ((p, dealt), *more), sums = plan.backward_plan(way_of(Rule()).weights, B, H, W, False)
    strips, at_once = B * -(-W // p.written), multiprocessors * plan.resident(p, None)
    waves = -(-dealt.programs // at_once)
    assert waves * dealt.rows * dealt.bands / (strips * H / at_once) <= MOST.get((gpu, B), 1.1)
    assert capability[0] == 8 or waves == 1
    assert p.RING is (W == 128)
    other_passes, same_sums = plan.backward_plan(way_of(Rule()).weights, B, H, W, True)
    assert same_sums == sums == max(bands.programs for _, bands in [(p, dealt), *more, *other_passes])


@pytest.mark.parametrize("several", [True, False])
def test_every_row_is_dealt_out_once(several):
    from nca_fast.kernels.triton.single_pass import plan

    for rules, strips, H, at_once in itertools.product((1, 3, 50), (1, 3, 17, 600), (1, 2, 9, 128), (1, 7, 264)):
        rows, bands, programs, crossing = plan.deal(rules, strips, H, at_once, several)
        bands_down = -(-H // rows)
        assert (programs - 1) * bands < strips * bands_down <= programs * bands  # none is left out, none has none
        touched = {
            (min(n + bands, strips * bands_down) - 1) // bands_down - n // bands_down
            for n in range(0, strips * bands_down, bands)
        }
        assert crossing or touched == {0}
        assert several or bands == 1
        assert rules > 1 or not several or programs <= at_once


def test_programs_of_a_sample_without_a_band_are_told_that_there_may_be_none(monkeypatch):
    """Else the kernel assumes a row. Of the later launches, without a halo, one strip is dealt out to three of four."""
    from nca_fast.kernels.triton.single_pass.steps import SinglePass

    rule = Rule(channels=16, padding="zero")
    params = torch.cat([t.flatten(1) for pair in random_weights(rule, 3) for t in pair if t is not None], 1)
    weights = SinglePass(params, rule.kernel_rule, "fp16").weights
    planned, sums = as_on(monkeypatch, (8, 0), 12).backward_plan(weights, 3, 5, 64, False)
    for p, dealt in planned:
        bands = -(-64 // p.written) * -(-5 // dealt.rows)
        assert sums == 3 * dealt.programs and dealt.programs * dealt.bands >= bands
        assert dealt.several or (dealt.programs - 1) * dealt.bands < bands
    assert [dealt.several for _, dealt in planned] == [False, True, True]


def test_programs_at_once_are_those_that_registers_and_shared_memory_hold(monkeypatch):
    from nca_fast.kernels.triton.single_pass import plan

    device = torch.device("cuda", 0)
    for kib, hip, precision, warps, columns, places in (
        (227, None, "fp16", 4, 64, 264),
        (227, None, "fp16", 8, 128, 132),
        (227, None, "fp16", 4, 128, 132),
        (227, None, "tf32", 4, 64, 264),
        (99, None, "fp16", 4, 64, 264),
        (99, None, "tf32", 4, 64, 132),
        (64, "6.4", "fp16", 4, 64, 132),
    ):
        facts = SimpleNamespace(shared_memory_per_block_optin=kib * 1024, multi_processor_count=132)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, facts=facts: facts)
        monkeypatch.setattr(torch.version, "hip", hip)
        launch = plan.Pass(True, True, True, False, warps, columns)
        assert plan.places(device, precision, launch) == places, (kib, precision, launch)


RATES = torch.linspace(0, 1, 128).view(2, 64)
# (rule, precision, capability, programs at once, shape, options): the wide ring is Hopper's.
RINGS = {
    "64 columns, ragged bands": (Rule(hidden=(16,)), "fp16", (8, 0), 4, (2, 3, 64), {}),
    "128 columns, both samples in one program": (Rule(hidden=(16,)), "fp16", (9, 0), 2, (2, 2, 128), {}),
    "64 columns, a fire rate map": (
        SMALL,
        "fp32",
        (9, 0),
        3,
        (2, 2, 64),
        {"fire_rate": torch.linspace(0, 1, 128).view(2, 64)},
    ),
    "128 columns, grad_x apart": (Rule(hidden=(16,)), "fp16", (8, 6), 2, (2, 2, 128), {}),
}


@pytest.mark.skipif(not INTERPRETED, reason="plans for other GPUs than this one")
@pytest.mark.parametrize("name", RINGS)
def test_a_torus_as_wide_as_a_program_has_no_halo(name, monkeypatch, poisoned):
    rule, precision, capability, at_once, shape, options = RINGS[name]
    plan = as_on(monkeypatch, capability, at_once)
    planned, _ = plan.backward_plan(way_of(rule, precision).weights, *shape, "fire_rate" in options)
    assert planned[0][0].RING and planned[0][0].columns == shape[2]
    assert planned[0][1].several == (capability == (9, 0) and shape[2] == 128)
    options = {name: value.to(DEVICE) for name, value in options.items()}
    check(rule, shape, 1, precision=precision, **options)


CUT = {  # (rule, capability, columns and largest chunks of the launches)
    "A100, 16 channels": (Rule(channels=16, hidden=(16,)), (8, 0), [(32, 64), (32, 64), (64, 64)]),
    "RTX 5090": (Rule(channels=8, hidden=(40,)), (12, 0), [(64, 32), (32, 64)]),
    "A100, few channels": (Rule(hidden=(16,)), (8, 0), [(64, 64)]),
    "A100, zero padding, few channels": (Rule(hidden=(16,), padding="zero"), (8, 0), [(64, 64)]),
    "RTX 4090, few channels": (Rule(hidden=(16,)), (8, 9), [(64, 64), (64, 64)]),
    "RTX 5090, few channels": (Rule(hidden=(16,)), (12, 0), [(64, 64), (64, 64)]),
}


@pytest.mark.skipif(not INTERPRETED, reason="plans for other GPUs than this one")
@pytest.mark.parametrize("name", CUT)
def test_launches_of_one_step_are_cut_each_in_its_own_way(name, monkeypatch, poisoned):
    rule, capability, sizes = CUT[name]
    plan = as_on(monkeypatch, capability, 3)
    assert [(p.columns, p.chunk) for p in plan.passes(way_of(rule).weights, False, 40)] == sizes
    check(rule, (2, 3, 40), 1, precision="fp16")


def test_backward_launches_that_do_not_spill(monkeypatch):
    """Warps and columns of launches, and whether they carry profiles; see bench/results/triton_table.json."""
    from nca_fast.kernels.triton.single_pass import plan

    from nca_fast.presets import PRESETS

    growing = PRESETS["growing"]["rule"]
    monkeypatch.setattr(plan, "COLUMNS", dict.fromkeys(plan.COLUMNS, 64))
    for rule, precision, capability, want in (
        (Rule(), "fp32", (9, 0), [(4, 64, True), (8, 64, False), (4, 64, False)]),
        (Rule(), "fp32", None, [(4, 64, True), (4, 64, False), (4, 64, False)]),
        (Rule(), "tf32", (9, 0), [(4, 64, False), (4, 64, False)]),
        (Rule(), "tf32", (10, 0), [(2, 32, False), (4, 64, False)]),
        (Rule(), "fp16", (9, 0), [(4, 64, False)]),
        (Rule(), "fp16", (10, 0), [(4, 32, True)]),
        (Rule(channels=16), "fp16", (9, 0), [(4, 64, True)] * 3),
        (Rule(channels=16), "fp16", (10, 0), [(4, 64, False), (4, 64, True), (4, 64, True)]),
        (Rule(channels=16), "fp16", (8, 0), [(2, 32, True), (4, 32, True), (4, 64, True)]),
        (growing, "fp16", (9, 0), [(4, 64, True), (4, 64, False)]),
        (growing, "fp16", (10, 0), [(4, 64, True), (4, 64, True)]),
        (growing, "fp16", (8, 6), [(4, 64, False), (4, 64, True), (4, 64, True)]),
        (growing, "fp16", (8, 9), [(4, 64, False), (4, 64, True), (4, 64, True)]),
        (growing, "fp16", (12, 0), [(4, 64, False), (4, 64, False), (4, 64, True)]),
        (Rule(hidden=(128,)), "fp16", (12, 0), [(4, 64, False), (4, 32, True)]),
        (Rule(), "fp16", (8, 0), [(4, 64, False)]),
        (Rule(), "fp16", (8, 6), [(4, 64, True), (4, 64, True)]),
        (Rule(), "fp16", (12, 0), [(4, 64, False), (4, 64, True)]),
    ):
        monkeypatch.setattr(plan, "capability", lambda device, found=capability: found)
        found = plan.passes(way_of(rule, precision).weights, False, 100)
        assert [(p.warps, p.columns, p.CARRIED) for p in found] == want, (rule, precision, capability)
    monkeypatch.setattr(plan, "capability", lambda device: (12, 0))
    for rule, chunks in ((growing, [16, 32, 64]), (Rule(hidden=(128,)), [32, 64])):
        assert [p.chunk for p in plan.passes(way_of(rule).weights, False, 100)] == chunks
    monkeypatch.setattr(plan, "capability", lambda device: (10, 0))
    assert plan.passes(way_of(Rule()).weights, False, 64)[0].columns == 64  # a ring
    for capability, want in {  # and of 128
        (8, 0): [(8, 128), (4, 64)],
        (8, 6): [(8, 128), (4, 64)],
        (9, 0): [(8, 128)],
        (10, 0): [(4, 128), (4, 64)],
        (12, 0): [(8, 128), (4, 32)],
    }.items():
        monkeypatch.setattr(plan, "capability", lambda device, found=capability: found)
        assert [(p.warps, p.columns) for p in plan.passes(way_of(Rule()).weights, False, 128)] == want


def test_without_a_torus_there_is_no_ring(monkeypatch):
    plan = as_on(monkeypatch, (9, 0), 264)
    for W in (64, 128):
        assert not plan.passes(way_of(Rule(padding="zero")).weights, False, W)[0].RING
        assert plan.passes(way_of(Rule()).weights, False, W)[0].RING


@pytest.mark.parametrize("columns", [16], indirect=True)
@pytest.mark.parametrize("per_sample", [False, True])
def test_programs_go_on_with_the_next_strip(per_sample, columns, monkeypatch, poisoned):
    """Two programs for nine strips of five rows; or, of samples with their own weights, one for three strips."""
    rule = Rule(channels=8, hidden=(16,))
    if INTERPRETED:
        plan = as_on(monkeypatch, None, 2)
        (planned, *_), _ = plan.backward_plan(way_of(rule).weights, 3, 5, 29, False)
        assert planned[1].several and not planned[0].RING
    check(rule, (3, 5, 29), 1, precision="fp16", per_sample=per_sample)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0, "map"])
def test_fire_mask_bit_for_bit(rate):
    rule = Rule(channels=4, hidden=(1,), output_bias=True, fire_rate=0.5 if rate == "map" else rate)
    fire_rate = None
    if rate == "map":
        fire_rate = torch.rand(7, 70, device=DEVICE)
        fire_rate[:2], fire_rate[2:4], fire_rate[:, 30:40] = 0, 1, 0.5
        rate = fire_rate
    for seed, step, origin, sample in (
        (0, 0, (0, 0), 0),
        (2**64 - 1, 2**32 - 1, (2**32 - 2, 2**32 - 3), 2**31),
        (0x123456789ABCDEF0, 70, (5, 2**31 - 7), 3),
    ):
        place = {"origin": origin, "first_sample": sample, "canvas_height": 2**32 - 1 if seed else None}
        options = {"seed": seed, "first_step": step, "fire_rate": fire_rate, "backend": "triton"}
        y = masked(rule, (2, 4, 7, 70), DEVICE, **options, **place)
        mask = fire_mask(seed, step, 2, 7, 70, rate, device=DEVICE, **place)
        assert torch.equal(y, mask.expand(2, 4, 7, 70).float())


def test_cells_fire_below_their_rate_and_not_at_it():
    rate = edge_rates(5, 9, 3, 8).to(DEVICE)
    rule = Rule(channels=4, hidden=(1,), output_bias=True)
    y = masked(rule, (1, 4, 3, 8), DEVICE, seed=5, first_step=9, fire_rate=rate, backend="triton")
    assert torch.equal(y, torch.tensor([1.0, 0.0], device=DEVICE).repeat(4).expand(1, 4, 3, 8))


def test_fire_rate_map(poisoned):
    rate = torch.rand(5, 21, device=DEVICE)
    rate[:2], rate[-1:], rate[:, 10:14] = 0, 1, 0.5
    check(SMALL, (2, 5, 21), fire_rate=rate)


@pytest.mark.parametrize(
    "precision, dtype", [("fp16", torch.float32), ("fp16", torch.float16), ("tf32", torch.float32)]
)
def test_precisions(precision, dtype, poisoned):
    """float16 also with gradients of 1e-7, which would be zero or coarse in float16 if they were not scaled."""
    rule = Rule(output_bias=True)
    check(rule, (1, 5, 20), precision=precision, dtype=dtype, seed=3, floor=2e-3 if precision == "tf32" else FLOOR)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bfloat16(dtype, poisoned):
    check(
        Rule(output_bias=True),
        (1, 5, 20),
        precision="bf16",
        dtype=dtype,
        seed=3,
        factor=bfloat16_factor(torch.bfloat16),
    )


@pytest.mark.parametrize("scale", [1e-7, 1e7])
def test_float16_gradients_of_any_size(scale):
    """A gradient scaled by a power of ten gives the same gradients scaled, although float16 holds 6e-8 to 65504."""
    rule, x = Rule(), torch.randn(1, 12, 5, 9, device=DEVICE)
    weights = weights_of(rule)
    runs = [
        mixed(rule, weights, x, grad_y, 2, backend="triton", precision="fp16")[1:]
        for grad_y in (torch.sin(x * 9), torch.sin(x * 9) * scale)
    ]
    for a, b in zip(*runs, strict=True):
        assert relative_error(b / scale, a.double()) < 2e-3  # float16 rounds to 5e-4; worst seen 3e-4


@pytest.mark.parametrize("checkpoint_every, bptt_steps", [(2, None), (3, 4), (None, 3), (7, 1)])
def test_checkpoints_and_truncation(checkpoint_every, bptt_steps, poisoned):
    check(SMALL, (2, 3, 9), 5, checkpoint_every=checkpoint_every, bptt_steps=bptt_steps)


def test_checkpoints_do_not_change_a_bit_and_neither_does_a_second_run():
    x = torch.randn(1, 4, 3, 9, device=DEVICE)
    weights = weights_of(SMALL)
    runs = [mixed(SMALL, weights, x, x, 4, backend="triton", checkpoint_every=k) for k in (None, None, 3)]
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


def test_two_rollouts_equal_one_and_a_step_table_that_runs_out_is_made_again():
    x = torch.randn(1, 4, 3, 5, device=DEVICE)
    weights = weights_of(SMALL)
    whole = rollout(x, weights, SMALL, 9, seed=5, first_step=60, backend="triton")
    half = rollout(x, weights, SMALL, 3, seed=5, first_step=60, backend="triton")
    assert torch.equal(rollout(half, weights, SMALL, 6, seed=5, first_step=63, backend="triton"), whole)


def test_a_part_of_a_canvas_equals_the_whole():
    steps, x = 2, torch.randn(3, 4, 12, 30, device=DEVICE)
    weights = weights_of(SMALL)
    options = {"seed": 8, "backend": "triton", "precision": "fp32"}
    whole = rollout(x, weights, SMALL, steps, **options)
    part = rollout(x[1:, :, 3:11, 5:27], weights, SMALL, steps, origin=(3, 5), first_sample=1, **options)
    inner = slice(steps, -steps)
    assert relative_error(part[:, :, inner, inner], whole[1:, :, 3:11, 5:27][:, :, inner, inner].double()) < FLOOR


def test_a_state_that_blew_up_stays_where_it_is():
    """Infinity and NaN reach the neighbours of a cell and no others, spare channels included."""
    rule = Rule(channels=11, fire_rate=0.7)
    x = torch.randn(1, 11, 9, 30, device=DEVICE)
    x[0, 3, 5, 20], x[0, 5, 1, 7] = float("inf"), float("nan")
    weights = weights_of(rule)
    got, want = (rollout(x, weights, rule, 1, seed=0, backend=b, precision="fp32") for b in ("triton", "reference"))
    assert torch.equal(got.isfinite(), want.isfinite())
    assert 0 < (~got.isfinite()).sum() < 11 * 18


def test_input_is_not_changed_and_may_be_any_view():
    base = torch.randn(2, 8, 9, 12, device=DEVICE)
    x = base.permute(0, 3, 1, 2)[:, 4:8, ::2, 1:]
    before = base.clone()
    weights = weights_of(SMALL)
    y = rollout(x, weights, SMALL, 2, seed=0, backend="triton")
    assert y.is_contiguous() and torch.equal(y, rollout(x.contiguous(), weights, SMALL, 2, seed=0, backend="triton"))
    assert torch.equal(base, before)


def test_compiled_kernels_do_not_spill_or_grow():
    """The table that `python -m bench.triton_table` wrote is that of these kernels and has no spill on any target.

    A step back of texture at 4 x 128 x 128 has at most 100 warp instructions per cell on sm_90.
    A few of its variants are compiled again, to see whether this machine's compiler makes the same of them.
    """
    from nca_fast.kernels.triton.single_pass import plan

    root = Path(__file__).parents[1]
    table = json.loads((root / "bench/results/triton_table.json").read_text())
    if table["header"]["triton"] != metadata.version("triton"):
        pytest.skip(f"the table was made with triton {table['header']['triton']}, here is another one")
    rows = [row for row in table["rows"] if row["target"] == "sm_90"]
    assert [row for row in table["rows"] if row["spills"]] == []
    for row in table["rows"]:
        if row["variant"] == "texture fp16, 4 x 128 x 128" and row["target"] == "sm_90":
            assert row["warp_instructions_per_cell"] <= 100, row
        if row["variant"].startswith(("texture", "16 channels")) and row["registers"] > 168:  # two run at once
            precision = row["variant"].split()[1].strip(",").replace("channels", "fp16")
            wide = row["variant"].endswith(("128 x 128", "weights by step"))
            assert wide or row["shared_bytes"] <= plan.SHARED_KIB[precision] << 10, row
    want = [row for row in rows if row["variant"] in ("texture fp16", "vae-mnist fp16")]
    variants = [(row["variant"], row["direction"], row["target"]) for row in want]
    code = f"""import json
from bench.triton_table import digest, row
from bench.triton_variants import kinds_of, launches
plain = "apply_alive_mask", "write_living", "read_living"
fused = [x.fused for v in {variants} for x in launches(*v) if x.kernel.fn.__name__ not in plain]
print(json.dumps([digest(), kinds_of("sm_90"), [row(*v) for v in {variants}], fused]))"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    now, kinds, compiled, fused = json.loads(result.stdout)
    assert now == table["header"]["digest"], "the kernels changed: run `python -m bench.triton_table`, look and commit"
    assert [[row["variant"], row["direction"]] for row in rows] == kinds and len(want) == 4 and all(fused)
    for old, new in zip(want, compiled, strict=True):
        assert new["spills"] == 0, new
        for quantity in ("registers", "shared_bytes", "warp_instructions_per_cell"):
            assert new[quantity] <= 1.05 * old[quantity], (quantity, new)
        assert new["matrix_instructions"] > 0, new
