"""Small benchmarks for work on the kernel: `pytest tests/test_speed.py --benchmark-only --benchmark-autosave`, then
`--benchmark-compare`. They are skipped in the suite; the figures that are published come from `bench/`."""

import pytest
import torch
from rollouts import random_weights

from nca_fast import Rule, rollout


@pytest.mark.parametrize("side", [64, 256])
def test_forward(benchmark, side):
    rule, x = Rule(), torch.randn(1, 12, side, side) * 0.3
    weights = random_weights(rule)
    assert benchmark(rollout, x, weights, rule, 8).shape == x.shape


def test_forward_and_backward(benchmark):
    rule, x = Rule(), torch.randn(4, 12, 64, 64) * 0.3
    weights = [tuple(None if t is None else t.requires_grad_() for t in pair) for pair in random_weights(rule)]
    benchmark(lambda: rollout(x, weights, rule, 8).square().mean().backward())
    assert weights[0][0].grad.norm() > 0
