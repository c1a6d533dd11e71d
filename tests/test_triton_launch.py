"""Repeated launches are told what Triton's front end tells; see launches.py, which runs in a process of its own."""

import os
from pathlib import Path

import fresh
import pytest
import torch
from rollouts import random_weights
from triton_rollouts import INTERPRETED, small_programs

from nca_fast import Rule, rollout

pytest.importorskip("triton", reason="the Triton kernels need triton: pip install triton")
ROOT = Path(__file__).parents[1]


def test_what_is_launched():
    """With a fake driver: addresses, numbers, grid and the function that was compiled for exactly these arguments."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_DEFAULT_FP_FUSION": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    result = fresh.run([ROOT / "tests" / "launches.py"], check=True, cwd=ROOT, env=environment)
    assert len(result.stdout.split()) == 12


def test_the_interpreter_goes_through_the_front_end():
    if not INTERPRETED:
        pytest.skip("a GPU repeats launches")
    from nca_fast.kernels.triton import launch

    made, noted = [], launch.RepeatedStep.__init__
    with pytest.MonkeyPatch.context() as patch:
        small_programs(patch, 16)
        patch.setattr(launch.RepeatedStep, "__init__", lambda self, *given: made.append(self) or noted(self, *given))
        rule = Rule(channels=4, hidden=(6,))
        x = torch.randn(1, 4, 3, 4, requires_grad=True)
        rollout(x, random_weights(rule), rule, 2, seed=0, backend="triton").sum().backward()
    assert made and all(step.plain for step in made)
