"""States of a rollout lie where those of one before lay, but never where some are still asked for."""

import pytest
import torch

from nca_fast import NCA
from nca_fast.kernels import kept_memory


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    """Begins with no memory, and keeps small tensors."""
    monkeypatch.setattr(kept_memory, "_kept", [])
    monkeypatch.setattr(kept_memory, "LEAST", 0)
    monkeypatch.setattr(kept_memory, "MOST", 2**20)


def made(*shape, dtype=torch.float32):
    return kept_memory.empty(shape, torch.empty(0, dtype=dtype))


def kept():
    return [len(array) for array in kept_memory._kept]


def test_memory_is_taken_again_when_nobody_has_it():
    first = made(2, 50)
    assert first.shape == (2, 50) and first.dtype == torch.float32 and first.is_contiguous()
    place, second = first.data_ptr(), made(100)
    assert second.data_ptr() != place  # the first one is still there
    part = first[1, 20:30]
    del first
    assert made(10).data_ptr() not in (place, second.data_ptr())  # and so is a part of it
    del part
    assert made(80).data_ptr() == place
    numbers = made(90).numpy()
    assert made(90).data_ptr() != place
    del numbers
    assert made(95).data_ptr() == place


def test_the_smallest_that_is_large_enough():
    large, small = made(100), made(50)
    places = large.data_ptr(), small.data_ptr()
    del large, small
    assert made(40).data_ptr() == places[1] and made(60).data_ptr() == places[0]


def test_all_that_is_kept_has_a_bound(monkeypatch):
    monkeypatch.setattr(kept_memory, "MOST", 800)
    first, second = made(80), made(70)
    del second
    third = made(90)  # 240 numbers are more than 200
    assert kept() == [80, 90]
    fourth = made(100)  # none is free: the oldest will not be kept
    assert kept() == [90, 100]
    first[:], third[:], fourth[:] = 1, 3, 4
    assert bool((first == 1).all() and (third == 3).all() and (fourth == 4).all())


def test_nobody_waits_for_another_thread():
    """In a child that was forked while a thread held the lock, nobody ever gives it back."""
    with kept_memory._lock:
        assert made(1000).shape == (1000,) and not kept()
    assert not kept_memory._lock.locked()


def test_what_is_small_or_large_or_of_another_type_is_not_kept(monkeypatch):
    monkeypatch.setattr(kept_memory, "LEAST", 400)
    monkeypatch.setattr(kept_memory, "MOST", 800)
    place = made(150).data_ptr()
    for count, dtype in ((99, torch.float32), (201, torch.float32), (150, torch.float16)):
        other = made(count, dtype=dtype)
        assert other.data_ptr() != place and other.shape == (count,) and other.dtype == dtype
    assert kept() == [150] and made(150).data_ptr() == place


def test_gradients_of_rollouts_that_are_alive_together():
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


def test_states_that_are_alive_together():
    """What a rollout returned stays as it is, and three arrays serve any number of them in turn."""
    torch.manual_seed(0)
    nca = NCA.preset("texture")
    torch.nn.init.normal_(nca.layers[-1].weight, std=0.1)
    x = torch.rand(1, 12, 16, 16)
    with torch.no_grad():
        steps = nca(x, steps=40, at=range(10, 41, 10), seed=3)
        for n in range(4):
            y = nca(x, steps=10, first_step=10 * n, seed=3)
            assert y.equal(steps[n]) and (n == 0 or x.equal(steps[n - 1]))
            x = y
        del y
        count = len(kept())
        for _ in range(5):
            x = nca(x, steps=10, seed=3)
        assert len(kept()) == count
