"""Cell-steps per second of a rollout, forward and with gradients, beside stock PyTorch."""

from collections.abc import Callable

import torch
from torch import Tensor

from nca_fast.nca import NCA
from nca_fast.profiling.stock import StockNCA
from nca_fast.profiling.timing import interleaved, synchronizing

CONTESTANTS = ("fused", "eager", "torch.compile")  # this package, stock PyTorch, and torch.compile of it


def at_work(nca: NCA) -> NCA:
    """Gives an automaton a last layer that is not zero, and keeps states of order one."""
    with torch.no_grad():
        nca.layers[-1].weight.normal_(0, 0.005)
    return nca


def preset_at_work(preset: str) -> NCA:
    """Makes the automaton of a preset, `at_work`; the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return at_work(NCA.preset(preset))


def start_state(nca: NCA, batch: int, size: int) -> Tensor:
    """Makes states [batch, C, size, size] in which all cells are alive, on the device of the automaton."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, nca.rule.channels, size, size, generator=generator) * 0.3
    if nca.rule.alive_channel is not None:
        x[:, nca.rule.alive_channel] = 1
    return x.to(nca.device)


def contestants(
    nca: NCA,
    precision: str | None = "fp32",
    stock: StockNCA | None = None,
    backend: str | None = None,
    only: str | None = None,
) -> dict[str, Callable[[Tensor, int], Tensor]]:
    """A function (x, steps) -> x for each of `CONTESTANTS`, or for one of them alone.

    Args:
        nca: The automaton.
        precision, backend: Of "fused", as in `nca_fast.rollout`.
        stock: The automaton in stock operations; None: made of it where it is needed.
        only: A name.

    Raises:
        ValueError: There is no stock code for its rule.
    """

    def fused(x: Tensor, steps: int) -> Tensor:
        return nca(x, steps, seed=0, precision=precision, backend=backend)

    if only == "fused":
        return {"fused": fused}
    stock = stock or StockNCA(nca).to(nca.device)

    def repeat(step):
        def run(x: Tensor, steps: int) -> Tensor:
            with torch.autocast(x.device.type, x.dtype, enabled=x.dtype != torch.float32):
                for _ in range(steps):
                    x = step(x)
            return x

        return run

    runs = {"eager": lambda: repeat(stock), "torch.compile": lambda: repeat(torch.compile(stock))}
    found = {name: make() for name, make in runs.items() if only in (None, name)}
    return found if only else found | {"fused": fused}


def time_forward(runs: dict, x: torch.Tensor, steps: int, repeats: int) -> dict:
    """Median cell-steps per second of a rollout."""

    def timed(run):
        def call():
            with torch.no_grad():
                run(x, steps)

        return call

    return rates({name: timed(run) for name, run in runs.items()}, x, steps, repeats)


def time_training(runs: dict, x: torch.Tensor, steps: int, repeats: int) -> dict:
    """Median cell-steps per second of a rollout and its gradients in the weights."""

    def timed(run):
        def call():
            run(x, steps).float().square().mean().backward()

        return call

    return rates({name: timed(run) for name, run in runs.items()}, x, steps, repeats)


def rates(calls, x, steps, repeats):
    """Median cell-steps per second of calls that take so many steps of a state, and the spread."""
    times = interleaved(calls, repeats, synchronizing(x.device.type))
    cell_steps = x.numel() // x.shape[1] * steps
    return {
        name: {
            "cell_steps_per_second": cell_steps / t["median"],
            "spread": [cell_steps / t["max"], cell_steps / t["min"]],
        }
        for name, t in times.items()
    }
