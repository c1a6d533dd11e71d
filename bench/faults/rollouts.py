"""Compares random rollouts of the C++ kernel with plain PyTorch: rules, shapes and ways of calling that nobody chose.

    python -m bench.faults.rollouts --cases 1500 --out bench/results/faults_rollouts.json

What is compared is the error of the values and of each gradient, as the norm of the difference from the float64
reference over the norm of the exact tensor, with that of the reference in float32. On one state it is chance which of
the two is the larger, above all where a tensor has few numbers that are sums of terms that cancel, or where a hidden
unit, an alive cell or a local maximum is within a rounding of another choice. So a case in which the kernel is behind
is drawn again, with other weights and states, and the medians are compared.
"""

import argparse
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.harness import header
from nca_fast import Rule, rollout
from nca_fast.filters import NAMES, named

BOUND = 2.0  # times the error of plain PyTorch
FLOOR = 3e-7  # five roundings: below, PyTorch may be exact by luck, as on canvases of a cell or two
DRAWS = (1, 9, 65)  # of a case, as long as it is beyond the bound
QUANTILES = {"median": 0.5, "99 %": 0.99, "most": 1.0}


@dataclass(frozen=True)
class Case:
    """A rollout without its numbers, which are drawn.

    Args:
        rule: What a step is.
        shape: Of the state, [B, C, H, W].
        steps: Of the rollout.
        per_sample: Whether each sample has weights of its own.
        threads: Of the kernel.
        speeds: Whether the fire rate is a map.
        options: Of `nca_fast.rollout`.
    """

    rule: Rule
    shape: tuple[int, int, int, int]
    steps: int
    per_sample: bool
    threads: int
    speeds: bool
    options: dict[str, Any] = field(default_factory=dict)


def case(number: int) -> Case:
    """Draws a case, a pure function of its number."""
    draw = random.Random(number)

    def side():
        return draw.choice((1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17, 23))

    channels = draw.choice((1, 2, 3, 4, 5, 8, 12, 16))
    frozen = draw.choice((0, 0, 0, draw.randrange(channels)))
    sizes = draw.choice(((3,), (3,), (3, 5), (7,), (9,), (3, 5, 7, 9)))
    names = [name for name in NAMES if named(name).size in sizes]
    filters = [_filter(draw, names, sizes) for _ in range(draw.choice((1, 2, 3, 4, 5)))]
    alive = draw.choice((None, None, None, draw.randrange(channels)))
    rule = Rule(
        channels,
        tuple(draw.choice((1, 2, 7, 16, 33, 64)) for _ in range(draw.choice((1, 1, 1, 2, 3)))),
        tuple(filters),
        fire_rate=draw.choice((0.5, 0.5, 1.0, 0.9, 0.1, 0.025)),
        padding=draw.choice(("circular", "circular", "zero")),
        frozen=frozen,
        hidden_bias=draw.random() < 0.8,
        output_bias=draw.random() < 0.5,
        alive_channel=alive,
        alive_threshold=(draw.choice((0.1, 0.0, -0.3)), 0.1)[alive is None],
        maximum_window=draw.choice((None, None, None, 1, 3, 5, 9)),
    )
    steps, options = draw.choice((1, 2, 3, 5, 8)), {}
    shape = (draw.choice((1, 1, 2, 3)), channels, side(), side())
    for name in ("checkpoint_every", "bptt_steps"):
        if draw.random() < 0.2:
            options[name] = draw.randint(1, steps)
    if draw.random() < 0.3:
        options |= {"first_step": draw.choice((3, 2**32 - steps)), "first_sample": draw.choice((2, 2**32 - shape[0]))}
        options |= {"origin": (draw.choice((5, 2**32 - 1)), draw.choice((0, 2**31, 2**32 - 1)))}
    return Case(rule, shape, steps, draw.random() < 0.2, draw.choice((1, 2)), draw.random() < 0.15, options)


def _filter(draw: random.Random, names: list[str], sizes: tuple[int, ...]) -> Any:
    """A named filter, mostly; or one without structure, or one that is a column times a row."""
    way, size = draw.random(), draw.choice(sizes)
    if way < 0.7:
        return draw.choice(names) + draw.choice(("", "", "/8"))
    column, row = ([round(draw.uniform(-1, 1), 2) for _ in range(size)] for _ in range(2))
    if way < 0.85:
        return tuple(tuple(a * b for b in row) for a in column)
    return tuple(tuple(round(draw.uniform(-0.5, 0.5), 2) for _ in range(size)) for _ in range(size))


def drawn(case: Case, seed: int) -> tuple[list, Tensor, Tensor, dict[str, Any]]:
    """Weights that keep states of order one, a state, the gradient of the result, and options with a map of speeds."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw)

    B, _, H, W = case.shape
    lead = (B,) if case.per_sample else ()
    weights = [
        (normal(*lead, out, inputs) * (0.3 / inputs**0.5), normal(*lead, out) * 0.1 if bias else None)
        for out, inputs, bias in case.rule.layers
    ]
    x, grad = normal(*case.shape) * 0.5, normal(*case.shape)
    speeds = {"fire_rate": torch.rand(H, W, generator=draw)} if case.speeds else {}
    return weights, x, grad, case.options | speeds | {"seed": seed}


def results(case: Case, seed: int, backend: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """The values, and the gradients of the state and of every weight, by name."""
    weights, x, grad, options = drawn(case, seed)
    x = x.to(dtype).requires_grad_()
    weights = [tuple(None if t is None else t.to(dtype).requires_grad_() for t in pair) for pair in weights]
    y = rollout(x, weights, case.rule, case.steps, backend=backend, **options)
    y.backward(grad.to(dtype))
    named = {"values": y.detach(), "grad_x": x.grad}
    named |= {
        f"grad_{kind}{i}": t.grad
        for i, pair in enumerate(weights)
        for kind, t in zip("Wb", pair, strict=True)
        if t is not None
    }
    return {name: t for name, t in named.items() if t is not None}


def errors(case: Case, seed: int) -> dict[str, tuple[float, float]]:
    """By tensor: the relative errors of the kernel and of PyTorch in float32."""
    exact, plain, fused = (
        results(case, seed, backend, dtype)
        for backend, dtype in (
            ("reference", torch.float64),
            ("reference", torch.float32),
            ("cpu", torch.float32),
        )
    )
    if not exact.keys() == plain.keys() == fused.keys():
        raise RuntimeError(f"the kernel must have the gradients {sorted(exact)}, but has {sorted(fused)}.")

    def error(t, e):
        return ((t.double() - e).norm() / (e.norm() or 1.0)).item()

    return {name: (error(fused[name], e), error(plain[name], e)) for name, e in exact.items()}


@dataclass(frozen=True)
class Compared:
    """The errors of a tensor in the kernel and in PyTorch: medians over so many draws."""

    fused: float
    plain: float
    draws: int

    @property
    def ratio(self) -> float:
        """The one over the other, but for errors that are below the floor."""
        return self.fused / max(self.plain, FLOOR / BOUND)


def compared(case: Case, number: int = 0, draws: Sequence[int] = DRAWS) -> dict[str, Compared]:
    """Compares a case, with more and more draws as long as a tensor is beyond the bound."""
    torch.set_num_threads(case.threads)
    found: dict[str, list] = {}
    for most in draws:
        for n in range(len(next(iter(found.values()), ())), most):
            for name, pair in errors(case, 1000 * number + n).items():
                found.setdefault(name, []).append(pair)
        medians = {
            name: Compared(*map(statistics.median, zip(*pairs, strict=True)), most) for name, pairs in found.items()
        }
        if max(c.ratio for c in medians.values()) <= BOUND:
            break
    return medians


def main() -> None:
    """Compares; writes how the ratios are spread, and every case that is beyond the bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1500)
    parser.add_argument("--first", type=int, default=0, help="number of the first case, which is its seed")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    facts, ratios, draws, beyond, begin = {"header": header()}, {}, Counter(), [], time.process_time()
    for number in range(options.first, options.first + options.cases):
        one = case(number)
        found = compared(one, number)
        draws[next(iter(found.values())).draws] += 1
        for name, tensor in found.items():
            ratios.setdefault(name.rstrip("0123"), []).append(tensor.ratio)
        far = {name: asdict(tensor) | {"ratio": tensor.ratio} for name, tensor in found.items() if tensor.ratio > BOUND}
        if far:
            beyond.append({"case": number, "shape": one.shape, "steps": one.steps, "tensors": far})
            print(beyond[-1], flush=True)
    spread = {
        name: {q: round(sorted(of)[round(share * (len(of) - 1))], 2) for q, share in QUANTILES.items()}
        for name, of in ratios.items()
    }
    result = facts | {"first": options.first, "cases": options.cases, "ratios": spread}
    result |= {"cases by draws that it took": draws, "beyond": beyond}
    result["seconds of a core"] = round(time.process_time() - begin)
    print(json.dumps(result, indent=1))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
