"""Frames in the Triton kernels: values and every gradient against the reference, as in test_triton.py.

Each case has what another has not: of groups of channels, edges, strips and ranges, and kinds of fields.
"""

import pytest
import torch
from rollouts import relative_error, values_and_gradients
from triton_rollouts import DEVICE, INTERPRETED, check, small_programs, weights_of

from nca_fast import Rule, rollout
from nca_fast.frames import frame

pytest.importorskip("triton", reason="the Triton kernels need triton: pip install triton")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Programs of 16 columns or cells in the interpreter: several of them, of little each."""
    small_programs(monkeypatch, 16 if INTERPRETED else None)


def frames(*shape):
    """Angles all around, scales from a half to two."""
    return frame(torch.rand(*shape) * 6.3, 0.5 + 1.5 * torch.rand(*shape)).to(DEVICE)


DISTILL = ("sobel_y", "laplacian", "identity", "sobel_x")
# Equal, but for their scale, and the same to products of float16.
TWICE = ("sobel_x", "sobel_y/2", "sobel_x/2", "sobel_y")
MEMORY = ("sobel_y5/8", "laplacian", "sobel_x5/8")
CASES = {  # (rule, shape, shape of the frames, options)
    "single pass, strips": (Rule(9, (8,), DISTILL, frozen=1, padding="zero"), (2, 4, 18), (2, 4, 18), {"steps": 1}),
    "single pass, a ring": (Rule(5, (8,), TWICE), (2, 3, 16), (3, 16), {"precision": "fp16", "factor": 4}),
    "backward through memory": (Rule(4, (5, 6), DISTILL, padding="replicate"), (2, 4, 9), (2, 4, 9), {"steps": 1}),
    "forward too": (
        Rule(5, (7,), MEMORY, maximum_window=3, padding="reflect", alive_channel=3, clamp=(-0.6, 0.7), fire_shared=()),
        (2, 3, 5),
        (3, 5),
        {"steps": 1},
    ),
    "forward too, float16": (Rule(4, (7,), MEMORY), (2, 4, 9), (2, 4, 9), {"precision": "fp16", "factor": 4}),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name, monkeypatch, poisoned):
    """Through memory in ranges of a row or two.

    Plain PyTorch does not round gradients for its products, the kernels do: worst seen 2.3 times its error in float16.
    """
    from nca_fast.kernels.triton.through_memory import steps

    monkeypatch.setattr(steps, "_SCRATCH", 3500)
    rule, shape, of_frames, options = CASES[name]
    torch.manual_seed(0)
    check(rule, shape, spacing=None if rule.alive_channel is None else 0.25, frame=frames(*of_frames), **options)


def test_cases_go_the_way_that_their_names_say():
    from nca_fast.kernels.triton.limits import through_memory

    for name, (rule, *_) in CASES.items():
        ways = through_memory(rule.kernel_rule, "fp16", framed=True)
        assert ways == (name.startswith("forward"), not name.startswith("single")), name


@pytest.mark.parametrize("filters", [DISTILL, MEMORY], ids=["single pass", "through memory"])
def test_parts_of_a_canvas_have_the_bits_of_the_whole(filters):
    """A strip with its rows of the field, of the second sample. Frames of (1, 0) change no bit."""
    rule = Rule(4, (5,), filters)
    torch.manual_seed(2)
    weights, x, field = weights_of(rule), torch.randn(2, 4, 18, 5, device=DEVICE), frames(2, 18, 5)
    how = {"seed": 1, "backend": "triton", "precision": "fp32"}
    whole, strip, margin = rollout(x, weights, rule, 1, frame=field, **how), x[1:, :, 3:15].contiguous(), 2
    where = {"origin": (3, 0), "first_sample": 1, "canvas_height": 18}
    y = rollout(strip, weights, rule, 1, frame=field[1:, :, 3:15], **where, **how)
    assert torch.equal(y[:, :, margin:-margin], whole[1:, :, 3 + margin : 15 - margin])
    straight = rollout(x, weights, rule, 1, frame=frame().to(DEVICE), **how)
    assert torch.equal(straight, rollout(x, weights, rule, 1, **how))


def test_weights_by_step(poisoned):
    """Worst seen 1e-7."""
    rule = Rule(4, (5,), ("sobel_x", "sobel_y"))
    torch.manual_seed(3)
    weights = [tuple(None if t is None else torch.stack([t, -t])[:, None] for t in p) for p in weights_of(rule)]
    x = torch.randn(1, 4, 3, 6, device=DEVICE) * 0.5
    exact, got = (
        values_and_gradients(rule, weights, x, x.cos(), 3, backend=b, dtype=d, frame=frames(3, 6).mul(0).add(0.8))
        for b, d in (("reference", torch.float64), ("triton", torch.float32))
    )
    assert all(relative_error(g, e) < 2e-6 for g, e in zip(got, exact, strict=True))


@pytest.mark.parametrize("filters", [DISTILL, MEMORY], ids=["single pass", "through memory"])
def test_float16_products_of_large_scales(filters):
    """Unscaled, a laplacian at four times the scale is beyond float16 from states of 170 on."""
    rule, far = Rule(4, (8,), filters), frame(torch.rand(3, 7) * 6.3, 4.0).to(DEVICE)
    torch.manual_seed(4)
    weights, x = weights_of(rule), (torch.rand(1, 4, 3, 7, device=DEVICE) - 0.5) * 2**16
    exact, got = (
        values_and_gradients(rule, weights, x, x.cos(), 1, backend=b, dtype=d, frame=far, precision=p)
        for b, d, p in (("reference", torch.float64, None), ("triton", torch.float32, "fp16"))
    )
    assert all(relative_error(g, e) < 2**-9 for g, e in zip(got, exact, strict=True))  # worst seen 6e-4
