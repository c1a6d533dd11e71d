"""Published automata, by their authors' formulas and as one rollout: values and every gradient."""

import pytest
import torch
from published_growing import EngramNCA, StudyingGrowth
from published_systems import SYSTEMS, single

ALL = pytest.mark.parametrize("kind", SYSTEMS, ids=lambda kind: kind.__name__)


@pytest.fixture(autouse=True)
def float64():
    """Parameters of float64, and one thread, which small tensors like best."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(threads)


def made(kind):
    """A system with weights that matter, and sparse states in which cells live and die."""
    torch.manual_seed(3)
    system = kind()
    with torch.no_grad():
        for p in system.parameters():
            p.mul_(2)
    x = (torch.rand(3, 8, 9, 11) - 0.5) * (torch.rand(3, 1, 9, 11) < 0.12)
    x[:, :, 4, 5] = 0.7
    return system, system.start(x).detach()


def answers(system, function, x):
    """Values, and gradients of the start state and of all parameters, by name."""
    x = x.clone().requires_grad_(system.differentiable)
    y = function(x)
    if not system.differentiable:
        return {"y": y}
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).cos().to(y)
    params = dict(system.named_parameters())
    gradients = torch.autograd.grad(y, [x, *params.values()], weights)
    return {"y": y.detach(), "x": gradients[0]} | dict(zip(params, gradients[1:], strict=True))


def errors(found, exact):
    """Norms of the differences as shares of those of the exact values."""
    return {name: ((found[name].double() - e).norm() / e.norm().clamp(min=1e-30)).item() for name, e in exact.items()}


@ALL
def test_equals_its_authors_formulas(kind):
    """In float64 to 1e-10, worst seen 1.2e-15, the order of sums; by the kernel to twice the error of plain PyTorch.

    Its floor is that of test_rollout_cpu.
    """
    system, x = made(kind)
    exact = answers(system, lambda x: system.theirs(x, system.draws(x)), x)
    assert exact["y"].std() > 1e-3 and all(value.norm() > 1e-9 for value in exact.values()), "it shows nothing"
    for system.backend, system.checkpoint_every in (("reference", None), ("convolutions", 2)):
        found = errors(answers(system, system.ours, x), exact)
        assert max(found.values()) < 1e-10, (system.backend, found)
    single(system)
    plain = errors(answers(system, system.ours, x.float()), exact)
    for system.backend, system.checkpoint_every in (("cpu", None), ("cpu", 2)):
        found = errors(answers(system, system.ours, x.float()), exact)
        assert all(found[name] <= max(2 * plain[name], 3e-7) for name in exact), (found, plain)


@pytest.mark.parametrize("kind", [StudyingGrowth, EngramNCA], ids=lambda kind: kind.__name__)
def test_by_the_triton_kernels(kind, monkeypatch):
    """Some, for two steps: the interpreter is slow. Every field is compared in test_triton_fields; the floor is its."""
    pytest.importorskip("triton", reason="the Triton kernels need triton: pip install triton")
    from triton_rollouts import FLOOR, INTERPRETED, small_programs

    if not INTERPRETED:
        pytest.skip("these systems are on the CPU")
    small_programs(monkeypatch, 16)
    system, x = made(kind)
    system.steps = 2
    exact = answers(system, lambda x: system.theirs(x, system.draws(x)), x)
    single(system)
    plain = errors(answers(system, system.ours, x.float()), exact)
    system.backend = "triton"
    found = errors(answers(system, system.ours, x.float()), exact)
    assert all(found[name] <= max(2 * plain[name], FLOOR) for name in exact), (found, plain)
