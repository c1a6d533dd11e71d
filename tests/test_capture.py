"""Losses as CUDA graphs, by recordings that stand in for them; and what an iteration must not do on a GPU."""

import warnings
from unittest import mock

import pytest
import torch
from test_systems import CASES, begun, cases  # noqa: F401 (a fixture)

from bench.recorded_graphs import Counting, graphed, recorded_graphs
from nca_fast.losses import sorting, spectra
from nca_fast.training import capture
from nca_fast.training.capture import MOST, Captured

ON_A_GPU = ("texture w2", "texture ot", "style", "style gram", "clip", "clip content", "grow", "vae")


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Sorts and eigenvalues by operations of torch, of which none is read; neither is a choice of numbers."""
    monkeypatch.setattr(sorting, "_is_for_numpy", lambda x: False)
    monkeypatch.setattr(spectra, "eigen", lambda matrices, _: map(torch.linalg.eigh, matrices))


def trained(case, tmp_path, iterations=3):
    """The weights after some iterations on the CPU."""
    torch.manual_seed(0)
    name, settings, sources = case
    work, descent = begun((name, settings | {"backend": "reference"}, sources), "cpu", tmp_path)
    for iteration in range(iterations):
        descent.begin(iteration, 1e-3)
        work.step(iteration, iteration, descent)
    return [parameter.detach() for group in descent.optimizer.param_groups for parameter in group["params"]]


@pytest.mark.parametrize("name", ON_A_GPU)
def test_graphs_compute_what_launches_do(cases, tmp_path, as_on_a_gpu, name):  # noqa: F811
    """With draws, states and weights that change under them."""
    wanted, made = trained(cases[name], tmp_path), []
    with recorded_graphs(lambda *call, **how: made.append(call) or graphed(*call, **how)), warnings.catch_warnings():
        warnings.simplefilter("error")
        found = trained(cases[name], tmp_path)
    assert len(made) == 1  # once for all iterations
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)  # worst seen: none


def test_a_capture_that_fails_is_told_once_and_changes_nothing(cases, tmp_path, as_on_a_gpu):  # noqa: F811
    def refuse(*call, **how):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more")

    wanted = trained(cases["texture ot"], tmp_path)
    streams = []
    with recorded_graphs(refuse), mock.patch.object(torch.cuda, "set_stream", streams.append):
        with pytest.warns(
            UserWarning, match="one by one, which is slower but gives the same, because .* is capturing$"
        ):
            found = trained(cases["texture ot"], tmp_path, 1)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = trained(cases["texture ot"], tmp_path)
    assert len(told) == 1 and len(streams) == 2  # back to the stream that a broken capture has left
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_what_is_drawn_or_read_within_is_refused():
    """What the first test would see of a function that cannot be captured."""
    x = torch.ones(3, requires_grad=True)
    for function in (
        lambda x: x * torch.randn(3),
        lambda x: x * float(x.detach().sum()),
        lambda x: x * torch.tensor(2.0),
    ):
        with recorded_graphs(), pytest.warns(UserWarning, match="a CUDA graph of them failed"):
            Captured(function)(x)


def test_each_shape_has_graphs_up_to_a_number():
    made = []
    captured = Captured(lambda x, scale: (x * scale).sum())
    with recorded_graphs(lambda *call, **how: made.append(call) or graphed(*call, **how)):
        for length in (*range(1, MOST + 3), *range(1, MOST + 3)):
            x = torch.full((length,), 2.0, requires_grad=True)
            scale = torch.rand(length)
            captured(x, drawn=[scale]).backward()
            assert torch.equal(x.grad, scale)
        assert len(made) == MOST
        with torch.no_grad():
            assert float(captured(torch.ones(7), drawn=[torch.ones(7)])) == 7
    assert len(made) == MOST


def test_parameters_get_their_gradients_and_may_change():
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    captured = Captured(lambda x: (weight * x).square().sum(), [weight])
    with recorded_graphs():
        for value in (3.0, 5.0):
            x = torch.full((2,), value, requires_grad=True)
            weight.grad = None
            captured(x).backward()
            torch.testing.assert_close(weight.grad, 2 * weight.detach() * value**2)
            with torch.no_grad():
                weight.add_(1.0)


def test_an_input_may_be_left_unused():
    x, y = (torch.ones(2, requires_grad=True) for _ in range(2))
    with recorded_graphs(), warnings.catch_warnings():
        warnings.simplefilter("error")
        Captured(lambda x, y: x.sum())(x, y).backward()
    assert torch.equal(x.grad, torch.ones(2)) and y.grad is None


def test_without_a_gpu_it_is_the_function_itself():
    x = torch.ones(2, requires_grad=True)
    assert not capture.replays([x])
    assert Captured(lambda x, y: (x, y))(x, drawn=[x.detach()])[0] is x


@pytest.mark.parametrize("name", CASES)
def test_an_ordinary_iteration_waits_for_nothing(cases, tmp_path, name):  # noqa: F811
    """No operation whose result the host has to wait for, with graphs or without."""
    work, descent = begun(cases[name], "meta", tmp_path)
    with Counting() as counting:
        for iteration in range(2):
            work.step(iteration, iteration, descent)
    on_device = sum(counting.launches.values())
    assert on_device > 50 and not counting.waits


def test_a_wait_is_counted():
    x = torch.ones(3, device="meta")
    with Counting() as counting:
        torch.ones(2).sum().item()
        x.copy_(torch.ones(3), non_blocking=True)
        assert not counting.waits
        x.copy_(torch.ones(3))
        with pytest.raises(RuntimeError, match="meta"):
            (x > 0).sum().item()
    assert counting.waits == ["copy_"] and counting.launches["gt"] == 1
