"""Steps that follow each other down the rows (kernels/cpu/forward.h) against the same steps one by one, bit for bit."""

from itertools import pairwise

import pytest
import torch
from rollouts import random_weights

from nca_fast import Rule, rollout

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
    "all fire": Rule(C, (8, 5), ("identity", "laplacian"), fire_rate=1.0),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", RULES)
def test_a_chain_is_its_steps(name, threads):
    """Whole rows and tiles, samples in one share and in two, and states that are asked for."""
    rule, before = RULES[name], torch.get_num_threads()
    torch.manual_seed(2)
    weights = random_weights(rule)
    try:
        torch.set_num_threads(threads)
        for shape in ((1, C, 71, 277), (1, C, 67, 96)) if threads == 1 else ((3, C, 48, 96),):
            x = torch.randn(shape) * 0.3
            rates = torch.rand(shape[2:]) if name in ("circular", "zero") else None
            run = {"seed": 5, "backend": "cpu", "fire_rate": rates, "origin": (2, 1000)}
            steps = [x]
            for n in range(6):
                steps.append(rollout(steps[-1], weights, rule, 1, first_step=n, **run))
            assert all(not a.equal(b) for a, b in pairwise(steps))
            assert rollout(x, weights, rule, 6, **run).equal(steps[-1])
            assert rollout(x, weights, rule, 5, **run).equal(steps[5])
            assert rollout(x, weights, rule, 6, at=range(1, 7), **run).equal(torch.stack(steps[1:]))
    finally:
        torch.set_num_threads(before)
