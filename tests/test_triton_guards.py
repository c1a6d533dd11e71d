"""The Triton kernels touch nothing beside their tensors: ragged tiles, and addresses above 2**31; see triton_guards.py.

In the interpreter only; on a GPU compute-sanitizer (bench/gpu.sh check) and bench/gpu_large.py ask the same.
"""

import math
import mmap

import pytest
import torch
from triton_guards import OutsideOfTensors, watched
from triton_rollouts import INTERPRETED, check, small_programs

from nca_fast import Rule
from nca_fast.fire_masks import threshold

triton = pytest.importorskip("triton", reason="the Triton kernels need triton: pip install triton")
interpreter = pytest.importorskip("triton.runtime.interpreter")
if not INTERPRETED or not hasattr(interpreter, "_patch_lang") or not hasattr(interpreter, "GridExecutor"):
    pytest.skip("needs Triton's interpreter as it is in triton 3.9", allow_module_level=True)

SMALL = Rule(channels=4, hidden=(8,))
WIDE = Rule(
    channels=5, hidden=(9,), filters=("sobel_x5",), maximum_window=3, frozen=1, alive_channel=3, output_bias=True
)


@pytest.fixture(autouse=True)
def columns(request, monkeypatch):
    small_programs(monkeypatch, getattr(request, "param", None))


@pytest.mark.parametrize("columns", [16], indirect=True)
@pytest.mark.parametrize("padding", ["circular", "zero"])
@pytest.mark.parametrize("rule", [SMALL, WIDE], ids=["single pass", "through memory"])
def test_ragged_tiles(rule, padding, columns):
    """Of several programs side by side and below each other, the last ones ragged; one column more than a program's."""
    rule = Rule(**{**{f: getattr(rule, f) for f in rule.__dataclass_fields__}, "padding": padding})
    with watched():
        check(rule, (2, 5, 17), 1)


@pytest.mark.parametrize("rule", [SMALL, WIDE], ids=["single pass", "through memory"])
def test_one_cell(rule):
    with watched():
        check(rule, (1, 1, 1), 1)


def test_fused_float16_backward_of_several_samples_and_bands(poisoned):
    """One launch for all gradients, 12 channels in groups of 8 and 4, three bands of rows in each of two samples."""
    with watched():
        check(Rule(), (2, 9, 20), 1, precision="fp16")


@pytest.mark.parametrize("columns", [16], indirect=True)
@pytest.mark.parametrize("W", [16, 17])
def test_three_programs_for_all_strips(W, columns, monkeypatch):
    """Five samples, so that the last program has fewer bands: each a ring, or two strips of which one is ragged."""
    from nca_fast.kernels.triton.single_pass import plan

    monkeypatch.setattr(plan, "places", lambda *a: 3)
    with watched():  # factor: of 16 sums one may be rounded unluckily, however bands are dealt out; worst seen 2.7
        check(Rule(hidden=(16,)), (5, 2, W), 1, precision="fp16", factor=4)


def test_a_map_a_rule_per_sample_and_frames():
    with watched():
        check(SMALL, (2, 5, 21), 1, per_sample=True, fire_rate=torch.rand(5, 21), frame=torch.rand(2, 2, 5, 21))


@pytest.mark.parametrize("columns", [16], indirect=True)
def test_frames_through_memory(columns):
    with watched():
        rule = Rule(channels=5, hidden=(9,), filters=("sobel_x5", "sobel_y5", "laplacian"), padding="reflect")
        check(rule, (1, 5, 17), 1, frame=torch.rand(2, 5, 17))


def test_the_watch_sees_what_lies_beside():
    import triton.language as tl

    @triton.jit
    def beyond(x, y, n, BLOCK: tl.constexpr):
        i = tl.arange(0, BLOCK)
        tl.store(y + i, tl.load(x + i), mask=i < n)

    x, y = torch.arange(5.0), torch.zeros(8)
    with watched(), pytest.raises(OutsideOfTensors, match="beyond reads beside its tensors"):
        beyond[(1,)](x, y[:5], 5, BLOCK=8)
    with watched() as watch:
        beyond[(1,)](torch.arange(8.0), y[:5], 5, BLOCK=8)
    assert y.tolist() == [0, 1, 2, 3, 4, 0, 0, 0] and watch.written == {"y": (0, 16)}


def untouched(dtype, *shape):
    """Zeros of any size: what nobody writes takes no memory."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=flags)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


# Canvases of few rows that are very long, so that a program is short.
@pytest.mark.parametrize("shape", [(1, 24, 11_300_000), (3, 8, 11_300_000)], ids=["rows", "samples"])
def test_addresses_above_2_31(shape, monkeypatch):
    """The last program of both kernels reaches the last cell, more than 2**31 numbers from the first; and B > 1."""
    from nca_fast.kernels.triton.fire import Step
    from nca_fast.kernels.triton.single_pass import plan
    from nca_fast.kernels.triton.single_pass import steps as single_pass
    from nca_fast.kernels.triton.weights import Gradients

    rule, (B, H, W) = Rule(hidden=(16,)), shape
    params = torch.cat([torch.ones(out * inputs + out * bias) * 0.01 for out, inputs, bias in rule.layers])
    way = single_pass.SinglePass(params, rule.kernel_rule, "fp16")
    monkeypatch.setattr(plan, "deal", lambda rules, strips, H, *a: plan.Bands(4, 1, strips * (H // 4), False))
    x, grad, out = (untouched(torch.float16, *shape, 12) for _ in range(3))
    assert 2**31 < x.numel() < 2**32  # above, a number of 32 bits may come round to a place on the canvas
    keys, fire = torch.zeros(B, H, 2, dtype=torch.int32), threshold(1.0, torch.device("cpu"))
    programs = -(-W // 62) * (H // 4) * B
    packed = way.weights.packing.packed
    sums = untouched(torch.float32, programs, packed)
    with watched(lambda count: [count - 1]) as watch:
        way.forward(x, out, Step(keys, fire, 0))
        assert watch.written["out"][1] == out.nbytes - 2
        way.backward(x, grad, out, Gradients(sums, None), torch.ones(()), Step(keys, fire, 0), False)
        assert watch.written["grad_x"][1] == out.nbytes - 2
        assert watch.written["partial"][0] == (programs - 1) * packed * 4
