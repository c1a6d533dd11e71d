"""Numbers from numpy and from tensors are as good as Python's, wherever the public edge takes an integer."""

import json

import numpy as np
import pytest
import torch
from rollouts import random_weights

from nca_fast import NCA, Rule, fire_mask, reference, rollout
from nca_fast.ops import advance

RULE = Rule(channels=4, hidden=(6,))
KINDS = pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, torch.tensor], ids=["i8", "i4", "u1", "tensor"])


@KINDS
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_rollouts(kind, backend):
    x, weights = torch.randn(2, 4, 5, 6), random_weights(RULE)
    numbers = {"steps": 5, "seed": 3, "first_step": 2, "first_sample": 1, "canvas_height": 9}
    numbers |= {"checkpoint_every": 2, "bptt_steps": 3}
    want = rollout(x, weights, RULE, origin=(4, 1), backend=backend, **numbers)
    numbers = {name: kind(value) for name, value in numbers.items()}
    origin = (kind(4), kind(1))
    assert torch.equal(rollout(x, weights, RULE, origin=origin, backend=backend, **numbers), want)
    assert torch.equal(rollout(x, weights, RULE, origin=np.array([4, 1]), backend=backend, **numbers), want)
    if backend == "reference":
        assert torch.equal(reference.rollout(x, weights, RULE, origin=origin, **numbers), want)
    for name in ("checkpoint_every", "bptt_steps", "first_sample"):
        numbers.pop(name)
    buffers = x.clone(), torch.empty_like(x)
    got, _ = advance(*buffers, weights, RULE, origin=origin, backend=backend, **numbers)
    want = rollout(x, weights, RULE, 5, seed=3, first_step=2, canvas_height=9, origin=(4, 1), backend=backend)
    assert torch.equal(got, want)


@KINDS
def test_rules_states_and_masks(kind):
    rule = Rule(
        channels=kind(5),
        hidden=(kind(6),),
        frozen=kind(1),
        maximum_window=kind(3),
        alive_channel=kind(3),
        fire_rate=np.float32(0.25),
        alive_threshold=np.float32(0.125),
    )
    same = Rule(5, (6,), frozen=1, maximum_window=3, alive_channel=3, fire_rate=0.25, alive_threshold=0.125)
    assert rule == same and json.loads(rule.to_json()) == json.loads(same.to_json())
    nca = NCA(rule, rgb_channel=kind(1), start="noise")
    assert json.loads(json.dumps(nca.config())) == NCA(same, rgb_channel=1, start="noise").config()
    state = nca.initial_state(kind(2), kind(5), kind(6), seed=kind(7))
    assert torch.equal(state, nca.initial_state(2, 5, 6, seed=7))
    want = fire_mask(7, 3, 2, 5, 6, 0.5, origin=(1, 2), first_sample=1, canvas_height=9)
    numbers = [kind(n) for n in (7, 3, 2, 5, 6)]
    where = {"origin": (kind(1), kind(2)), "first_sample": kind(1), "canvas_height": kind(9)}
    assert torch.equal(fire_mask(*numbers, 0.5, **where), want)


def test_large_seeds_of_numpy():
    x, weights = torch.randn(1, 4, 5, 6), random_weights(RULE)
    want = rollout(x, weights, RULE, 2, seed=2**64 - 3)
    assert torch.equal(rollout(x, weights, RULE, 2, seed=np.uint64(2**64 - 3)), want)
    mask = fire_mask(2**64 - 3, 0, 1, 5, 6, 0.5)
    assert torch.equal(fire_mask(np.uint64(2**64 - 3), 0, 1, 5, 6, 0.5), mask)
    assert torch.equal(fire_mask(torch.tensor(-3), 0, 1, 5, 6, 0.5), mask)  # the same 64 bits


@pytest.mark.parametrize("value", [True, np.True_, torch.tensor(True), 2.0, np.float32(2), torch.tensor(2.0), "2"])
def test_what_is_no_integer_is_refused(value):
    x, weights, nca = torch.zeros(1, 4, 5, 6), random_weights(RULE), NCA(RULE)
    for call in (
        lambda: rollout(x, weights, RULE, value),
        lambda: rollout(x, weights, RULE, 2, seed=value),
        lambda: nca.initial_state(1, value, 4),
        lambda: nca.initial_state(1, 4, 4, seed=value),
        lambda: Rule(channels=value),
        lambda: Rule(hidden=(value,)),
        lambda: NCA(RULE, rgb_channel=value),
    ):
        with pytest.raises(TypeError, match="must be an integer"):
            call()
