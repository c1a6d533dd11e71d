"""Rollouts in two buffers: the bits of `rollout`, and nothing else written."""

import pytest
import torch

import nca_fast
from nca_fast.ops import advance


@pytest.fixture
def nca():
    torch.manual_seed(0)
    return nca_fast.NCA(nca_fast.Rule(channels=5, hidden=(8,)), start="noise", init_gain=0.3)


@pytest.mark.parametrize("backend", [None, "cpu", "reference"])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize(
    "options",
    [
        {"seed": 0},
        {"seed": 2**63 + 5, "first_step": 7},
        {"seed": 0, "origin": (9, 3), "canvas_height": 12},
        {"seed": 0, "fire_rate": torch.linspace(0, 1, 11 * 17).view(11, 17)},
    ],
)
def test_two_buffers_give_the_bits_of_a_rollout(nca, backend, steps, options):
    x = nca.initial_state(2, 11, 17)
    expected = nca(x, steps, backend=backend, **options).detach()
    buffers = x.clone(), torch.full_like(x, torch.nan)
    result, other = advance(*buffers, nca.weights, nca.rule, steps, backend=backend, **options)
    assert torch.equal(result, expected)
    assert {result.data_ptr(), other.data_ptr()} == {buffer.data_ptr() for buffer in buffers}
    if steps == 1:  # what blends of several automata stand on
        assert torch.equal(other, x)


@pytest.mark.parametrize(("rows", "steps_at_once"), [(7, 1), (20, 3), (70, 4)])
def test_steps_that_follow_each_other_down_the_rows(nca, rows, steps_at_once, monkeypatch):
    """No memory for a third state is asked for, however many steps run at once."""
    from nca_fast.kernels.cpu import rollout

    from nca_fast.kernels import kept_memory

    counts, real, threads = [], rollout.advance, torch.get_num_threads()
    x = nca.initial_state(1, rows, 9)
    expected = nca(x, 9, seed=3).detach()
    monkeypatch.setattr(rollout, "advance", lambda *given: counts.append(given[-1]) or real(*given))
    monkeypatch.setattr(kept_memory, "empty", None)
    buffers = x.clone(), torch.full_like(x, torch.nan)
    try:
        torch.set_num_threads(1)
        result, _ = advance(*buffers, nca.weights, nca.rule, 9, seed=3, backend="cpu")
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(result, expected)
    assert counts[0] == steps_at_once and sum(counts) == 9


def test_kernels_with_a_layout_of_their_own(nca):
    pytest.importorskip("triton", reason="the Triton kernels need triton: pip install triton")
    from triton_rollouts import DEVICE

    nca, x = nca.to(DEVICE), nca.initial_state(1, 3, 9).to(DEVICE)
    options = {"seed": 2**63 + 5, "first_step": 7, "origin": (9, 3), "canvas_height": 12, "backend": "triton"}
    expected = nca(x, 3, **options).detach()
    buffers = x.clone(), torch.full_like(x, torch.nan)
    result, other = advance(*buffers, nca.weights, nca.rule, 3, **options)
    assert torch.equal(result, expected)
    assert {result.data_ptr(), other.data_ptr()} == {buffer.data_ptr() for buffer in buffers}


def test_what_rollout_refuses_is_refused(nca):
    x = nca.initial_state(1, 4, 4)
    with pytest.raises(ValueError, match=r"spare must be a buffer like x, \[1, 5, 4, 4\], but got \[1, 5, 4, 3\]"):
        advance(x, x[..., 1:], nca.weights, nca.rule, 2)
    for options, message in (
        ({"steps": 0}, "steps must be from 1"),
        ({"seed": -1}, "seed must be from 0"),
        ({"fire_rate": torch.rand(3, 4)}, "fire_rate must have shape"),
        ({"after": lambda x, y, n: y}, "after must be None in advance, and so on canvases, .* use rollout"),
    ):
        with pytest.raises(ValueError, match=message):
            advance(x, torch.empty_like(x), nca.weights, nca.rule, **({"steps": 2} | options))
    with pytest.raises(ValueError, match="after must be None where x is a strip, 4 rows of canvas_height=9"):
        nca(x, 2, seed=0, canvas_height=9, after=lambda x, y, n: y)
    assert torch.equal(nca(x, 2, seed=0, canvas_height=4, after=lambda x, y, n: y), nca(x, 2, seed=0))
