"""The sample pool: draws without replacement, decided by the generator alone; copies out, values in."""

import pytest
import torch

from nca_fast.training.pool import Pool


def numbered(size):
    return Pool(torch.arange(size, dtype=torch.float32).reshape(size, 1, 1, 1).expand(size, 2, 3, 4).clone())


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_sample_draws_each_state_at_most_once():
    indices, states = numbered(8).sample(8, generator())
    assert sorted(indices.tolist()) == list(range(8))
    assert torch.equal(states[:, 0, 0, 0], indices.float())


def test_sample_is_decided_by_its_generator():
    pool = numbered(100)
    first = pool.sample(5, generator(1))[0]
    torch.rand(3)
    assert torch.equal(first, pool.sample(5, generator(1))[0])
    assert not torch.equal(first, pool.sample(5, generator(2))[0])


def test_samples_are_copies():
    pool = numbered(4)
    _, states = pool.sample(4, generator())
    states.zero_()
    assert pool.states.sum() == 24 * (1 + 2 + 3) / 1.0


def test_write_stores_values_without_history():
    pool = numbered(4)
    states = torch.full((2, 2, 3, 4), 9.0, requires_grad=True) * 2
    pool.write(torch.tensor([3, 0]), states)
    assert pool.states[:, 0, 0, 0].tolist() == [18, 1, 2, 18]
    assert not pool.states.requires_grad


@pytest.mark.parametrize("batch_size", [0, -1, 5])
def test_batch_must_fit(batch_size):
    with pytest.raises(ValueError, match=f"batch size must be from 1 to the size of the pool, 4, but got {batch_size}"):
        numbered(4).sample(batch_size, generator())


@pytest.mark.parametrize("shape", [(4, 2, 3), (0, 2, 3, 4)])
def test_states_must_be_a_batch(shape):
    with pytest.raises(ValueError, match=r"pool states must be a non-empty \[N, C, H, W\] tensor"):
        Pool(torch.zeros(shape))
