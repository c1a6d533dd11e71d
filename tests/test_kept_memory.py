"""Saved states of a rollout lie where those of one before lay, but never where some are still asked for."""

import pytest
import torch

from nca_fast import NCA, kept_memory


@pytest.fixture
def all_sizes(monkeypatch):
    monkeypatch.setattr(kept_memory, "LEAST", 0)


def test_memory_is_taken_again_when_nobody_has_it(all_sizes):
    like = torch.empty(0)
    first = kept_memory.empty(1000, like)
    place, second = first.data_ptr(), kept_memory.empty(1000, like)
    assert second.data_ptr() != place  # the first one is still there
    place, part = second.data_ptr(), second[10:20]
    del second
    assert kept_memory.empty(10, like).data_ptr() != place  # as a part of the second one is
    del part
    some = kept_memory.empty(500, like)
    assert some.shape == (500,) and some.dtype == torch.float32
    place = some.data_ptr()
    del some
    assert kept_memory.empty(500, like).data_ptr() == place


def test_what_is_small_or_large_or_of_another_type_is_not_kept(monkeypatch):
    monkeypatch.setattr(kept_memory, "LEAST", 400)
    monkeypatch.setattr(kept_memory, "MOST", 800)
    kept = kept_memory.empty(150, torch.empty(0)).data_ptr()
    for count, dtype in ((99, torch.float32), (201, torch.float32), (150, torch.float16)):
        other = kept_memory.empty(count, torch.empty(0, dtype=dtype))
        assert other.data_ptr() != kept and other.shape == (count,) and other.dtype == dtype
    assert kept_memory.empty(150, torch.empty(0)).data_ptr() == kept


def test_gradients_of_rollouts_that_are_alive_together(all_sizes):
    """Two are begun before the first one goes back, and a graph that is retained goes back twice."""
    torch.manual_seed(0)
    nca = NCA.preset("texture")
    torch.nn.init.normal_(nca.layers[-1].weight, std=0.1)
    states = [torch.rand(1, 12, 16, 16).requires_grad_() for _ in range(3)]
    alone = [torch.autograd.grad(nca(x, steps=5, seed=n).square().sum(), x)[0] for n, x in enumerate(states)]
    losses = [nca(x, steps=5, seed=n).square().sum() for n, x in enumerate(states)]
    for retain in (True, False):
        for loss, x, expected in zip(losses, states, alone, strict=True):
            assert torch.equal(torch.autograd.grad(loss, x, retain_graph=retain)[0], expected)
