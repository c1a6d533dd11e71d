"""Steps that follow each other down the rows (kernels/cpu/chain.h) against the same steps one by one, bit for bit."""

import ctypes
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from rollouts import random_weights

from nca_fast import Rule, rollout
from nca_fast.kernels import kept_memory

C = 40  # of so many channels a chain's tiles have 128 columns
RULES = {
    "circular": Rule(C, (8,), ("identity", "sobel_x", "sobel_y", "laplacian")),
    "zero": Rule(C, (8,), ("identity", "sobel_x", "sobel_y"), padding="zero", frozen=3),
    "5x5 and maximum": Rule(C, (8,), ("identity", "sobel_x5", "laplacian"), maximum_window=5),
    "maximum, zero": Rule(C, (8,), ("identity",), maximum_window=3, padding="zero"),
    "noise": Rule(C, (8,), ("identity", "sobel_y"), state_noise=0.1, update_noise=0.2, padding="zero"),
    "noise, circular": Rule(C, (8,), ("identity", "sobel_y"), state_noise=0.1),
    "clamp, every channel": Rule(C, (8,), ("identity", "sobel_x"), clamp=(-0.4, 0.5), fire_shared=()),
    "replaced": Rule(C, (8,), ("identity", "sobel_x"), residual=False, update_activation="tanh", fire_rate=0.02),
    "few fire": Rule(C, (8,), ("identity", "sobel_x"), fire_rate=0.1),
    "all fire": Rule(C, (8, 5), ("identity", "laplacian"), fire_rate=1.0),
}


SHAPES = {  # by threads
    1: ((1, C, 71, 277), (1, C, 67, 96)),  # tiles, and whole rows
    2: ((3, C, 48, 96), (1, C, 130, 8)),  # a sample in two shares; rows of which many wait for their cells
    4: ((2, C, 70, 35),),  # two shares a sample
}


@pytest.mark.parametrize("threads", SHAPES)
@pytest.mark.parametrize("name", RULES)
def test_a_chain_is_its_steps(name, threads):
    """Whole rows and tiles, samples in one share and in two, and states that are asked for."""
    rule = RULES[name]
    torch.manual_seed(2)
    with threads_of_torch(threads):
        for shape in SHAPES[threads]:
            rates = torch.rand(shape[2:]) if name in ("circular", "zero") else None
            compare(rule, torch.randn(shape) * 0.3, rates)


def test_shares_of_a_sample_follow_in_any_order(monkeypatch):
    """One after the other, on one thread, a share begins its next steps before another has ended the last ones."""
    openmp = ctypes.CDLL(torch._C.__file__)
    if not hasattr(openmp, "omp_set_max_active_levels"):
        pytest.skip("this PyTorch has no OpenMP")
    torch.manual_seed(2)
    levels = openmp.omp_get_max_active_levels()
    with threads_of_torch(3):
        try:
            openmp.omp_set_max_active_levels(0)  # all that is parallel runs on the thread at hand
            monkeypatch.setattr(kept_memory, "empty", lambda shape, like: like.new_full(shape, torch.nan))
            compare(RULES["circular"], torch.randn(1, C, 100, 32) * 0.3)
            compare(RULES["few fire"], torch.randn(1, C, 130, 8) * 0.3)
        finally:
            openmp.omp_set_max_active_levels(levels)


@contextmanager
def threads_of_torch(count):
    """As many shares of the rows as that, where they are large enough."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


def compare(rule, x, rates=None):
    """Six steps, in chains and one by one."""
    weights = random_weights(rule)
    run = {"seed": 5, "backend": "cpu", "fire_rate": rates, "origin": (2, 1000)}
    steps = [x]
    for n in range(6):
        steps.append(rollout(steps[-1], weights, rule, 1, first_step=n, **run))
    assert all(not a.equal(b) for a, b in pairwise(steps))
    assert rollout(x, weights, rule, 6, **run).equal(steps[-1])
    assert rollout(x, weights, rule, 5, **run).equal(steps[5])
    assert rollout(x, weights, rule, 6, at=range(1, 7), **run).equal(torch.stack(steps[1:]))
