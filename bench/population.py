"""A population: P rules on one canvas size, each with its own weights, as one rollout. `python -m bench.population`

Beside the fused rollout: the same rules one after the other, and stock PyTorch with grouped convolutions in which every
rule is a group. Parity of all with the float64 reference is checked first. Writes bench/results/population_cpu.json.
"""

import argparse
import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.harness import RESULTS, header, write_result
from nca_fast import Rule, fire_mask, rollout
from nca_fast.profiling.timing import interleaved

RULES, SIDE, STEPS = 64, 64, 16


def population(rule: Rule, count: int) -> list[tuple[Tensor, Tensor | None]]:
    """Weights of so many rules whose last layers are not zero and keep states of order one."""
    generator = torch.Generator().manual_seed(0)
    (hidden, inputs, _), (written, _, _) = rule.layers
    w1 = torch.randn(count, hidden, inputs, generator=generator) * 0.3 / inputs**0.5
    b1, w2 = (torch.randn(shape, generator=generator) * 0.01 for shape in ((count, hidden), (count, written, hidden)))
    return [(w1, b1), (w2, None)]


def grouped(x: Tensor, weights: list, rule: Rule, steps: int, masks: list[Tensor] | None = None) -> Tensor:
    """The rollout in stock operations, every rule a group of convolutions. [P, C, H, W] -> same."""
    (w1, b1), (w2, _) = weights
    P, C, H, W = x.shape
    n = len(rule.filters)
    stencils = x.new_tensor([f.kernel for f in rule.filters])[:, None].repeat(C, 1, 1, 1)
    first = w1.unflatten(-1, (n, C)).transpose(-1, -2).reshape(P * rule.hidden[0], n * C, 1, 1)  # channel by channel
    for step in range(steps):
        y = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), stencils, groups=C)
        h = torch.relu(F.conv2d(y.reshape(1, P * n * C, H, W), first, b1.reshape(-1), groups=P))
        u = F.conv2d(h, w2.reshape(P * C, -1, 1, 1), groups=P).reshape(P, C, H, W)
        mask = torch.rand(P, 1, H, W, device=x.device) < rule.fire_rate if masks is None else masks[step]
        x = x + u * mask
    return x


def one_by_one(x: Tensor, weights: list, rule: Rule, steps: int) -> Tensor:
    """Every rule in a rollout of its own."""
    own = ([tuple(None if t is None else t[n] for t in pair) for pair in weights] for n in range(len(x)))
    return torch.cat([rollout(x[n : n + 1], w, rule, steps, seed=0, first_sample=n) for n, w in enumerate(own)])


def check_parity(rule: Rule) -> dict[str, float]:
    """Worst relative error of a rollout of three rules, values and gradients; stops when red."""
    steps, x = 4, torch.randn(3, rule.channels, 20, 24, generator=torch.Generator().manual_seed(1)) * 0.3
    masks = [fire_mask(0, n, 3, 20, 24, rule.fire_rate) for n in range(steps)]
    runs = {
        "exact": (lambda x, w: rollout(x, w, rule, steps, seed=0, backend="reference"), torch.float64),
        "plain float32": (lambda x, w: rollout(x, w, rule, steps, seed=0, backend="reference"), torch.float32),
        "fused": (lambda x, w: rollout(x, w, rule, steps, seed=0, backend="cpu"), torch.float32),
        "stock": (lambda x, w: grouped(x, w, rule, steps, masks), torch.float32),
    }
    results = {}
    for name, (run, dtype) in runs.items():
        pairs = [
            tuple(None if t is None else t.to(dtype, copy=True).requires_grad_() for t in p)
            for p in population(rule, 3)
        ]
        y = run(x.to(dtype), pairs)
        y.square().sum().backward()
        results[name] = [y.detach(), *(t.grad for pair in pairs for t in pair if t is not None)]
    exact = results.pop("exact")
    errors = {
        name: max(((a.double() - e).norm() / e.norm()).item() for a, e in zip(got, exact, strict=True))
        for name, got in results.items()
    }
    if max(errors["fused"], errors["stock"]) > max(2 * errors["plain float32"], 5e-7):
        sys.exit(f"parity is red, no speed is measured: errors {errors}")
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="rounds of interleaved timings (default 3)")
    repeats = parser.parse_args().repeats
    rule = Rule()
    parity = check_parity(rule)
    weights = [tuple(None if t is None else t.requires_grad_() for t in pair) for pair in population(rule, RULES)]
    x = torch.randn(RULES, rule.channels, SIDE, SIDE) * 0.3
    runs = {
        "fused": lambda: rollout(x, weights, rule, STEPS, seed=0),
        "fused, one by one": lambda: one_by_one(x, weights, rule, STEPS),
        "stock, grouped": lambda: grouped(x, weights, rule, STEPS),
    }

    def forward(run):
        def call():
            with torch.no_grad():
                run()

        return call

    def training(run):
        return lambda: run().square().mean().backward()

    cell_steps = RULES * SIDE * SIDE * STEPS
    result = {"header": header(), "parity": parity, "rules": RULES, "side": SIDE, "steps": STEPS}
    for kind, wrapped in (("forward", forward), ("training", training)):
        times = interleaved({name: wrapped(run) for name, run in runs.items()}, repeats)
        result[kind] = {
            name: {
                "cell_steps_per_second": cell_steps / t["median"],
                "spread": [cell_steps / t["max"], cell_steps / t["min"]],
            }
            for name, t in times.items()
        }
        for name, rate in result[kind].items():
            print(f"{kind:<9} {name:<18} {rate['cell_steps_per_second'] / 1e6:7.2f} million cell-steps/s")
    write_result(RESULTS / "population_cpu.json", result)


if __name__ == "__main__":
    main()
