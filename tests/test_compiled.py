"""torch.compile: how often it compiles."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from nca_fast import NCA, Rule

STEPS = (7, 9, 32, 5, 24, 2, 1, 40, 3)


@pytest.mark.parametrize(
    ("options", "most"), [({}, 2), ({"seed": 3}, 2), ({"checkpoint_every": 3}, 2), ({"bptt_steps": 4}, 3)], ids=str
)
@pytest.mark.parametrize("trains", [False, True])
def test_numbers_of_steps_share_a_graph(options, most, trains):
    """Once for the first number and once for all others; a gradient that is cut off or not makes one more.

    Memory of as many states as there are segments makes PyTorch compile anew for none and for one, if it sees them.
    """
    torch._dynamo.reset()
    nca, x = NCA(Rule(channels=4, hidden=(6,)), init_gain=0.3), torch.randn(1, 4, 6, 7)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda x, steps: nca(x, steps, **options).square().sum(), fullgraph=True, backend=counter)
    for steps in STEPS:
        results = []
        for run in (compiled, lambda x, steps: nca(x, steps, **options).square().sum()):
            torch.manual_seed(steps)
            with torch.set_grad_enabled(trains):
                y = run(x, steps)
            results.append([y.detach(), *(torch.autograd.grad(y, list(nca.parameters())) if trains else ())])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert counter.frame_count <= most


def test_sizes_of_canvases_share_a_graph():
    torch._dynamo.reset()
    nca, counter = NCA(Rule(channels=4, hidden=(6,)), init_gain=0.3), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda x, steps: nca(x, steps, seed=0).square().sum(), fullgraph=True, backend=counter)
    for n, (height, width) in enumerate(((5, 6), (7, 8), (12, 9), (3, 20))):
        x = torch.randn(2, 4, height, width)
        y = compiled(x, 4 + n)
        assert torch.equal(y, nca(x, 4 + n, seed=0).square().sum())
        torch.autograd.grad(y, nca.layers[0].weight)
    assert counter.frame_count <= 2
