"""What the C++ kernel cannot be faster than: the multiply-adds of its products at the FMA peak of the machine.

    python -m bench.published_bound    counts them anew for bench/results/published.json; the bounds of its medians

Counted is what calls of the kernel multiply: by cells that fire, of channels that a unit looks at; all cells fire where
channels draw for themselves. Nothing else is: neither perception by fixed filters nor what runs between steps,
`after`. So the bound is higher than any kernel comes.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor

from bench.harness import RESULTS, write_result
from nca_fast import backends
from nca_fast.profiling.bounds import fma_peak

SHARES = (1.0, 0.8)  # of the FMA peak


def products(params: Tensor, fire: Tensor, rule) -> tuple[float, float]:
    """Multiply-adds for a cell of a step forward, and of one back, which computes the hidden units again."""
    params, layers, channels = params.reshape(-1, params.shape[-1]), rule.layers, rule.channels
    taps = 9 * channels * rule.learned_filters
    (out, inputs, _), *_ = layers
    first = params[:, taps : taps + out * inputs].reshape(len(params), out, -1, channels)
    seen = (first != 0).any(dim=0).any(dim=0).any(dim=0).sum().item() or channels
    sizes = [out * inputs * seen // channels, *(out * inputs for out, inputs, _ in layers[1:])]
    rates = (fire.double() / 2**32).clamp(0, 1)
    every = "channel" not in rule.fire_shared or (fire.ndim == 5 and fire.shape[2] > 1)
    fires = 1.0 if every and rates.max() > 0 else rates.mean().item()
    return fires * (taps + sum(sizes)), fires * (3 * taps + 2 * sum(sizes) + sum(sizes[:-1]))


@contextmanager
def counted() -> Iterator[dict[str, float]]:
    """Counts multiply-adds of what the C++ kernel is asked for meanwhile; "count" holds them."""
    kernels, found = backends.kernels("cpu"), {"count": 0.0}
    advance, backward = kernels.advance, kernels.backward

    def cells(x: Tensor) -> int:
        return x.numel() // x.shape[1]

    def counted_advance(x, weights, fire, rule, place, states, every):
        found["count"] += cells(x) * len(states) * every * products(weights.params, fire, rule)[0]
        advance(x, weights, fire, rule, place, states, every)

    def counted_backward(states, grad, weights, fire, rule, place, buffer):
        found["count"] += cells(grad) * len(states) * products(weights.params, fire, rule)[1]
        return backward(states, grad, weights, fire, rule, place, buffer)

    with mock.patch.multiple(kernels, advance=counted_advance, backward=counted_backward):
        yield found


def multiply_adds(run: Callable[[], object]) -> float:
    """Those of the kernel's products in one call."""
    with counted() as found:
        run()
    return found["count"]


def bounds(rows: list[dict], peak: float) -> dict:
    """Medians of how many times as fast as stock PyTorch all systems were, did the kernel run at shares of the peak.

    Args:
        rows: With "multiply_adds" for "forward" and "training" beside the times.
        peak: Operations a second, two to a multiply-add.
    """
    found = {"fma_peak": peak}
    for part in ("forward", "training"):
        some = [row for row in rows if part in row and row["multiply_adds"].get(part)]
        times = {
            share: [row[part]["theirs"]["median"] * share * peak / (2 * row["multiply_adds"][part]) for row in some]
            for share in SHARES
        }
        found[part] = {f"median at {share:.0%} of the peak": statistics.median(of) for share, of in times.items()} | {
            f"at 5x or more at {share:.0%}": sum(each >= 5 for each in of) for share, of in times.items()
        }
    return found


def main() -> None:
    """Counts for the systems of the result file, writes it, and says the bounds."""
    from bench.published import SYSTEMS, System, answers, made, sizes

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peak", type=float, help="operations a second, measured on a quiet machine (default: now)")
    options = parser.parse_args()
    path = RESULTS / "published.json"
    result = json.loads(path.read_text())
    rows = {row["system"]: row for row in result["rows"]}
    System.width = 96
    for kind in SYSTEMS:
        kind.size, kind.steps = sizes(kind, False)
        system, x = made(kind)
        with torch.no_grad():
            counts = {"forward": multiply_adds(lambda system=system, x=x: system.ours(x))}
        if system.differentiable:
            counts["training"] = multiply_adds(lambda system=system, x=x: answers(system, system.ours, x))
        rows[kind.__name__]["multiply_adds"] = counts
        print(kind.__name__, *(f"{part} {count / 1e6:.1f} million" for part, count in counts.items()), flush=True)
    result["bound"] = bounds(result["rows"], options.peak or fma_peak())
    print(json.dumps(result["bound"], indent=1))
    write_result(path, result)


if __name__ == "__main__":
    main()
